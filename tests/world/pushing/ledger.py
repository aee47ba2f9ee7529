"""The ledger as a list of events, the outbox that follows from it, and the truth that answers are held against."""

import functools
import hashlib
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from admin.ledger.events import (
    Act,
    ConsentConsumed,
    ConsentEvent,
    ConsentExpired,
    ConsentGranted,
    ConsentRenewed,
    ConsentRevoked,
    ConsentWindowCut,
    Initiator,
    LedgerEvent,
    Organisation,
    ParticipantRegistered,
    ParticipantReinstated,
    ParticipantSuspended,
    Route,
    StreamChanged,
    Terms,
    encode,
    subject_of,
    tag_of,
)
from admin.ledger.outbox import Book, Draft, Poll, Push
from admin.ledger.store import StoredEvent
from engine.clock import UnixTime
from engine.consent.energy_consent import TYPE
from engine.consent.records import (
    AccessMode,
    Certificate,
    ClientId,
    ConsentId,
    ConsentRecord,
    ParticipantRecord,
    Role,
    Thumbprint,
)
from engine.consent.states import State
from engine.events.facts import ConsentFact, PartyFact, VerificationFact
from engine.events.sets import drawn_jti, wire_state
from engine.feed.entries import Position
from engine.guard.transmitter import ListedConsent, ListedParty
from engine.pusher.service import Delivery, Fate, Lane, Receiver
from engine.pusher.streams import StreamRecord
from tests.support.guard_words import DATASETS, DAY, NOW
from tests.support.push_service import ISSUER, MemoryPushService, Row

if TYPE_CHECKING:
    from tests.world.pushing.world import World

ATP: Final = ClientId("atp-1")
EDPS: Final = (ClientId("edp-1"), ClientId("edp-2"))
INCARNATION: Final = "0123456789abcdef"
TERMS: Final = Terms(TYPE, "Compare your tariff", "declaration-1")
LEASE: Final = 24.0  # seconds: longer than the real one, so that fewer renewals have to be played


class Moment(msgspec.Struct, frozen=True):
    """How a subject stands from `at` on, seconds since the world began."""

    at: float
    seq: int
    consent: ConsentRecord


class Told(msgspec.Struct, frozen=True):
    """One event of one receiver, as listings and the checker see it."""

    seq: int
    prev: int
    jti: str
    fact: ConsentFact | PartyFact


