"""Which deliveries follow from events, held against a plain model of chains; and that nothing else has a say in it."""

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from admin.ledger.events import (
    Act,
    ConsentGranted,
    ConsentRevoked,
    Initiator,
    LedgerEvent,
    Organisation,
    ParticipantRegistered,
    ParticipantReinstated,
    ParticipantSuspended,
    Route,
    StreamChanged,
    encode,
    subject_of,
    tag_of,
)
from admin.ledger.outbox import Book, Draft, Poll, Push
from admin.ledger.store import StoredEvent
from engine.consent.records import ClientId, ConsentId, ParticipantRecord, Role
from engine.consent.states import State
from engine.events.facts import ConsentFact, PartyFact
from engine.feed.entries import Position
from engine.pusher.service import Lane
from engine.pusher.streams import DeliveryMethod, StreamRecord, StreamStatus
from tests.support.stored_forms import AT, CONSENT, TERMS

ISSUER = "https://ccs.example"
ATPS, EDPS = ("atp-1", "atp-2"), ("edp-1", "edp-2", "edp-3")
ROLES = {**dict.fromkeys(ATPS, Role.ATP), **dict.fromkeys(EDPS, Role.EDP)}
ACT = Act(Initiator.CONSUMER, "account-1", Route.PORTAL, AT)


class History:
    """Events with their places, versions and hashes, as a ledger would give them; some numbers are left out."""

    def __init__(self) -> None:
        self.events: list[StoredEvent] = []
        self._versions: dict[str, int] = {}
        self._seq = 0
        for client_id in ROLES:
            self.add(ParticipantRegistered(record(client_id), Organisation(client_id), ACT))

    def add(self, event: LedgerEvent, leap: int = 1) -> None:
        subject = subject_of(event)
        version = self._versions[subject] = self._versions.get(subject, 0) + 1
        self._seq += leap
        previous = self.events[-1].hash if self.events else bytes(32)
        body = encode(event)
        digest = hashlib.sha256(previous + body).digest()
        place = Position("0123456789abcdef", self._seq)
        self.events.append(
            StoredEvent(place, subject, tag_of(event), version, AT, body, None, None, None, previous, digest)
        )


def record(client_id: str, *, suspended: bool = False) -> ParticipantRecord:
    return ParticipantRecord(ClientId(client_id), ROLES[client_id], suspended, ())


def stream(client_id: str, method: DeliveryMethod, **fields: Any) -> StreamRecord:
    name = f"{client_id}-{method.name}"
    made = StreamRecord(name, ClientId(client_id), ROLES[client_id], method, StreamStatus.ENABLED)
    return msgspec.structs.replace(made, **fields)


def consent(number: int, atp: str, edps: Sequence[str], version: int, state: State) -> Any:
    consent_id = ConsentId(f"00000000-0000-4000-8000-{number:012d}")
    changed = msgspec.structs.replace(
        CONSENT, atp=ClientId(atp), edps=tuple(map(ClientId, edps)), consent_version=version, state=state
    )
    if state is State.ACTIVE:
        return ConsentGranted(consent_id, changed, TERMS, ACT)
    return ConsentRevoked(consent_id, changed, TERMS, ACT, AT)


def take_all(events: Sequence[StoredEvent], book: Book) -> list[Draft]:
    return [draft for event in events for draft in book.take(event)]


def new_book(rows_from: int = 0) -> Book:
    return Book(ISSUER, 0, 0, rows_from)


parties = st.tuples(st.sampled_from(ATPS), st.lists(st.sampled_from(EDPS), min_size=1, max_size=3, unique=True))
changes = st.tuples(
    st.sampled_from(sorted(ROLES)), st.sampled_from(DeliveryMethod), st.sampled_from([*StreamStatus, None])
)
steps = st.one_of(
    st.tuples(st.just("consent"), parties),
    st.tuples(st.just("end"), st.integers(0, 20)),
    st.tuples(st.just("suspend"), st.sampled_from(ATPS)),
    st.tuples(st.just("stream"), changes),
)


def history_of(chosen: Sequence[Any], leaps: Sequence[int]) -> History:
    history, suspended = History(), dict.fromkeys(ATPS, False)
    living: list[tuple[int, str, Sequence[str]]] = []
    for (what, how), leap in zip(chosen, leaps, strict=False):
        if what == "consent":
            atp, edps = how
            living.append((len(history.events), atp, edps))
            history.add(consent(len(history.events), atp, edps, 1, State.ACTIVE), leap)
        elif what == "end" and living:
            number, atp, edps = living.pop(how % len(living))
            history.add(consent(number, atp, edps, 2, State.REVOKED), leap)
        elif what == "suspend":
            suspended[how] = not suspended[how]
            kind = ParticipantSuspended if suspended[how] else ParticipantReinstated
            history.add(kind(record(how, suspended=suspended[how]), Organisation(how), ACT), leap)
        elif what == "stream":
            client_id, method, status = how
            changed = {"deleted": True} if status is None else {"status": status}
            history.add(StreamChanged(stream(client_id, method, **changed), ACT), leap)
    return history


