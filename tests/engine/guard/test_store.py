"""The guard's store: what outlives what, what goes first, and that nothing wrong is ever known."""

import io
import os
import shutil
import sqlite3
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.clock import UnixTime
from engine.config import BadConfig
from engine.guard import home
from engine.guard.bounded_table import LONGEST_USE
from engine.guard.home import StoreInUse
from engine.guard.memory import MemoryFull
from engine.guard.sealed_table import OtherKey
from engine.guard.store import LAZY_COUNT, GuardStore
from engine.telemetry.logs import configure
from tests.support.guard_stores import OWNER, Wall, crash, opened, store_settings
from tests.support.known_tokens import CONSENT, NOW, OTHER_CONSENT, known_consent, known_token

SMALL = 1 << 18  # bytes
LATER = UnixTime(NOW + 60)


def digest(number: int) -> bytes:
    return known_token(str(number)).digest


def consent(number: int) -> str:
    return f"7f3c1b1e-5a0e-4a55-9a53-{number:012x}"


def fill(store: GuardStore, count: int) -> None:
    for number in range(count):
        known = known_token(str(number), last_known_until=UnixTime(NOW + 86_400 + number))
        store.remember(known)
    store.flush()


def rest_and_fail(store: GuardStore) -> None:
    with store.together():
        store.rest(LATER)
        raise KeyError


def file_of(directory: Path) -> Path:
    return directory / "store" / "memory.db"


def aside_of(directory: Path) -> list[str]:
    return [path.name for path in (directory / "store").glob("memory.db.aside-*")]


