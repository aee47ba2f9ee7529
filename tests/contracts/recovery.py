"""What a recovery must do, whatever the ledger is kept in: reports become events, going live is one append."""

import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
import trio

from admin.config import Ledger as LedgerConfig
from admin.consents.commands import consent_of, renew
from admin.consents.forms import RenewForm
from admin.consents.listing import Listings, PartyLine, SnapshotQuery
from admin.ledger.events import (
    Act,
    Change,
    ConsentRenewed,
    ConsentRevoked,
    Initiator,
    LedgerWentLive,
    Organisation,
    ParticipantEvent,
    ParticipantRegistered,
    ParticipantReinstated,
    ParticipantSuspended,
    ParticipantUpdated,
    RecoveryTold,
    Route,
    append_of,
    decode,
    event_of,
)
from admin.ledger.facts import fact_of
from admin.ledger.sql import SqlLedger, open_ledger
from admin.ledger.store import Append, Idempotency, Ledger, LedgerUnavailable, Receipt
from admin.recovery.reading import NotRestored, Recovering, RecoveryReader
from admin.recovery.service import AnotherLedger, NotReconciled, NotRecovering, RecoveryService, UnreadableReport
from admin.recovery.standing import UNTOLD, Standing
from admin.recovery.tellings import Report, Result, Teller, Telling
from engine.clock import UnixTime, parse_utc
from engine.consent.reading import InvalidFields
from engine.consent.records import ClientId, ConsentId, ParticipantRecord, Role
from engine.consent.states import State
from engine.events.facts import ConsentFact, PartyFact
from engine.events.sets import event_jti
from engine.feed.entries import EntryKind
from engine.feed.gap_reports import GapReport, TouchedConsent, TouchedParticipant, TouchedToken
from engine.guard.rules import KeptConsent, changed
from tests.support.consents import CONSENT_ID, granted
from tests.support.consents import NOW as CONSENT_NOW
from tests.support.consents import act as consumer
from tests.support.guard_memory import InMemory
from tests.support.ledger import HandClock, used
from tests.support.restored import ENDED_UNDER, restore_beyond, say_restored

LOST = ConsentId("c0ffee00-1111-4222-8333-444455556666")
NODE, ATP, EDP = ClientId("node-1"), ClientId("atp-1"), ClientId("edp-1")
ROLES = {NODE: Role.NODE, ATP: Role.ATP, EDP: Role.EDP}


def act(reason: str | None = None) -> Act:
    return Act(Initiator.OPERATOR, "operator-1", Route.API, UnixTime(1_800_000_500), reason=reason)


class DyingLedger:
    """A ledger whose process dies at its nth append: before the commit, or after it and before anybody is told."""

    def __init__(self, ledger: SqlLedger, *, dies_at: int, committed: bool) -> None:
        self._ledger, self._left, self._committed = ledger, dies_at, committed
        self.head, self.events, self.subject = ledger.head, ledger.events, ledger.subject
        self.subjects, self.records, self.replayed = ledger.subjects, ledger.records, ledger.replayed
        self.wait_beyond, self.erase_person = ledger.wait_beyond, ledger.erase_person

    async def append(self, events: Sequence[Append], idempotency: Idempotency | None = None) -> Receipt:
        self._left -= 1
        if self._left or self._committed:
            receipt = await self._ledger.append(events, idempotency)
        if not self._left:
            raise LedgerUnavailable("killed")
        return receipt


