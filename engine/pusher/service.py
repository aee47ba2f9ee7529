"""The pusher's port to the ledger's side: the outbox, the lease, the roster. Reached through the feed service.

The outbox is derived from the ledger's events, in their order, by the admin application: one delivery for each event
and receiver, numbered. The pusher signs each once, keeps the signed bytes before it sends them for the first time, and
tells what came of it. Every write carries the lease's epoch: one whose lease has passed on changes nothing any more.
"""

import enum
from collections.abc import Sequence
from typing import Protocol

import msgspec

from engine.clock import Seconds, UnixTime
from engine.consent.records import ClientId, Role, Thumbprint
from engine.errors import Fault, Kind
from engine.events.facts import Fact
from engine.feed.questions import Seq
from engine.pusher.streams import StreamRecord


class Lane(enum.IntEnum):
    """Which deliveries of a receiver go first. Stored as its number: never renumber."""

    ENDS = 0  # ends and narrowings of consents, and a party's suspension
    ORDINARY = 1
    BULK = 2  # single ends that a party's suspension has told already: at a limited rate


class Delivery(msgspec.Struct, frozen=True, array_like=True):
    """One event for one receiver, as the outbox has it. signed: the compact SET, once it was kept."""

    number: int  # place in the outbox, over all receivers; 1 is the first
    client_id: ClientId  # the receiver
    role: Role  # of the receiver
    lane: Lane
    seq: int  # `ccs_seq`, the ledger event's position; 0: a framework event, which has none
    prev: int  # `ccs_prev`, position of this receiver's previous event; 0: this is the first
    jti: str
    txn: str  # the same for all deliveries of one ledger event
    fact: Fact
    committed_at: float  # seconds since 1970: when the event was written down
    signed: bytes | None = None
    attempts: int = 0
    next_at: float = 0.0  # seconds since 1970; not before. 0: at once


class Signed(msgspec.Struct, frozen=True, array_like=True):
    """A delivery's compact SET."""

    number: int
    compact: bytes


class Fate(enum.StrEnum):
    """What has become of a delivery by push. Its copy for poll is another matter."""

    DONE = "done"
    AGAIN = "again"  # failed; the next attempt is at `next_at`
    PARKED = "parked"  # not sent any more; the receiver gets it by poll
    EXPIRED = "expired"  # a week old: not sent any more, and nothing frees it; the receiver goes by the listings


class Outcome(msgspec.Struct, frozen=True, array_like=True):
    """One attempt's result. error: a word for operators (`err` of RFC 8935, `http_503`, `timeout`, `tls`), no text."""

    number: int
    fate: Fate
    attempts: int
    at: float  # seconds since 1970
    next_at: float = 0.0
    error: str = ""


class Lease(msgspec.Struct, frozen=True):
    """The right to push. It ends `seconds` after the call for it was *sent*, unless it is renewed."""

    epoch: int
    seconds: Seconds


class Receiver(msgspec.Struct, frozen=True):
    """A participant with its streams. last_seq: of its newest event in the outbox, for heartbeats.

    certificates: of the participant, one of which its push address must show. stream_seq: position of its push stream's
    newest change, so that one that was paused and is enabled again is told from one that was not; 0: it has none. It is
    never above the outbox's position, and may move for other changes as well.
    """

    client_id: ClientId
    role: Role
    suspended: bool
    certificates: tuple[Thumbprint, ...]
    streams: tuple[StreamRecord, ...]
    last_seq: int
    stream_seq: int = 0


class Checkpoint(msgspec.Struct, frozen=True):
    """The newest signed checkpoint of the ledger, repeated in heartbeats. Hash and signature: base64url."""

    incarnation: str
    seq: int
    hash: str
    kid: str
    signature: str


class Roster(msgspec.Struct, frozen=True):
    """All receivers as of `version`, a position of the ledger."""

    version: Seq
    receivers: tuple[Receiver, ...]
    checkpoint: Checkpoint | None = None


class LeaseHeld(Fault):
    """Another pusher works."""

    kind = Kind.CONFLICT


class LeaseLost(Fault):
    """The lease has passed on: whoever wrote under it must stop."""

    kind = Kind.CONFLICT


class PushService(Protocol):
    """Every method may raise `engine.feed.https`'s FeedUnavailable, FeedForbidden, FeedBroken; all may be repeated."""

    async def lease(self, holder: str, epoch: int | None) -> Lease:
        """Take the lease, or renew it with its epoch. holder: drawn at each start. Raises LeaseHeld, LeaseLost."""

    async def release(self, epoch: int) -> None:
        """Give the lease up, so that another need not wait for its end. A renewal that comes after it finds it lost."""

    async def roster(self, after: int, wait: Seconds) -> Roster | None:
        """All receivers, once something about them has changed after `after`; None = nothing within `wait` seconds."""

    async def fresh(self, lane: Lane, after: int, limit: int, wait: Seconds) -> Sequence[Delivery]:
        """Deliveries of one lane that no push has ended yet, with number > after, in order; may be empty.

        Of receivers with a usable push stream that is enabled. Waits up to `wait` seconds for the first.
        """

    async def backlog(self, client_id: ClientId, lane: Lane, after: int, limit: int) -> Sequence[Delivery]:
        """The same of one receiver, without waiting: what was left in the outbox while it was behind."""

    async def keep(self, epoch: int, signed: Sequence[Signed]) -> Sequence[Signed]:
        """Keep signed bytes; returns what stands for each number now: bytes kept before win. Raises LeaseLost."""

    async def unsigned(self, after: int, limit: int, wait: Seconds, *, bulk: bool = False) -> Sequence[Delivery]:
        """Deliveries without signed bytes, for poll: of every receiver, whether it is pushed to or not.

        Of the bulk lane, or of all others: these must not wait behind those.
        """

    async def tell(self, epoch: int, outcomes: Sequence[Outcome], batch: int) -> None:
        """Keep what became of deliveries. Raises LeaseLost.

        batch: above that of every batch of this holder's before; the same for the same outcomes again. One that is not
        above what the lease has seen is a copy that was under way for long, and changes nothing.
        """

    async def unpark(self, epoch: int, client_id: ClientId, at: UnixTime) -> int:
        """Let parked deliveries be pushed again after a good verification; returns how many. Raises LeaseLost."""

    async def register_event_key(self, statement: bytes) -> tuple[str, int]:
        """Have the event key published; returns its kid and until when, seconds since 1970."""
