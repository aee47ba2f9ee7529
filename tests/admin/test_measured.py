"""Appends and barriers are counted and timed beside what they do, and nothing of what they do changes."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from admin import metrics
from admin.ledger.barrier import Effect, How, LedgerReplaced, Standing
from admin.ledger.sql import SqlLedger, open_ledger
from admin.ledger.store import Receipt, VersionConflict
from admin.measured import MeasuredBarrier, MeasuredLedger
from engine.clock import Seconds
from engine.feed.entries import Position
from tests.support.ledger import HandClock, change, ledger_config, used

RECEIPT = Receipt(Position("i", 7), 1, 0.0)


def value(name: str, **labels: str) -> float:
    return metrics.REGISTRY.get_sample_value(name, labels) or 0.0


class Watch:
    """How much each sample has grown since this was made."""

    def __init__(self, *names: str, **labels: str) -> None:
        self._labels = labels
        self._before = {name: value(name, **labels) for name in names}

    def grown(self) -> list[float]:
        return [value(name, **self._labels) - before for name, before in self._before.items()]


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[SqlLedger]:
    async with open_ledger(ledger_config(tmp_path, f"sqlite:///{tmp_path}/ledger.db"), HandClock()) as opened:
        yield opened


async def test_appends_are_counted_by_events_and_timed_by_writes(ledger: SqlLedger) -> None:
    watch = Watch("ccs_ledger_events_appended_total", "ccs_ledger_append_seconds_count")
    measured = MeasuredLedger(ledger)
    await measured.append([change(1), change(2)])
    receipt = await measured.append([change(3)], used("key-1"))
    assert watch.grown() == [3, 2]
    assert receipt.position == (await measured.head()).position == (await ledger.head()).position


async def test_a_replay_counts_as_nothing(ledger: SqlLedger) -> None:
    measured = MeasuredLedger(ledger)
    await measured.append([change(1)], used("key-1"))
    watch = Watch("ccs_ledger_events_appended_total", "ccs_ledger_append_seconds_count")
    assert (await measured.append([change(1)], used("key-1"))).replayed
    assert watch.grown() == [0, 0]


async def test_a_refused_append_is_counted_by_its_code_and_raised(ledger: SqlLedger) -> None:
    watch = Watch("ccs_ledger_appends_refused_total", code="version_conflict")
    with pytest.raises(VersionConflict):
        await MeasuredLedger(ledger).append([change(1, 5)])
    assert watch.grown() == [1]


class Told:
    """A barrier that says what it was told."""

    def __init__(self, how: How | None, fault: bool = False) -> None:
        self._how, self._fault = how, fault

    async def wait_effective(self, receipt: Receipt, timeout: Seconds) -> Effect:  # noqa: ASYNC109 - the real one's
        if self._fault:
            raise LedgerReplaced("another ledger")
        state = Standing.RECORDED if self._how is None else Standing.EFFECTIVE
        return Effect(state, self._how, receipt.position, (), round(timeout))


@pytest.mark.parametrize(
    ("how", "outcome", "timed"),
    [(How.ACKNOWLEDGED, "acknowledged", 1), (How.WAITED_OUT, "waited_out", 1), (None, "recorded", 0)],
)
async def test_a_barrier_is_counted_by_outcome_and_timed_when_effective(
    how: How | None, outcome: str, timed: int
) -> None:
    count, times = Watch("ccs_barriers_total", outcome=outcome), Watch("ccs_barrier_seconds_count")
    effect = await MeasuredBarrier(Told(how)).wait_effective(RECEIPT, Seconds(2.0))
    assert (effect.how, effect.position, effect.milliseconds) == (how, RECEIPT.position, 2)
    assert (count.grown(), times.grown()) == ([1], [timed])


async def test_a_barrier_that_fails_is_counted_and_raises() -> None:
    count = Watch("ccs_barriers_total", outcome="ledger_replaced")
    with pytest.raises(LedgerReplaced):
        await MeasuredBarrier(Told(None, fault=True)).wait_effective(RECEIPT, Seconds(2.0))
    assert count.grown() == [1]
