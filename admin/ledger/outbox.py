"""The outbox, apart from where it is kept: which deliveries follow from an event of the ledger. Pure.

For each receiver of an event one delivery, whose `prev` names the event of this receiver before it. The chain goes
through all of a receiver's events, whether it had a stream for them or not, and over restores, so that whoever began
from a snapshot can go on. What follows depends on the ledger alone: made anew, it has the same ids and chains.
"""

import enum
from collections.abc import Iterable
from typing import Final

import msgspec

from admin.ledger.events import LedgerEvent, ParticipantEvent, StreamChanged, event_of
from admin.ledger.facts import fact_of
from admin.ledger.store import StoredEvent
from engine.clock import UnixTime
from engine.consent.records import ClientId, ConsentRecord, ParticipantRecord, Role
from engine.consent.states import State
from engine.events import sets
from engine.events.facts import ConsentFact, Fact, PartyFact, StreamFact, VerificationFact
from engine.pusher.service import Lane
from engine.pusher.streams import DeliveryMethod, StreamRecord, StreamStatus

RECEIVING: Final = frozenset({Role.ATP, Role.EDP})
# Tags of events that end one consent: in the bulk lane where its ATP is suspended.
SINGLE_ENDS: Final = frozenset(
    {"consent.revoked", "consent.superseded", "consent.disputed", "consent.expired", "consent.consumed"}
)


class Push(enum.IntEnum):
    """What has become of a delivery by push. Stored as its number: never renumber."""

    PENDING = 0
    DONE = 1
    PARKED = 2
    NONE = 3  # its receiver had no push stream, or has none any more; or it was too old when it could be pushed


class Poll(enum.IntEnum):
    """What has become of its copy for poll. Stored as its number: never renumber."""

    OPEN = 0
    ACKED = 1
    GONE = 2  # not fetched in time
    NONE = 3  # its receiver had no poll stream, or has the one no more that it is about
    REFUSED = 4  # the receiver told an error of it


class Draft(msgspec.Struct, frozen=True):
    """A delivery that is not numbered yet. recorded_at: of the event that it follows from."""

    client_id: ClientId
    role: Role
    lane: Lane
    seq: int  # 0: a framework event
    prev: int
    jti: str
    txn: str
    subject: str
    recorded_at: float
    fact: Fact
    push: Push
    poll: Poll


class Member(msgspec.Struct):
    """A possible receiver as of a position. last_seq: of its newest event, 0 = it has had none."""

    record: ParticipantRecord
    last_seq: int = 0


