"""The service goes away, and comes back, at every point of the retry schedule: how often it is asked, and when.

Draw 0.5: attempts 0.1, 0.2 and 0.4 seconds after the one before has failed; probes a minute apart to the second.
"""

import itertools
from collections.abc import Awaitable
from typing import Final

import pytest
import trio
from trio.testing import MockClock

from engine.guard.calls import Call, CallFailed, Reply
from engine.guard.evidence_words import Failure
from engine.guard.shares import Reason
from tests.support.guard_stand import Stand, answers, fails
from tests.support.guard_words import NOW, share

CONNECTED, ANSWERED = 0.02, 0.05  # seconds after an attempt began
WAITS: Final = (0.1, 0.2, 0.4)
TIMEOUT: Final = 2.0

# When the service goes away, seconds after the share was asked for: before, in connecting and in the body of the first
# attempt, and after its answer. When it is there again: before each attempt, in each wait, or not within the schedule.
GOES: Final = (-1.0, 0.01, 0.03, 0.06)
LASTS: Final = (
    0.0,
    0.005,
    0.05,
    0.0999,
    0.15,
    0.25,
    0.31,
    0.5,
    0.69,
    0.74,
    0.8,
    2.05,
    2.2,
    3.9,
    4.29,
    6.5,
    7.0,
    8.9,
    1e9,
)
# And for good or for a while once it was back: in the second, third and fourth attempt, connecting or answering.
SECOND: Final = (0.11, 0.14, 0.31, 0.34, 0.71, 0.74, 1e9)


class Service:
    """There, but for some spans of time. hangs: whoever calls within one waits for ever, else is refused at once."""

    def __init__(self, *away: tuple[float, float], hangs: bool) -> None:
        self.away = away
        self.hangs = hangs
        self.began = 0.0

    def down_at(self, at: float) -> bool:
        return any(begin <= at < end for begin, end in self.away)

    def breaks_after(self, at: float) -> float:
        return min((begin for begin, _ in self.away if begin > at), default=float("inf"))

    def behave(self, call: Call) -> Awaitable[Reply]:
        async def wait() -> Reply:
            at = trio.current_time() - self.began
            if self.down_at(at):
                if self.hangs:
                    await trio.sleep_forever()
                raise CallFailed(Failure.CONNECT)
            broken = self.breaks_after(at)
            if broken < at + ANSWERED:
                await trio.sleep(broken - at)
                raise CallFailed(Failure.CONNECT if broken < at + CONNECTED else Failure.RESET)
            await trio.sleep(ANSWERED)
            reply = answers()(call)
            assert isinstance(reply, Reply)
            return reply

        return wait()

    def expected(self) -> tuple[list[float], bool]:
        """When attempts begin, and whether one of them is answered: reckoned by the table, not by the code."""
        times, at = [0.0], 0.0
        for wait in (*WAITS, None):
            failed = self._fails_at(at)
            if failed is None:
                return times, True
            if wait is not None:
                at = failed + wait
                times.append(at)
        return times, False

    def _fails_at(self, at: float) -> float | None:
        if self.down_at(at):
            return at + TIMEOUT if self.hangs else at
        broken = self.breaks_after(at)
        return broken if broken < at + ANSWERED else None


def spans() -> list[tuple[tuple[float, float], ...]]:
    once = [((goes, max(goes, 0.0) + lasts),) for goes, lasts in itertools.product(GOES, LASTS)]
    twice = [((-1.0, 0.05), (again, again + lasts)) for again, lasts in itertools.product(SECOND, (0.01, 0.25, 1e9))]
    return [*once, *twice]


@pytest.mark.parametrize("hangs", [False, True])
def test_an_outage_at_every_point_of_a_shares_schedule(hangs: bool) -> None:
    """A yes comes from the first attempt that is answered and no other is made; after four the circuit opens."""
    seen = set[tuple[int, bool]]()
    for away in spans():
        service = Service(*away, hangs=hangs)
        times, answered = service.expected()
        seen.add((len(times), answered))

        clock = MockClock(autojump_threshold=0)
        trio.run(ask_through, clock, service, times, answered, clock=clock)
    assert seen == {(1, True), (2, True), (3, True), (4, True), (4, False)}


async def ask_through(clock: MockClock, service: Service, times: list[float], answered: bool) -> None:
    stand = Stand(clock)
    async with stand.guard:
        assert (await stand.guard.check(share())).reason is Reason.CONSENTED
        await trio.sleep(100)
        stand.nodes.calls.clear()
        stand.nodes.all(service.behave)
        service.began = trio.current_time()
        verdict = await stand.guard.check(share())
        began = service.began
        assert [at - began for at, _, _ in stand.nodes.calls] == pytest.approx(times), service.away
        assert verdict.reason is (Reason.CONSENTED if answered else Reason.LAST_KNOWN), service.away
        assert stand.guard.status().circuit == ("closed" if answered else "buffering"), service.away
        assert len({call.request_id for _, _, call in stand.nodes.calls}) == len(times)
        before = len(stand.nodes.calls)
        assert (await stand.guard.check(share())).reason in (Reason.CONSENTED, Reason.LAST_KNOWN)
        if not answered:
            assert len(stand.nodes.calls) == before  # nobody is asked any more
            assert [one.shares for one in stand.evidence.outages] == [0]
            assert len(stand.evidence.outages[0].attempts) == 4