@given(st.lists(steps, max_size=40), st.lists(st.integers(1, 50), min_size=40, max_size=40))
def test_chains_hold_whatever_happens(chosen: list[Any], leaps: list[int]) -> None:
    """Held against a model that knows nothing of books: the numbers of each receiver's events, one after the other."""
    history = history_of(chosen, leaps)
    drafts = take_all(history.events, new_book())
    chains: dict[str, list[int]] = {client_id: [0] for client_id in ROLES}
    told = {(draft.client_id, draft.seq): draft for draft in drafts if draft.seq}
    for event in history.events:
        for client_id in concerned(event):
            draft = told.get((ClientId(client_id), event.position.seq))
            if draft is not None:
                assert draft.prev == chains[client_id][-1]
            chains[client_id].append(event.position.seq)
    assert set(told) <= {(ClientId(one), seq) for one, chain in chains.items() for seq in chain}
    assert len({(draft.client_id, draft.jti) for draft in drafts}) == len(drafts)


def concerned(event: StoredEvent) -> list[str]:
    body = msgspec.msgpack.decode(event.body)
    if event.tag.startswith("consent."):
        consented = body[2]
        return [consented[2], *consented[10]]
    if event.tag in ("participant.suspended", "participant.reinstated"):
        return [body[1][0], *EDPS]
    return []


@given(st.lists(steps, max_size=40), st.lists(st.integers(1, 50), min_size=40, max_size=40), st.integers(0, 45))
def test_where_it_is_interrupted_makes_no_difference(chosen: list[Any], leaps: list[int], at: int) -> None:
    history = history_of(chosen, leaps)
    whole = take_all(history.events, new_book())
    first, second = new_book(), new_book()
    early = take_all(history.events[:at], first)
    assert early == whole[: len(early)]
    second.seq, second.roster_seq = first.seq, first.roster_seq
    for client_id, member in first.members.items():
        second.members[client_id] = msgspec.structs.replace(member)
    for one in first.streams.values():
        second.put(one)
    assert early + take_all(history.events[at:], second) == whole


@given(st.lists(steps, max_size=40))
def test_chains_move_on_without_rows(chosen: list[Any]) -> None:
    history = history_of(chosen, [1] * 40)
    told, silent = new_book(), new_book(rows_from=AT + 1)
    take_all(history.events, told)
    assert take_all(history.events, silent) == []
    assert {one: member.last_seq for one, member in silent.members.items()} == {
        one: member.last_seq for one, member in told.members.items()
    }


def test_the_lanes_of_ends_under_a_suspension() -> None:
    history = History()
    history.add(StreamChanged(stream("edp-1", DeliveryMethod.PUSH), ACT))
    for number in (1, 2):
        history.add(consent(number, "atp-1", ["edp-1"], 1, State.ACTIVE))
    history.add(ParticipantSuspended(record("atp-1", suspended=True), Organisation("atp-1"), ACT))
    history.add(consent(1, "atp-1", ["edp-1"], 2, State.REVOKED))
    history.add(ParticipantReinstated(record("atp-1"), Organisation("atp-1"), ACT))
    history.add(consent(2, "atp-1", ["edp-1"], 2, State.REVOKED))
    lanes = [(type(draft.fact), draft.lane) for draft in take_all(history.events, new_book())]
    assert lanes == [
        (ConsentFact, Lane.ORDINARY),
        (ConsentFact, Lane.ORDINARY),
        (PartyFact, Lane.ENDS),
        (ConsentFact, Lane.BULK),
        (PartyFact, Lane.ENDS),
        (ConsentFact, Lane.ENDS),
    ]


def test_a_stream_of_nobody_and_a_consent_of_strangers_bring_nothing() -> None:
    history = History()
    stranger = msgspec.structs.replace(stream("edp-1", DeliveryMethod.PUSH), client_id=ClientId("nobody"))
    history.add(StreamChanged(stranger, ACT))
    history.add(consent(1, "atp-9", ["edp-9"], 1, State.ACTIVE))
    assert take_all(history.events, new_book()) == []


def test_the_newer_of_two_streams_of_a_kind_counts_and_the_older_s_end_does_not_end_it() -> None:
    history = History()
    old, new = stream("edp-1", DeliveryMethod.POLL), stream("edp-1", DeliveryMethod.POLL, stream_id="newer")
    for one in (old, new, msgspec.structs.replace(old, deleted=True)):
        history.add(StreamChanged(one, ACT))
    history.add(consent(1, "atp-1", ["edp-1"], 1, State.ACTIVE))
    [draft] = take_all(history.events, new_book())
    assert (draft.push, draft.poll) == (Push.NONE, Poll.OPEN)