class TestWhatOutlivesWhat:
    """Orderly stops and crashes."""

    def test_a_new_memory_says_what_it_cannot_keep(self, tmp_path: Path) -> None:
        wall = Wall()
        wall.at = UnixTime(NOW)
        store = GuardStore(store_settings(tmp_path), OWNER, wall)
        try:
            assert not store.remember(known_token(as_of=NOW))
            assert store.look(known_token().digest) is None
            assert store.remember(known_token(as_of=UnixTime(NOW + home.CLOCK_ERROR + 1)))
            assert store.remember(known_token(as_of=UnixTime(NOW + home.CLOCK_ERROR + 1), answered_at=NOW))  # is known
            assert not store.is_suspended("atp-1")
            store.suspend("atp-1", 1, suspended=True)
            assert store.is_suspended("atp-1")
        finally:
            store.close()

    def test_everything_outlives_a_stop(self, tmp_path: Path) -> None:
        with opened(tmp_path) as store:
            store.mark_whole()
            store.remember(known_token())
            store.remember(known_token("other", consents=(known_consent(OTHER_CONSENT),)))
            store.end(OTHER_CONSENT, 2, LATER)
            store.suspend("atp-2", 1, suspended=True)
            store.mark_missing(LATER)
        with opened(tmp_path) as store:
            assert store.look(known_token().digest) == known_token()
            assert store.look(known_token("other").digest) is None
            store.remember(known_token("third", client_id="atp-2"))
            assert store.look(known_token("third").digest) is None
            assert store.missing_since() == LATER

    def test_crash_loses_at_most_the_answers_that_waited(self, tmp_path: Path) -> None:
        store = GuardStore(store_settings(tmp_path), OWNER, Wall())
        store.remember(known_token("early"))
        store.end(CONSENT, 2, LATER)
        store.remember(known_token("late", consents=(known_consent(OTHER_CONSENT),)))
        crash(store)
        with opened(tmp_path) as store:
            assert store.statistics().active == 1  # `early` was written together with the end
            assert store.look(known_token("early").digest) is None
            assert store.look(known_token("late").digest) is None

    def test_crash_loses_no_answer_that_shows_less(self, tmp_path: Path) -> None:
        narrow = known_token(as_of=LATER, consents=(known_consent(version=2, data_to="2026-06-01T00:00:00Z"),))
        store = GuardStore(store_settings(tmp_path), OWNER, Wall())
        store.remember(known_token())
        store.flush()
        store.remember(narrow)
        crash(store)
        with opened(tmp_path) as store:
            assert store.look(narrow.digest) == narrow

    @pytest.mark.parametrize("member", ["last_known_until", "token_expires_at"])
    def test_crash_loses_no_answer_that_may_be_used_for_a_shorter_time(self, member: str, tmp_path: Path) -> None:
        before = known_token()
        shorter = msgspec.structs.replace(known_token(as_of=LATER), **{member: getattr(before, member) - 1})
        store = GuardStore(store_settings(tmp_path), OWNER, Wall())
        store.remember(before)
        store.flush()
        store.remember(shorter)
        crash(store)
        with opened(tmp_path) as store:
            assert store.look(shorter.digest) == shorter

    def test_a_right_that_rests_outlives_a_crash_and_whatever_comes_late(self, tmp_path: Path) -> None:
        """Written where it may matter: at once, and again where an answer that may be kept came in between."""
        resting = UnixTime(LATER + 100)
        store = GuardStore(store_settings(tmp_path), OWNER, Wall())
        store.remember(known_token())
        store.rest(LATER)
        store.rest(resting)
        assert store._table.head.rested_at == LATER, "nothing that may be kept came since the first word"
        store.remember(known_token("at rest", as_of=resting, last_known_until=resting))
        assert (store._table.head.rested_at, store.rested_at()) == (LATER, resting)
        store.remember(known_token("late", as_of=UnixTime(LATER + 50)))
        crash(store)
        with opened(tmp_path) as store:
            assert store.rested_at() == resting
            store.remember(known_token("again", as_of=UnixTime(resting + 1)))
            store.rest(UnixTime(resting + 9))
        with opened(tmp_path) as store:
            assert store.rested_at() == resting + 9

    def test_a_right_that_rests_and_what_comes_together_with_it_are_kept_or_not(self, tmp_path: Path) -> None:
        store = GuardStore(store_settings(tmp_path), OWNER, Wall())
        store.remember(known_token())
        with pytest.raises(KeyError):
            rest_and_fail(store)
        assert store.rested_at() == LATER, "it was said all the same"
        store.rest(LATER)
        crash(store)
        with opened(tmp_path) as store:
            assert store.rested_at() == LATER

    def test_answers_wait_for_each_other_and_not_longer_than_a_second(self, tmp_path: Path) -> None:
        wall = Wall()
        with opened(tmp_path, wall) as store:
            for number in range(LAZY_COUNT - 1):
                store.remember(known_token(str(number)))
            assert store.statistics().waiting == LAZY_COUNT - 1
            store.remember(known_token("full"))
            assert store.statistics().waiting == 0
            store.remember(known_token("one"))
            wall.forward(1)
            store.remember(known_token("two"))
            assert store.statistics().waiting == 0

    def test_two_processes_do_not_share_a_store(self, tmp_path: Path) -> None:
        with opened(tmp_path), pytest.raises(StoreInUse, match="already in use"):
            GuardStore(store_settings(tmp_path), OWNER, Wall())

    def test_nothing_is_readable_by_others_or_without_the_key(self, tmp_path: Path) -> None:
        known = known_token(answer=b"the signed answer")
        with opened(tmp_path) as store:
            store.remember(known)
            store.end(OTHER_CONSENT, 2, LATER)
            store.refuse(b"\x07" * 32, LATER)
            store.suspend("atp-77", 2, suspended=True)
        held = b"".join(path.read_bytes() for path in (tmp_path / "store").iterdir())
        for word in (
            known.digest, known.thumbprint, b"the signed answer", CONSENT.encode(), OTHER_CONSENT.encode(), b"atp-",
            b"mpan", b"electricity", b"\x07" * 32, bytes(range(32)), OWNER.encode(),
        ):  # fmt: skip
            assert word not in held
        assert stat.S_IMODE((tmp_path / "store").stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "store").iterdir()} == {0o600}


