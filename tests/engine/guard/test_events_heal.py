"""P4 from the receiver's side: whatever became of the pushes, after healing the guard knows what the ledger knows."""

import contextlib
import itertools
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from engine.clock import UnixTime
from engine.events.facts import Change
from engine.events.signing import PemEventSigner, new_event_key
from engine.guard.event_file import StoreDown
from engine.guard.event_keys import KeysUnavailable
from engine.guard.transmitter import Changes, NotTold, Page, Unreachable
from engine.guard.watch import Standing
from tests.support.event_guards import EventGuard
from tests.support.events import ATP, claims_of, consent_fact, jwks, signer
from tests.support.guard_memory import InMemory
from tests.support.guard_words import consent, entry
from tests.support.known_tokens import known_token
from tests.support.told import POLL_URL, HandClock, TellingService, consent_id

L = TypeVar("L", Changes, Page)
NOT_ENDING = [Change.GRANTED, Change.RENEWED, Change.AMENDED]
ENDING = [Change.REVOKED, Change.DISPUTED, Change.EXPIRED, Change.CONSUMED]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.sqlite"


def known(memory: InMemory) -> dict[str, tuple[int, bool]]:
    return {name: (kept.version, kept.ended) for name, kept in memory._consents.items()}


def parties(memory: InMemory) -> dict[str, bool]:
    return {name: kept.suspended for name, kept in memory._parties.items()}


def assert_agrees(guard: EventGuard, service: TellingService) -> None:
    assert isinstance(guard.memory, InMemory)
    assert known(guard.memory) == service.states()
    assert parties(guard.memory) == service.suspended()
    assert guard.memory.missing_since() is None
    assert not guard.store.chain.has_hole
    assert guard.store.chain.last_seq >= service.last_seq
    assert guard.store.due() == []


@st.composite
def histories(draw: st.DrawFn) -> TellingService:
    """Up to 14 changes of up to three consents, each ended at most once, and of their ATP."""
    service = TellingService()
    ended = set[int]()
    for step in draw(st.lists(st.integers(0, 9), min_size=1, max_size=14)):
        number = step % 3
        if step == 9:
            service.party(suspended=draw(st.booleans()))
        elif number not in ended:
            change = draw(st.sampled_from(NOT_ENDING + ENDING))
            ended |= {number} if change in ENDING else set()
            service.change(number, change)
    return service


class PowerCut(BaseException):
    """The process is gone."""


async def push_and_die(guard: EventGuard, compact: bytes, step: str) -> None:
    """A push in the middle of which the process ends: at `keep`, before the answer, before applying, after it."""
    if step == "keep":
        guard.store._write_chain = cut  # within the transaction, the event already in it
    if step == "applied":
        guard.store.applied = cut
    with contextlib.suppress(PowerCut):
        await guard.intake.take(compact, guard.keys)
        if step == "answer":
            cut()
        await guard.intake.apply_due()
    guard.close()


def cut(*_: object) -> Any:
    raise PowerCut


@given(service=histories(), data=st.data())
@settings(max_examples=40, deadline=None)
def test_dropped_repeated_and_shuffled_pushes_heal(service: TellingService, data: st.DataObject) -> None:
    """A subset arrives in any order, some twice, the process killed at any step of some; then it heals in one way."""
    pushes = data.draw(st.lists(st.sampled_from(service.history), max_size=20)) if service.history else []
    deaths = data.draw(st.dictionaries(st.integers(0, 19), st.sampled_from(["keep", "answer", "applied"]), max_size=3))
    way = data.draw(st.sampled_from(["poll", "changes", "snapshot"]))

    async def play(path: Path) -> None:
        guard = EventGuard(path, service)
        for number, told in enumerate(pushes):
            if number in deaths:
                await push_and_die(guard, told.compact, deaths[number])
                guard = EventGuard(path, service, memory=guard.memory, clock=guard.clock)
                await guard.intake.apply_due()  # as the applier does when it starts
                if deaths[number] == "keep":
                    continue  # it was not acknowledged; whether it is sent again is not for us to say
            assert await guard.push(told.compact)
        if way != "poll":
            service.unacknowledged.clear()  # kept for seven days, and the guard was away for eight
        if way == "snapshot":
            service.horizon = service.last_seq + 1
        await guard.healing.heal(must_list=False)
        assert_agrees(guard, service)
        assert not service.unacknowledged
        guard.close()

    with tempfile.TemporaryDirectory() as folder:
        trio.run(play, Path(folder) / "events.sqlite")


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
async def test_end_that_overtakes_its_grant_and_renewal(path: Path, order: tuple[int, ...]) -> None:
    service = TellingService()
    told = [service.change(1, change) for change in (Change.GRANTED, Change.RENEWED, Change.REVOKED)]
    guard = EventGuard(path, service)
    for number in order:
        await guard.push(told[number].compact)
        if number == 2:
            assert known(guard.memory)[consent_id(1)] == (3, True), "an end never waits for its turn"
    assert known(guard.memory) == {consent_id(1): (3, True)}


