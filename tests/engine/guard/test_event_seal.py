"""Whoever may write the file of events and has no key makes no event go missing unseen: nothing rests on what he made.

Each of his ways is tried on a guard that was killed with a hole in its chain, a grant acknowledged and held behind it,
and an end applied. What he would like: a guard that calls itself whole and does not know the grant.
"""

import itertools
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from engine.events.facts import Change
from engine.events.verification import read_kept_event
from engine.guard import event_file, event_rows, ordering
from engine.guard.event_file import EventSeal, StoreDown, seal_of
from engine.guard.event_rows import total_of
from engine.guard.event_store import Arrival, EventStore, StreamIds
from engine.guard.ordering import ChainState
from engine.guard.transmitter import Unreachable
from engine.guard.watch import Standing
from tests.support.event_files import event_store_at, seal_beside, store_beside
from tests.support.event_guards import EventGuard
from tests.support.events import EDP, NOW
from tests.support.guard_memory import InMemory
from tests.support.told import HandClock, TellingService, Told, consent_id

OTHER_KEY = bytes(range(32, 64))
PUSH_URL = "https://edp-7.example/events"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "guard" / "events.sqlite"


class Life:
    """A service, and a guard of its that was killed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.service = TellingService()
        self.clock = HandClock()
        self.memory = InMemory()

    def guard(self) -> EventGuard:
        """Its next life."""
        return EventGuard(self.path, self.service, memory=self.memory, clock=self.clock)

    async def begin(self) -> None:
        guard = self.guard()
        await guard.healing.heal(must_list=True)
        await guard.intake.note_sound()
        guard.close()
        kept(self.path, "old")
        guard = self.guard()
        await guard.push(self.service.change(1, Change.GRANTED).compact)
        await guard.intake.note_sound()
        self.service.change(2, Change.GRANTED)  # lost
        await guard.push(self.service.change(3, Change.GRANTED).compact)  # acknowledged, and held
        await guard.push(self.service.change(1, Change.REVOKED).compact)  # waits for nothing
        assert (guard.store.chain.ahead, self.memory.missing_since()) == (2, NOW)
        guard.close()
        self.service.unacknowledged.clear()  # poll tells nothing of it any more

    async def assert_nothing_rests_on_it(self) -> None:
        """The next life is marked, stays so while nobody can be asked, and knows all of it when it has asked."""
        self.service.fails = Unreachable("away")
        with capture_logs() as logs:
            guard = self.guard()
        assert [line["log_level"] for line in logs if line["event"] == "guard_events_began_anew"] == ["error"]
        assert (guard.store.anew, guard.store.sound_at) == (1, None)
        assert guard.store.chain == ChainState()
        assert len(list(self.path.parent.glob("events.sqlite.aside-*[0-9]"))) == 1, "moved aside, not thrown away"
        await guard.intake.apply_due()
        assert guard.intake.standing() is not Standing.WHOLE
        assert self.memory.missing_since() is not None
        await self.assert_heals(guard)

    async def assert_heals(self, guard: EventGuard) -> None:
        self.service.fails = None
        await guard.healing.heal(must_list=True)
        assert {name: (one.version, one.ended) for name, one in self.memory._consents.items()} == self.service.states()
        assert (guard.intake.standing(), self.memory.missing_since()) == (Standing.WHOLE, None)
        assert (guard.store.chain.last_seq, guard.store.due()) == (self.service.last_seq, [])
        guard.close()
        with capture_logs() as logs:
            self.guard().close()
        assert logs == [], "and is good for the next life"


@pytest.fixture
async def life(path: Path) -> Life:
    made = Life(path)
    await made.begin()
    return made


def kept(path: Path, name: str) -> Path:
    """A copy of a file, its log carried over."""
    return Path(shutil.copyfile(path, path.with_name(name)))


def tamper(path: Path, *statements: str, **attached: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for name, other in attached.items():
            db.execute(f"ATTACH ? AS {name}", (str(other),))
        for statement in statements:
            db.execute(statement)


def another_guards_file(folder: Path, key: bytes, owner: str = EDP) -> Path:
    """Where a hole was never known, and much more has come."""
    at = folder / "events.sqlite"
    store_beside(at, key)
    store = EventStore(at, seal_beside(at, owner), lambda: NOW)
    store.keep([arrival(one) for one in grants(9)], NOW)
    store.note(sound_at=NOW)
    store.close()
    return at


def grants(count: int) -> list[Told]:
    service = TellingService()
    return [service.change(number, Change.GRANTED) for number in range(count)]


def arrival(told: Told, *, early: bool = False) -> Arrival:
    return Arrival(read_kept_event(told.compact), told.compact, early)


WAYS = {
    "an event that is held is taken out": ["DELETE FROM events WHERE compact IS NOT NULL"],
    "and so is its hole": ["DELETE FROM events WHERE compact IS NOT NULL", "DELETE FROM ahead"],
    "it is marked as applied": ["UPDATE events SET compact = NULL"],
    "it is put where it never has its turn": ["UPDATE events SET seq = 1 << 40 WHERE compact IS NOT NULL"],
    "it is to have its turn before others": ["UPDATE events SET early = 1"],
    "a flag is none": ["UPDATE events SET early = 7"],
    "its bytes are changed": [
        "UPDATE events SET compact = CAST(substr(compact, 1, 60) || x'00' || substr(compact, 62) AS BLOB)"
    ],
    "its name is another": ["UPDATE events SET jti = 'c1.x' WHERE compact IS NOT NULL"],
    "its name is no text": ["UPDATE events SET jti = CAST(x'ff' AS TEXT) WHERE compact IS NOT NULL"],
    "what is ahead is forgotten": ["DELETE FROM ahead"],
    "what is ahead hangs on what has come": ["UPDATE ahead SET prev = 0"],
    "what is ahead is more": ["INSERT INTO ahead VALUES (1 << 40, 0)"],
    "what is ahead is nonsense": ["UPDATE ahead SET prev = -1"],
    "the head is gone": ["DELETE FROM sealed WHERE name = 'head'"],
    "the facts are gone": ["DELETE FROM sealed WHERE name = 'facts'"],
    "the key's check is gone": ["DELETE FROM sealed WHERE name = 'key'"],
    "facts are the head": [
        "UPDATE sealed SET value = (SELECT value FROM sealed WHERE name = 'facts') WHERE name = 'head'"
    ],
    "facts are an event": [
        """UPDATE events SET early = 0, seq = 0, jti = 'facts',
        compact = (SELECT value FROM sealed WHERE name = 'facts') WHERE compact IS NOT NULL"""
    ],
    "the head is an earlier one": [
        "UPDATE sealed SET value = (SELECT value FROM old.sealed WHERE name = 'head') WHERE name = 'head'"
    ],
    "the facts are earlier ones": [
        "UPDATE sealed SET value = (SELECT value FROM old.sealed WHERE name = 'facts') WHERE name = 'facts'"
    ],
    "all that is sealed is another guard's": ["DELETE FROM sealed", "INSERT INTO sealed SELECT * FROM other.sealed"],
    "the head is another guard's": [
        "UPDATE sealed SET value = (SELECT value FROM other.sealed WHERE name = 'head') WHERE name = 'head'"
    ],
    "an event is another guard's": ["INSERT OR REPLACE INTO events SELECT * FROM other.events"],
    "a trigger throws away what comes": [
        "CREATE TRIGGER t AFTER INSERT ON events BEGIN DELETE FROM events WHERE jti = NEW.jti; END"
    ],
    "a view stands for a table": ["DROP TABLE ahead", "CREATE VIEW ahead AS SELECT 1 AS seq, 0 AS prev WHERE 0"],
    "a table is gone": ["DROP TABLE events"],
}


@pytest.mark.parametrize("way", WAYS)
async def test_nothing_rests_on_a_file_that_was_changed(way: str, life: Life, tmp_path: Path) -> None:
    other = another_guards_file(tmp_path / "other", OTHER_KEY)
    tamper(life.path, *WAYS[way], old=life.path.with_name("old"), other=other)
    await life.assert_nothing_rests_on_it()


async def test_what_was_not_changed_goes_on_where_it_was(life: Life) -> None:
    """The other side of all the others here: neither is a copy of it another file, nor are times and acknowledgements
    sealed, as nothing is skipped for them.
    """
    tamper(life.path, "UPDATE events SET received_at = 1, acknowledged = 1")
    kept(life.path, "copy").replace(life.path)
    guard = life.guard()
    assert (guard.store.anew, guard.store.chain.ahead, guard.store.sound_at) == (0, 2, NOW)
    await life.assert_heals(guard)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4_096])


def garbage(path: Path) -> None:
    path.write_bytes(b"no database at all" * 100)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def unsealed(path: Path) -> None:
    """A file as releases before this one made it."""
    path.unlink()
    (path.parent / "key.anchor.events").unlink()
    tamper(
        path,
        "CREATE TABLE events (jti TEXT PRIMARY KEY, digest BLOB NOT NULL, seq INTEGER NOT NULL, prev INTEGER NOT NULL,"
        " type TEXT NOT NULL, subject TEXT NOT NULL, compact BLOB, early INTEGER NOT NULL,"
        " received_at INTEGER NOT NULL, acknowledged INTEGER NOT NULL DEFAULT 0) STRICT, WITHOUT ROWID",
        "CREATE TABLE ahead (seq INTEGER PRIMARY KEY, prev INTEGER NOT NULL) STRICT",
        "CREATE TABLE facts (name TEXT PRIMARY KEY, value ANY NOT NULL) STRICT, WITHOUT ROWID",
        "INSERT INTO facts VALUES ('last_seq', 1 << 40)",
    )


def older(path: Path) -> None:
    """A copy from before the last start."""
    shutil.copyfile(path.with_name("old"), path)


def without_anchor(path: Path) -> None:
    (path.parent / "key.anchor.events").unlink()


def with_broken_anchor(path: Path) -> None:
    (path.parent / "key.anchor.events").write_bytes(b"{}")


def of_a_twin(path: Path) -> None:
    """Of another machine's guard of the same EDP, with the same key."""
    shutil.copyfile(another_guards_file(path.parent / "twin", bytes(range(32))), path)


