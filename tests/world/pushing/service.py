"""The admin application as a guard's events part calls it: streams, polls, listings, keys; on a way that fails."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec
import trio

from engine.consent.records import ClientId, Role
from engine.events.verification import RefusedEvent
from engine.guard.transmitter import (
    Changes,
    ListedConsent,
    ListedParty,
    NoSuchStream,
    NotTold,
    Page,
    Polled,
    Stream,
    TooOld,
    Unreachable,
)
from engine.pusher.streams import DeliveryMethod, StreamRecord, StreamStatus
from tests.support.events import jwks
from tests.world.pushing.attacker import FORGERIES
from tests.world.pushing.ledger import INCARNATION, Told, line_of

if TYPE_CHECKING:
    from tests.world.pushing.world import World

T = TypeVar("T")
PAGE: Final = 7
SELDOM: Final = 4.0
LOST: Final = 5.0  # seconds until a caller gives up


class Service:
    """`engine.guard.transmitter.Transmitter` for one EDP."""

    def __init__(self, world: "World", client_id: ClientId) -> None:
        self._world = world
        self._client_id = client_id
        self._snapshots: dict[str, tuple[int, list[Told]]] = {}

    async def _call(self, name: str, act: Callable[[], T], fails: float = 1.0) -> T:
        """Whatever is done is done, though the answer be lost. fails: how often, for what is asked for seldom."""
        world = self._world
        there, back = world.ways()
        if there:
            await trio.sleep(there)
        if world.admin_down or world.chance(f"{name} not reached", 0.04 * fails):
            await trio.sleep(world.random.choice((0.01, LOST)))
            raise Unreachable("not reached")
        if world.chance(f"{name} refused", 0.03 * fails):
            raise NotTold("403")
        answer = act()
        if back:
            await trio.sleep(back)
        if world.chance(f"{name} slow", 0.03 if fails == 1.0 else 0.4):
            await trio.sleep(world.random.uniform(1.0, 20.0))
        if world.chance(f"{name} answer lost", 0.05 * fails):
            await trio.sleep(LOST)
            raise Unreachable("no answer")
        return answer

    def _stream(self, stream_id: str) -> StreamRecord:
        found = self._world.side.book.streams.get(stream_id)
        if found is None or found.client_id != self._client_id:
            raise NoSuchStream(stream_id)
        return found

    async def event_keys(self) -> bytes:
        return await self._call("event keys", lambda: jwks(*self._world.signers))

    async def poll(
        self, poll_url: str, ack: Sequence[str], max_events: int, errors: Mapping[str, RefusedEvent]
    ) -> Polled:
        world, side = self._world, self._world.side
        world.checker.acknowledges(self._client_id, ack, "poll")

        def act() -> Polled:
            if self._client_id not in poll_url:
                raise NoSuchStream(poll_url)
            waiting = side.open[self._client_id]
            for jti in (*ack, *errors):
                waiting.pop(jti, None)
            signed = {
                jti: compact.decode()
                for jti, number in waiting.items()
                if (compact := side.rows[number].delivery.signed) is not None
            }
            given = dict(list(signed.items())[: min(max_events, PAGE)])
            if max_events and world.chance("poll with a forged event", 0.1):
                jti, content = world.attacker.forged(self._client_id, world.random.choice(FORGERIES))
                given[jti] = content.decode()
            world.count("poll: events", len(given))
            return Polled(given, more_available=0 < len(given) < len(signed))

        return await self._call("poll", act)

    async def changes(self, after_seq: int, incarnation: str) -> Changes:
        world, side = self._world, self._world.side

        def act() -> Changes:
            if incarnation not in ("", INCARNATION) or after_seq > world.ledger.seq:
                raise TooOld("no such position")
            told, reached, last = list[Told](), after_seq, side.book.members[self._client_id].last_seq
            for one in side.told[self._client_id]:
                if after_seq < one.seq <= side.book.seq and len(told) < PAGE:
                    if not (one.prev <= after_seq if not told else one.prev == reached):
                        break
                    told.append(one)
                    reached = one.seq
            if not told and last > after_seq:
                raise TooOld("take the snapshot")
            if world.chance("changes too old", 0.25):
                raise TooOld("erased by age")
            consents, parties = _lines(told)
            return Changes(side.book.seq, INCARNATION, consents, parties, more=last > reached)

        answer = await self._call("changes", act, SELDOM)
        listed = [*(line.seq for line in answer.consents), *(line.seq for line in answer.parties)]
        world.count("listing: changes")
        world.checker.listed(self._client_id, after_seq, max(listed) if answer.more and listed else answer.as_of_seq)
        return answer

    async def snapshot(self, cursor: str | None) -> Page:
        world, side = self._world, self._world.side

        def act() -> Page:
            if cursor is None:
                newest = {_key(one): one for one in side.told[self._client_id] if one.seq <= side.book.seq}
                as_of, lines, begin = side.book.seq, list(newest.values()), 0
            else:
                name, _, place = cursor.partition(":")
                as_of, lines = self._snapshots[name]
                begin = int(place)
                if world.chance("snapshot too old", 0.1):
                    raise TooOld("begin anew")
            consents, parties = _lines(lines[begin : begin + PAGE])
            following = None
            if begin + PAGE < len(lines):
                name = str(as_of)
                self._snapshots[name] = (as_of, lines)
                following = f"{name}:{begin + PAGE}"
            return Page(as_of, INCARNATION, consents, parties, following)

        answer = await self._call("snapshot", act, SELDOM)
        world.count("listing: snapshot page")
        if answer.cursor is None:
            world.checker.listed(self._client_id, 0, answer.as_of_seq)
        return answer

    async def streams(self) -> tuple[Stream, ...]:
        def act() -> tuple[Stream, ...]:
            own = [one for one in self._world.side.book.streams.values() if one.client_id == self._client_id]
            return tuple(_view(one) for one in own)

        return await self._call("streams", act)

    async def create_stream(self, push_url: str | None) -> Stream:
        def act() -> Stream:
            side, method = self._world.side, DeliveryMethod.POLL if push_url is None else DeliveryMethod.PUSH
            found = side.book.stream_of(self._client_id, method)
            if found is None:
                found = StreamRecord(
                    f"{method.name.lower()}-{self._client_id}", self._client_id, Role.EDP, method,
                    StreamStatus.ENABLED if push_url is None else StreamStatus.PAUSED, push_url or "",
                    challenge="" if push_url is None else self._world.draw(),
                )  # fmt: skip
                side.change_stream(found, self._client_id)
            return _view(found)

        return await self._call("create stream", act)

    async def move_stream(self, stream_id: str, push_url: str) -> Stream:
        raise NotImplementedError

    async def confirm(self, stream_id: str, challenge: str) -> None:
        def act() -> None:
            stream = self._stream(stream_id)
            if stream.challenge and stream.challenge != challenge:
                raise NotTold("another challenge")
            if stream.challenge:
                after = msgspec.structs.replace(stream, challenge="", status=StreamStatus.ENABLED)
                self._world.side.change_stream(after, self._client_id)

        await self._call("confirm", act)

    async def status(self, stream_id: str) -> str:
        return await self._call("status", lambda: self._stream(stream_id).status.value)

    async def verify(self, stream_id: str, state: str | None) -> None:
        await self._call("verify", lambda: self._world.side.verify(self._stream(stream_id), state))


def _view(stream: StreamRecord) -> Stream:
    is_push = stream.delivery is DeliveryMethod.PUSH
    url = stream.endpoint_url if is_push else f"https://ccs.example/ssf/poll/{stream.client_id}"
    return Stream(stream.stream_id, is_push, url)


def _key(told: Told) -> str:
    line = line_of(told.seq, told.fact)
    return line.consent_id if isinstance(line, ListedConsent) else line.client_id


def _lines(told: Sequence[Told]) -> tuple[tuple[ListedConsent, ...], tuple[ListedParty, ...]]:
    lines = [line_of(one.seq, one.fact) for one in told]
    return (
        tuple(line for line in lines if isinstance(line, ListedConsent)),
        tuple(line for line in lines if isinstance(line, ListedParty)),
    )