async def test_renewal_of_version_3_after_revocation_of_version_4(path: Path) -> None:
    """A word that widens is held until what lies before it has come; then the end stands."""
    service = TellingService()
    granted, amended, renewed, revoked = (
        service.change(1, change) for change in (Change.GRANTED, Change.AMENDED, Change.RENEWED, Change.REVOKED)
    )
    guard = EventGuard(path, service)
    await guard.push(revoked.compact)
    await guard.push(renewed.compact)
    assert known(guard.memory) == {consent_id(1): (4, True)}
    await guard.push(granted.compact)
    await guard.push(amended.compact)
    assert known(guard.memory) == {consent_id(1): (4, True)}
    assert guard.store.chain.last_seq == revoked.seq


async def test_what_narrows_does_not_wait_and_what_widens_does(path: Path) -> None:
    service = TellingService()
    service.change(2, Change.GRANTED)  # lost
    granted, suspended = service.change(1, Change.GRANTED), service.party(suspended=True)
    amended, restored = service.change(3, Change.AMENDED), service.party(suspended=False)
    renewed = service.change(1, Change.RENEWED)
    guard = EventGuard(path, service)
    for told in (granted, suspended, amended, restored, renewed):
        await guard.push(told.compact)
    assert known(guard.memory) == {consent_id(3): (1, False)}
    assert parties(guard.memory) == {ATP: True}
    assert guard.memory.missing_since() == guard.clock.now()
    await guard.healing.heal(must_list=False)
    assert_agrees(guard, service)


@pytest.mark.parametrize("count", [0, 2])
async def test_a_change_that_does_not_tell_what_is_left_leaves_nothing(path: Path, count: int) -> None:
    """Until an answer of that version or a later one shows it: what is in doubt narrows."""
    service = TellingService()
    guard = EventGuard(path, service)
    await guard.push(service.change(0, Change.GRANTED).compact)
    shown = consent(consent_id=consent_id(0), consent_version=1, entry=entry(consent_id=consent_id(0)))
    assert guard.memory.cut(shown) is shown
    fact = consent_fact(Change.AMENDED, 2, consent_id=consent_id(0), authorization_details=({},) * count)
    await guard.push(signer().sign_event(claims_of(fact, seq=99, prev=1)))
    assert guard.memory.cut(shown) is None
    assert guard.memory.cut(msgspec.structs.replace(shown, consent_version=2)) is not None


async def test_a_second_hole_moves_the_mark(path: Path) -> None:
    """What was confirmed between two holes may have ended in the second one."""
    service = TellingService()
    told = [service.change(number, Change.GRANTED) for number in range(4)]
    guard = EventGuard(path, service)
    await guard.push(told[1].compact)
    await guard.push(told[0].compact)
    guard.clock.forward(60)
    await guard.push(told[3].compact)
    assert guard.memory.missing_since() == guard.clock.now()