def of_another_key(path: Path) -> None:
    shutil.copyfile(another_guards_file(path.parent / "twin", OTHER_KEY), path)


def of_another_edp(path: Path) -> None:
    shutil.copyfile(another_guards_file(path.parent / "twin", bytes(range(32)), "edp-9"), path)


@pytest.mark.parametrize(
    "change",
    [
        truncated, garbage, emptied, unsealed, older, without_anchor, with_broken_anchor,
        of_a_twin, of_another_key, of_another_edp,
    ],
)  # fmt: skip
async def test_nothing_rests_on_another_file(change: Callable[[Path], None], life: Life) -> None:
    change(life.path)
    await life.assert_nothing_rests_on_it()


async def test_nothing_rests_on_a_file_that_is_gone(life: Life) -> None:
    life.path.unlink()
    with capture_logs() as logs:
        guard = life.guard()
    assert [line["why"] for line in logs if line["event"] == "guard_events_began_anew"] == ["the file is gone"]
    assert life.memory.missing_since() == NOW
    await life.assert_heals(guard)


def test_the_two_newest_of_those_moved_aside_are_kept_with_their_logs(path: Path) -> None:
    """And a log that somebody put there is not played into the file that takes their place."""
    wall = HandClock()
    for _ in range(4):
        event_store_at(path, wall.now).close()
        tamper(path, "DELETE FROM sealed")
        for end in ("-wal", "-journal"):
            path.with_name(f"{path.name}{end}").write_bytes(b"a log")
        store = event_store_at(path, wall.now)
        store.keep([arrival(one) for one in grants(2)], NOW)
        assert store.anew == 1
        store.close()
        wall.forward(1)
    aside = sorted(file.name for file in path.parent.glob("events.sqlite.aside-*"))
    assert [name for name in aside if name[-1].isdigit()] == [f"events.sqlite.aside-{NOW + at}" for at in (2, 3)]
    assert f"events.sqlite.aside-{NOW + 3}-journal" in aside
    assert not [
        name for name in aside if not name.startswith(tuple(f"events.sqlite.aside-{NOW + at}" for at in (2, 3)))
    ]


