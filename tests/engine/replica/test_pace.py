"""A thousand nodes lose Redis in one instant: they do not all come to HTTPS at once, nor back, and stay current."""

import itertools
import random
from collections import Counter
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from engine.clock import BootTime, Seconds, UnixTime
from engine.decision.freshness import MAX_SILENCE
from engine.feed.questions import Answer
from engine.feed.redis_access import ONE_OF_MANY
from engine.replica.follower import Follower
from engine.replica.over_https import RETRY, HttpsWay
from engine.replica.over_redis import ASK_EVERY
from engine.replica.pace import LOOK_EVERY, check_pause, patience
from tests.support.feeds import MadeLedger
from tests.support.replicas import BOOT, INCARNATION, MAC_KEY, filled, nothing, open_store

NODES = 1_000
LUCK = st.floats(0, 1, exclude_max=True)


def most_in_a_tenth(times: list[float]) -> float:
    """The greatest share of the nodes that any tenth of a second sees."""
    return max(Counter(int(at * 10) for at in times).values()) / NODES


def checks_of_a_node(draw: random.Random, until: float) -> list[float]:
    """Seconds after the loss at which one node checks over HTTPS."""
    at = patience(draw.random()) - draw.uniform(0, ASK_EVERY) + draw.uniform(0, LOOK_EVERY)
    found = []
    while at < until:
        found.append(at)
        at += check_pause(draw.random())
    return found


def return_of_a_node(draw: random.Random, away: float) -> float:
    """Seconds after the loss at which one link stands again, Redis being away for so long. Dials cost nothing here."""
    at, failures = 0.0, 1
    while (at := at + ONE_OF_MANY.delay(failures, draw.random())) < away:
        failures += 1
    return at


def test_checks_over_https_are_spread_over_seconds() -> None:
    draw = random.Random(1)  # noqa: S311 - luck, not a secret
    checks = [checks_of_a_node(draw, 20.0) for _ in range(NODES)]
    assert most_in_a_tenth([each[0] for each in checks]) < 0.25  # the first ones share half a second
    assert most_in_a_tenth([at for each in checks for at in each[1:]]) < 0.20  # evenly would be an eighth
    assert most_in_a_tenth([at for each in checks for at in each if at > 10]) < 0.17


@pytest.mark.parametrize("away", [0.0, 0.2, 0.5, 1.0, 3.0, 10.0, 60.0, 600.0])
def test_returns_to_redis_are_spread_over_seconds(away: float) -> None:
    draw = random.Random(2)  # noqa: S311 - luck, not a secret
    after = sorted(return_of_a_node(draw, away) - away for _ in range(NODES))
    assert most_in_a_tenth(after) < 0.25
    assert after[-1] - after[0] > (0.75 if away < 1.0 else 1.0)  # the sooner it is back, the less there is to catch up
    assert after[-1] <= ONE_OF_MANY.limit


@given(luck=LUCK)
def test_a_link_that_broke_is_dialled_again_before_the_bound_runs_out(luck: float) -> None:
    """Whoever has only Redis, the feed over HTTPS being away, stays current through a passing fault."""
    assert MAX_SILENCE - ASK_EVERY - ONE_OF_MANY.delay(1, luck) > 0.8


@given(bears=LUCK, pauses=LUCK)
def test_whatever_is_drawn_leaves_time_for_a_slow_service(bears: float, pauses: float) -> None:
    first_answer_by = MAX_SILENCE - ASK_EVERY - patience(bears) - LOOK_EVERY
    assert first_answer_by > 0.8
    lost_and_asked_again = check_pause(pauses) + max(LOOK_EVERY, RETRY.delay(1, 0.999))
    assert MAX_SILENCE - lost_and_asked_again > 0.8


class TrioClock:
    """The test's own time."""

    def now(self) -> UnixTime:
        return UnixTime(int(trio.current_time()))

    def boot(self) -> BootTime:
        return BootTime(trio.current_time())


class Slow(MadeLedger):
    """A feed service that takes its time."""

    async def check(self, question: object) -> Answer:
        await trio.sleep(0.7)
        return await super().check(question)  # type: ignore[arg-type] - passed on


@pytest.mark.usefixtures("autojump_clock")
@pytest.mark.parametrize("luck", [0.0, 0.5, 0.999])
async def test_the_turn_to_https_and_back_never_lets_the_bound_run_out(tmp_path: Path, luck: float) -> None:
    """Redis answers, is silent for half a minute, answers again; the feed service takes 0.7 s for each check."""
    store, clock, nonces, ledger = filled(open_store(tmp_path)), TrioClock(), itertools.count(1), Slow()
    ledger.append(nothing(1))
    follower = Follower(
        store, node_id="n", instance="a" * 16, boot_id=BOOT, clock=clock, draw=lambda: f"{next(nonces):032x}"
    )
    follower.take_entries(ledger.entries_)
    answered_at = 0.0

    async def redis() -> None:
        nonlocal answered_at
        while True:
            if not 10 <= trio.current_time() - began < 40:
                asked = follower.ask()
                follower.take_answer(Answer(asked.instance, asked.nonce, INCARNATION, 1))
                answered_at = trio.current_time()
            await trio.sleep(ASK_EVERY)

    https = HttpsWay(
        ledger,
        follower,
        mac_keys=(MAC_KEY,),
        redis_silence=lambda: Seconds(trio.current_time() - answered_at),
        jitter=lambda: luck,
    )
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(redis)
        await trio.sleep(1.0)
        nursery.start_soon(https.run)
        left = []
        while trio.current_time() - began < 60:
            assert store.bound is not None
            left.append(store.bound.fresh_until - trio.current_time())
            await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    store.close()
    assert len(ledger.questions) > 25
    assert min(left) > 0, min(left)