async def test_a_clock_that_is_behind_makes_no_answer_newer_than_a_hole(path: Path) -> None:
    """Answers go by the service's clocks: what was answered before a hole was found may not know what is missing."""
    service = TellingService()
    service.change(1, Change.GRANTED)
    guard = EventGuard(path, service)
    await guard.healing.heal(must_list=True)
    ahead = UnixTime(guard.clock.now() + 36_000)
    guard.memory.remember(known_token(as_of=ahead))
    told = [service.change(number, Change.GRANTED) for number in range(2, 4)]
    await guard.push(told[1].compact)
    assert guard.memory.missing_since() == ahead


@pytest.mark.parametrize("way", ["push", "heartbeat"])
async def test_a_second_hole_moves_the_mark_though_the_first_is_still_open(path: Path, way: str) -> None:
    service = TellingService()
    told = [service.change(number, Change.GRANTED) for number in range(4)]
    guard = EventGuard(path, service)
    await guard.push(told[1].compact)
    first = guard.clock.now()
    guard.clock.forward(60)
    if way == "push":
        await guard.push(told[3].compact)
    else:
        await guard.push(service.heartbeat(guard.clock.now()))
    second = guard.clock.now()
    assert guard.memory.missing_since() == second
    guard.clock.forward(60)
    await guard.push(told[2].compact)
    assert guard.memory.missing_since() == second > first, "that one was known to be missing"


async def test_a_heartbeat_that_comes_again_says_nothing_of_now(path: Path) -> None:
    """Whoever plays one back could otherwise put off for minutes that silence is noticed."""
    service = TellingService()
    guard = EventGuard(path, service)
    await guard.healing.heal(must_list=True)
    beat = service.heartbeat(guard.clock.now())
    assert await guard.push(beat)
    guard.clock.forward(179)
    assert await guard.push(beat)
    assert guard.intake.standing() is Standing.WHOLE
    guard.clock.forward(1)
    assert guard.intake.standing() is Standing.UNHEARD


@pytest.mark.parametrize("word", ["heartbeat", "paused", "disabled"])
async def test_a_word_that_a_dead_process_had_kept_is_heard_when_it_comes_again(path: Path, word: str) -> None:
    """That something is missing, or that nothing is pushed for now; what such a word may give is not taken twice."""
    service = TellingService()
    guard = EventGuard(path, service)
    await guard.healing.heal(must_list=True)
    await guard.intake.note_sound()
    service.change(1, Change.REVOKED)
    now = guard.clock.now()
    said = service.heartbeat(now) if word == "heartbeat" else service.stream_updated(word, now)
    guard.intake._hear = cut  # it is on the disk by then
    with pytest.raises(PowerCut):
        await guard.push(said)
    guard.close()
    guard = EventGuard(path, service, memory=guard.memory, clock=guard.clock)
    assert guard.intake.standing() is not Standing.MISSING
    assert await guard.push(said)
    assert guard.intake.standing() is Standing.MISSING
    guard.clock.forward(179)
    assert await guard.push(said)
    guard.clock.forward(1)
    assert guard.intake.heartbeat_at is None, "it was made before this life began"


async def test_first_start_knows_nothing_until_it_was_told(path: Path) -> None:
    service = TellingService()
    for number in range(7):
        service.change(number, Change.GRANTED)
    service.change(3, Change.REVOKED)
    guard = EventGuard(path, service)
    assert guard.memory.missing_since() is not None
    await guard.healing.heal(must_list=True)
    assert_agrees(guard, service)
    assert guard.intake.standing() is Standing.WHOLE


async def test_events_that_come_while_a_snapshot_is_read(path: Path) -> None:
    service = TellingService(page=2)
    for number in range(5):
        service.change(number, Change.GRANTED)
    service.unacknowledged.clear()
    service.horizon = service.last_seq + 1
    guard = EventGuard(path, service)
    page_of = service.snapshot

    async def snapshot(cursor: str | None) -> object:
        page = await page_of(cursor)
        if cursor == "2":
            await guard.push(service.change(0, Change.REVOKED).compact)
        return page

    service.snapshot = snapshot
    await guard.healing.heal(must_list=True)
    await guard.healing.heal(must_list=False)
    assert_agrees(guard, service)


