"""Having the service send us events: a poll stream always, a push stream where there is an address for it (SSF 1.0).

The address of a new push stream is proved by a challenge: it comes there as a verification event, and is said back
over mutual TLS. After that a verification event of our own asking shows that events really arrive. The service takes
requests for one only so often (`min_verification_interval`): what comes too soon for it is put off.
"""

import secrets
from typing import Final

import msgspec

from engine.clock import BootTime, Clock, Seconds
from engine.guard.event_store import EventStore, StreamIds
from engine.guard.intake import Challenge, Intake
from engine.guard.transmitter import NoSuchStream, NotTold, Stream, TooManyCalls, Transmitter
from engine.telemetry import logs

_NEVER: Final = BootTime(float("-inf"))

_log = logs.logger("events")


class Subscribing:
    """push_url: where events shall be pushed to; None: poll alone."""

    def __init__(
        self, transmitter: Transmitter, store: EventStore, intake: Intake, clock: Clock, *, push_url: str | None
    ) -> None:
        self._transmitter = transmitter
        self._store = store
        self._intake = intake
        self._clock = clock
        self._push_url = push_url
        self._interval = Seconds(60.0)  # of the push stream, as its configuration said last
        self._challenged_at = self._verified_at = _NEVER  # when something was done that makes the service send one
        self._again_at: BootTime | None = None  # when to look at the streams anew, beside the audits
        self._unverified = False  # our address was confirmed, and no verification of our own asking followed yet
        self.push_status = ""  # as the service said last

    async def ensure(self) -> None:
        """Make or mend our streams. Raises the transmitter's faults, StoreDown, MemoryFull."""
        self._again_at = None
        try:
            await self._ensure()
        except TooManyCalls as fault:
            self._put_off(fault.wait or self._interval)
            raise

    async def look(self) -> None:
        """See how our push stream stands, if there is one. Raises the transmitter's faults, StoreDown, MemoryFull."""
        if self._push_url is not None and self._store.streams.push:
            await self._look_at(self._store.streams.push)

    def is_due(self) -> bool:
        """Whether what came too soon for the service can be tried again, by `ensure`."""
        return self._again_at is not None and self._again_at <= self._clock.boot()

    async def answer_challenges(self) -> None:
        """Say back what was sent to our address. Raises Unreachable, TooManyCalls, StoreDown."""
        for challenge in self._intake.challenges():
            await self._answer(challenge)

    async def _ensure(self) -> None:
        found = await self._transmitter.streams()
        polls, pushes = [one for one in found if not one.is_push], [one for one in found if one.is_push]
        poll = polls[0] if polls else await self._transmitter.create_stream(None)
        known = self._store.streams
        await self._keep(StreamIds(known.push, poll.stream_id, poll.endpoint_url, known.confirmed))
        if self._push_url is not None:  # last: the service may not take it
            push = await self._push(pushes, self._push_url)
            self._interval = push.verification_interval
            is_known = push in pushes and push.stream_id == known.push
            confirmed = is_known and known.confirmed
            await self._keep(StreamIds(push.stream_id, poll.stream_id, poll.endpoint_url, confirmed))
            await self._look_at(push.stream_id)

    async def _keep(self, streams: StreamIds) -> None:
        if streams != self._store.streams:
            await self._intake.on_disk(self._store.note, streams=streams)
            _log.info("streams_set_up", push=streams.push, poll=streams.poll)

    async def _push(self, pushes: list[Stream], url: str) -> Stream:
        if pushes and pushes[0].endpoint_url == url:
            return pushes[0]
        made = (
            await self._transmitter.move_stream(pushes[0].stream_id, url)
            if pushes
            else await self._transmitter.create_stream(url)
        )
        self._challenged_at = self._clock.boot()
        return made

    async def _look_at(self, stream_id: str) -> None:
        """A push stream that does not run, with nothing of ours to wait for, may have lost its challenge: ask anew."""
        events = self._intake.status_events
        self.push_status = status = await self._transmitter.status(stream_id)
        if events == self._intake.status_events:  # else something newer has been told meanwhile
            await self._note_status(status)
        if self._unverified:
            await self._verify(stream_id)
        elif self.push_status == "paused" and not self._intake.challenges():
            await self._ask_for_challenge(stream_id)

    async def _note_status(self, status: str) -> None:
        """What is paused before its address was ever confirmed holds nothing back: events come by poll until then."""
        streams, is_enabled = self._store.streams, status == "enabled"
        if is_enabled or streams.confirmed:
            self._intake.push_stream_is(status)  # before anything is waited for: what is told meanwhile is newer
        if is_enabled and not streams.confirmed:
            await self._keep(msgspec.structs.replace(streams, confirmed=True))

    async def _ask_for_challenge(self, stream_id: str) -> None:
        early = max(self._challenged_at, self._verified_at) + self._interval - self._clock.boot()
        if early > 0:  # one is on its way
            self._put_off(Seconds(early))
            return
        try:
            await self._transmitter.verify(stream_id, None)
        except TooManyCalls as fault:  # an earlier process of ours has asked
            self._put_off(fault.wait or self._interval)
        else:
            self._verified_at = self._clock.boot()

    def _put_off(self, wait: Seconds) -> None:
        self._again_at = BootTime(self._clock.boot() + wait)

    async def _answer(self, challenge: Challenge) -> None:
        try:
            await self._transmitter.confirm(challenge.stream_id, challenge.challenge)
        except (NoSuchStream, NotTold) as fault:
            _log.warning("challenge_not_taken", stream_id=challenge.stream_id, text=fault.text, detail=fault.detail)
        else:
            self.push_status, self._unverified = "enabled", True
            await self._note_status("enabled")
            _log.info("push_stream_confirmed", stream_id=challenge.stream_id)
        await self._intake.confirmed(challenge)
        if self._unverified:
            await self._verify(challenge.stream_id)

    async def _verify(self, stream_id: str) -> None:
        """Have an event sent that shows that events arrive. Too soon after the last request: later."""
        early = self._verified_at + self._interval - self._clock.boot()
        if early > 0:
            self._put_off(Seconds(early))
            return
        state = secrets.token_urlsafe(16)
        await self._intake.on_disk(self._store.note, asked_state=(state, self._clock.now()))
        try:
            await self._transmitter.verify(stream_id, state)
        except TooManyCalls as fault:
            self._put_off(fault.wait or self._interval)
            return
        except (NoSuchStream, NotTold) as fault:  # changed meanwhile: nothing rests on it
            _log.info("verification_not_sent", stream_id=stream_id, text=fault.text, detail=fault.detail)
        self._unverified, self._verified_at = False, self._clock.boot()
