"""The evidence log: what was done stays on record, in its order, until it was told and its time is over."""

import hashlib
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from engine.clock import UnixTime
from engine.guard import config, evidence
from engine.guard.evidence import EvidenceLog
from engine.guard.evidence_chain import BrokenChain, Checked, check_lines, entry_of, entry_text, line_of
from engine.guard.evidence_words import Attempt, Failure, OutageEvidence, ShareEvidence
from engine.guard.home import StoreInUse
from engine.guard.memory import MemoryFull
from engine.guard.sealed_table import OtherKey
from engine.guard.shares import Reason
from tests.support.guard_stores import OWNER, Wall, store_settings
from tests.support.known_tokens import CONSENT, NOW

SMALL = 1 << 18  # bytes
DAY = 86_400
ATTEMPT = Attempt("https://node-1.example:8440", NOW - 3.0, 2.0, Failure.TIMEOUT)


def share(number: int = 0, **members: Any) -> ShareEvidence:
    made = ShareEvidence(
        at=NOW + number,
        digest=bytes((number % 256,)) * 32,
        allowed=True,
        reason=Reason.LAST_KNOWN,
        outage_since=float(NOW),
        client_id="atp-1",
        consent_id=CONSENT,
        consent_version=3,
        answered_at=UnixTime(NOW - 60),
        as_of=UnixTime(NOW - 61),
        answer=b"\x00signed\xff",
        attempts=(ATTEMPT, msgspec.structs.replace(ATTEMPT, failure=Failure.SERVER, status=503)),
    )
    return msgspec.structs.replace(made, **members)


@contextmanager
def opened(directory: Path, wall: Wall | None = None, owner: str = OWNER, **settings: Any) -> Iterator[EvidenceLog]:
    log = EvidenceLog(config.Evidence(**settings), store_settings(directory), owner, wall or Wall())
    try:
        yield log
    finally:
        log.close()


def record_until_full(log: EvidenceLog, ids: list[str]) -> None:
    while True:
        ids += log.record_all([share(len(ids) + number) for number in range(5)])


def crash(log: EvidenceLog) -> None:
    log._sealed.table._db.close()
    log._home.release()


def exported(log: EvidenceLog) -> list[bytes]:
    return [line_of(link) for link in log.links()]


@pytest.mark.parametrize(
    "entry",
    [
        share(),
        ShareEvidence(at=1.5, digest=b"", allowed=False, reason=Reason.ONE_OFF, outage_since=1.0),
        OutageEvidence(began_at=1.5, ended_at=0.0, attempts=(ATTEMPT,)),
        OutageEvidence(began_at=1.5, ended_at=2.5, attempts=(), shares=7),
        OutageEvidence(began_at=1.5, ended_at=2.5, attempts=(), folded=9),
    ],
)
def test_entry_comes_back_from_its_text(entry: ShareEvidence | OutageEvidence) -> None:
    assert entry_of(entry_text(entry)) == entry


def test_entry_of_an_earlier_release_has_fewer_members() -> None:
    members = msgspec.json.decode(entry_text(share()))
    del members["attempts"], members["answer"]
    assert entry_of(msgspec.json.encode(members)) == share(attempts=(), answer=b"")


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"kind":"other"}', b'{"kind":"share","at":"x"}'])
def test_what_is_no_entry_is_refused(text: bytes) -> None:
    with pytest.raises(BrokenChain):
        entry_of(text)


