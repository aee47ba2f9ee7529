"""An outage's cap over restarts of a guard whose clock is set back as well: real stores on disk, time by hand."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from engine.clock import Seconds, UnixTime
from engine.guard import config
from engine.guard.config import Policy
from engine.guard.evidence import EvidenceLog
from engine.guard.evidence_words import OutageEvidence, ShareEvidence
from engine.guard.fallback import judge_in_outage
from engine.guard.memory import MemoryFull
from engine.guard.outages import NOTE_EVERY, Outages
from engine.guard.shares import Reason
from engine.guard.store import GuardStore
from tests.support.guard_stores import OWNER, store_settings
from tests.support.guard_words import NOW as WORDS_NOW
from tests.support.guard_words import known, share
from tests.support.told import HandClock

HOUR = 3_600
CAP = Policy(outage_cap=Seconds(10.0 * HOUR))


class Life:
    """A guard's process, as far as outages go."""

    def __init__(self, store: GuardStore, log: EvidenceLog, clock: HandClock) -> None:
        self.store, self.log, self._clock = store, log, clock
        self.outages = Outages(CAP, store, log, clock, lambda: 0.5)

    def pass_by(self, hours: float) -> None:
        """Second by second would be the same."""
        for _ in range(int(hours * HOUR / 30)):
            self._clock.forward(30)
            self.outages.note_time()

    @property
    def lasts(self) -> float:
        return self.outages.now().lasts


@contextmanager
def life(directory: Path, clock: HandClock) -> Iterator[Life]:
    store = GuardStore(store_settings(directory), OWNER, clock.now)
    log = EvidenceLog(config.Evidence(), store_settings(directory), OWNER, clock.now)
    try:
        yield Life(store, log, clock)
    finally:
        log.close()
        store.close()


def reboot(clock: HandClock, set_back: float) -> None:
    """The machine starts anew, and knows the time no better than that."""
    clock.booted = 3.0
    clock.wall -= set_back


@pytest.mark.parametrize("set_back", [0, 60, 5 * HOUR, 400 * 24 * HOUR])
def test_a_clock_set_back_and_a_restart_together_lengthen_the_cap_by_a_minute_at_most(
    tmp_path: Path, set_back: float
) -> None:
    clock = HandClock()
    with life(tmp_path, clock) as first:
        first.outages.begin([])
        first.pass_by(6)
    reboot(clock, set_back)
    with life(tmp_path, clock) as second:
        assert 6 * HOUR - NOTE_EVERY <= second.lasts <= 6 * HOUR
        second.pass_by(3)
    reboot(clock, set_back)
    with life(tmp_path, clock) as third:
        assert 9 * HOUR - 2 * NOTE_EVERY <= third.lasts < 10 * HOUR
        third.pass_by(1)
        clock.forward(2 * NOTE_EVERY)
        assert third.lasts >= 10 * HOUR
        assert judge_in_outage(share(), known(), third.outages.now()).reason is Reason.OUTAGE_TOO_LONG


def test_a_clock_that_is_put_right_counts_the_time_for_which_nothing_ran(tmp_path: Path) -> None:
    """The machine is off for three hours, and does not know it when it comes up."""
    clock = HandClock()
    with life(tmp_path, clock) as first:
        first.outages.begin([])
        first.pass_by(1)
    clock.forward(3 * HOUR)
    reboot(clock, 3 * HOUR)
    with life(tmp_path, clock) as second:
        assert second.lasts == pytest.approx(HOUR, abs=1)
        clock.wall += 3 * HOUR
        assert second.lasts == pytest.approx(4 * HOUR, abs=1)


def test_a_share_that_was_made_says_the_time_too(tmp_path: Path) -> None:
    clock = HandClock()
    with life(tmp_path, clock) as first:
        first.outages.begin([])
        clock.forward(2 * HOUR)
        at = float(first.outages.now().now)
        first.log.record(ShareEvidence(at, b"d" * 32, allowed=True, reason=Reason.LAST_KNOWN, outage_since=at))
    reboot(clock, 5 * HOUR)
    with life(tmp_path, clock) as second:
        assert second.lasts == pytest.approx(2 * HOUR, abs=1)


def test_what_was_noted_of_an_outage_counts_for_no_other(tmp_path: Path) -> None:
    """A clock that was an hour ahead for a while must not shorten every outage to come."""
    clock = HandClock()
    with life(tmp_path, clock) as first:
        first.log.note_outage(clock.wall + 9 * HOUR)
        assert first.log.outage_noted() == 0.0, "there is no outage"
        began = clock.wall
        first.log.record(OutageEvidence(began, 0.0, ()))
        first.log.note_outage(began + 9 * HOUR)
        first.log.note_outage(began + 8 * HOUR)
        assert first.log.outage_noted() == began + 9 * HOUR
        first.log.record(OutageEvidence(began, began + 60, ()))
        assert first.log.outage_noted() == 0.0
        clock.forward(120)
        first.log.record(OutageEvidence(clock.wall, 0.0, ()))
    with life(tmp_path, clock) as second:
        assert second.log.outage_noted() == clock.wall
        assert second.lasts == 0.0


def test_the_time_is_noted_each_minute_of_an_outage_and_a_full_log_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = HandClock()
    noted = list[float]()

    def note(at: float) -> None:
        noted.append(at)
        raise MemoryFull("full")

    with life(tmp_path, clock) as alone:
        monkeypatch.setattr(alone.log, "note_outage", note)
        alone.pass_by(1)
        assert noted == []
        began = clock.wall
        alone.outages.begin([])
        alone.pass_by(0.1)
        assert noted == [began + minute * 60 for minute in range(1, 7)]


def test_a_clock_set_back_does_not_keep_an_answer_usable_for_longer(tmp_path: Path) -> None:
    """Nodes' answers say the time too: it is later than what the newest of them rests on."""
    clock = HandClock(WORDS_NOW - 2 * HOUR)
    answer = known(as_of=WORDS_NOW, last_known_until=UnixTime(WORDS_NOW + 4 * HOUR))
    with life(tmp_path, clock) as first:
        clock.forward(2 * HOUR)
        assert first.store.remember(answer)
    reboot(clock, 20 * HOUR)
    with life(tmp_path, clock) as second:
        second.outages.begin([])
        second.pass_by(3.9)
        assert judge_in_outage(share(), second.store.look(answer.digest), second.outages.now()).allowed
        second.pass_by(0.1)
        judged = judge_in_outage(share(), second.store.look(answer.digest), second.outages.now())
        assert judged.reason is Reason.OUTAGE_TOO_LONG