@pytest.mark.parametrize("way", ["changes", "snapshot"])
async def test_what_was_listed_is_applied_before_it_counts_as_known(path: Path, way: str) -> None:
    """The process dies between the two: else an end that no push and no poll brings any more were never known."""
    service = listing_alone(way, 2)
    guard = EventGuard(path, service)
    guard.store.known_to = cut
    with pytest.raises(PowerCut):
        await guard.healing.heal(must_list=True)
    assert known(guard.memory) == service.states()
    guard.close()


async def test_a_snapshot_that_breaks_off_counts_for_nothing(path: Path) -> None:
    """It is as of one moment, and that is known once its last page is."""
    service = listing_alone("snapshot")
    guard = EventGuard(path, service)
    page_of = service.snapshot

    async def break_off(cursor: str | None) -> Any:
        if cursor is not None:
            raise Unreachable("gone")
        return await page_of(cursor)

    service.snapshot = break_off
    with pytest.raises(Unreachable):
        await guard.healing.heal(must_list=True)
    assert (guard.store.chain.last_seq, guard.store.incarnation) == (0, "")
    assert guard.memory.missing_since() is not None
    service.snapshot = page_of
    await guard.healing.heal(must_list=True)
    assert_agrees(guard, service)


@pytest.mark.parametrize("way", ["changes", "snapshot"])
async def test_a_listing_tells_what_was_true_when_it_was_asked_for(path: Path, way: str) -> None:
    """However long it takes to read: three minutes of silence are counted from there."""
    service = listing_alone(way)
    guard = EventGuard(path, service)
    call = getattr(service, way)

    async def slow(*asked: Any) -> Any:
        guard.clock.forward(50)
        return await call(*asked)

    setattr(service, way, slow)
    asked_at = guard.clock.boot()
    await guard.healing.heal(must_list=True)
    assert guard.clock.boot() == asked_at + 100, "two pages"
    guard.clock.forward(79)
    assert guard.intake.standing() is Standing.WHOLE
    guard.clock.forward(1)
    assert guard.intake.standing() is Standing.UNHEARD


def listing_alone(way: str, count: int = 3) -> TellingService:
    """What has happened is told by one kind of listing alone, in pages of two."""
    service = TellingService(page=2)
    for number in range(count):
        service.change(number, Change.REVOKED)
    service.unacknowledged.clear()
    service.horizon = service.last_seq + 1 if way == "snapshot" else 0
    return service


async def test_poll_is_drained_after_a_snapshot(path: Path) -> None:
    """What happened while it was read, and was not pushed, need not wait for the next time."""
    service = TellingService(page=2)
    for number in range(5):
        service.change(number, Change.GRANTED)
    service.unacknowledged.clear()
    service.horizon = service.last_seq + 1
    guard = EventGuard(path, service)
    page_of = service.snapshot

    async def snapshot(cursor: str | None) -> Any:
        page = await page_of(cursor)
        if cursor == "2":
            service.change(0, Change.REVOKED)
        return page

    service.snapshot = snapshot
    await guard.healing.heal(must_list=True)
    assert service.calls[-1] == "poll"
    assert_agrees(guard, service)


async def test_a_listing_that_breaks_off_goes_on_where_it_was(path: Path) -> None:
    service = TellingService(page=2)
    for number in range(6):
        service.change(number, Change.GRANTED)
    service.unacknowledged.clear()
    guard = EventGuard(path, service)
    changes = service.changes
    asked: list[int] = []

    async def break_off(after_seq: int, incarnation: str) -> object:
        asked.append(after_seq)
        if len(asked) == 3:
            raise Unreachable("gone")
        return await changes(after_seq, incarnation)

    service.changes = break_off
    with pytest.raises(Unreachable):
        await guard.healing.heal(must_list=True)
    assert guard.store.chain.last_seq == service.history[3].seq
    assert guard.memory.missing_since() is not None
    await guard.healing.heal(must_list=True)
    assert asked[3] == service.history[3].seq
    assert_agrees(guard, service)


