"""Streams over the ledger: each call reads a receiver's streams, runs one command and appends what became of it.

What follows from a change for the receiver (a challenge, a word that its status is another) is derived from the
ledger's event with the rest of the outbox, so that neither is there without the other.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final, Protocol

import trio

from admin.directory import streams
from admin.directory.streams import VERIFICATION_INTERVAL, Before, TooSoon, UnknownStream, Wanted, stream_id_of
from admin.ledger.events import Act, StreamChanged, append_of, event_of, stream_subject
from admin.ledger.store import Append, Ledger, SubjectState, VersionConflict
from admin.ledger.stream_calls import Asked
from admin.writing import ATTEMPTS
from engine.clock import Seconds, UnixTime
from engine.consent.records import ClientId, ParticipantRecord
from engine.errors import Fault, Kind
from engine.pusher.streams import DeliveryMethod, StreamRecord, StreamStatus

CATCHING_UP: Final = 20  # looks, a tenth of a second apart

Decide = Callable[[StreamRecord, Sequence[StreamRecord]], StreamRecord]


class Verifications(Protocol):
    """Who has a verification event made."""

    async def ask_verification(self, stream_id: str, state: str | None = None) -> None:
        """Have one made for this stream. Raises a fault of kind NOT_FOUND where the stream is not known there yet."""

    async def begin_verification(self, stream_id: str, interval: Seconds) -> Asked:
        """Note that one is asked for, over all instances, unless it says how long to wait."""

    async def forgo_verification(self, stream_id: str, at: float) -> None:
        """The one that was noted at that time was not made after all."""


class WrongChallenge(Fault):
    """Not the word that was sent to the stream's address."""

    kind = Kind.INVALID


class StreamDisabled(Fault):
    """Nothing is made for a stream that is disabled."""

    kind = Kind.INVALID


class OutboxBehind(Fault):
    """What follows from the ledger was not derived from it yet."""

    kind = Kind.UNAVAILABLE