class Book:
    """All possible receivers and their streams, as of `seq`; `take` leads it on, event by event.

    issuer: of the SETs. rows_from: events recorded before it (seconds since 1970) only move the chains on.
    """

    def __init__(self, issuer: str, seq: int, roster_seq: int, rows_from: int) -> None:
        self.seq = seq
        self.roster_seq = roster_seq
        self.members: dict[ClientId, Member] = {}
        self.streams: dict[str, StreamRecord] = {}
        self._ways_of: dict[tuple[ClientId, DeliveryMethod], StreamRecord] = {}
        self.touched: set[ClientId] = set()  # members that have changed since the last `settle`
        self.changed_streams: dict[str, ClientId] = {}  # likewise, deleted ones too, and whose they are
        self._issuer = issuer
        self.rows_from = rows_from
        self._makes = True  # deliveries, and not only chains
        self._left_out: Lane | None = None

    def fork(self, *, left_out: Lane) -> "Book":
        """A copy to run ahead with, which makes no deliveries of a lane; their events move its chains all the same."""
        ahead = Book(self._issuer, self.seq, self.roster_seq, self.rows_from)
        ahead.members = {name: Member(one.record, one.last_seq) for name, one in self.members.items()}
        for stream in self.streams.values():
            ahead.put(stream)
        ahead._left_out = left_out
        return ahead

    def settle(self) -> None:
        """What has changed so far is kept."""
        self.touched.clear()
        self.changed_streams.clear()

    def take(self, stored: StoredEvent) -> list[Draft]:
        """The deliveries that follow from the next event. Raises UnreadableEvent: then the book stays as it was."""
        event = event_of(stored)
        self.seq = stored.position.seq
        self._makes = stored.recorded_at >= self.rows_from
        drafts = self._framework(stored, event)
        fact = fact_of(event, stored.position.seq, stored.recorded_at)
        if fact is not None:
            drafts += self._of_fact(stored, fact)
        return drafts

    def leaves_out(self, atp: ClientId) -> bool:
        """Whether a single end of this ATP's (SINGLE_ENDS) makes nothing here, because its suspension has told it."""
        return self._left_out is Lane.BULK and self._is_suspended(atp)

    def pass_over(self, seq: int, consent: ConsentRecord) -> None:
        """As `take`, for an event that is left out and need not be read: the chains move on."""
        self.seq = seq
        for client_id in (consent.atp, *consent.edps):
            member = self.members.get(client_id)
            if member is not None:
                member.last_seq = seq

    def stream_of(self, client_id: ClientId, method: DeliveryMethod) -> StreamRecord | None:
        """A receiver's push or poll stream."""
        return self._ways_of.get((client_id, method))

    def put(self, stream: StreamRecord) -> None:
        """A stream as it is now; a deleted one goes."""
        way = (stream.client_id, stream.delivery)
        if not stream.deleted:
            self.streams[stream.stream_id] = self._ways_of[way] = stream
        elif self.streams.pop(stream.stream_id, None) is not None and self._ways_of[way].stream_id == stream.stream_id:
            del self._ways_of[way]

    def _of_fact(self, stored: StoredEvent, fact: ConsentFact | PartyFact) -> list[Draft]:
        drafts = []
        lane = self._lane(fact)
        makes = self._makes and lane is not self._left_out
        for client_id in self._receivers(fact):
            member = self.members[client_id]
            push, poll = self._ways(client_id)
            if makes and (push is Push.PENDING or poll is Poll.OPEN):
                jti = sets.event_jti(fact, self._issuer, client_id)
                drafts.append(_draft(stored, fact, member.record, jti, lane, push, poll, (self.seq, member.last_seq)))
            member.last_seq = self.seq
            self.touched.add(client_id)
        return drafts

    def _receivers(self, fact: ConsentFact | PartyFact) -> Iterable[ClientId]:
        """Known ones, each once. Of a party: all EDPs, because any of them may be asked for data by that ATP."""
        if isinstance(fact, PartyFact):
            edps = [one for one, member in self.members.items() if member.record.role is Role.EDP]
            named = [fact.client_id, *sorted(edps)]
        else:
            named = [fact.client_id, *fact.edps]
        return [client_id for client_id in dict.fromkeys(named) if client_id in self.members]

    def _ways(self, client_id: ClientId) -> tuple[Push, Poll]:
        push = self.stream_of(client_id, DeliveryMethod.PUSH)
        poll = self.stream_of(client_id, DeliveryMethod.POLL)
        return Push.PENDING if _takes(push) else Push.NONE, Poll.OPEN if _takes(poll) else Poll.NONE

    def _lane(self, fact: ConsentFact | PartyFact) -> Lane:
        if not sets.ends_or_narrows(fact):
            return Lane.ORDINARY
        if isinstance(fact, ConsentFact) and fact.state is not State.ACTIVE and self._is_suspended(fact.client_id):
            return Lane.BULK  # the party's suspension has told it
        return Lane.ENDS

    def _is_suspended(self, client_id: ClientId) -> bool:
        member = self.members.get(client_id)
        return member is not None and member.record.suspended

    def _framework(self, stored: StoredEvent, event: LedgerEvent) -> list[Draft]:
        if isinstance(event, ParticipantEvent):
            self._take_participant(event.participant)
        if isinstance(event, StreamChanged):
            return self._take_stream(stored, event)
        return []

    def _take_participant(self, record: ParticipantRecord) -> None:
        if record.role not in RECEIVING:
            return
        member = self.members.get(record.client_id)
        if member is None:
            self.members[record.client_id] = Member(record)
        else:
            member.record = record
        self.touched.add(record.client_id)
        self.roster_seq = self.seq

    def _take_stream(self, stored: StoredEvent, event: StreamChanged) -> list[Draft]:
        after = event.stream
        member = self.members.get(after.client_id)
        if member is None:
            return []  # streams are participants' alone
        before = self.streams.get(after.stream_id)
        self.put(after)
        self.touched.add(after.client_id)
        self.changed_streams[after.stream_id] = after.client_id
        self.roster_seq = self.seq
        facts = framework_facts(before, event, stored.recorded_at) if self._makes else []
        return [self._framework_draft(stored, member.record, after, fact) for fact in facts]

    def _framework_draft(
        self, stored: StoredEvent, record: ParticipantRecord, stream: StreamRecord, fact: StreamFact | VerificationFact
    ) -> Draft:
        push, poll = framework_ways(stream)
        jti = sets.drawn_jti(stored.hash)  # as random as a draw, and the same when the outbox is made anew
        if isinstance(fact, VerificationFact):
            jti += "v"  # a change may bring both
        return _draft(stored, fact, record, jti, framework_lane(fact), push, poll, (0, 0))


def framework_facts(
    before: StreamRecord | None, event: StreamChanged, at: UnixTime
) -> list[StreamFact | VerificationFact]:
    """What a receiver is told of its stream: a new challenge, a status that it did not set itself, its confirmation."""
    after = event.stream
    if after.deleted:
        return []
    facts: list[StreamFact | VerificationFact] = []
    if after.challenge and (before is None or before.challenge != after.challenge):
        facts.append(VerificationFact(after.stream_id, at, challenge=after.challenge))
    if before is not None and not after.challenge and before.status != after.status:
        confirmed = bool(before.challenge)
        if confirmed or event.act.actor != after.client_id:
            facts.append(StreamFact(after.stream_id, after.status.value, at, after.reason or None))
    return facts


def framework_lane(fact: StreamFact | VerificationFact) -> Lane:
    """That a stream stops must be heard before it stops."""
    return Lane.ENDS if isinstance(fact, StreamFact) else Lane.ORDINARY


def framework_ways(stream: StreamRecord) -> tuple[Push, Poll]:
    """A framework event goes the way of the stream it is about."""
    if stream.delivery is DeliveryMethod.PUSH:
        return Push.PENDING, Poll.NONE
    return Push.NONE, Poll.OPEN


def is_pushable(stream: StreamRecord | None) -> bool:
    """Whether events may go out on it now."""
    return stream is not None and stream.is_usable and stream.status is StreamStatus.ENABLED


def _takes(stream: StreamRecord | None) -> bool:
    """Whether events are made for it: a paused one holds them."""
    return stream is not None and stream.status is not StreamStatus.DISABLED


def _draft(
    stored: StoredEvent,
    fact: Fact,
    receiver: ParticipantRecord,
    jti: str,
    lane: Lane,
    push: Push,
    poll: Poll,
    place: tuple[int, int],
) -> Draft:
    """place: seq and prev."""
    return Draft(
        receiver.client_id,
        receiver.role,
        lane,
        *place,
        jti,
        f"{stored.position.incarnation}-{stored.position.seq}",
        sets.subject(fact),
        float(stored.recorded_at),
        fact,
        push,
        poll,
    )
