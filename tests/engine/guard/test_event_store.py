"""The file of events: what survives, what is forgotten, and what happens when it cannot be written."""

import stat
import tracemalloc
from pathlib import Path

import pytest

from engine.clock import UnixTime
from engine.events.facts import Change
from engine.events.verification import VerifiedEvent, read_kept_event
from engine.guard import event_store, ordering
from engine.guard.event_file import StoreDown
from engine.guard.event_store import KEEP, Arrival, EventStore, StreamIds
from engine.guard.ordering import ChainState, Place
from tests.support.event_files import event_store_at
from tests.support.events import NOW
from tests.support.told import TellingService, Told


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "guard" / "events.sqlite"


def arrival(told: Told, *, early: bool = False) -> Arrival:
    return Arrival(read_kept_event(told.compact), told.compact, early)


def events(count: int) -> list[Told]:
    service = TellingService()
    return [service.change(number, Change.GRANTED) for number in range(count)]


def ids(found: list[VerifiedEvent]) -> list[str]:
    return [event.jti for event in found]


def test_what_is_kept_is_on_the_disk_and_not_in_its_cache(path: Path) -> None:
    """No test here cuts the power: that SQLite waits for the disk at each commit is asked of it."""
    store = event_store_at(path)
    assert (store._one("PRAGMA synchronous"), store._one("PRAGMA journal_mode")) == ((2,), ("wal",))
    store.close()


def test_everything_is_there_after_a_restart(path: Path) -> None:
    told = events(4)
    store = event_store_at(path)
    store.keep([arrival(told[0]), arrival(told[2]), arrival(told[3], early=True)], NOW)
    store.note(sound_at=NOW, keys=b"keys", streams=StreamIds("a", "b", "c"), asked_state=("word", NOW))
    store.close()
    store = event_store_at(path)
    assert store.chain == ChainState(told[0].seq, ahead=2, missing=told[1].seq, highest=told[3].seq)
    assert ids(store.due()) == [told[0].jti, told[3].jti]
    assert (store.sound_at, store.keys, store.streams) == (NOW, b"keys", StreamIds("a", "b", "c"))
    assert store.states(NOW) == {"word"}
    assert store.states(UnixTime(NOW + KEEP)) == frozenset()
    store.keep([arrival(told[1])], NOW)
    assert store.chain == ChainState(told[3].seq)
    assert ids(store.due()) == [one.jti for one in told]
    store.close()


def test_a_page_is_kept_as_a_whole_or_not_at_all(path: Path) -> None:
    told = events(3)
    store = event_store_at(path)
    bad = Arrival(arrival(told[1]).event, b"no JWS", early=False)
    with pytest.raises(IndexError):
        store.keep([arrival(told[0]), bad], NOW)
    assert (store.chain, store.due()) == (ChainState(), [])
    kept = store.keep([arrival(one) for one in told], NOW)
    assert [one.place for one in kept] == [Place.NEXT] * 3
    store.close()


def test_an_event_costs_the_same_however_many_wait_behind_a_hole(path: Path) -> None:
    """Neither the chain nor what is written of it is gone through for each."""
    told = events(3_002)
    store = event_store_at(path)
    store.keep([arrival(one) for one in told[1:-1]], NOW)
    tracemalloc.start()
    try:
        store.keep([arrival(told[-1])], NOW)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert store.chain == ChainState(0, ahead=3_001, missing=told[0].seq, highest=told[-1].seq)
    assert peak < 120_000, "bytes: a copy of what waits takes more"
    store.keep([arrival(told[0])], NOW)
    assert store.chain == ChainState(told[-1].seq)
    store.close()


def test_what_is_not_noted_any_more_leaves_a_hole_also_after_a_restart(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ordering, "MOST_AHEAD", 2)
    told = events(6)
    store = event_store_at(path)
    for one in told[1:]:
        store.keep([arrival(one)], NOW)
    assert store.chain == ChainState(0, ahead=2, missing=told[0].seq, highest=told[5].seq)
    store.keep([arrival(told[0])], NOW)
    assert (store.chain.last_seq, store.chain.has_hole) == (told[2].seq, True)
    store.close()
    store = event_store_at(path)
    assert (store.chain.last_seq, store.chain.has_hole, store.chain.newest) == (told[2].seq, True, told[5].seq)
    store.known_to(told[5].seq, "incarnation")
    assert store.chain == ChainState(told[5].seq)
    assert ids(store.due()) == [one.jti for one in told]
    store.close()


def test_ids_are_remembered_for_seven_days_and_what_is_unapplied_for_ever(path: Path) -> None:
    told = events(3)
    store = event_store_at(path)
    store.keep([arrival(told[0]), arrival(told[2])], NOW)
    store.applied([told[0].jti])
    assert KEEP == 7 * 86_400
    assert store.forget(UnixTime(NOW + KEEP)) == 0
    assert store.keep([arrival(told[0])], NOW)[0].place is None
    assert store.forget(UnixTime(NOW + KEEP + 1)) == 1
    assert store.keep([arrival(told[0])], NOW)[0].place is Place.OLD, "known by its number"
    assert store.due() == []
    store.keep([arrival(told[1])], NOW)
    assert ids(store.due()) == [told[1].jti, told[2].jti]
    store.close()


def test_ids_are_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_store, "MAX_KEPT", 3)
    told = events(6)
    store = event_store_at(path)
    for second, one in enumerate(told):
        store.keep([arrival(one)], UnixTime(NOW + second))
    store.applied([one.jti for one in told[:5]])
    assert store.forget(NOW) == 3
    assert [store.keep([arrival(one)], NOW)[0].place for one in told[:4]] == [Place.OLD] * 3 + [None]
    store.close()


def test_acknowledgements_are_told_once(path: Path) -> None:
    told = events(3)
    store = event_store_at(path)
    store.keep([arrival(one) for one in told], NOW)
    assert sorted(store.unacknowledged(10)) == sorted(one.jti for one in told)
    assert len(store.unacknowledged(2)) == 2
    store.acknowledged([told[0].jti, "never heard of"])
    assert sorted(store.unacknowledged(10)) == sorted(one.jti for one in told[1:])
    store.close()


def count_until_full(store: EventStore, told: list[Told]) -> int:
    """How many are taken before there is no room."""
    for number, one in enumerate(told):
        try:
            store.keep([arrival(one)], NOW)
        except StoreDown:
            return number
    return len(told)


def test_no_room_is_said_and_changes_nothing(path: Path) -> None:
    """A limit on the file's pages is what a full disk looks like to SQLite."""
    store = event_store_at(path)
    pages = store._file.db.execute("PRAGMA page_count").fetchone()[0]
    store._file.db.execute(f"PRAGMA max_page_count = {pages + 4}")
    told = events(60)
    kept = count_until_full(store, told)
    assert 0 < kept < 60
    assert store.chain == ChainState(told[kept - 1].seq)
    store._file.db.execute("PRAGMA max_page_count = 100000")
    store.keep([arrival(told[kept])], NOW)
    assert store.chain == ChainState(told[kept].seq)
    store.close()


def test_one_process_at_a_time(path: Path) -> None:
    store = event_store_at(path)
    with pytest.raises(StoreDown, match="cannot be opened"):
        event_store_at(path)
    store.close()
    event_store_at(path).close()


def test_the_file_is_its_owners_alone(path: Path) -> None:
    event_store_at(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