@pytest.mark.parametrize("fault", [Unreachable("gone"), NotTold("no")])
async def test_nothing_counts_as_whole_while_nobody_tells(path: Path, fault: Exception) -> None:
    service = TellingService()
    told = [service.change(number, Change.GRANTED) for number in range(2)]
    guard = EventGuard(path, service)
    await guard.push(told[1].compact)
    service.fails = fault
    with pytest.raises(type(fault)):
        await guard.healing.heal(must_list=False)
    assert guard.memory.missing_since() is not None
    assert guard.intake.standing() is Standing.MISSING


async def test_restart_within_three_minutes_is_no_hole_and_after_that_it_is(path: Path) -> None:
    """Else a guard that restarts in an outage would have no fallback, or one that was away too long would have one."""
    service, clock = TellingService(), HandClock()
    guard = EventGuard(path, service, clock=clock)
    await guard.healing.heal(must_list=True)
    await guard.intake.note_sound()
    guard.close()
    clock.forward(179)
    guard = EventGuard(path, service, memory=guard.memory, clock=clock)
    assert guard.memory.missing_since() is None
    guard.close()
    clock.forward(1)
    guard = EventGuard(path, service, memory=guard.memory, clock=clock)
    assert guard.memory.missing_since() == clock.now()
    await guard.healing.heal(must_list=True)
    assert_agrees(guard, service)


async def test_an_absence_moves_a_mark_that_stood_before_it(path: Path) -> None:
    """What was confirmed after the first hole may have ended while the guard was away."""
    service, clock = TellingService(), HandClock()
    told = [service.change(number, Change.GRANTED) for number in range(2)]
    guard = EventGuard(path, service, clock=clock)
    await guard.push(told[1].compact)
    assert guard.memory.missing_since() == clock.now()
    guard.close()
    clock.forward(3_600)
    guard = EventGuard(path, service, memory=guard.memory, clock=clock)
    assert guard.memory.missing_since() == clock.now()
    guard.close()


@pytest.mark.parametrize("way", ["changes", "snapshot"])
async def test_stopped_atp_is_learnt_from_each_listing(path: Path, way: str) -> None:
    service = TellingService()
    service.party(suspended=True)
    service.unacknowledged.clear()
    service.horizon = service.last_seq + 1 if way == "snapshot" else 0
    guard = EventGuard(path, service)
    await guard.healing.heal(must_list=True)
    assert parties(guard.memory) == {ATP: True}
    assert_agrees(guard, service)


@pytest.mark.parametrize("way", ["changes", "snapshot"])
@pytest.mark.parametrize("state", ["suspended", "requested", "Active", ""])
async def test_a_listed_state_that_is_neither_active_nor_an_end_leaves_nothing_until_a_later_word(
    path: Path, state: str, way: str
) -> None:
    """It is no end, since it may come back; what an answer of before it showed is not used in an outage."""
    service = Restating(state)
    service.change(0, Change.GRANTED)
    service.change(0, Change.RENEWED)
    service.unacknowledged.clear()
    service.horizon = service.last_seq + 1 if way == "snapshot" else 0
    guard = EventGuard(path, service)
    shown = known_token(consents=(consent(consent_id=consent_id(0), consent_version=1),))
    guard.memory.remember(shown)
    with capture_logs() as logs:
        await guard.healing.heal(must_list=True)
    assert guard.memory.look(shown.digest) is None
    assert guard.memory.look_for_no(shown.digest) is None
    assert not guard.memory.has_ended(consent_id(0))
    assert [line["states"] for line in logs if line["event"] == "listed_state_unknown"] == [[state]]
    later = known_token(as_of=UnixTime(shown.as_of + 60), consents=(consent(consent_id=consent_id(0)),))
    guard.memory.remember(later)
    assert guard.memory.look(later.digest) is not None, "an answer of a later version shows what there is"