class TestBounds:
    """What goes first."""

    def test_answers_usable_the_shortest_go_first_and_ends_stay(self, tmp_path: Path) -> None:
        with opened(tmp_path, max_tokens=50) as store:
            store.end(CONSENT, 2, LATER)
            fill_with = [
                known_token(str(n), last_known_until=UnixTime(NOW + n), consents=(known_consent(consent(n)),))
                for n in range(1, 151)
            ]
            for known in reversed(fill_with):
                store.remember(known)
            store.flush()
            assert store.statistics().active == 50
            assert [store.look(known.digest) is not None for known in fill_with] == [False] * 100 + [True] * 50
            store.remember(known_token("revived"))
            assert store.look(known_token("revived").digest) is None

    def test_refusals_of_made_up_tokens_go_before_any_answer(self, tmp_path: Path) -> None:
        with opened(tmp_path, max_tokens=20) as store:
            fill(store, 10)
            for number in range(100):
                store.refuse(digest(1_000 + number), UnixTime(NOW + number))
            statistics = store.statistics()
            assert (statistics.active, statistics.garbage) == (10, 10)
            # What was forgotten of them is not missed: no truth as old as theirs is taken any more.
            store.remember(known_token("1000", as_of=UnixTime(NOW + 50)))
            assert store.look(digest(1_000)) is None
            store.remember(known_token("newer", as_of=UnixTime(NOW + 500)))
            assert store.look(known_token("newer").digest) is not None

    def test_ends_are_forgotten_only_when_what_they_guard_is_over(self, tmp_path: Path) -> None:
        wall = Wall()
        wall.at = NOW
        with opened(tmp_path, wall) as store:
            wall.forward(120)
            usable = known_token(as_of=wall.at, last_known_until=UnixTime(wall.at + 20 * 86_400))
            store.remember(usable)
            store.end(CONSENT, 2, wall.at)
            store.end(OTHER_CONSENT, 2, wall.at)
            wall.at = UnixTime(usable.last_known_until - 1)
            churn(store, wall)
            assert store.look(usable.digest) is None
            guarding = store.statistics().guarding
            assert guarding >= 2
            wall.forward(2)
            churn(store, wall)
            assert store.statistics().guarding == guarding - 2
            # An answer of before the end still does not get in, though the end is forgotten.
            store.remember(usable)
            store.remember(known_token("late", as_of=UnixTime(usable.as_of - 1)))
            assert store.look(usable.digest) is None
            assert store.look(known_token("late").digest) is None

    def test_end_of_what_was_never_seen_guards_for_the_longest_outage(self, tmp_path: Path) -> None:
        wall = Wall()
        with opened(tmp_path, wall) as store:
            store.end(CONSENT, 2, wall.at)
            wall.forward(LONGEST_USE - 1)
            churn(store, wall)
            store.remember(known_token())
            assert store.look(known_token().digest) is None
            assert store.statistics().guarding == 1

    def test_full_store_gives_up_answers_and_then_takes_no_end_rather_than_forget_one(self, tmp_path: Path) -> None:
        ended: list[int] = []
        with opened(tmp_path, max_bytes=SMALL) as store:
            fill(store, 60)
            assert store.statistics().active == 60
            with pytest.raises(MemoryFull):
                end_until_full(store, ended)
            assert store.statistics().active == 0
            check_ended(store, ended)
        assert file_of(tmp_path).stat().st_size <= SMALL
        with opened(tmp_path, max_bytes=2 * SMALL) as store:
            check_ended(store, ended)
            store.remember(known_token("free", consents=(known_consent(consent(len(ended))),)))
            assert store.look(known_token("free").digest) is not None, "the refused end was not half done"
            store.end(consent(len(ended)), 2, LATER)

    def test_a_disk_that_is_full_before_the_store_is_told_until_it_takes_something(self, tmp_path: Path) -> None:
        with opened(tmp_path) as store:
            assert not store.statistics().full
            database = store._table.sealed.table._db
            (pages,) = database.execute("PRAGMA page_count").fetchone()
            database.execute(f"PRAGMA max_page_count = {pages}")
            with pytest.raises(MemoryFull):
                end_until_full(store, [])
            assert store.statistics().full
            assert store.statistics().free_bytes > SMALL, "as far as it may grow"
            database.execute("PRAGMA max_page_count = 100000")
            store.flush()
            assert not store.statistics().full, "though nobody has asked or told anything"
            store.mark_whole()
            database.execute(f"PRAGMA max_page_count = {pages}")
            with pytest.raises(MemoryFull):
                fill(store, 1_000)
            assert store.statistics().full

    def test_no_more_answers_wait_for_a_full_store_than_for_another(self, tmp_path: Path) -> None:
        """For as long as it is full each answer is refused; what waited before waits on, and is written in the end."""
        wall = Wall()
        with opened(tmp_path, wall, max_bytes=SMALL) as store:
            with pytest.raises(MemoryFull):
                end_until_full(store, [])
            taken = [number for number in range(3 * LAZY_COUNT) if takes(store, number)]
            assert taken == list(range(LAZY_COUNT - 1))
            assert store.statistics().waiting == len(taken)
            assert store.look(digest(taken[-1])) is not None
            assert store.look(digest(taken[-1] + 1)) is None
            wall.forward(2)
            assert not takes(store, 0, as_of=UnixTime(NOW + 5))
            kept = store.look(digest(0))
            assert kept is not None
            assert kept.as_of == known_token().as_of, "a refused answer changes nothing"
            store._table.sealed.table._db.execute("PRAGMA max_page_count = 100000")
            store._table.sealed.table.max_pages = 100_000
            assert takes(store, 3 * LAZY_COUNT)
            store.flush()
            assert (store.statistics().waiting, store.statistics().active) == (0, LAZY_COUNT)

    def test_full_store_takes_all_of_what_comes_together_or_nothing(self, tmp_path: Path) -> None:
        with opened(tmp_path, max_bytes=SMALL) as store:
            store.remember(known_token(consents=(known_consent(consent(0)),)))
            store.flush()
            with pytest.raises(MemoryFull):
                end_together(store, range(100_000))
            assert store.look(known_token().digest) is not None
            assert store.statistics().guarding == 0

    @pytest.mark.parametrize("goes_on", [False, True])
    def test_failure_inside_cannot_be_swallowed(self, tmp_path: Path, goes_on: bool) -> None:
        with opened(tmp_path, max_bytes=SMALL) as store:
            with pytest.raises(MemoryFull):
                swallow(store, goes_on=goes_on)
            assert store.statistics().guarding == 0
            assert store.statistics().active == 0