class Ledger:
    """Append, and the truth. Nothing here fails: what may fail stands between it and everybody else."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.seq = 0
        self.consents: dict[ConsentId, list[Moment]] = {}
        self.suspensions: list[tuple[float, bool]] = [(0.0, False)]
        self.unsequenced: list[StoredEvent] = []
        self.appended: Callable[[StoredEvent], None] = lambda _: None
        self.news = trio.Event()
        self._versions: dict[str, int] = {}
        self._atp = self._participant(ATP, Role.ATP)
        for record in (self._atp, *(self._participant(edp, Role.EDP) for edp in EDPS)):
            self.append(ParticipantRegistered(record, Organisation(record.client_id), self.act()))

    def append(self, event: LedgerEvent) -> None:
        """Written down, and true from now on."""
        subject = subject_of(event)
        version = self._versions[subject] = self._versions.get(subject, 0) + 1
        self.seq += self._world.random.randrange(1, 4)
        digest = hashlib.sha256(b"%d" % self.seq).digest()
        self.unsequenced.append(
            StoredEvent(
                Position(INCARNATION, self.seq), subject, tag_of(event), version, self._world.wall(),
                encode(event), None, None, None, b"", digest,
            )
        )  # fmt: skip
        self.appended(self.unsequenced[-1])
        self.news.set()
        if isinstance(event, ConsentEvent):
            self.consents.setdefault(event.consent_id, []).append(Moment(self._world.now(), self.seq, event.consent))
        if isinstance(event, ParticipantSuspended | ParticipantReinstated):
            self.suspensions.append((self._world.now(), event.participant.suspended))
        self._world.tell(f"ledger {self.seq} {tag_of(event)} {subject[-6:]}")
        self._world.count(f"event: {tag_of(event)}")

    def act(self, initiator: Initiator = Initiator.CONSUMER) -> Act:
        return Act(initiator, "account-1", Route.API, self._world.wall())

    def at(self, consent_id: ConsentId, when: float) -> ConsentRecord | None:
        """How a consent stood."""
        return next((one.consent for one in reversed(self.consents[consent_id]) if one.at <= when), None)

    def now(self, consent_id: ConsentId) -> ConsentRecord:
        return self.consents[consent_id][-1].consent

    def is_suspended(self, when: float) -> bool:
        return next(suspended for at, suspended in reversed(self.suspensions) if at <= when)

    def live(self) -> list[ConsentId]:
        return [one for one, moments in self.consents.items() if moments[-1].consent.state is State.ACTIVE]

    def grant(self) -> None:
        random, now = self._world.random, self._world.wall()
        consent_id = ConsentId(str(uuid.UUID(int=len(self.consents) + 1, version=4)))
        edps = random.choice((EDPS, EDPS[:1], EDPS[1:]))
        record = ConsentRecord(
            State.ACTIVE, 1, ATP, DATASETS[0],
            AccessMode.ONE_OFF if random.random() < 0.2 else AccessMode.ENDURING,
            now, UnixTime(now + random.choice((200, 500, 5 * DAY, 5 * DAY))), UnixTime(now - 3 * DAY), None,
            (b"d" * 16,), edps,
        )  # fmt: skip
        self.append(ConsentGranted(consent_id, record, TERMS, self.act()))

    def change(self, consent_id: ConsentId) -> None:
        """Whatever may happen to a live consent."""
        random, before, now = self._world.random, self.now(consent_id), self._world.wall()
        what = random.choices(("revoke", "renew", "cut", "consume"), (5, 2, 2, 2))[0]
        version = before.consent_version + 1
        if what == "renew":
            after = msgspec.structs.replace(
                before, consent_version=version, expires_at=UnixTime(before.expires_at + 600)
            )
            self.append(ConsentRenewed(consent_id, after, TERMS, self.act(), before.expires_at, now))
        elif what == "cut":
            until = UnixTime((before.data_to or now - DAY) - 3_600)
            after = msgspec.structs.replace(before, consent_version=version, data_to=until)
            self.append(ConsentWindowCut(consent_id, after, TERMS, self.act(), before.data_from, before.data_to))
        elif what == "consume" and before.access_mode is AccessMode.ONE_OFF:
            after = msgspec.structs.replace(before, consent_version=version, state=State.CONSUMED)
            self.append(ConsentConsumed(consent_id, after, TERMS, self.act(), before.edps[0], "share-1"))
        else:
            self.end(consent_id, UnixTime(now - random.choice((0, 0, 60, DAY))))  # somebody had moved out before

    def end(self, consent_id: ConsentId, since: UnixTime | None = None) -> None:
        """Revoke it. since: else from now on, by an operator."""
        before = self.now(consent_id)
        after = msgspec.structs.replace(before, consent_version=before.consent_version + 1, state=State.REVOKED)
        act = self.act(Initiator.OPERATOR if since is None else Initiator.CONSUMER)
        self.append(ConsentRevoked(consent_id, after, TERMS, act, since or self._world.wall()))

    def expire(self) -> None:
        """What the sweeper of the admin application does."""
        for consent_id in self.live():
            before = self.now(consent_id)
            if before.expires_at <= self._world.wall():
                version = before.consent_version + 1
                after = msgspec.structs.replace(before, consent_version=version, state=State.EXPIRED)
                self.append(ConsentExpired(consent_id, after, TERMS, self.act(Initiator.SYSTEM)))

    def suspend(self) -> None:
        """Stop the ATP, or let it go on."""
        suspended = not self._atp.suspended
        self._atp = msgspec.structs.replace(self._atp, suspended=suspended)
        kind = ParticipantSuspended if suspended else ParticipantReinstated
        self.append(kind(self._atp, Organisation(ATP), self.act(Initiator.OPERATOR)))

    def _participant(self, client_id: ClientId, role: Role) -> ParticipantRecord:
        certificate = Certificate(Thumbprint(client_id.encode().ljust(32, b"\0")), UnixTime(NOW + 365 * DAY))
        return ParticipantRecord(client_id, role, suspended=False, certificates=(certificate,))


class LedgerSide(MemoryPushService):
    """The outbox of the real `Book`, behind the port in memory; and what polls and listings are made of."""

    def __init__(self, world: "World") -> None:
        super().__init__(world.precise, latency=world.latency, fails=world.call_fails)
        self.lease_seconds = LEASE
        self._world = world
        self.book = Book(ISSUER, 0, 0, 0)
        self.told: dict[ClientId, list[Told]] = {client_id: [] for client_id in (ATP, *EDPS)}
        self.open: dict[ClientId, dict[str, int]] = {client_id: {} for client_id in (ATP, *EDPS)}  # jti to number
        self.listed: dict[ClientId, dict[str, ListedConsent | ListedParty]] = {one: {} for one in (ATP, *EDPS)}
        self._draws = 0
        self._truth = Book(ISSUER, 0, 0, 0)  # as of the ledger's newest event, and never forked
        self._places: dict[ClientId, dict[int, int]] = {client_id: {} for client_id in (ATP, *EDPS)}  # seq to number
        for stored in world.ledger.unsequenced:
            self._know(stored)
        world.ledger.appended = self._know

    @property
    def epoch(self) -> int:
        return self._epoch

    async def sequence(self) -> None:
        """The admin application's part that leads the outbox on; it lags a little."""
        while True:
            await self._world.ledger.news.wait()
            await trio.sleep(self._world.random.uniform(0.02, 1.0))
            self._world.ledger.news = trio.Event()
            if self._world.random.random() < 0.3 or len(self._world.ledger.unsequenced) > 2:  # a long way to go
                self._look_ahead()
                await trio.sleep(self._world.random.uniform(1.0, 30.0))
                self._look_ahead()
            while self._world.ledger.unsequenced:
                self.step()

    def step(self) -> None:
        """One event of the ledger."""
        stored = self._world.ledger.unsequenced.pop(0)
        before = self.book.roster_seq
        drafts = self.book.take(stored)
        for draft in drafts:
            self._lay_down(draft)
        for client_id in self.book.touched:
            self._meet(client_id)
        self.book.settle()
        self.version += self.book.roster_seq != before
        self._wake()

    def _look_ahead(self) -> None:
        """As `admin.ledger.lookahead`: what must be told now is told before what a suspension has told already."""
        ahead = self.book.fork(left_out=Lane.BULK)
        for stored in self._world.ledger.unsequenced:
            drafts = ahead.take(stored)
            if ahead.roster_seq != self.book.roster_seq:
                break
            self._world.count("looked ahead", len(drafts))
            for draft in drafts:
                self._lay_down(draft)
        self._wake()

    def _know(self, stored: StoredEvent) -> None:
        """What each receiver will have to be told."""
        for draft in self._truth.take(stored):
            if isinstance(draft.fact, ConsentFact | PartyFact):
                self.told[draft.client_id].append(Told(draft.seq, draft.prev, draft.jti, draft.fact))
        self._truth.settle()

    def change_stream(self, stream: StreamRecord, actor: str) -> None:
        """Of a receiver's, or of an operator's doing; the outbox knows at once."""
        act = msgspec.structs.replace(self._world.ledger.act(), actor=actor)
        self._world.ledger.append(StreamChanged(stream, act))
        while self._world.ledger.unsequenced:
            self.step()

    def verify(self, stream: StreamRecord, state: str | None) -> None:
        """A verification event was asked for."""
        self._draws += 1
        fact = VerificationFact(stream.stream_id, self._world.wall(), state, stream.challenge or None)
        jti = drawn_jti(self._draws.to_bytes(16))
        self._lay_down(
            Draft(
                stream.client_id, stream.role, Lane.ORDINARY, 0, 0, jti, "", stream.stream_id,
                self._world.precise(), fact, Push.PENDING, Poll.NONE,
            )
        )  # fmt: skip
        self._wake()

    def _lay_down(self, draft: Draft) -> None:
        """One that is there already stays as it is."""
        known = self._places[draft.client_id].get(draft.seq) if draft.seq else None
        if known is not None and self.rows[known].delivery.jti == draft.jti:
            return
        self._check(draft, known)
        self._number += 1
        number, fact = self._number, draft.fact
        made = Delivery(
            number, draft.client_id, draft.role, draft.lane, draft.seq, draft.prev, draft.jti, draft.txn, fact,
            self._world.precise(),
        )  # fmt: skip
        self.rows[number] = Row(made, Fate.AGAIN if draft.push is Push.PENDING else Fate.DONE)
        if draft.push is Push.PENDING:
            for key in ((draft.lane, None), (draft.lane, draft.client_id)):
                self._numbers.setdefault(key, []).append(number)
        if draft.poll is Poll.OPEN:
            self.open[draft.client_id][draft.jti] = number
        if draft.seq:
            self._places[draft.client_id][draft.seq] = number

    def _check(self, draft: Draft, known: int | None) -> None:
        if known is not None:
            self._world.wrong("outbox", "P4: one event twice in the outbox", f"{draft.seq} to {draft.client_id}")
        places = [one.prev for one in self.told[draft.client_id] if one.seq == draft.seq]
        if draft.seq and places != [draft.prev]:
            self._world.wrong("outbox", "P4: an event names another one before it than there was", f"{draft.seq}")

    def _meet(self, client_id: ClientId) -> None:
        member = self.book.members[client_id]
        streams = tuple(one for one in self.book.streams.values() if one.client_id == client_id)
        certificates = tuple(one.thumbprint for one in member.record.certificates)
        self.receivers[client_id] = Receiver(
            client_id, member.record.role, member.record.suspended, certificates, streams, member.last_seq
        )


def line_of(seq: int, fact: ConsentFact | PartyFact) -> ListedConsent | ListedParty:
    """As listings show it."""
    if isinstance(fact, PartyFact):
        return ListedParty(seq, fact.client_id, fact.version, fact.suspended)
    live = fact.state is State.ACTIVE
    return ListedConsent(
        seq, fact.consent_id, fact.consent_version, wire_state(fact.state), fact.client_id, fact.effective_at,
        fact.expires_at if live else None, fact.authorization_details if live else (),
    )  # fmt: skip


def token_of(consent_id: ConsentId) -> str:
    """One token for each consent."""
    return f"token-{consent_id}"


@functools.cache
def digest_of(consent_id: ConsentId) -> bytes:
    """That token's, as a guard's memory names it."""
    return hashlib.sha256(token_of(consent_id).encode()).digest()