class Restating(TellingService):
    """Its listings say of each consent that it is in another state."""

    def __init__(self, state: str) -> None:
        super().__init__()
        self._state = state

    async def changes(self, after_seq: int, incarnation: str) -> Changes:
        return self._restated(await super().changes(after_seq, incarnation))

    async def snapshot(self, cursor: str | None) -> Page:
        return self._restated(await super().snapshot(cursor))

    def _restated(self, told: L) -> L:
        consents = tuple(msgspec.structs.replace(line, state=self._state) for line in told.consents)
        return msgspec.structs.replace(told, consents=consents)


async def test_another_incarnation_of_the_ledger_is_learnt_from_its_snapshot(path: Path) -> None:
    """Positions of the one before may stand for events that a restore has lost."""
    service = TellingService()
    service.change(1, Change.GRANTED)
    guard = EventGuard(path, service)
    await guard.healing.heal(must_list=True)
    service.incarnation = "fedcba9876543210"
    service.calls.clear()
    for _ in range(2):
        await guard.healing.heal(must_list=True)
    assert [call for call in service.calls if call != "poll"] == ["changes", "snapshot", "changes"]
    guard.close()
    assert EventGuard(path, service).store.incarnation == service.incarnation


async def test_polled_events_are_acknowledged_after_they_were_kept(path: Path) -> None:
    """The process dies with a page in its hands: the page comes again."""
    service = TellingService(page=2)
    for number in range(4):
        service.change(number, Change.GRANTED)
    guard = EventGuard(path, service)

    def die_at_second_page() -> None:
        if service.calls.count("poll") == 2:
            guard.store._write_chain = cut

    service.before_poll = die_at_second_page
    with pytest.raises(PowerCut):
        await guard.polling.drain(POLL_URL)
    guard.close()
    assert list(service.unacknowledged) == [told.jti for told in service.history[2:]]
    service.before_poll = lambda: None
    guard = EventGuard(path, service, memory=guard.memory)
    await guard.polling.drain(POLL_URL)
    await guard.healing.heal(must_list=True)
    assert_agrees(guard, service)


async def test_events_are_fetched_by_the_hundred_until_there_are_no_more(path: Path) -> None:
    service = TellingService(page=1_000)
    for number in range(230):
        service.change(number, Change.GRANTED)
    guard = EventGuard(path, service)
    poll, pages = service.poll, list[tuple[int, int]]()

    async def counted(poll_url: str, ack: Any, max_events: int, errors: Any) -> Any:
        polled = await poll(poll_url, ack, max_events, errors)
        pages.append((max_events, len(polled.sets)))
        return polled

    service.poll = counted
    assert await guard.polling.drain(POLL_URL) == 230
    assert pages == [(100, 100), (100, 100), (100, 30), (0, 0)], "and in the end they are acknowledged"
    assert not service.unacknowledged


async def test_what_was_acknowledged_and_is_offered_again_is_acknowledged_again(path: Path) -> None:
    """A service that lost its outbox, as by a restore, offers seven days of events again."""
    service = TellingService(page=2)
    for number in range(6):
        service.change(number, Change.GRANTED)
    guard = EventGuard(path, service)
    await guard.healing.heal(must_list=True)
    service.unacknowledged = {told.jti: told.compact for told in service.history}
    service.calls.clear()

    def stop_if_endless() -> None:
        assert service.calls.count("poll") < 20

    service.before_poll = stop_if_endless
    await guard.healing.heal(must_list=True)
    assert not service.unacknowledged
    assert guard.store.unacknowledged(9) == []
    assert_agrees(guard, service)


async def test_event_under_another_name_than_its_own_is_refused_and_does_not_come_again(path: Path) -> None:
    service = TellingService(page=2)
    told = service.change(1, Change.GRANTED)
    service.unacknowledged = {"c1.another": told.compact, told.jti: told.compact}
    guard = EventGuard(path, service)
    await guard.healing.heal(must_list=True)
    assert service.refused == {"c1.another": "invalid_request"}
    assert not service.unacknowledged