class CountedReads:
    """Counts what is read from a ledger's database."""

    def __init__(self, ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self._read = 0, ledger.database.read
        monkeypatch.setattr(ledger.database, "read", self.read)

    async def read(self, work: Callable[[sa.Connection], Any]) -> Any:
        self.count += 1
        return await self._read(work)


class RecoveryContract:
    """Subclasses give `ledger_settings`: settings of a database that is still empty."""

    @pytest.fixture
    def clock(self) -> HandClock:
        return HandClock()

    @pytest.fixture
    async def ledger(self, ledger_settings: LedgerConfig, clock: HandClock) -> AsyncIterator[SqlLedger]:
        async with open_ledger(ledger_settings, clock, wall=clock.wall) as ledger:
            appends = [
                append_of(ParticipantRegistered(ParticipantRecord(name, role, False, ()), Organisation(name), act()), 0)  # noqa: FBT003 - suspended
                for name, role in ROLES.items()
            ]
            await ledger.append([*appends, granted()])
            yield ledger

    @pytest.fixture
    def reader(self, ledger: SqlLedger) -> RecoveryReader:
        return RecoveryReader(ledger)

    @pytest.fixture
    def service(self, ledger: SqlLedger, reader: RecoveryReader, clock: HandClock) -> RecoveryService:
        return RecoveryService(ledger, reader, clock.now)

    async def _restored(self, ledger: SqlLedger, clock: HandClock, *, lost: int = 10) -> int:
        return await say_restored(ledger, gap_from=clock.time - 60, gap_to=clock.time, lost=lost)

    async def _head(self, ledger: SqlLedger) -> int:
        return (await ledger.head()).position.seq

    def _teller(self, name: ClientId, clock: HandClock) -> Teller:
        return Teller(name, ROLES[name], clock.now())

    async def _from_node(self, service: RecoveryService, ledger: SqlLedger, restored: int, *, known: int = 10) -> None:
        await service.take_from_node(await self._node_report(ledger, restored, known=known), NODE)

    async def _node_report(self, ledger: SqlLedger, restored: int, *, known: int = 10) -> GapReport:
        kept = restored - 1
        consents = (
            TouchedConsent(CONSENT_ID, "revoked", kept + 1, 1_900_000_000, 0, None, ("atp-1", "edp-1")),
            TouchedConsent(LOST, "active", kept + 2, 1_900_000_000, 0, None, ("atp-1", "edp-1")),
        )
        incarnation = (await ledger.head()).position.incarnation
        return GapReport(
            NODE, ENDED_UNDER, kept + known, incarnation, consents=consents if known else (), total=2 if known else 0
        )

    async def _from_party(
        self, service: RecoveryService, name: ClientId, clock: HandClock, *tellings: Telling, key: str = ""
    ) -> list[Result]:
        report = Report(UnixTime(clock.time - 120), True, tellings)  # noqa: FBT003 - complete
        results, _ = await service.take(report, self._teller(name, clock), used(key or uuid.uuid4().hex, client=name))
        return results

    async def _standing(self, reader: RecoveryReader) -> Standing:
        return await reader.standing()

    async def test_a_ledger_that_was_never_restored_is_live_and_takes_no_reports(
        self, service: RecoveryService, reader: RecoveryReader, clock: HandClock
    ) -> None:
        assert await reader.recovery() is None
        await reader.refuse_claims()
        with pytest.raises(NotRestored):
            await reader.standing()
        with pytest.raises(NotRestored):
            await self._from_party(service, EDP, clock)
        with pytest.raises(NotRestored):
            await service.go_live(act(), frozenset(), used("k" * 8))

    async def test_a_restored_ledger_waits_for_everybody_it_knows(
        self, ledger: SqlLedger, reader: RecoveryReader, clock: HandClock
    ) -> None:
        await self._restored(ledger, clock)
        standing = await reader.standing()
        assert standing.recovery is not None
        assert set(standing.obstacles) == {NODE, ATP, EDP, UNTOLD}
        with pytest.raises(Recovering):
            await reader.refuse_claims()

    async def test_many_doubts_are_read_by_few_statements(
        self, ledger: SqlLedger, reader: RecoveryReader, clock: HandClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await self._restored(ledger, clock)
        lost = [ConsentId(f"c0ffee00-1111-4222-8333-{number:012x}") for number in range(25)]
        told = [RecoveryTold(one, Change.GRANTED, ATP, Role.ATP, clock.now()) for one in [CONSENT_ID, *lost]]
        await ledger.append([append_of(one, 0) for one in told])
        monkeypatch.setattr("admin.recovery.reading.TOLD_PAGE", 10)
        statements = CountedReads(ledger, monkeypatch)
        standing = await reader.standing()
        assert {one.event.consent_id for one in standing.in_doubt} == {CONSENT_ID, *lost}
        assert {one.event.consent_id for one in standing.told if one.consent_seq} == {CONSENT_ID}
        assert statements.count < 20

    async def test_a_nodes_report_ends_what_had_ended_and_lists_what_was_granted(
        self, ledger: SqlLedger, service: RecoveryService, reader: RecoveryReader, clock: HandClock
    ) -> None:
        restored = await self._restored(ledger, clock)
        await self._from_node(service, ledger, restored)
        state = await ledger.subject(f"consent:{CONSENT_ID}")
        assert state is not None
        assert isinstance(consent_of(state), ConsentRevoked)
        assert await ledger.subject(f"consent:{LOST}") is None
        standing = await reader.standing()
        assert set(standing.obstacles) == {ATP, EDP}
        assert [told.event.consent_id for told in standing.in_doubt] == [LOST]
        assert (standing.ended, standing.told_to, standing.untold) == (1, restored + 9, 0)
        doubts = [record.key for _, record in await ledger.records((int(EntryKind.DOUBT), b""), 10)]
        assert len(doubts) == 2

    async def test_the_same_report_again_writes_nothing(
        self, ledger: SqlLedger, service: RecoveryService, clock: HandClock
    ) -> None:
        restored = await self._restored(ledger, clock)
        await self._from_node(service, ledger, restored)
        head = await self._head(ledger)
        await self._from_node(service, ledger, restored)
        assert await self._head(ledger) == head

    async def test_reports_that_meet_write_each_end_once(
        self, ledger: SqlLedger, service: RecoveryService, clock: HandClock
    ) -> None:
        restored = await self._restored(ledger, clock)
        telling = Telling(CONSENT_ID, Change.REVOKED, clock.now(), "e-1")
        async with trio.open_nursery() as nursery:
            for name in (ATP, EDP):
                nursery.start_soon(self._from_party, service, name, clock, telling)
            nursery.start_soon(self._from_node, service, ledger, restored)
        events = await ledger.events(restored, 100)
        assert [event.tag for event in events].count("consent.revoked") == 1

    async def test_a_party_tells_of_its_own_and_gets_the_same_answer_again(
        self, ledger: SqlLedger, service: RecoveryService, clock: HandClock
    ) -> None:
        await self._restored(ledger, clock)
        tellings = [
            Telling(CONSENT_ID, Change.REVOKED, clock.now(), "e-1"),
            Telling(LOST, Change.REVOKED, clock.now(), "e"),
        ]
        first = await self._from_party(service, EDP, clock, *tellings, key="key-of-the-edp")
        head = await self._head(ledger)
        again = await self._from_party(service, EDP, clock, *tellings, key="key-of-the-edp")
        assert first == again == [Result.ENDED, Result.UNKNOWN]
        assert await self._head(ledger) == head

    async def test_a_consent_told_of_twice_in_one_report_ends_once(
        self, ledger: SqlLedger, service: RecoveryService, clock: HandClock
    ) -> None:
        restored = await self._restored(ledger, clock)
        twice = [Telling(CONSENT_ID, Change.REVOKED, clock.now(), "e-1")] * 2
        assert await self._from_party(service, EDP, clock, *twice) == [Result.ENDED, Result.ENDED]
        assert [event.tag for event in await ledger.events(restored, 100)].count("consent.revoked") == 1

    async def test_a_report_that_does_not_reach_back_to_the_gap_is_refused_and_nothing_of_it_taken(
        self, ledger: SqlLedger, service: RecoveryService, clock: HandClock
    ) -> None:
        await self._restored(ledger, clock)
        head = await self._head(ledger)
        late = Report(UnixTime(clock.time - 59), True, (Telling(CONSENT_ID, Change.REVOKED, clock.now(), "e"),))  # noqa: FBT003 - complete
        with pytest.raises(InvalidFields):
            await service.take(late, self._teller(EDP, clock), used("a" * 8))
        assert await self._head(ledger) == head

    async def test_a_lost_suspension_and_a_revoked_token_are_written_again(
        self, ledger: SqlLedger, service: RecoveryService, reader: RecoveryReader, clock: HandClock
    ) -> None:
        restored = await self._restored(ledger, clock)
        incarnation = (await ledger.head()).position.incarnation
        report = GapReport(
            NODE,
            ENDED_UNDER,
            restored + 9,
            incarnation,
            tokens=(TouchedToken("aa" * 16, 1_900_000_000),),
            participants=(TouchedParticipant("atp-1", True), TouchedParticipant("edp-1", False)),  # noqa: FBT003 - suspended
            policy=True,
        )
        await service.take_from_node(report, NODE)
        await service.take_from_node(report, NODE)
        tags = [event.tag for event in await ledger.events(restored, 100)]
        assert tags.count("token.revoked") == tags.count("participant.suspended") == 1
        state = await ledger.subject("participant:atp-1")
        assert state is not None
        event = event_of(state.event)
        assert isinstance(event, ParticipantSuspended)
        assert event.participant.suspended
        assert (await reader.standing()).to_look_at == ("atp-1", "edp-1", "policy")

    async def test_a_participant_that_was_written_since_stays_as_it_is(
        self, ledger: SqlLedger, service: RecoveryService, clock: HandClock
    ) -> None:
        restored = await self._restored(ledger, clock)
        state = await ledger.subject("participant:atp-1")
        assert state is not None
        event = event_of(state.event)
        assert isinstance(event, ParticipantEvent)
        await ledger.append([append_of(event, state.version)])
        incarnation = (await ledger.head()).position.incarnation
        participants = (TouchedParticipant("atp-1", True),)  # noqa: FBT003 - suspended
        await service.take_from_node(
            GapReport(NODE, ENDED_UNDER, restored + 9, incarnation, participants=participants), NODE
        )
        assert "participant.suspended" not in [event.tag for event in await ledger.events(restored, 100)]

    async def test_nodes_reports_that_cannot_be_are_refused_and_write_nothing(
        self, ledger: SqlLedger, service: RecoveryService, clock: HandClock
    ) -> None:
        restored = await self._restored(ledger, clock)
        right = await self._node_report(ledger, restored)
        head = await self._head(ledger)
        many = tuple(TouchedParticipant(f"atp-{number}", False) for number in range(5))  # noqa: FBT003 - suspended
        wrong = [
            msgspec.structs.replace(right, node_id="node-2"),
            msgspec.structs.replace(right, missing_under="f" * 16),
            msgspec.structs.replace(right, known_under="f" * 16),
            msgspec.structs.replace(right, known_under=""),
            msgspec.structs.replace(right, known_to=restored, participants=many),  # more things than events
        ]
        for report in wrong:
            with pytest.raises(AnotherLedger):
                await service.take_from_node(report, NODE)
        body = msgspec.json.encode([{"type": "replica.gap", "node_id": 7}])
        with pytest.raises(UnreadableReport):
            await service.take_from_nodes(NODE, body)
        await service.take_from_nodes(NODE, b'[{"type": "something.else"}, 7]')
        assert await self._head(ledger) == head

    async def test_of_an_incarnation_that_no_restore_names_only_ends_are_taken(
        self, ledger: SqlLedger, service: RecoveryService, clock: HandClock
    ) -> None:
        """It was restored a second time from an older backup, and what came between is no part of its history."""
        restored = await self._restored(ledger, clock)
        report = msgspec.structs.replace(await self._node_report(ledger, restored), known_under="f" * 16)
        with pytest.raises(AnotherLedger):
            await service.take_from_node(report, NODE)
        await service.take_from_node(msgspec.structs.replace(report, consents=report.consents[:1]), NODE)
        state = await ledger.subject(f"consent:{CONSENT_ID}")
        assert state is not None
        assert consent_of(state).consent.state is State.REVOKED

    async def test_a_replica_that_holds_records_beyond_its_position_is_believed(
        self, ledger: SqlLedger, service: RecoveryService, clock: HandClock
    ) -> None:
        """Its snapshot was read while those were written."""
        restored = await self._restored(ledger, clock)
        report = await self._node_report(ledger, restored)
        await service.take_from_node(msgspec.structs.replace(report, known_to=restored - 1), NODE)
        state = await ledger.subject(f"consent:{CONSENT_ID}")
        assert state is not None
        assert consent_of(state).consent.state is State.REVOKED

    async def test_it_goes_live_once_everybody_has_reported_and_not_before(
        self, ledger: SqlLedger, service: RecoveryService, reader: RecoveryReader, clock: HandClock
    ) -> None:
        restored = await self._restored(ledger, clock)
        await self._from_node(service, ledger, restored)
        await self._from_party(service, ATP, clock)
        with pytest.raises(NotReconciled, match="edp-1"):
            await service.go_live(act(), frozenset(), used("a" * 8, client="operator-1"))
        await self._from_party(service, EDP, clock)
        key = used("b" * 8, client="operator-1")
        event, _ = await service.go_live(act(), frozenset(), key)
        assert (event.without, event.reported, event.ended, event.in_doubt) == ((), 3, 1, 1)
        again, _ = await service.go_live(act(), frozenset(), key)
        assert again == event
        assert await reader.recovery() is None
        await reader.refuse_claims()
        with pytest.raises(NotRecovering):
            await service.go_live(act(), frozenset(), used("c" * 8, client="operator-1"))

    async def test_it_goes_live_without_somebody_only_by_name(
        self, ledger: SqlLedger, service: RecoveryService, clock: HandClock
    ) -> None:
        await self._restored(ledger, clock)
        key = used("a" * 8, client="operator-1")
        with pytest.raises(NotReconciled, match=UNTOLD):
            await service.go_live(act(), frozenset({NODE, ATP, EDP}), key)
        with pytest.raises(InvalidFields, match="edp-9"):
            await service.go_live(act(), frozenset({NODE, ATP, EDP, UNTOLD, "edp-9"}), key)
        event, _ = await service.go_live(act("unreachable"), frozenset({NODE, ATP, EDP, UNTOLD}), key)
        assert isinstance(event, LedgerWentLive)
        assert (set(event.without), event.act.reason) == ({NODE, ATP, EDP, UNTOLD}, "unreachable")

    async def test_two_operators_at_once_go_live_once(
        self, ledger: SqlLedger, service: RecoveryService, clock: HandClock
    ) -> None:
        restored = await self._restored(ledger, clock, lost=0)
        refused: list[Exception] = []

        async def go(key: Idempotency) -> None:
            try:
                await service.go_live(act("drill"), frozenset({NODE, ATP, EDP}), key)
            except NotRecovering as fault:
                refused.append(fault)

        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(go, used(f"operator-key-{number}", client=f"operator-{number}"))
        assert [event.tag for event in await ledger.events(restored, 100)] == ["ledger.went_live"]
        assert len(refused) == 3

    @pytest.mark.parametrize("committed", [False, True])
    @pytest.mark.parametrize("dies_at", [1, 2, 3, 4, 5])
    async def test_killed_at_any_append_it_is_recovering_or_live_and_goes_on(
        self, ledger: SqlLedger, reader: RecoveryReader, clock: HandClock, dies_at: int, *, committed: bool
    ) -> None:
        restored = await self._restored(ledger, clock)

        async def all_of_it(on: Ledger) -> None:
            service = RecoveryService(on, reader, clock.now)
            await service.take_from_node(await self._node_report(ledger, restored), NODE)
            for name in (ATP, EDP):
                await self._from_party(service, name, clock, key=f"key-of-{name}")
            await service.go_live(act(), frozenset(), used("k" * 8, client="operator-1"))

        with pytest.raises(LedgerUnavailable):
            await all_of_it(DyingLedger(ledger, dies_at=dies_at, committed=committed))
        reader.forget()
        is_live = dies_at == 5 and committed
        assert (await reader.recovery() is None) is is_live
        await all_of_it(ledger)
        tags = [event.tag for event in await ledger.events(restored, 100)]
        assert {tag: tags.count(tag) for tag in tags} == {
            "recovery.told": 2,
            "consent.revoked": 1,
            "recovery.reported": 3,
            "ledger.went_live": 1,
        }

    async def test_a_node_that_comes_after_going_live_still_ends_what_it_knew_to_have_ended(
        self, ledger: SqlLedger, service: RecoveryService, clock: HandClock
    ) -> None:
        restored = await self._restored(ledger, clock)
        await service.go_live(act("lost"), frozenset({NODE, ATP, EDP, UNTOLD}), used("a" * 8))
        await self._from_node(service, ledger, restored)
        state = await ledger.subject(f"consent:{CONSENT_ID}")
        assert state is not None
        assert consent_of(state).consent.state is State.REVOKED

    async def test_a_second_restore_asks_everybody_again(
        self, ledger: SqlLedger, service: RecoveryService, reader: RecoveryReader, clock: HandClock
    ) -> None:
        await self._restored(ledger, clock, lost=0)
        await service.go_live(act("drill"), frozenset({NODE, ATP, EDP}), used("a" * 8))
        await say_restored(ledger, gap_from=clock.time, gap_to=clock.time + 5, lost=0, ended="b" * 16)
        reader.forget()
        assert set((await reader.standing()).obstacles) == {NODE, ATP, EDP}

    async def test_a_renewal_that_was_lost_and_made_again_differently_is_new_to_who_was_told_of_the_first(
        self, ledger: SqlLedger, service: RecoveryService, clock: HandClock
    ) -> None:
        """The receiver follows the sheet: a greater version counts, an equal one is a repeat."""

        async def renewed(until: str) -> Append:
            state = await ledger.subject(f"consent:{CONSENT_ID}")
            assert state is not None
            form = RenewForm(consent_expires_at=until, address_confirmed=True, wording="renew-1")
            return renew(state, form, act=consumer(), now=CONSENT_NOW)

        def heard(before: KeptConsent | None, append: Append) -> KeptConsent | None:
            event = decode(append.body)
            assert isinstance(event, ConsentRenewed)
            told[event_jti_of(event)] = event.consent.consent_version
            return changed(before, event.consent.consent_version, None, event.consent.expires_at)

        told: dict[str, int] = {}
        receiver = heard(None, await renewed("2027-11-18T09:00:00Z"))  # told, and then lost with the ledger's tail
        restored = await self._restored(ledger, clock)
        again = await renewed("2027-11-19T09:00:00Z")
        await ledger.append([again])
        receiver = heard(receiver, again)
        assert receiver is not None
        assert receiver.expires_at == parse_utc("2027-11-19T09:00:00Z")
        assert list(told.values()) == [2, restored]
        await service.go_live(act("lost"), frozenset({NODE, ATP, EDP, UNTOLD}), used("a" * 8))
        live = await self._head(ledger)
        third = await renewed("2027-11-20T09:00:00Z")
        receiver = heard(receiver, third)
        assert receiver is not None
        await ledger.append([third])
        fourth = await renewed("2027-11-21T09:00:00Z")
        assert heard(receiver, fourth) is not None
        assert list(told.values()) == [2, restored, live, live + 1]  # the ledger's own newest event is where it jumps
        assert len(told) == 4

    @pytest.mark.parametrize("lost", [(True,), (True, False), (True, False, True, False)])
    async def test_a_suspension_after_a_restore_is_new_to_who_was_told_of_one_that_was_lost(
        self, ledger: SqlLedger, service: RecoveryService, clock: HandClock, lost: tuple[bool, ...]
    ) -> None:
        """Lost or not: whoever keeps the highest number that it was told must hear of what comes after the restore."""
        heard, told = InMemory(), set[str]()
        head = await self._head(ledger)
        for place, suspended in enumerate(lost, 1):  # told as the ledger would have told them, and lost with its tail
            told.add(hear(heard, await party_append(ledger, suspended=suspended), head + place))
        await restore_beyond(ledger, gap_from=clock.time - 60, gap_to=clock.time)
        await service.go_live(act("lost"), frozenset({NODE, ATP, EDP, UNTOLD}), used("a" * 8))
        for suspended in (True, False, True):
            append = await party_append(ledger, suspended=suspended)
            told.add(hear(heard, append, (await ledger.append([append])).position.seq))
            assert heard.is_suspended(ATP) is suspended
        assert len(told) == len(lost) + 3, "each is an event of its own, with an id of its own"

    @pytest.mark.parametrize("suspended", [True, False])
    async def test_after_a_restore_a_listing_is_newer_than_what_was_told_of_a_party_and_lost(
        self, ledger: SqlLedger, service: RecoveryService, reader: RecoveryReader, clock: HandClock, *, suspended: bool
    ) -> None:
        """In the lost tail an ATP was stopped, or could go on; the ledger does not know it, and no event says so."""
        heard = InMemory()
        kept = await party_append(ledger, suspended=suspended)
        seq = (await ledger.append([kept])).position.seq
        hear(heard, kept, seq)
        hear(heard, await party_append(ledger, suspended=not suspended), seq + 1)
        restored = await restore_beyond(ledger, gap_from=clock.time - 60, gap_to=clock.time)
        await service.go_live(act("lost"), frozenset((await reader.standing()).obstacles), used("a" * 8))
        reader.forget()
        line = await listed_party(ledger, reader)
        heard.suspend(line.client_id, line.party_version, suspended=line.suspended)
        assert (heard.is_suspended(ATP), line.suspended, line.seq) == (suspended, suspended, seq)
        assert line.party_version > restored
        following = await party_append(ledger, suspended=not suspended)
        hear(heard, following, (await ledger.append([following])).position.seq)
        assert heard.is_suspended(ATP) is not suspended
        assert (await listed_party(ledger, reader)).suspended is not suspended

    async def test_an_update_of_a_party_is_above_the_suspension_before_it(
        self, ledger: SqlLedger, reader: RecoveryReader
    ) -> None:
        """Nobody is told of it, and a listing shows it; the numbers of both are of one row."""
        suspended = await party_append(ledger, suspended=True)
        seq = (await ledger.append([suspended])).position.seq
        event = decode(suspended.body)
        assert isinstance(event, ParticipantEvent)
        updated = ParticipantUpdated(event.participant, event.organisation, act())
        after = (await ledger.append([append_of(updated, suspended.expected_version + 1)])).position.seq
        line = await listed_party(ledger, reader)
        assert (line.party_version, line.suspended) == (after, True)
        assert after > seq

    async def test_an_end_that_was_lost_and_is_told_is_above_what_receivers_have(
        self, ledger: SqlLedger, service: RecoveryService, clock: HandClock
    ) -> None:
        restored = await self._restored(ledger, clock)
        await self._from_node(service, ledger, restored)
        state = await ledger.subject(f"consent:{CONSENT_ID}")
        assert state is not None
        record = consent_of(state).consent
        assert (record.state, record.consent_version) == (State.REVOKED, restored)
        assert record.consent_version <= state.event.position.seq


def event_jti_of(event: ConsentRenewed) -> str:
    fact = fact_of(event, 9, event.act.at)
    assert isinstance(fact, ConsentFact)
    return event_jti(fact, "https://ccs.example", EDP)


async def party_append(ledger: Ledger, *, suspended: bool) -> Append:
    """The ATP is stopped as a whole, or may go on."""
    state = await ledger.subject(f"participant:{ATP}")
    assert state is not None
    before = event_of(state.event)
    assert isinstance(before, ParticipantEvent)
    kind = ParticipantSuspended if suspended else ParticipantReinstated
    record = msgspec.structs.replace(before.participant, suspended=suspended)
    return append_of(kind(record, before.organisation, act()), state.version)


def hear(memory: InMemory, append: Append, seq: int) -> str:
    """What a guard is told of an event at a position; the event's id."""
    fact = fact_of(decode(append.body), seq, UnixTime(1_800_000_500))
    assert isinstance(fact, PartyFact)
    memory.suspend(fact.client_id, fact.version, suspended=fact.suspended)
    return event_jti(fact, "https://ccs.example", EDP)


async def listed_party(ledger: SqlLedger, reader: RecoveryReader) -> PartyLine:
    """How a snapshot shows the ATP to an EDP."""
    caller = ParticipantRecord(EDP, Role.EDP, suspended=False, certificates=())
    page = await Listings(ledger, ledger.database, reader).snapshot(caller, SnapshotQuery())
    (line,) = page.parties
    return line