async def test_a_copy_from_since_the_last_start_is_taken_and_ends_in_a_listing(path: Path) -> None:
    """No mark tells it from the newest. Its chain goes back with it, so that nothing is whole until all was listed."""
    life = Life(path)
    guard = life.guard()
    await guard.healing.heal(must_list=True)
    await guard.intake.note_sound()
    guard.store._file.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    kept(path, "copy")  # whole, with nothing missing, of this very moment
    service = life.service
    await guard.push(service.change(1, Change.GRANTED).compact)
    service.change(2, Change.GRANTED)  # lost
    await guard.push(service.change(3, Change.GRANTED).compact)  # acknowledged, and held
    await guard.push(service.change(1, Change.REVOKED).compact)
    guard.close()
    service.unacknowledged.clear()
    path.with_name("copy").replace(path)

    guard = life.guard()
    assert (guard.store.anew, guard.store.sound_at) == (0, NOW)
    assert guard.store.chain == ChainState()
    await guard.intake.apply_due()
    assert guard.intake.standing() is Standing.UNHEARD
    assert life.memory.missing_since() == NOW, "as the memory has it, which is another file"
    assert life.memory.has_ended(consent_id(1)), "what takes away was applied before it was acknowledged"
    await guard.push(service.heartbeat(life.clock.now()))
    assert guard.intake.standing() is Standing.MISSING, "and a word of the newest event makes it no better"
    assert life.memory.missing_since() is not None
    assert guard.watch.next_ask()[0] <= life.clock.boot(), "it asks at once"
    await life.assert_heals(guard)