async def test_event_that_is_refused_for_good_is_told_and_does_not_come_again(path: Path) -> None:
    service = TellingService()
    told = service.change(1, Change.GRANTED)
    stranger = signer().sign_event(msgspec.structs.replace(claims_of(consent_fact()), iss="https://x"))
    service.unacknowledged["bad"] = stranger
    guard = EventGuard(path, service)
    await guard.healing.heal(must_list=False)
    assert service.refused == {"bad": "invalid_issuer"}
    assert not service.unacknowledged
    assert guard.store.chain.last_seq == told.seq


async def test_event_of_a_key_that_nobody_knows_stays_with_the_service(path: Path) -> None:
    """And a page of nothing else is not asked for again and again."""
    service = TellingService(page=1)
    stranger = PemEventSigner.from_pem(new_event_key())
    service.unacknowledged["c9.x"] = stranger.sign_event(claims_of(consent_fact()))
    service.change(1, Change.GRANTED)
    guard = EventGuard(path, service)
    await guard.healing.heal(must_list=False)
    assert service.refused == {}
    assert "c9.x" in service.unacknowledged
    assert service.calls.count("poll") <= 3
    assert_agrees(guard, service)  # the listing has told it


async def test_unknown_kid_is_our_trouble_while_keys_cannot_be_fetched(path: Path) -> None:
    """400 would say that the key is wrong; it may be the newest one."""
    service = TellingService()
    guard = EventGuard(path, service)
    await guard.push(service.change(1, Change.GRANTED).compact)
    service.signer = PemEventSigner.from_pem(new_event_key())
    guard.clock.forward(60)
    service.fails = Unreachable("away")
    told = service.change(1, Change.RENEWED)
    with pytest.raises(KeysUnavailable):
        await guard.push(told.compact)
    await guard.push(service.history[0].compact)  # the old key is still good
    service.fails = None
    service.keys = jwks(signer(), service.signer)
    guard.clock.forward(5)
    assert await guard.push(told.compact)


async def test_kept_keys_serve_while_the_issuer_is_away(path: Path) -> None:
    service = TellingService()
    guard = EventGuard(path, service)
    await guard.push(service.change(1, Change.GRANTED).compact)
    guard.close()
    service.fails = Unreachable("away")
    guard = EventGuard(path, service, memory=guard.memory)
    assert await guard.push(service.change(1, Change.REVOKED).compact)
    guard.close()


async def test_a_key_that_is_published_no_more_is_trusted_for_minutes_only(path: Path) -> None:
    service = TellingService()
    guard = EventGuard(path, service)
    await guard.push(service.change(0, Change.GRANTED).compact)
    service.keys = jwks(PemEventSigner.from_pem(new_event_key()))
    guard.clock.forward(599)
    await guard.healing.heal(must_list=False)
    assert await guard.push(service.change(1, Change.GRANTED).compact)
    guard.clock.forward(1)
    await guard.healing.heal(must_list=False)
    assert not await guard.push(service.change(2, Change.GRANTED).compact)
    assert service.calls.count("event_keys") == 2


async def test_an_old_key_set_serves_on_while_no_other_can_be_fetched(path: Path) -> None:
    service = TellingService()
    guard = EventGuard(path, service)
    await guard.push(service.change(0, Change.GRANTED).compact)

    async def away() -> bytes:
        raise Unreachable("away")

    guard.keys._fetch = away
    guard.clock.forward(900)
    await guard.healing.heal(must_list=False)
    assert await guard.push(service.change(1, Change.REVOKED).compact)
    guard.clock.forward(900)
    guard.close()
    again = EventGuard(path, service, memory=guard.memory, clock=guard.clock)  # the set on disk is as old
    await again.healing.heal(must_list=False)
    assert service.calls.count("event_keys") == 2