def takes(store: GuardStore, number: int, **changes: Any) -> bool:
    try:
        return store.remember(known_token(str(number), **changes))
    except MemoryFull:
        return False


def end_until_full(store: GuardStore, ended: list[int]) -> None:
    """By tens, and one by one where no ten goes in any more."""
    count = 10
    while True:
        try:
            end_together(store, range(len(ended), len(ended) + count))
        except MemoryFull:
            if count == 1:
                raise
            count = 1
        else:
            ended.extend(range(len(ended), len(ended) + count))


def end_together(store: GuardStore, numbers: Iterable[int]) -> None:
    with store.together():
        for number in numbers:
            store.end(consent(number), 2, LATER)


def swallow(store: GuardStore, *, goes_on: bool) -> None:
    with store.together():
        try:
            for number in range(100_000):
                store.end(consent(number), 2, LATER)
        except MemoryFull:
            pass
        if goes_on:
            store.remember(known_token())


def churn(store: GuardStore, wall: Wall) -> None:
    """Writes that give the sweep its turn."""
    for _ in range(70):
        store.refuse(os.urandom(32), wall.at)


def check_ended(store: GuardStore, numbers: list[int]) -> None:
    for number in numbers[:: max(1, len(numbers) // 50)]:
        known = known_token(f"after {number}", as_of=UnixTime(NOW + 999), consents=(known_consent(consent(number)),))
        store.remember(known)
        assert store.look(known.digest) is None


class TestWhatCannotBeTrusted:
    """It is treated as empty, said loudly, and moved aside."""

    @pytest.fixture
    def log(self) -> io.BytesIO:
        stream = io.BytesIO()
        configure("info", stream=stream)
        return stream

    @pytest.fixture
    def kept(self, tmp_path: Path) -> Path:
        """A store with two answers and an end, closed in order."""
        with opened(tmp_path) as store:
            store.mark_whole()
            store.remember(known_token())
            store.remember(known_token("other", consents=(known_consent(OTHER_CONSENT),)))
            store.end(OTHER_CONSENT, 2, LATER)
        return tmp_path

    def check_empty(self, directory: Path, log: io.BytesIO) -> None:
        wall = Wall()
        wall.at = UnixTime(NOW + 100)
        with opened(directory, wall) as store:
            assert store.statistics().active == store.statistics().guarding == 0
            assert store.missing_since() == wall.at, "degraded until all is heard of again"
            assert store.lost_until() == wall.at + home.CLOCK_ERROR, "what was heard until then may be forgotten"
            store.remember(known_token("other", consents=(known_consent(OTHER_CONSENT),)))
            assert store.look(known_token("other").digest) is None, "its end is forgotten, so it must not come back"
            store.remember(known_token(as_of=UnixTime(NOW + 1_000)))
            assert store.look(known_token().digest) is not None
        assert b"guard_store_began_anew" in log.getvalue()
        with opened(directory) as store:
            assert store.statistics().active == 1, "and from then on it is a store like any other"
            assert store.lost_until() == wall.at + home.CLOCK_ERROR

    def test_store_that_is_what_it_was_is_taken(self, kept: Path, log: io.BytesIO) -> None:
        with opened(kept) as store:
            assert store.look(known_token().digest) is not None
        assert log.getvalue() == b""

    @pytest.mark.parametrize(
        "statement",
        [
            pytest.param("DELETE FROM kept WHERE rank = 2", id="an end is taken away"),
            pytest.param("UPDATE kept SET due = 1 WHERE rank = 2", id="an end is made to be over"),
            pytest.param("UPDATE kept SET rank = 1 WHERE rank = 2", id="an end is made to go first"),
            pytest.param("UPDATE kept SET sealed = substr(sealed, 1, 60) WHERE rank = 1", id="truncated"),
            pytest.param("UPDATE kept SET sealed = zeroblob(3) WHERE rank = 15", id="head truncated"),
            pytest.param("DELETE FROM kept WHERE rank = 15", id="head gone"),
            pytest.param("DROP TABLE kept", id="no table"),
            pytest.param(
                "UPDATE kept SET sealed = (SELECT max(sealed) FROM kept WHERE rank = 1) WHERE rank = 1", id="swapped"
            ),
            pytest.param(
                "INSERT INTO kept SELECT zeroblob(16), rank, due, sealed FROM kept WHERE rank = 2", id="one more"
            ),
        ],
    )
    def test_edited_store(self, kept: Path, log: io.BytesIO, statement: str) -> None:
        database = sqlite3.connect(file_of(kept))
        with database:
            database.execute(statement)
        database.close()
        self.check_empty(kept, log)
        assert aside_of(kept) != []

    def test_replayed_old_record(self, tmp_path: Path, log: io.BytesIO) -> None:
        with opened(tmp_path) as store:
            store.change(OTHER_CONSENT, 2, None, None)
            store.remember(known_token("other", consents=(known_consent(OTHER_CONSENT),)))
        database = sqlite3.connect(file_of(tmp_path))
        old = database.execute("SELECT key, rank, due, sealed FROM kept WHERE rank = 2").fetchall()
        database.close()
        with opened(tmp_path) as store:
            store.end(OTHER_CONSENT, 3, LATER)
        database = sqlite3.connect(file_of(tmp_path))
        with database:
            database.executemany("REPLACE INTO kept VALUES (?, ?, ?, ?)", old)
        database.close()
        self.check_empty(tmp_path, log)

    @pytest.mark.parametrize("damage", [b"", b"no database", bytes(8_192)])
    def test_file_that_is_no_database(self, kept: Path, log: io.BytesIO, damage: bytes) -> None:
        file_of(kept).write_bytes(damage)
        self.check_empty(kept, log)

    @pytest.mark.parametrize("seed", range(12))
    def test_byte_flipped_anywhere(self, kept: Path, seed: int) -> None:
        """Where a byte says nothing (free space of a page), the store stays as it is; else it is empty. Never wrong."""
        content = bytearray(file_of(kept).read_bytes())
        at = (seed * 7_919 + 100) % len(content)
        content[at] ^= 0x41
        file_of(kept).write_bytes(content)
        with opened(kept) as store:
            assert store.look(known_token().digest) in (None, known_token())
            assert store.look(known_token("other").digest) is None

    def test_file_cut_short(self, kept: Path, log: io.BytesIO) -> None:
        with file_of(kept).open("r+b") as file:
            file.truncate(file_of(kept).stat().st_size - 4_096)
        self.check_empty(kept, log)

    def test_store_gone_while_its_anchor_is_there(self, kept: Path, log: io.BytesIO) -> None:
        file_of(kept).unlink()
        self.check_empty(kept, log)

    @pytest.mark.parametrize("anchor", [None, b"", b"{}", b'{"generation":1,"current":"00"}'])
    def test_anchor_gone_or_unreadable(self, kept: Path, log: io.BytesIO, anchor: bytes | None) -> None:
        path = kept / "key" / "store.key.anchor"
        path.unlink()
        if anchor is not None:
            path.write_bytes(anchor)
        self.check_empty(kept, log)

    def test_copy_put_back_after_a_later_start(self, tmp_path: Path, kept: Path, log: io.BytesIO) -> None:
        shutil.copytree(kept / "store", tmp_path / "copy")
        with opened(kept) as store:
            store.end(CONSENT, 2, LATER)
        shutil.rmtree(kept / "store")
        shutil.move(tmp_path / "copy", kept / "store")
        self.check_empty(kept, log)

    def test_copy_put_back_though_nothing_was_written_since(self, tmp_path: Path, kept: Path, log: io.BytesIO) -> None:
        shutil.copytree(kept / "store", tmp_path / "copy")
        with opened(kept):
            pass
        shutil.rmtree(kept / "store")
        shutil.move(tmp_path / "copy", kept / "store")
        self.check_empty(kept, log)

    def test_copy_made_while_it_runs_put_back_after_a_stop_in_order(self, tmp_path: Path, log: io.BytesIO) -> None:
        with opened(tmp_path) as store:
            store.remember(known_token())
            store.flush()
            shutil.copytree(tmp_path / "store", tmp_path / "copy")
            store.end(CONSENT, 2, LATER)
        shutil.rmtree(tmp_path / "store")
        shutil.move(tmp_path / "copy", tmp_path / "store")
        self.check_empty(tmp_path, log)

    def test_copy_older_than_a_minute_put_back_after_a_crash(self, tmp_path: Path, log: io.BytesIO) -> None:
        wall = Wall()
        store = GuardStore(store_settings(tmp_path), OWNER, wall)
        store.remember(known_token())
        store.flush()
        shutil.copytree(tmp_path / "store", tmp_path / "copy")
        wall.forward(60)
        store.end(CONSENT, 2, LATER)
        crash(store)
        shutil.rmtree(tmp_path / "store")
        shutil.move(tmp_path / "copy", tmp_path / "store")
        self.check_empty(tmp_path, log)

    def test_copy_from_before_events_went_missing_put_back_after_a_crash(self, tmp_path: Path, log: io.BytesIO) -> None:
        store = GuardStore(store_settings(tmp_path), OWNER, Wall())
        store.mark_whole()
        shutil.copytree(tmp_path / "store", tmp_path / "copy")
        store.mark_missing(LATER)
        crash(store)
        shutil.rmtree(tmp_path / "store")
        shutil.move(tmp_path / "copy", tmp_path / "store")
        self.check_empty(tmp_path, log)

    def test_copy_from_before_the_right_rested_put_back_after_a_crash(self, tmp_path: Path, log: io.BytesIO) -> None:
        store = GuardStore(store_settings(tmp_path), OWNER, Wall())
        store.remember(known_token())
        store.flush()
        shutil.copytree(tmp_path / "store", tmp_path / "copy")
        store.rest(LATER)
        crash(store)
        shutil.rmtree(tmp_path / "store")
        shutil.move(tmp_path / "copy", tmp_path / "store")
        self.check_empty(tmp_path, log)

    def test_log_left_behind_is_not_read_into_a_new_file(self, tmp_path: Path, log: io.BytesIO) -> None:
        store = GuardStore(store_settings(tmp_path), OWNER, Wall())
        store.remember(known_token())
        store.end(OTHER_CONSENT, 2, LATER)
        shutil.copy(tmp_path / "store" / "memory.db-wal", tmp_path / "log")
        crash(store)
        file_of(tmp_path).unlink()
        shutil.copy(tmp_path / "log", tmp_path / "store" / "memory.db-wal")
        self.check_empty(tmp_path, log)

    def test_only_the_last_broken_stores_are_kept(self, kept: Path) -> None:
        wall = Wall()
        for _ in range(5):
            wall.forward(1)
            file_of(kept).write_bytes(b"broken")
            with opened(kept, wall):
                pass
        assert len(aside_of(kept)) == 2

    @pytest.mark.parametrize(
        "changed",
        [
            "UPDATE kept SET due = due - 1 WHERE rank = 2",
            "UPDATE kept SET rank = 1 WHERE rank = 2",
            "UPDATE kept SET sealed = zeroblob(200) WHERE rank = 2",
        ],
    )
    def test_damage_found_while_it_is_used(self, kept: Path, log: io.BytesIO, changed: str) -> None:
        with opened(kept) as store:
            store._table.sealed.table._db.execute(changed)
            assert store.look(known_token("other").digest) is None
            assert store.look(known_token().digest) is None
            assert store.statistics().anew == 1
            assert store.lost_until() == NOW - 3_600 + home.CLOCK_ERROR
        assert b"guard_store_began_anew" in log.getvalue()

    def test_a_question_that_comes_after_the_end_is_no_damage(self, kept: Path, log: io.BytesIO) -> None:
        """As of a share that is still being checked: the file is another process's by then, maybe."""
        with opened(kept) as store:
            pass
        with opened(kept) as other:
            assert store.look(known_token().digest) is None
            assert not store.has_ended(OTHER_CONSENT)
            with pytest.raises(MemoryFull, match="closed"):
                store.end(CONSENT, 2, LATER)
            assert other.look(known_token().digest) is not None
        assert (aside_of(kept), log.getvalue()) == ([], b"")
        with opened(kept) as store:
            assert store.look(known_token().digest) is not None
            assert store.has_ended(OTHER_CONSENT)

    def test_write_that_finds_damage_is_refused_and_then_taken(self, kept: Path) -> None:
        with opened(kept) as store:
            store._table.sealed.table._db.execute("UPDATE kept SET sealed = zeroblob(200) WHERE rank = 2")
            with pytest.raises(MemoryFull, match="damaged"):
                end_together(store, [1, int(OTHER_CONSENT[-12:], 16)])
            store.end(OTHER_CONSENT, 3, LATER)
            assert store.statistics().guarding == 1


class TestKeys:
    """Without its own key a store is not opened, and not thrown away either."""

    def test_key_that_is_missing(self, tmp_path: Path) -> None:
        settings = store_settings(tmp_path)
        settings.key_file.unlink()
        with pytest.raises(BadConfig, match="No such file"):
            GuardStore(settings, OWNER, Wall())

    def test_key_that_others_may_read(self, tmp_path: Path) -> None:
        settings = store_settings(tmp_path)
        settings.key_file.chmod(0o640)
        with pytest.raises(BadConfig, match="chmod 600"):
            GuardStore(settings, OWNER, Wall())

    def test_key_of_another_length(self, tmp_path: Path) -> None:
        settings = store_settings(tmp_path)
        settings.key_file.write_bytes(bytes(31))
        with pytest.raises(BadConfig, match="32 raw bytes"):
            GuardStore(settings, OWNER, Wall())

    def test_another_key_or_another_edp_is_told_and_loses_nothing(self, tmp_path: Path) -> None:
        with opened(tmp_path) as store:
            store.remember(known_token())
        settings = store_settings(tmp_path)
        with pytest.raises(OtherKey, match="another EDP"):
            GuardStore(settings, "edp-2", Wall())
        key = settings.key_file.read_bytes()
        settings.key_file.write_bytes(b"\x01" * 32)
        with pytest.raises(OtherKey, match="another key"):
            GuardStore(settings, OWNER, Wall())
        settings.key_file.write_bytes(key)
        with opened(tmp_path) as store:
            assert store.look(known_token().digest) == known_token()

    def rotated(self, directory: Path) -> dict[str, Path]:
        """A new key in place, the old one beside it."""
        key = directory / "key" / "store.key"
        old = directory / "key" / "old.key"
        if not old.exists():
            shutil.copy(key, old)
            key.write_bytes(b"\x02" * 32)
        return {"previous_key_file": old}

    def test_key_is_replaced_with_one_start(self, tmp_path: Path) -> None:
        with opened(tmp_path) as store:
            store.mark_whole()
            store.remember(known_token())
            store.end(OTHER_CONSENT, 2, LATER)
            store.refuse(b"\x07" * 32, LATER)
            store.suspend("atp-2", 1, suspended=True)
            store.mark_missing(LATER)
            store.rest(LATER)
            before = store.statistics()
        settings = self.rotated(tmp_path)
        with opened(tmp_path, **settings) as store:
            assert store.statistics().active == before.active
        settings["previous_key_file"].unlink()
        with opened(tmp_path) as store:
            assert store.look(known_token().digest) == known_token()
            assert store.missing_since() == LATER
            assert (store.rested_at(), store.newest()) == (LATER, known_token().as_of)
            after = store.statistics()
            assert (after.active, after.guarding, after.garbage) == (before.active, before.guarding, before.garbage)
            store.remember(known_token("other", consents=(known_consent(OTHER_CONSENT),)))
            assert store.look(known_token("other").digest) is None
        assert list((tmp_path / "store").glob("rekeyed*")) == []

    @pytest.mark.parametrize("step", range(6))
    def test_crash_at_any_step_of_replacing_the_key_loses_nothing(
        self, tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with opened(tmp_path) as store:
            store.remember(known_token())
            store.end(OTHER_CONSENT, 2, LATER)
        settings = self.rotated(tmp_path)
        dying(monkeypatch, step)
        store: GuardStore | None = None
        with suppress(Died):
            store = GuardStore(store_settings(tmp_path, **settings), OWNER, Wall())
        if store is not None:
            crash(store)
        monkeypatch.undo()
        with opened(tmp_path, **settings) as store:
            assert store.look(known_token().digest) == known_token()
            assert store.statistics().guarding == 1

    @pytest.mark.parametrize("step", range(5))
    def test_crash_at_any_step_of_a_new_mark_loses_nothing(
        self, tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with opened(tmp_path) as store:
            store.remember(known_token())
        dying(monkeypatch, step)
        with pytest.raises(Died):
            GuardStore(store_settings(tmp_path), OWNER, Wall()).close()
        monkeypatch.undo()
        with opened(tmp_path) as store:
            assert store.look(known_token().digest) == known_token()


class Died(BaseException):
    """Stands for the end of the process."""


def dying(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Die before the step-th durable step: writing the anchor, committing, renaming."""
    left = step

    def watched(real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **options: object) -> object:
            nonlocal left
            if left == 0:
                raise Died
            left -= 1
            return real(*args, **options)

        return call

    monkeypatch.setattr(home, "write_anchor", watched(home.write_anchor))
    monkeypatch.setattr(home.SealedTable, "writing", watched(home.SealedTable.writing))
    monkeypatch.setattr(home.Path, "replace", watched(home.Path.replace))
