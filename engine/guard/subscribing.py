"""Having the service send us events: a poll stream always, a push stream where there is an address for it (SSF 1.0).

The address of a new push stream is proved by a challenge: it comes there as a verification event, and is said back
over mutual TLS. After that a verification event of our own asking shows that events really arrive.
"""

import secrets

import msgspec

from engine.clock import Clock
from engine.guard.event_store import EventStore, StreamIds
from engine.guard.intake import Challenge, Intake
from engine.guard.transmitter import NoSuchStream, NotTold, Stream, Transmitter
from engine.telemetry import logs

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
        self.push_status = ""  # as the service said last

    async def ensure(self) -> None:
        """Make or mend our streams. Raises the transmitter's faults, StoreDown, MemoryFull."""
        found = await self._transmitter.streams()
        polls, pushes = [one for one in found if not one.is_push], [one for one in found if one.is_push]
        poll = polls[0] if polls else await self._transmitter.create_stream(None)
        known = self._store.streams
        await self._keep(StreamIds(known.push, poll.stream_id, poll.endpoint_url, known.confirmed))
        if self._push_url is not None:  # last: the service may not take it
            push = await self._push(pushes, self._push_url)
            is_known = push in pushes and push.stream_id == known.push
            confirmed = is_known and known.confirmed
            await self._keep(StreamIds(push.stream_id, poll.stream_id, poll.endpoint_url, confirmed))
            await self._look_at(push.stream_id)

    async def look(self) -> None:
        """See how our push stream stands, if there is one. Raises the transmitter's faults, StoreDown, MemoryFull."""
        if self._push_url is not None and self._store.streams.push:
            await self._look_at(self._store.streams.push)

    async def answer_challenges(self) -> None:
        """Say back what was sent to our address. Raises Unreachable, StoreDown."""
        for challenge in self._intake.challenges():
            await self._answer(challenge)

    async def _keep(self, streams: StreamIds) -> None:
        if streams != self._store.streams:
            await self._intake.on_disk(self._store.note, streams=streams)
            _log.info("streams_set_up", push=streams.push, poll=streams.poll)

    async def _push(self, pushes: list[Stream], url: str) -> Stream:
        if not pushes:
            return await self._transmitter.create_stream(url)
        push = pushes[0]
        return push if push.endpoint_url == url else await self._transmitter.move_stream(push.stream_id, url)

    async def _look_at(self, stream_id: str) -> None:
        """A push stream that does not run, with nothing of ours to wait for, may have lost its challenge: ask anew."""
        events = self._intake.status_events
        self.push_status = status = await self._transmitter.status(stream_id)
        if events == self._intake.status_events:  # else something newer has been told meanwhile
            await self._note_status(status)
        if self.push_status == "paused" and not self._intake.challenges():
            await self._transmitter.verify(stream_id, None)

    async def _note_status(self, status: str) -> None:
        """What is paused before its address was ever confirmed holds nothing back: events come by poll until then."""
        streams, is_enabled = self._store.streams, status == "enabled"
        if is_enabled or streams.confirmed:
            self._intake.push_stream_is(status)  # before anything is waited for: what is told meanwhile is newer
        if is_enabled and not streams.confirmed:
            await self._keep(msgspec.structs.replace(streams, confirmed=True))

    async def _answer(self, challenge: Challenge) -> None:
        try:
            await self._transmitter.confirm(challenge.stream_id, challenge.challenge)
        except (NoSuchStream, NotTold) as fault:
            _log.warning("challenge_not_taken", stream_id=challenge.stream_id, text=fault.text, detail=fault.detail)
        else:
            self.push_status = "enabled"
            await self._note_status("enabled")
            _log.info("push_stream_confirmed", stream_id=challenge.stream_id)
            await self._verify(challenge.stream_id)
        await self._intake.confirmed(challenge)

    async def _verify(self, stream_id: str) -> None:
        state = secrets.token_urlsafe(16)
        await self._intake.on_disk(self._store.note, asked_state=(state, self._clock.now()))
        try:
            await self._transmitter.verify(stream_id, state)
        except (NoSuchStream, NotTold) as fault:  # asked too often, or changed meanwhile: nothing rests on it
            _log.info("verification_not_sent", stream_id=stream_id, text=fault.text, detail=fault.detail)