def test_a_bit_that_flips_is_found_or_changes_nothing(path: Path) -> None:
    """Wherever it is: what was to be applied, the chain and the facts are as they were, or an empty file begins."""
    told = grants(6)
    store = event_store_at(path)
    store.keep([arrival(one) for one in (told[0], *told[2:])], NOW)
    store.applied([told[0].jti])
    store.note(sound_at=NOW, keys=b"keys", streams=StreamIds("a", "b", "c"))
    store.close()
    whole = path.read_bytes()
    anchor = (path.parent / "key.anchor.events").read_bytes()
    rng, found = random.Random(2), 0  # noqa: S311 - places of damage, not secrets
    used = [at for at, byte in enumerate(whole) if byte]
    for at in rng.sample(used, 80):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << rng.randrange(8))]) + whole[at + 1 :])
        (path.parent / "key.anchor.events").write_bytes(anchor)
        store = event_store_at(path)
        with suppress(StoreDown):
            store.keep([arrival(told[1])], NOW)
            if not store.anew:
                assert [event.jti for event in store.due()] == [one.jti for one in told[1:]]
                assert store.chain == ChainState(told[-1].seq)
                assert (store.sound_at, store.keys, store.streams) == (NOW, b"keys", StreamIds("a", "b", "c"))
        found += store.anew
        store.close()
    assert 20 < found < 80, "and some bytes are of no use"