class TestLog:
    """What is kept."""

    def test_entries_can_be_read_by_their_ids_after_a_crash(self, tmp_path: Path) -> None:
        log = EvidenceLog(config.Evidence(), store_settings(tmp_path), OWNER, Wall())
        first = log.record(share(1))
        second = log.record(OutageEvidence(float(NOW), 0.0, (ATTEMPT,)))
        crash(log)
        with opened(tmp_path) as log:
            kept = log.read(first)
            assert kept is not None
            assert entry_of(kept.entry) == share(1)
            assert log.read(second) is not None
            assert log.open_outage() == float(NOW)
            log.record(OutageEvidence(float(NOW), float(NOW + 5), ()))
            assert log.open_outage() is None

    @pytest.mark.parametrize("unknown", ["", "-", "x", "00000000-1", "1", "-1", "00000000-99999999999999999999", "a-٣"])
    def test_id_that_was_never_given_names_nothing(self, tmp_path: Path, unknown: str) -> None:
        with opened(tmp_path) as log:
            log.record(share())
            assert log.read(unknown) is None

    def test_only_shares_that_were_made_are_to_be_reported_the_oldest_first(self, tmp_path: Path) -> None:
        with opened(tmp_path) as log:
            ids = log.record_all([share(1), share(2, allowed=False, reason=Reason.ONE_OFF), share(3)])
            log.record(OutageEvidence(float(NOW), 0.0, ()))
            assert [link.evidence_id for link in log.unreported(10)] == [ids[0], ids[2]]
            assert log.statistics().unreported_since == NOW + 1
            log.mark_reported(log.unreported(1))
            assert [link.evidence_id for link in log.unreported(10)] == [ids[2]]
            log.mark_reported(log.unreported(10))
            assert log.statistics().unreported_since is None
            assert (log.statistics().settled, log.statistics().unreported) == (4, 0)
        with opened(tmp_path) as log:
            assert (log.statistics().settled, log.statistics().unreported) == (4, 0)

    def test_what_is_recorded_together_is_recorded_whole_or_not_at_all(self, tmp_path: Path) -> None:
        with opened(tmp_path, max_bytes=SMALL) as log:
            log.record(share())
            with pytest.raises(MemoryFull):
                log.record_all([share(number) for number in range(10_000)])
            assert log.statistics().unreported == 1
            log.record(share(1))
            assert check_lines(exported(log)) == Checked(2)

    def test_full_log_lets_go_of_what_was_reported_and_never_of_the_rest(self, tmp_path: Path) -> None:
        with opened(tmp_path, max_bytes=SMALL) as log:
            ids: list[str] = []
            with pytest.raises(MemoryFull):
                record_until_full(log, ids)
            assert [link.evidence_id for link in log.unreported(10_000)] == ids
            log.mark_reported(log.unreported(50))
            more = log.record_all([share(7), share(8)])
            assert log.read(ids[0]) is None
            assert [link.evidence_id for link in log.unreported(10_000)] == ids[50:] + more
            check_lines(exported(log))

    def test_a_log_that_took_no_share_for_want_of_room_is_full_until_it_may(self, tmp_path: Path) -> None:
        with opened(tmp_path, max_bytes=SMALL) as log:
            log.record(share())
            assert not log.statistics().full
            with pytest.raises(MemoryFull):
                record_until_full(log, [])
            assert log.statistics().full
            log.record(OutageEvidence(float(NOW), 0.0, ()))
            assert log.statistics().full, "of shares, though not of outages"
            log.mark_reported(log.unreported(50))
            assert not log.statistics().full
            with pytest.raises(MemoryFull):
                log.record_all([share(number) for number in range(10_000)])
            log.record(share())
            assert not log.statistics().full, "there is room for less"

    def test_reported_entries_go_when_their_time_is_over(self, tmp_path: Path) -> None:
        wall = Wall()
        wall.at = NOW
        with opened(tmp_path, wall, keep_days=30) as log:
            old, unreported = log.record_all([share(), share()])
            log.mark_reported(log.unreported(1))
            wall.forward(30 * DAY - 1)
            log.record(share())
            assert log.read(old) is not None
            wall.forward(1)
            log.record(share())
            assert log.read(old) is None
            assert log.read(unreported) is not None

    def test_entries_of_a_later_release_are_kept_as_long_as_others(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As after going back to an earlier release: their time can be read, and nothing else need be."""
        wall = Wall()
        wall.at = NOW
        with opened(tmp_path, wall, keep_days=30) as log:
            with monkeypatch.context() as patched:
                patched.setattr(evidence, "entry_text", lambda entry: entry_text(entry).replace(b"kind", b"sort"))
                settled = log.record(share(allowed=False))
                unreported = log.record(share(1))
                outage = log.record(OutageEvidence(float(NOW), float(NOW), ()))
            assert log.statistics().unreported_since == NOW + 1
            wall.forward(30 * DAY - 1)
            log.record(share(2))
            assert None not in (log.read(settled), log.read(outage))
            wall.forward(1)
            log.record(share(3))
            assert (log.read(settled), log.read(outage)) == (None, None)
            assert log.read(unreported) is not None

    def test_an_entry_without_a_time_goes_where_room_is_needed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        wall = Wall()
        wall.at = NOW
        with opened(tmp_path, wall, keep_days=30, max_bytes=SMALL) as log:
            with monkeypatch.context() as patched:
                patched.setattr(evidence, "entry_text", lambda _: b'{"kind":"new"}')
                timeless = log.record(share(allowed=False))
                log.record(share(1))
            assert log.statistics().unreported_since is None
            wall.forward(60 * DAY)
            log.record(share(2))
            assert log.read(timeless) is not None
            with pytest.raises(MemoryFull):
                record_until_full(log, [])
            assert log.read(timeless) is None

    def test_two_processes_do_not_share_a_log(self, tmp_path: Path) -> None:
        with opened(tmp_path), pytest.raises(StoreInUse), opened(tmp_path):
            pass

    def test_nothing_is_readable_without_the_key(self, tmp_path: Path) -> None:
        with opened(tmp_path) as log:
            log.record(share(7))
        held = b"".join(path.read_bytes() for path in (tmp_path / "store").iterdir())
        for word in (CONSENT.encode(), b"atp-1", b"last_known", b"node-1", b"\x07" * 32, b"signed"):
            assert word not in held

    def test_another_edps_log_is_not_opened(self, tmp_path: Path) -> None:
        with opened(tmp_path) as log:
            log.record(share())
        with pytest.raises(OtherKey), opened(tmp_path, owner="edp-2"):
            pass

    def test_key_is_replaced_with_one_start(self, tmp_path: Path) -> None:
        with opened(tmp_path) as log:
            ids = log.record_all([share(1), share(2)])
            log.mark_reported(log.unreported(1))
        key = tmp_path / "key" / "store.key"
        shutil.copy(key, tmp_path / "old.key")
        key.write_bytes(b"\x05" * 32)
        store = store_settings(tmp_path, previous_key_file=tmp_path / "old.key")
        EvidenceLog(config.Evidence(), store, OWNER, Wall()).close()
        with opened(tmp_path) as log:
            assert [link.evidence_id for link in log.unreported(9)] == ids[1:]
            assert check_lines(exported(log)) == Checked(2)


class TestWhatCannotBeTrusted:
    """Damage is moved aside; an older copy is still evidence."""

    def test_damaged_log_is_moved_aside_and_never_thrown_away(self, tmp_path: Path) -> None:
        wall = Wall()
        for number in range(4):
            wall.forward(1)
            with opened(tmp_path, wall) as log:
                assert log.statistics().unreported == 0
                log.record(share())
            database = sqlite3.connect(tmp_path / "store" / "evidence.db")
            with database:
                database.execute("DELETE FROM kept WHERE rank = 1")
            database.close()
            assert len(list((tmp_path / "store").glob("evidence.db.aside-*"))) == number

    def test_what_was_reported_of_a_log_that_is_gone_marks_nothing_in_the_next_one(self, tmp_path: Path) -> None:
        """A report was under way when the damage was found: the numbers of its shares are given anew."""
        with opened(tmp_path) as log:
            log.record_all([share(1), share(2)])
            reported = log.unreported(2)
            log._sealed.table._db.execute("UPDATE kept SET sealed = zeroblob(100) WHERE rank = 1")
            with pytest.raises(MemoryFull, match="damaged"):
                log.unreported(1)
            ids = log.record_all([share(3), share(4)])
            log.mark_reported(reported)
            assert [link.evidence_id for link in log.unreported(9)] == ids
            assert (log.statistics().settled, log.statistics().unreported) == (0, 2)
            assert check_lines(exported(log)) == Checked(2)

    def test_older_copy_is_taken_and_gives_no_number_twice(self, tmp_path: Path) -> None:
        with opened(tmp_path) as log:
            first = log.record(share(1))
        shutil.copytree(tmp_path / "store", tmp_path / "copy")
        with opened(tmp_path) as log:
            lost = log.record(share(2))
        shutil.rmtree(tmp_path / "store")
        shutil.move(tmp_path / "copy", tmp_path / "store")
        with opened(tmp_path) as log:
            assert [link.evidence_id for link in log.unreported(9)] == [first]
            assert log.read(lost) is None
            again = log.record(share(3))
            assert again != lost
            assert log.read(lost) is None
            assert check_lines(exported(log)) == Checked(2)

    def test_share_is_refused_when_damage_is_found_and_may_be_made_after_that(self, tmp_path: Path) -> None:
        with opened(tmp_path) as log:
            log.record(share(1))
            log._sealed.table._db.execute("UPDATE kept SET sealed = zeroblob(100) WHERE rank = 1")
            with pytest.raises(MemoryFull, match="damaged"):
                log.unreported(1)
            log.record(share(2))
            assert len(log.unreported(9)) == 1

    def test_what_comes_after_the_end_is_refused_and_is_no_damage(self, tmp_path: Path) -> None:
        with opened(tmp_path) as log:
            (made,) = log.record_all([share(1)])
        with opened(tmp_path) as other:
            with pytest.raises(MemoryFull, match="closed"):
                log.record(share(2))
            with pytest.raises(MemoryFull, match="closed"):
                log.read(made)
            assert [link.evidence_id for link in other.unreported(9)] == [made]
        assert list((tmp_path / "store").glob("*.aside-*")) == []


def harm(directory: Path, how: str) -> None:
    """What may become of a file."""
    file = directory / "store" / "evidence.db"
    if how == "gone":
        file.unlink()
        return
    if how == "garbage":
        file.write_bytes(os.urandom(50_000))
        return
    database = sqlite3.connect(file)
    with database:
        if how == "a row less":
            database.execute("DELETE FROM kept WHERE key IN (SELECT key FROM kept WHERE rank = 0 LIMIT 1)")
        elif how == "a row changed":
            database.execute("UPDATE kept SET sealed = zeroblob(100) WHERE rank = 0")
        else:
            database.execute("DELETE FROM kept WHERE rank != 1")  # head and tip
    database.close()


HARMS = ["gone", "garbage", "a row less", "a row changed", "without a head"]


class TestWhatDamageLeaves:
    """An open outage, and what can be read and is to be reported."""

    @pytest.mark.parametrize("how", HARMS)
    def test_an_open_outage_survives_damage_and_the_restarts_after_it(self, how: str, tmp_path: Path) -> None:
        with opened(tmp_path) as log:
            log.record(OutageEvidence(float(NOW), 0.0, (ATTEMPT,)))
        harm(tmp_path, how)
        with capture_logs() as logs, opened(tmp_path) as log:
            assert log.open_outage() == float(NOW)
        assert "guard_store_began_anew" in [line["event"] for line in logs if line["log_level"] == "error"]
        with opened(tmp_path) as log:
            assert log.open_outage() == float(NOW)
            log.record(OutageEvidence(float(NOW), float(NOW + 5), ()))
            assert log.open_outage() is None

    @pytest.mark.parametrize("how", HARMS)
    def test_an_outage_that_has_ended_does_not_come_back(self, how: str, tmp_path: Path) -> None:
        with opened(tmp_path) as log:
            log.record(OutageEvidence(float(NOW), 0.0, (ATTEMPT,)))
            log.record(OutageEvidence(float(NOW), float(NOW + 5), ()))
        harm(tmp_path, how)
        with opened(tmp_path) as log:
            assert log.open_outage() is None

    @pytest.mark.parametrize("how", ["a row less", "a row changed", "without a head"])
    def test_shares_that_can_be_read_are_still_reported_under_their_ids(self, how: str, tmp_path: Path) -> None:
        with opened(tmp_path) as log:
            log.record(OutageEvidence(float(NOW), 0.0, (ATTEMPT,)))
            ids = log.record_all([share(1), share(2)])
        harm(tmp_path, how)
        with capture_logs() as logs, opened(tmp_path) as log:
            assert [link.evidence_id for link in log.unreported(9)] == ids
            assert log.statistics().unreported == 2
            later = log.record(share(3))
            assert [link.evidence_id for link in log.unreported(9)] == [*ids, later]
            log.mark_reported(log.unreported(9))
            assert log.statistics().unreported == 0
        (said,) = [line for line in logs if line["event"] == "guard_evidence_carried_on"]
        assert (said["unreported"], said["outage_since"]) == (2, float(NOW))
        assert (tmp_path / "store" / said["aside"]).exists()
        assert list((tmp_path / "store").glob("reading-*")) == []

    @pytest.mark.parametrize("stop", [EvidenceLog.close, crash])
    def test_a_restart_before_the_next_entry_gives_no_number_of_theirs_again(
        self, stop: Callable[[EvidenceLog], None], tmp_path: Path
    ) -> None:
        with opened(tmp_path) as log:
            ids = log.record_all([share(1), share(2)])
        harm(tmp_path, "without a head")
        stop(EvidenceLog(config.Evidence(), store_settings(tmp_path), OWNER, Wall()))
        with opened(tmp_path) as log:
            later = log.record_all([share(3), share(4)])
            assert [link.evidence_id for link in log.unreported(9)] == [*ids, *later]
            assert None not in [log.read(one) for one in (*ids, *later)]
            assert log.statistics().unreported == 4

    def test_a_crash_as_they_are_taken_over_keeps_an_open_outage(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with opened(tmp_path) as log:
            log.record(OutageEvidence(float(NOW), 0.0, (ATTEMPT,)))
            ids = log.record_all([share(1), share(2)])
        harm(tmp_path, "a row less")

        def die(log: EvidenceLog, _: Any) -> None:
            log._sealed.table._db.close()
            raise KeyError

        with monkeypatch.context() as patched:
            patched.setattr(EvidenceLog, "record", die)
            with pytest.raises(KeyError):
                EvidenceLog(config.Evidence(), store_settings(tmp_path), OWNER, Wall())
        with opened(tmp_path) as log:
            assert log.open_outage() == float(NOW)
            later = log.record(share(3))
            assert [link.evidence_id for link in log.unreported(9)] == [*ids, later]

    def test_a_log_that_is_found_damaged_while_it_runs_carries_on_with_its_outage(self, tmp_path: Path) -> None:
        with opened(tmp_path) as log:
            log.record(OutageEvidence(float(NOW), 0.0, (ATTEMPT,)))
            kept = log.record_all([share(1), share(2)])[1]
            place = log._sealed.table.first(1, 1)[0].place.key
            log._sealed.table._db.execute("UPDATE kept SET sealed = zeroblob(100) WHERE key = ?", (place,))
            with pytest.raises(MemoryFull, match="damaged"):
                log.unreported(1)
            assert log.open_outage() == float(NOW)
            assert [link.evidence_id for link in log.unreported(9)] == [kept]
        with opened(tmp_path) as log:
            assert log.open_outage() == float(NOW)

    def test_a_crash_between_file_and_log_never_shortens_an_outage(self, tmp_path: Path) -> None:
        log = EvidenceLog(config.Evidence(), store_settings(tmp_path), OWNER, Wall())
        log.record(OutageEvidence(float(NOW), 0.0, (ATTEMPT,)))
        log._outage.keep = lambda _: None  # type: ignore[method-assign] # the process has gone before
        log.record(OutageEvidence(float(NOW), float(NOW + 5), ()))
        crash(log)
        with opened(tmp_path) as log:
            assert log.open_outage() is None, "the log is the one to know"
        harm(tmp_path, "garbage")
        with opened(tmp_path) as log:
            assert log.open_outage() is None

    def test_under_another_key_and_after_damage_to_the_file_itself(self, tmp_path: Path) -> None:
        with opened(tmp_path) as log:
            log.record(OutageEvidence(float(NOW), 0.0, (ATTEMPT,)))
        key, old = tmp_path / "key" / "store.key", tmp_path / "old.key"
        shutil.copy(key, old)
        key.write_bytes(b"\x05" * 32)
        EvidenceLog(config.Evidence(), store_settings(tmp_path, previous_key_file=old), OWNER, Wall()).close()
        harm(tmp_path, "garbage")
        with opened(tmp_path) as log:
            assert log.open_outage() == float(NOW)
        (tmp_path / "store" / "open-outage").write_bytes(b"x")
        with opened(tmp_path) as log:
            assert log.open_outage() == float(NOW)
        harm(tmp_path, "garbage")
        with opened(tmp_path) as log:
            assert log.open_outage() == float(NOW), "each start has put it right"


class TestExport:
    """Nobody can change it afterwards, its owner included."""

    @pytest.fixture
    def lines(self, tmp_path: Path) -> list[bytes]:
        with opened(tmp_path) as log:
            log.record_all([share(number) for number in range(4)])
            return exported(log)

    def test_export_holds_together(self, lines: list[bytes]) -> None:
        assert check_lines(lines) == Checked(4)
        assert check_lines(lines[1:]) == Checked(3), "what was reported long ago may be gone"
        assert check_lines([]) == Checked(0)

    def test_changed_swapped_or_added_lines_are_found(self, lines: list[bytes]) -> None:
        changed = lines[1].replace(b'"consent_version":3', b'"consent_version":4')
        renamed = lines[1].replace(b'"seq":2', b'"seq":3')
        for broken in (
            [lines[0], changed, *lines[2:]],
            [lines[0], renamed, *lines[2:]],
            [lines[1], lines[0], *lines[2:]],
            [lines[0], lines[0], *lines[1:]],
            [*lines, b"{}"],
            [*lines, b""],
        ):
            with pytest.raises(BrokenChain):
                check_lines(broken)

    def test_a_gap_is_told_as_one_and_what_stands_around_it_is_checked(self, lines: list[bytes]) -> None:
        second, third, _ = (msgspec.json.decode(line)["evidence_id"] for line in lines[1:])
        assert check_lines([lines[0], *lines[2:]]) == Checked(3, (third,))
        assert check_lines([lines[0], lines[3]]).lines == 2
        changed = lines[3].replace(b'"consent_version":3', b'"consent_version":4')
        with pytest.raises(BrokenChain, match="was changed"):
            check_lines([lines[0], lines[2], changed])
        with pytest.raises(BrokenChain, match=f"{second} stands after"):
            check_lines([lines[0], lines[2], lines[1]])

    def test_what_was_reported_and_let_go_is_a_gap_between_what_was_not(self, tmp_path: Path) -> None:
        wall = Wall()
        log = EvidenceLog(config.Evidence(keep_days=1), store_settings(tmp_path), OWNER, wall)
        names = log.record_all([share(number) for number in range(4)])
        log.mark_reported(log.unreported(4)[1:3])
        wall.forward(3 * 86_400)
        for _ in range(3):
            names.append(log.record(share(9)))
        try:
            lines = exported(log)
            assert [msgspec.json.decode(line)["evidence_id"] for line in lines] == [names[0], *names[3:]]
            assert check_lines(lines) == Checked(5, (names[3],))
        finally:
            log.close()

    def test_entry_made_anew_with_its_hash_does_not_fit_the_next_one(self, tmp_path: Path, lines: list[bytes]) -> None:
        with opened(tmp_path / "other") as log:
            log.record_all([share(number) for number in range(4)])
        forged = msgspec.json.decode(lines[1])
        forged["entry"]["consent_version"] = 9
        entry = msgspec.json.encode(forged["entry"])
        forged["hash"] = hashlib.sha256(bytes.fromhex(forged["previous"]) + entry).hexdigest()
        with pytest.raises(BrokenChain, match="does not follow"):
            check_lines([lines[0], msgspec.json.encode(forged), *lines[2:]])