async def test_pushes_that_come_together_are_written_together(path: Path) -> None:
    """And each is told what became of its own."""
    service = TellingService()
    guard = EventGuard(path, service)
    await guard.push(service.change(0, Change.GRANTED).compact)
    told = [service.change(number, Change.GRANTED) for number in range(1, 9)]
    written: list[int] = []
    keep = guard.store.keep

    def slow_keep(arrivals: list[Any], now: Any) -> Any:
        written.append(len(arrivals))
        time.sleep(0.05)  # as a disk does, in a thread; the others come meanwhile
        return keep(arrivals, now)

    guard.store.keep = slow_keep
    async with trio.open_nursery() as pushes:
        for one in (*told, told[0]):
            pushes.start_soon(guard.push, one.compact)
    assert sum(written) == 9
    assert len(written) <= 2
    assert guard.intake.statistics().repeated == 1
    assert known(guard.memory) == service.states()


async def test_a_hole_is_closed_by_what_was_applied_and_not_by_what_is_being_kept(path: Path) -> None:
    """Between the two, an end that was overtaken is not known to the memory, whatever the chain says."""
    service = TellingService()
    guard = EventGuard(path, service)
    await guard.push(service.change(0, Change.GRANTED).compact)
    await guard.push(service.heartbeat())
    assert guard.memory.missing_since() is None
    end, after = service.change(0, Change.REVOKED), service.change(1, Change.GRANTED)
    await guard.push(after.compact)
    keep, is_kept, goes_on = guard.store.keep, threading.Event(), threading.Event()

    def slow_keep(arrivals: list[Any], now: Any) -> Any:
        kept = keep(arrivals, now)
        is_kept.set()
        assert goes_on.wait(30)
        return kept

    guard.store.keep = slow_keep
    async with trio.open_nursery() as pushes:
        pushes.start_soon(guard.intake.take, end.compact, guard.keys)
        assert await trio.to_thread.run_sync(is_kept.wait, 30)
        assert not guard.store.chain.has_hole
        guard.intake.settle()
        assert guard.memory.missing_since() is not None
        goes_on.set()
    assert guard.memory.missing_since() is None
    assert known(guard.memory) == service.states()


async def test_events_are_kept_though_every_other_thread_waits_for_names(path: Path) -> None:
    """As in an outage of the network: each question about a node leaves a look-up behind that nobody can break off."""
    service = TellingService()
    guard = EventGuard(path, service)
    await guard.push(service.change(0, Change.GRANTED).compact)
    resolved = threading.Event()
    limiter = trio.to_thread.current_default_thread_limiter()
    async with trio.open_nursery() as lookups:
        for _ in range(int(limiter.total_tokens)):
            lookups.start_soon(trio.to_thread.run_sync, resolved.wait, 60)
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(30) as scope:
            assert await guard.push(service.change(0, Change.REVOKED).compact)
        resolved.set()
    assert not scope.cancelled_caught
    assert known(guard.memory) == service.states()


async def test_challenges_that_wait_hold_nothing_back(path: Path) -> None:
    """They stay until they are confirmed, and the service may be away for that; more than are applied at once."""
    service = TellingService()
    guard = EventGuard(path, service)
    challenges = {f"c2.{n:022}": service.verification(challenge=f"c{n}").decode() for n in range(1, 251)}
    assert await guard.intake.take_page(challenges, guard.keys) == {}
    assert await guard.push(service.change(0, Change.REVOKED).compact)
    assert known(guard.memory) == service.states()
    assert len(guard.intake.challenges()) == 250


async def test_no_room_is_said_to_all_that_were_to_be_written_together(path: Path) -> None:
    service = TellingService()
    guard = EventGuard(path, service)
    await guard.push(service.change(0, Change.GRANTED).compact)
    told = [service.change(number, Change.GRANTED) for number in range(1, 5)]
    keep, refused = guard.store.keep, list[str]()

    def full(*_: object) -> Any:
        raise StoreDown("no room")

    async def push(compact: bytes) -> None:
        try:
            await guard.push(compact)
        except StoreDown as fault:
            refused.append(fault.text)

    guard.store.keep = full
    async with trio.open_nursery() as pushes:
        for one in told:
            pushes.start_soon(push, one.compact)
    assert refused == ["no room"] * 4
    guard.store.keep = keep
    for one in told:
        assert await guard.push(one.compact)
    assert known(guard.memory) == service.states()