@pytest.mark.parametrize("seed", range(12))
def test_whatever_is_done_the_sum_is_that_of_the_rows(seed: int, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In whatever order events come, also in one page, some of them again; with listings and writes that fail."""
    monkeypatch.setattr(ordering, "MOST_AHEAD", 8)
    rng = random.Random(seed)  # noqa: S311 - an order, not a secret
    told = grants(60)
    coming = sorted(told + told[::7], key=lambda one: one.seq + rng.randrange(12))
    store = event_store_at(path)
    while coming:
        page, coming = coming[: (count := rng.randint(1, 6))], coming[count:]
        page = [one for one in page if rng.random() < 0.9]  # the others are lost
        if rng.random() < 0.2:
            bad = msgspec.structs.replace(arrival(told[0]), compact=b"no JWS")
            with pytest.raises(IndexError):
                store.keep([*(arrival(one) for one in page), bad], NOW)
        store.keep([arrival(one, early=rng.random() < 0.2) for one in page], NOW)
        if rng.random() < 0.5:
            store.applied([event.jti for event in store.due()])
        if rng.random() < 0.1 and page:
            store.known_to(page[0].seq, "incarnation")
        if rng.random() < 0.2:
            store.note(sound_at=NOW)
            store.forget(NOW)
        if rng.random() < 0.2:
            before = state(store)
            store.close()
            store = event_store_at(path)
            assert state(store) == before
        assert total_of(store._file.db, store._key, store._file.resting_share) == store._file.total
        assert store.anew == 0
    store.close()


class TestWhileItIsUsed:
    """What is changed beneath a guard that runs."""

    async def test_an_event_that_was_held_and_is_gone_is_missed_when_its_hole_closes(self, path: Path) -> None:
        service = TellingService()
        guard = EventGuard(path, service)
        await guard.healing.heal(must_list=True)
        lost, held = service.change(1, Change.GRANTED), service.change(2, Change.GRANTED)
        await guard.push(held.compact)
        service.unacknowledged.pop(held.jti)
        guard.store._file.db.execute("DELETE FROM events WHERE compact IS NOT NULL")
        with capture_logs() as logs, pytest.raises(StoreDown, match="an empty one has begun"):
            await guard.intake.take(lost.compact, guard.keys)
        assert "guard_events_began_anew" in [line["event"] for line in logs]
        guard.clock.forward(1)
        assert guard.store.anew == 1
        assert guard.intake.settle() is not Standing.WHOLE
        assert guard.memory.missing_since() is not None
        assert guard.watch.next_ask()[0] <= guard.clock.boot(), "it asks at once, for all"
        await guard.healing.heal(must_list=True)
        assert set(service.states()) == {consent_id(1), consent_id(2)}
        assert isinstance(guard.memory, InMemory)
        assert set(guard.memory._consents) == set(service.states())
        assert (guard.intake.standing(), guard.memory.missing_since()) == (Standing.WHOLE, None)
        guard.close()

    async def test_nothing_is_whole_before_the_listing_though_a_heartbeat_was_just_heard(self, path: Path) -> None:
        """Where the service had told of nothing yet, what it told does not speak against a chain that is empty."""
        service = TellingService()
        guard = EventGuard(path, service)
        await guard.push(service.heartbeat(guard.clock.now()))
        await guard.push(service.change(1, Change.GRANTED).compact)
        guard.store._file.db.execute("UPDATE events SET compact = x'00' WHERE seq > 0")
        with pytest.raises(StoreDown):
            await guard.intake.apply_due()
        assert guard.intake.settle() is Standing.UNHEARD
        assert guard.memory.missing_since() is not None
        guard.close()

    async def test_a_listing_that_began_before_is_not_taken_for_one_that_began_with_nothing(self, path: Path) -> None:
        service = TellingService()
        guard = EventGuard(path, service)
        await guard.push(service.change(1, Change.GRANTED).compact)
        guard.store.known_to(service.last_seq, service.incarnation)
        changes = service.changes

        async def meanwhile(after_seq: int, incarnation: str) -> object:
            guard.store._file.db.execute("UPDATE events SET digest = x'00'")
            with suppress(StoreDown):
                await guard.intake.on_disk(guard.store.unacknowledged, 1)
            return await changes(after_seq, incarnation)

        service.changes = meanwhile
        with pytest.raises(StoreDown, match="while it was listed"):
            await guard.healing._list()
        assert guard.store.chain == ChainState()
        guard.close()

    def test_an_event_that_is_said_to_have_come_is_not(self, path: Path) -> None:
        """Its name put into the file beforehand, by whoever could find that out."""
        told = TellingService().change(1, Change.GRANTED)
        store = event_store_at(path)
        store._file.db.execute("INSERT INTO events VALUES (?, x'00', 1, NULL, 0, 0, 1)", (told.jti,))
        with pytest.raises(StoreDown):
            store.keep([arrival(told)], NOW)
        store.keep([arrival(told)], NOW)
        assert ([event.jti for event in store.due()], store.anew) == ([told.jti], 1)
        store.close()

    def test_an_event_that_never_came_is_not_acknowledged(self, path: Path) -> None:
        store = event_store_at(path)
        store._file.db.execute("INSERT INTO events VALUES ('c1.x', x'00', 1, NULL, 0, 0, 0)")
        with pytest.raises(StoreDown):
            store.unacknowledged(1)
        assert store.unacknowledged(1) == []
        store.close()

    def test_where_no_other_file_can_be_made_nothing_is_taken(self, path: Path) -> None:
        told = TellingService().change(1, Change.GRANTED)
        store = event_store_at(path)
        store._file.db.execute("INSERT INTO events VALUES ('c1.x', x'00', 1, NULL, 0, 0, 0)")
        (path.parent / "key.anchor.events.new").mkdir()
        for _ in range(2):
            with pytest.raises(StoreDown):
                store.unacknowledged(1)
        with pytest.raises(StoreDown):
            store.keep([arrival(told)], NOW)
        assert (store.anew, store.chain) == (1, ChainState())
        store.close()
        (path.parent / "key.anchor.events.new").rmdir()
        store = event_store_at(path)
        store.keep([arrival(told)], NOW)
        assert store.chain == ChainState(told.seq)
        store.close()


def filled(path: Path, seal: EventSeal) -> tuple[list[Told], object]:
    told = grants(6)
    store = EventStore(path, seal, lambda: NOW)
    store.keep([arrival(one, early=one is told[4]) for one in (told[0], *told[2:])], NOW)
    store.applied([told[0].jti])
    store.note(sound_at=NOW, keys=b"keys")
    found = state(store)
    store.close()
    return told, found


def state(store: EventStore) -> object:
    return (
        msgspec.structs.replace(store.chain, missing=0),  # beyond what is noted, what is missing is told anew
        store.sound_at, store.keys, [event.jti for event in store.due()], sorted(store.unacknowledged(9)),
        store._file.all("SELECT jti, seq, early, compact IS NULL FROM events ORDER BY jti"),
    )  # fmt: skip


def replaced_key(path: Path) -> tuple[EventSeal, EventSeal]:
    """As an operator does it: for the one start, and for those after it."""
    old = path.parent / "old-key"
    (path.parent / "key").replace(old)
    settings = store_beside(path, OTHER_KEY)
    return seal_of(msgspec.structs.replace(settings, previous_key_file=old), EDP), seal_of(settings, EDP)


class TestAnotherKey:
    """`store.previous-key-file`."""

    def test_all_of_it_is_there_under_the_new_key(self, path: Path) -> None:
        before = seal_beside(path)
        told, found = filled(path, before)
        both, after = replaced_key(path)
        for seal in (both, both, after):
            store = EventStore(path, seal, lambda: NOW)
            assert (state(store), store.anew) == (found, 0)
            store.close()
        store = EventStore(path, after, lambda: NOW)
        store.keep([arrival(told[0]), arrival(told[1])], NOW)
        assert store.chain == ChainState(told[-1].seq)
        assert len(store.due()) == 5, "of the first only the name is left"
        store.close()
        with capture_logs() as logs:
            store = EventStore(path, before, lambda: NOW)
        assert "another key" in logs[0]["why"]
        assert store.due() == []
        store.close()

    @pytest.mark.parametrize(
        "statement",
        [
            "DELETE FROM ahead",
            "UPDATE events SET compact = NULL",
            "UPDATE events SET digest = CAST(x'00' || substr(digest, 2) AS BLOB)",
        ],
    )
    def test_what_was_changed_does_not_pass_into_it(self, statement: str, path: Path) -> None:
        filled(path, seal_beside(path))
        tamper(path, statement)
        both, _ = replaced_key(path)
        store = EventStore(path, both, lambda: NOW)
        assert (store.anew, store.chain) == (1, ChainState())
        store.close()

    def test_more_events_than_are_taken_at_once(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(event_rows, "_AT_ONCE", 2)
        _, found = filled(path, seal_beside(path))
        both, _ = replaced_key(path)
        store = EventStore(path, both, lambda: NOW)
        assert (state(store), store.anew) == (found, 0)
        store.close()


class Killed(BaseException):
    """The process is gone."""


@contextmanager
def dying(at: int, *, made: bool) -> Iterator[None]:
    """At that write of the anchor, the head or the directory; made: right after it."""
    count = itertools.count()

    def deadly(call: Callable[..., Any]) -> Callable[..., Any]:
        def dies(*values: Any) -> Any:
            is_last = next(count) == at
            if is_last and not made:
                raise Killed
            result = call(*values)
            if is_last:
                raise Killed
            return result

        return dies

    with pytest.MonkeyPatch.context() as patched:
        for name in ("write_anchor", "sync_directory", "sealed_head"):
            patched.setattr(event_file, name, deadly(getattr(event_file, name)))
        yield


def started(path: Path, seal: EventSeal, at: int, *, made: bool) -> bool:
    """Whether it came up before that death."""
    with dying(at, made=made):
        try:
            EventStore(path, seal, lambda: NOW).close()
        except Killed:
            return False
    return True


def assert_goes_on(path: Path, seal: EventSeal, found: object) -> None:
    with capture_logs() as logs:
        store = EventStore(path, seal, lambda: NOW)
    assert [line for line in logs if line["log_level"] != "info"] == []
    assert (state(store), store.anew) == (found, 0)
    store.close()


@pytest.mark.parametrize("made", [False, True])
class TestDeath:
    """At each write that a start makes: the next start finds all of it, or the file that was not there yet."""

    def test_at_a_first_start(self, made: bool, tmp_path: Path) -> None:
        store = event_store_at(tmp_path / "events.sqlite")
        nothing = state(store)
        store.close()
        for at in itertools.count():
            path = tmp_path / str(at) / "events.sqlite"
            seal = seal_beside(path)
            if started(path, seal, at, made=made):
                break
            assert_goes_on(path, seal, nothing)
        assert at == 4

    def test_at_a_later_start(self, made: bool, path: Path) -> None:
        seal = seal_beside(path)
        _, found = filled(path, seal)
        for at in itertools.count():
            if started(path, seal, at, made=made):
                break
            assert_goes_on(path, seal, found)
        assert at == 3

    def test_while_the_key_is_replaced(self, made: bool, tmp_path: Path) -> None:
        for at in itertools.count():
            path = tmp_path / str(at) / "events.sqlite"
            _, found = filled(path, seal_beside(path))
            both, after = replaced_key(path)
            if started(path, both, at, made=made):
                break
            assert_goes_on(path, both, found)
            assert_goes_on(path, after, found)
        assert at == 4

    def test_while_another_takes_the_place_of_one_that_was_changed(self, made: bool, tmp_path: Path) -> None:
        """It may be said twice, and nothing is taken of it."""
        for at in itertools.count():
            path = tmp_path / str(at) / "events.sqlite"
            filled(path, seal_beside(path))
            tamper(path, "DELETE FROM ahead")
            if started(path, seal_beside(path), at, made=made):
                break
            store = event_store_at(path)
            assert (store.chain, store.sound_at, store.due()) == (ChainState(), None, [])
            store.close()
        assert at == 4