def probe_times(good_from: float, until: float) -> list[float]:
    """When probes are made, seconds after the circuit opened, if the service is there again from then on."""
    at, failed, good, found = 60.0, 0, 0, list[float]()
    while at < until and good < 3:
        found.append(at)
        good, failed = (good + 1, 0) if at >= good_from else (0, failed + 1)
        at += 900.0 if failed >= 10 else 60.0
    return found


# In buffering; at, just before and just after each of the first probes; suspended; at its probes.
ENDS: Final = (0.0, 59.0, *[60.0 * n + d for n in range(1, 11) for d in (-0.5, 0.5)], 700.0, 1_499.0, 1_501.0, 2_401.0)


@pytest.mark.parametrize("ends", ENDS)
async def test_an_outage_that_ends_at_every_point_after_the_circuit_has_opened(
    ends: float, autojump_clock: MockClock
) -> None:
    stand = Stand(autojump_clock)
    async with stand.guard:
        began = await opened(stand)
        states = {stand.guard.status().circuit}
        probes = probe_times(ends, 5_000.0)
        for at in sorted({ends, *[probe - 0.25 for probe in probes], *[probe + 0.25 for probe in probes]}):
            await trio.sleep_until(began + at)
            if at >= ends:
                stand.nodes.all(answers())
            before = len(stand.nodes.calls)
            if stand.guard.status().circuit != "ramping":
                assert (await stand.guard.check(share())).reason is Reason.LAST_KNOWN
                assert len(stand.nodes.calls) == before  # no share is asked about
            states.add(stand.guard.status().circuit)
        assert [at - began for at, _, _ in stand.nodes.calls] == pytest.approx(probes)
        assert stand.guard.status().circuit == "ramping"
        assert ("suspended" in states) is (ends > 600.0)
        assert stand.guard.status().outage_since is not None


@pytest.mark.parametrize("good", [1, 2])
async def test_a_failed_probe_among_good_ones_begins_the_count_anew(good: int, autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock)
    async with stand.guard:
        began = await opened(stand)
        stand.nodes.all(answers())
        await trio.sleep(60.0 * good + 30)
        stand.nodes.all(fails(Failure.CONNECT))
        await trio.sleep(60.0)
        stand.nodes.all(answers())
        await trio.sleep(60.0 * 2)
        assert stand.guard.status().circuit == "probing"
        await trio.sleep(60.0)
        assert stand.guard.status().circuit == "ramping"
        assert [at - began for at, _, _ in stand.nodes.calls] == pytest.approx([60.0 * n for n in range(1, good + 5)])


@pytest.mark.parametrize(("into", "draw"), [(0.0, 0.09), (59.0, 0.09), (61.0, 0.49), (119.0, 0.49), (121.0, 0.99)])
async def test_an_outage_in_each_step_of_the_ramp_opens_the_circuit_again(
    into: float, draw: float, autojump_clock: MockClock
) -> None:
    """A share that is asked about has its four attempts; then there is a minute of silence, and probes as before."""
    stand = Stand(autojump_clock)
    async with stand.guard:
        since = stand.clock.now()
        ramping = await ramped(stand)
        await trio.sleep_until(ramping + into)
        stand.nodes.all(fails(Failure.CONNECT))
        stand.nodes.calls.clear()
        began, stand.draw = trio.current_time(), draw
        waits = [2 * draw * wait for wait in WAITS]
        assert (await stand.guard.check(share())).reason is Reason.LAST_KNOWN
        assert [at - began for at, _, _ in stand.nodes.calls] == pytest.approx([0.0, *itertools.accumulate(waits)])
        assert stand.guard.status().circuit == "buffering"
        stand.nodes.calls.clear()
        opened_at, stand.draw = trio.current_time(), 0.5
        await trio.sleep(130)
        assert [at - opened_at for at, _, _ in stand.nodes.calls] == pytest.approx([60.0, 120.0])
        # One outage where nobody has answered with its circuit closed; after the ramp the guard itself has asked.
        assert stand.guard.status().outage_since == (since if into < 120 else NOW + int(opened_at))


@pytest.mark.parametrize("seconds", [30.0, 90.0, 150.0])
async def test_an_outage_that_is_over_before_a_ramp_asks_is_none(seconds: float, autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock)
    async with stand.guard:
        ramping = await ramped(stand)
        await trio.sleep_until(ramping + seconds)
        stand.nodes.calls.clear()
        stand.draw = 0.05
        assert (await stand.guard.check(share())).reason is Reason.CONSENTED
        assert len(stand.nodes.calls) == 1
        assert stand.guard.status().circuit == ("closed" if seconds > 120 else "ramping")


async def opened(stand: Stand) -> float:
    """A known share, then nobody answers; returns when the circuit opened."""
    assert (await stand.guard.check(share())).reason is Reason.CONSENTED
    stand.nodes.all(fails(Failure.CONNECT))
    assert (await stand.guard.check(share())).reason is Reason.LAST_KNOWN
    assert stand.guard.status().circuit == "buffering"
    stand.nodes.calls.clear()
    return trio.current_time()


async def ramped(stand: Stand) -> float:
    """An outage that ended, up to its third good probe."""
    began = await opened(stand)
    stand.nodes.all(answers())
    await trio.sleep(180.5)
    assert stand.guard.status().circuit == "ramping"
    return began + 180.0
