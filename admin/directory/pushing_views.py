"""How pushing stands as a whole, for operators: who pushes, what waits in each lane, receivers and streams by state.

Who is behind, and why, stands in `/receivers`. Nothing here names a consent, and nothing is written.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, Literal, TypeVar

import msgspec
from quart import Blueprint, Response, request

from admin.callers import Callers
from admin.directory.receiver_views import ReadStandings
from admin.directory.receiver_watch import Lateness, lateness
from admin.edge import answer
from admin.ledger.outbox_figures import OutboxFigures
from admin.ledger.push_lease import Holding
from admin.ledger.receiver_standing import Standing
from admin.openapi import operation
from engine.clock import UnixTime, format_utc
from engine.consent.records import Role
from engine.pusher.service import Lane
from engine.pusher.service_calls import pusher_named
from engine.pusher.streams import StreamRecord

T = TypeVar("T", bound=msgspec.Struct)
LaneName = Literal["ends", "ordinary", "bulk"]
_LANES: Final[dict[Lane, LaneName]] = {Lane.ENDS: "ends", Lane.ORDINARY: "ordinary", Lane.BULK: "bulk"}

ReadFigures = Callable[[], Awaitable[OutboxFigures]]


class LeaseView(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who pushes, and since when. pusher: its client id; left out: one of before it said so."""

    since: str
    pusher: str = ""


class LaneView(msgspec.Struct, frozen=True):
    """Deliveries still to be pushed. oldest_seconds: the age of the oldest, from its commit; 0 = there is none."""

    lane: LaneName
    unsent: int
    oldest_seconds: int


class ReceiverCounts(msgspec.Struct, frozen=True):
    """Receivers, each counted once, by the first that holds: suspended, unreached, behind, well.

    unreached: none of its streams is enabled and confirmed. behind: its oldest event waits for more than ten minutes to
    be pushed, or has come to it in no way for an hour.
    """

    well: int
    behind: int
    unreached: int
    suspended: int


class StreamCounts(msgspec.Struct, frozen=True):
    """Streams, each counted once. not_confirmed: its address was not shown to be its owner's, whatever its status."""

    enabled: int
    not_confirmed: int
    paused: int
    disabled: int


class PushingView(msgspec.Struct, frozen=True):
    """How pushing stands. lease: null = nobody pushes. parked: deliveries that are pushed no more, left to poll.

    unsigned: deliveries without signed bytes. receivers_with_parked, receivers_without_fallback: beside `receivers`,
    whatever state they are in there.
    """

    as_of: str
    lease: LeaseView | None
    lanes: tuple[LaneView, ...]
    parked: int
    unsigned: int
    receivers: ReceiverCounts
    receivers_with_parked: int
    receivers_without_fallback: int
    streams: StreamCounts


def pushing_views(
    figures: ReadFigures, standings: ReadStandings, callers: Callers, now: Callable[[], UnixTime]
) -> Blueprint:
    """Blueprint with the operators' call."""
    views = Blueprint("pushing", __name__)

    @views.get("/pushing")
    @operation(answers={200: PushingView})
    async def show() -> Response:
        """Show how pushing stands: who pushes, what waits, how many receivers and streams are in which state.

        Operators only. `GET /receivers` names those that are behind.
        """
        (await callers.authenticate(request.scope)).require(Role.OPERATOR)
        return answer(view_of(await figures(), await standings(), now()))

    return views


def view_of(figures: OutboxFigures, standings: Sequence[Standing], now: UnixTime) -> PushingView:
    """Everything as of about now: the two were read one after the other."""
    return PushingView(
        as_of=format_utc(now),
        lease=None if figures.lease is None else _lease(figures.lease),
        lanes=tuple(LaneView(name, figures.pending[lane], int(figures.oldest[lane])) for lane, name in _LANES.items()),
        parked=figures.parked,
        unsigned=figures.unsigned,
        receivers=_counted(ReceiverCounts, (_state(standing, now) for standing in standings)),
        receivers_with_parked=sum(standing.parked > 0 for standing in standings),
        receivers_without_fallback=sum(standing.fallback_suspended is not None for standing in standings),
        streams=_counted(StreamCounts, (_stream_state(one) for standing in standings for one in standing.streams)),
    )


def _lease(held: Holding) -> LeaseView:
    return LeaseView(format_utc(UnixTime(int(held.since))), pusher_named(held.holder))


def _state(standing: Standing, now: float) -> str:
    if standing.suspended:
        return "suspended"
    if not any(_stream_state(stream) == "enabled" for stream in standing.streams):
        return "unreached"
    return "well" if lateness(standing, now) is Lateness.NONE else "behind"


def _stream_state(stream: StreamRecord) -> str:
    return "not_confirmed" if stream.challenge else stream.status.value


def _counted(kind: type[T], states: Iterable[str]) -> T:
    """How many are in each state; the states are the fields of `kind`."""
    found = Counter(states)
    return kind(*(found[name] for name in kind.__struct_fields__))