class Streams:
    """All receivers' streams. Whoever may do what is decided before it gets here, but for whose a stream is.

    draw: a challenge nobody can guess. private_allowed: push addresses may lie in private networks.
    """

    def __init__(
        self,
        ledger: Ledger,
        verifications: Verifications,
        now: Callable[[], UnixTime],
        draw: Callable[[], str],
        *,
        private_allowed: bool,
    ) -> None:
        self._ledger = ledger
        self._verifications = verifications
        self._now = now
        self._draw = draw
        self._private_allowed = private_allowed

    async def owned(self, client_id: ClientId) -> list[StreamRecord]:
        """One receiver's newest of each kind, deleted or not: those before them are all deleted."""
        newest = [(await self._before(client_id, method)).last for method in DeliveryMethod]
        return [stream for stream in newest if stream is not None]

    async def living(self, client_id: ClientId) -> list[StreamRecord]:
        """One receiver's as it sees them."""
        return [stream for stream in await self.owned(client_id) if not stream.deleted]

    async def _before(self, client_id: ClientId, method: DeliveryMethod) -> Before:
        """By their ids, which follow from their numbers: two looks where none was deleted, else by the logarithm."""

        async def numbered(number: int) -> StreamRecord | None:
            state = await self._state(stream_id_of(client_id, method, number))
            return None if state is None else _stream_of(state)

        there, absent = -1, 0
        last: StreamRecord | None = None
        while (found := await numbered(absent)) is not None:
            there, absent, last = absent, 2 * absent + 1, found
        while absent - there > 1:
            middle = (there + absent) // 2
            if (found := await numbered(middle)) is None:
                absent = middle
            else:
                there, last = middle, found
        return Before(absent, last)

    async def find(self, client_id: ClientId, stream_id: str) -> StreamRecord:
        """One stream of a receiver. Raises UnknownStream, also where it is another's or was deleted."""
        return _own(await self._state(stream_id), client_id)

    async def create(self, receiver: ParticipantRecord, wanted: Wanted, act: Act) -> StreamRecord:
        """Raises what `streams.create` raises, also where the same was asked for twice at once."""
        for _ in range(ATTEMPTS):
            before = await self._before(receiver.client_id, wanted.delivery)
            made = streams.create(
                wanted, receiver.client_id, receiver.role, before, self._draw(), act.at,
                private_allowed=self._private_allowed,
            )  # fmt: skip
            with suppress(VersionConflict):  # then the stream is there at the next look
                await self._ledger.append([append_of(StreamChanged(made, act), 0)])
                return made
        raise VersionConflict("somebody else made this stream")

    async def change(
        self, client_id: ClientId, stream_id: str, wanted: Callable[[StreamRecord], Wanted], act: Act
    ) -> StreamRecord:
        """Raises UnknownStream, and what `wanted` and `streams.change` raise."""
        challenge = self._draw()
        return await self._write(
            client_id,
            stream_id,
            lambda stream, owned: streams.change(
                wanted(stream), stream, owned, challenge, act.at, private_allowed=self._private_allowed
            ),
            act,
        )

    async def set_status(
        self, client_id: ClientId, stream_id: str, status: StreamStatus, reason: str, act: Act
    ) -> StreamRecord:
        """Raises UnknownStream, and what `streams.set_status` raises."""
        return await self._write(
            client_id,
            stream_id,
            lambda stream, owned: streams.set_status(stream, status, reason, owned, act.at),
            act,
        )

    async def delete(self, client_id: ClientId, stream_id: str, act: Act) -> None:
        """Raises UnknownStream, StreamHeld, MandatoryStream."""
        await self._write(client_id, stream_id, streams.delete, act)

    async def confirm(self, client_id: ClientId, stream_id: str, challenge: str, act: Act) -> StreamRecord:
        """Raises UnknownStream, NothingToConfirm, ChallengeSpent; WrongChallenge, which is counted in the ledger."""
        after = await self._write(
            client_id, stream_id, lambda stream, _: streams.confirm(stream, challenge, act.at), act
        )
        if after.challenge:
            raise WrongChallenge("this is not the challenge that was sent to the stream's address")
        return after

    async def verify(self, client_id: ClientId, stream_id: str, state: str | None, act: Act) -> None:
        """Have a verification event sent; to an address that is not confirmed a new challenge.

        Raises UnknownStream, StreamDisabled, TooSoon.
        """
        stream = await self.find(client_id, stream_id)
        if stream.status is StreamStatus.DISABLED:
            raise StreamDisabled("the stream is disabled")
        asked = await self._verifications.begin_verification(stream_id, VERIFICATION_INTERVAL)
        if asked.wait > 0:
            raise TooSoon(asked.wait)
        try:
            await self._verify(stream, state, act)
        except Fault:
            await self._verifications.forgo_verification(stream_id, asked.at)
            raise

    async def resume(self, known: Iterable[StreamRecord], act: Act) -> list[StreamRecord]:
        """End the receivers' own pauses that have lasted long enough.

        known: streams as the outbox has them, a moment behind the ledger. It has no deleted ones, of which there are
        more and more, and whoever looks each few seconds need not read them.
        """
        resumed = []
        for one in known:
            if streams.is_over(one, act.at):
                with suppress(UnknownStream):  # deleted since
                    stream = await self.find(one.client_id, one.stream_id)
                    if streams.is_over(stream, act.at):
                        resumed.append(await self._write(one.client_id, one.stream_id, _resume_at(act.at), act))
        return resumed

    async def _ask(self, stream_id: str, state: str | None) -> None:
        """The outbox follows the ledger within milliseconds; a stream that was just made may not be there yet."""
        for _ in range(CATCHING_UP):
            try:
                await self._verifications.ask_verification(stream_id, state)
            except Fault as fault:
                if fault.kind is not Kind.NOT_FOUND:
                    raise
                await trio.sleep(0.1)
            else:
                return
        raise OutboxBehind("the stream is too new: ask again")

    async def _verify(self, stream: StreamRecord, state: str | None, act: Act) -> None:
        if not stream.challenge:
            await self._ask(stream.stream_id, state)
            return
        challenge = self._draw()
        await self._write(
            stream.client_id, stream.stream_id, lambda found, _: streams.challenged(found, challenge, act.at), act
        )

    async def _write(self, client_id: ClientId, stream_id: str, decide: Decide, act: Act) -> StreamRecord:
        """Append what a command makes of a stream, unless that is nothing; anew when somebody was faster."""
        for _ in range(ATTEMPTS):
            state = await self._state(stream_id)
            stream, owned = _own(state, client_id), await self.owned(client_id)
            after = decide(stream, owned)
            if after == stream or state is None:
                return after
            appends = [append_of(StreamChanged(after, act), state.version)]
            if streams.stops(stream, after):
                appends = [await self._witness(stream, owned, act), *appends]
            with suppress(VersionConflict):
                await self._ledger.append(appends)
                return after
        raise VersionConflict("others are changing this stream")

    async def _state(self, stream_id: str) -> SubjectState | None:
        return await self._ledger.subject(stream_subject(stream_id)) if streams.is_stream_id(stream_id) else None

    async def _witness(self, stream: StreamRecord, owned: Sequence[StreamRecord], act: Act) -> Append:
        """The other stream that works, written again as it is: should it go at the same time, one of the two loses."""
        other = streams.other_that_works(stream, owned)
        state = await self._ledger.subject(stream_subject(other.stream_id))
        found = _own(state, stream.client_id)
        streams.other_that_works(stream, [found])
        return append_of(StreamChanged(found, act), 0 if state is None else state.version)


def _own(state: SubjectState | None, client_id: ClientId) -> StreamRecord:
    stream = None if state is None else _stream_of(state)
    if stream is None or stream.client_id != client_id or stream.deleted:
        raise UnknownStream("you have no such stream")
    return stream


def _stream_of(state: SubjectState) -> StreamRecord | None:
    event = event_of(state.event)
    return event.stream if isinstance(event, StreamChanged) else None


def _resume_at(now: UnixTime) -> Decide:
    return lambda stream, _: streams.resume(stream) if streams.is_over(stream, now) else stream
