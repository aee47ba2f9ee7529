"""Shares that no retry is left for, in simulated time: what they wait for, how long, and how many calls that makes."""

import json
from collections.abc import Awaitable, Sequence
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from engine.clock import UnixTime
from engine.guard import joining
from engine.guard.calls import Call, Reply
from engine.guard.evidence_words import Failure
from engine.guard.questions import EVALUATIONS
from engine.guard.retry import WORST_CASE
from engine.guard.shares import Reason, Share, Verdict
from engine.telemetry.guard_calls import WAITING
from tests.engine.guard.test_batches import YES, decides, jwt_like
from tests.support.guard_stand import A, B, Behaviour, Stand, answers, black_hole, fails, says, slowly
from tests.support.guard_words import NOW, share

MANY = 40  # shares at once: three runs and one retry are in the budget


class Asked:
    """Shares asked at once: their verdicts, and when each came."""

    def __init__(self, stand: Stand, shares: Sequence[Share]) -> None:
        self.verdicts: dict[int, Verdict] = {}
        self.ends: list[float] = []
        self.scopes = [trio.CancelScope() for _ in shares]
        self._stand = stand
        self._shares = shares

    async def run(self) -> None:
        stand = self._stand
        async with trio.open_nursery() as nursery:
            for place in range(len(self._shares)):
                nursery.start_soon(self._one, stand, place)

    async def _one(self, stand: Stand, place: int) -> None:
        with self.scopes[place]:
            self.verdicts[place] = await stand.guard.check(self._shares[place])
            self.ends.append(round(trio.current_time(), 6))

    @property
    def reasons(self) -> set[Reason]:
        return {verdict.reason for verdict in self.verdicts.values()}


def many(count: int = MANY, **changes: Any) -> list[Share]:
    return [share(token=f"t-{number}", **changes) for number in range(count)]


async def known(stand: Stand, shares: Sequence[Share]) -> None:
    """Each was introspected as active; then ten seconds, after which the budget knows nothing of that."""
    for each in shares:
        assert (await stand.guard.check(each)).allowed
    await trio.sleep(11)
    stand.nodes.calls.clear()


def until(at: float, before: Behaviour, after: Behaviour) -> Behaviour:
    def behave(call: Call) -> Reply | Awaitable[Reply]:
        return before(call) if trio.current_time() < at else after(call)

    return behave


@pytest.mark.parametrize(
    ("behaviour", "draw", "end"),
    [(fails(Failure.CONNECT), 0.5, 0.7), (says(b"", 503), 0.5, 0.7), (black_hole, 0.5, 8.7), (black_hole, 1.0, 9.4)],
)
async def test_all_fall_back_when_one_run_finds_the_outage(
    behaviour: Behaviour, draw: float, end: float, autojump_clock: MockClock
) -> None:
    stand = Stand(autojump_clock)
    async with stand.guard:
        shares = many()
        await known(stand, shares)
        stand.nodes.all(behaviour)
        stand.draw = draw - 1e-12
        asked, began = Asked(stand, shares), trio.current_time()
        await asked.run()
        assert len(asked.verdicts) == MANY
        assert asked.reasons == {Reason.LAST_KNOWN}
        assert asked.ends[-1] - began == pytest.approx(end)
        assert MANY + 3 < len(stand.nodes.calls) <= MANY + 9
        assert len(stand.evidence.outages) == 1
        assert len(stand.evidence.outages[0].attempts) == 4, "the run that found out, whole"
        assert len(stand.evidence.shares) == MANY
        made = len(stand.nodes.calls)
        await trio.sleep(59)
        assert len(stand.nodes.calls) == made, "60 s without a call"
    assert WAITING._value.get() == 0


async def test_hedges_make_no_run_longer_so_that_nobody_leaves_before_its_end(autojump_clock: MockClock) -> None:
    """A hedge begins late, and ends with the attempt that it stands beside."""
    stand = Stand(autojump_clock, A, B)
    async with stand.guard:
        shares = many(5)  # half of the budget is for their hedges, and the rest for one run
        await known(stand, shares)
        stand.nodes.all(black_hole)
        stand.draw = 1 - 1e-12
        asked, began = Asked(stand, shares), trio.current_time()
        await asked.run()
        calls = stand.guard.status().calls
        assert calls is not None
        assert calls.hedges == 5
        assert asked.reasons == {Reason.LAST_KNOWN}
        assert asked.ends[-1] - began == pytest.approx(9.4)


@pytest.mark.parametrize("ends_after", [0.05, 0.15, 0.35])
async def test_an_outage_that_ends_within_the_schedule_is_none_for_those_who_wait(
    ends_after: float, autojump_clock: MockClock
) -> None:
    """Before the second, third and fourth attempt: then one batch brings the answers of all that wait."""
    stand = Stand(autojump_clock)
    async with stand.guard:
        shares = many()
        await known(stand, shares)
        began = trio.current_time()
        stand.nodes.all(until(began + ends_after, fails(Failure.CONNECT), decides(YES)))
        asked = Asked(stand, shares)
        await asked.run()
        assert asked.reasons == {Reason.CONSENTED}
        assert len(asked.verdicts) == MANY
        batches = [call for _, _, call in stand.nodes.calls if call.path == EVALUATIONS]
        assert len(batches) == 1
        assert len(json.loads(batches[0].body)["evaluations"]) == MANY - 3
        assert len(stand.nodes.calls) <= MANY + 10
        assert stand.guard.status().circuit == "closed"
        assert stand.evidence.entries == []


async def test_many_more_than_a_batch_takes_are_asked_again_in_some(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock)
    async with stand.guard:
        began = trio.current_time()
        stand.nodes.all(until(began + 0.05, fails(Failure.CONNECT), decides(YES)))
        asked = Asked(stand, [share(token=jwt_like(number)) for number in range(1_300)])
        await asked.run()
        assert asked.reasons == {Reason.CONSENTED}
        sizes = [
            len(json.loads(call.body)["evaluations"]) for _, _, call in stand.nodes.calls if call.path == EVALUATIONS
        ]
        assert sum(sizes) == 1_300 - 43  # 43 runs were in the budget of 130
        assert len(sizes) == 3
        assert len(stand.nodes.calls) == 1_300 + 43 + 3


async def test_nobody_is_asked_again_beyond_the_budget(autojump_clock: MockClock) -> None:
    """The last attempts of three runs are answered, so that nothing is given back, and a hedge had the tenth call."""
    stand = Stand(autojump_clock)
    async with stand.guard:
        shares = many()
        await known(stand, shares)
        began = trio.current_time()
        stand.nodes.all(until(began + 0.5, fails(Failure.CONNECT), decides(YES)))
        client = stand.guard._client
        assert client is not None
        assert client.take_retry()
        asked = Asked(stand, shares)
        await asked.run()
        reasons = [verdict.reason for verdict in asked.verdicts.values()]
        assert (reasons.count(Reason.CONSENTED), reasons.count(Reason.UNANSWERED)) == (3, MANY - 3)
        assert len(stand.nodes.calls) == MANY + 9
        assert asked.ends[-1] - began == pytest.approx(9.4)


async def test_a_run_goes_on_for_those_who_wait_when_its_own_share_is_given_up(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock)
    async with stand.guard, trio.open_nursery() as nursery:
        shares = many()
        await known(stand, shares)
        stand.nodes.all(fails(Failure.CONNECT))
        asked, began = Asked(stand, shares), trio.current_time()
        nursery.start_soon(asked.run)
        await trio.sleep(0.05)
        calls = len(stand.nodes.calls)
        assert calls == MANY
        leaders = [at for at in range(MANY) if not is_waiting(stand, shares[at])]
        assert len(leaders) == 3
        for at in leaders:
            asked.scopes[at].cancel()
        await trio.sleep(1)
        assert len(asked.verdicts) == MANY - 3
        assert asked.reasons == {Reason.LAST_KNOWN}
        assert asked.ends[-1] - began == pytest.approx(0.7)
        assert len(stand.nodes.calls) <= MANY + 9


def is_waiting(stand: Stand, one: Share) -> bool:
    waiting = stand.guard._joining._waiting.values()
    return any(each.asked[0][0] == one for each in waiting)


async def test_a_run_that_nobody_waits_for_ends_with_its_share(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock)
    async with stand.guard:
        await known(stand, [share()])
        stand.nodes.all(fails(Failure.CONNECT))
        with trio.move_on_after(0.05):
            await stand.guard.check(share())
        await trio.sleep(5)
        assert len(stand.nodes.calls) == 1


@pytest.mark.parametrize("other", [fails(Failure.TLS), says(b"{}"), says(b"", 401)])
async def test_no_fallback_where_an_address_says_anything_else(other: Behaviour, autojump_clock: MockClock) -> None:
    """A TLS alert, no answer, a refusal: whoever waits is denied in the end, though nobody had to wait for longer."""
    stand = Stand(autojump_clock, A, B)
    async with stand.guard:
        shares = many()
        await known(stand, shares)
        stand.nodes.behaviours = {A: fails(Failure.CONNECT), B: other}
        asked, began = Asked(stand, shares), trio.current_time()
        await asked.run()
        assert not any(verdict.allowed for verdict in asked.verdicts.values())
        assert asked.reasons <= {Reason.NO_ANSWER, Reason.UNANSWERED, Reason.REFUSED_CALLER}
        assert asked.ends[-1] - began <= WORST_CASE + 1e-6
        assert len(stand.nodes.calls) <= MANY + 10
        assert stand.guard.status().circuit == "closed"


async def test_a_share_whose_own_attempt_met_a_tls_alert_does_not_fall_back_with_others(
    autojump_clock: MockClock,
) -> None:
    stand = Stand(autojump_clock)
    async with stand.guard:
        shares = many()
        await known(stand, shares)
        refused = fails(Failure.CONNECT)
        alert = fails(Failure.TLS)
        began = trio.current_time()
        last = shares[-1].token.encode()
        stand.nodes.all(lambda call: (alert if last in call.body and trio.current_time() == began else refused)(call))
        asked = Asked(stand, shares)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(asked.run)
        assert stand.guard.status().circuit == "buffering"
        assert asked.verdicts.pop(MANY - 1).reason is Reason.NO_ANSWER
        assert asked.reasons == {Reason.LAST_KNOWN}


async def test_whoever_gets_no_answer_by_its_deadline_is_unanswered(autojump_clock: MockClock) -> None:
    """The node answers 429 to the runs: no outage, and no answer."""
    stand = Stand(autojump_clock)
    async with stand.guard:
        shares = many()
        await known(stand, shares)
        began = trio.current_time()
        stand.nodes.all(until(began + 0.01, fails(Failure.CONNECT), says(b"", 429, retry_after=b"30")))
        asked = Asked(stand, shares)
        with trio.move_on_after(20):
            await asked.run()
        assert len(asked.verdicts) == MANY - 3
        assert asked.reasons == {Reason.UNANSWERED}
        assert asked.ends[-1] - began == pytest.approx(9.4)
        assert len(stand.nodes.calls) <= MANY + 9


async def test_a_no_in_a_batch_is_a_no_and_what_it_cannot_settle_is_asked_singly(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock)
    async with stand.guard:
        shares = many(8)
        await known(stand, shares)
        began = trio.current_time()
        contexts: tuple[Any, ...] = ({"code": "token_not_active"}, {"error": {"status": 503}}, YES)
        stand.nodes.all(until(began + 0.05, fails(Failure.CONNECT), decides(*contexts)))
        asked = Asked(stand, shares)
        await asked.run()
        found = sorted(verdict.reason for verdict in asked.verdicts.values())
        assert found == sorted([Reason.NOT_ACTIVE] + [Reason.CONSENTED] * 7)
        assert len(stand.memory.refused) == 1
        singles = [call for _, _, call in stand.nodes.calls if call.path != EVALUATIONS]
        assert len(singles) == 8 + 3 + 1  # first attempts, what the runs asked again, and the one


def refusing_batches(status: int) -> Behaviour:
    refuses, single = says(b"", status), answers()
    return lambda call: refuses(call) if call.path == EVALUATIONS else single(call)


@pytest.mark.parametrize("status", [404, 405, 406, 501])
async def test_a_refused_batch_is_an_answer_and_all_that_wait_are_asked_singly(
    status: int, autojump_clock: MockClock
) -> None:
    """The refusal counts for no attempt at any of them: they are asked at once, and once."""
    stand = Stand(autojump_clock)
    async with stand.guard:
        shares = many(6)
        await known(stand, shares)
        began = trio.current_time()
        stand.nodes.all(until(began + 0.05, fails(Failure.CONNECT), refusing_batches(status)))
        asked = Asked(stand, shares)
        await asked.run()
        assert asked.reasons == {Reason.CONSENTED}
        assert asked.ends[-1] - began < 0.5
        batches = [call for _, _, call in stand.nodes.calls if call.path == EVALUATIONS]
        assert (len(batches), len(stand.nodes.calls)) == (1, 6 + 3 + 1 + 3)
        assert (stand.guard.status().circuit, stand.evidence.entries) == ("closed", [])


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_caller_is_told_so_also_while_it_waits(status: int, autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock)
    async with stand.guard:
        shares = many()
        await known(stand, shares)
        began = trio.current_time()
        stand.nodes.all(until(began + 0.01, fails(Failure.CONNECT), refusing(status)))
        asked = Asked(stand, shares)
        await asked.run()
        assert asked.reasons == {Reason.REFUSED_CALLER, Reason.CONSENTED}
        assert asked.ends[-1] - began < 1.0


def refusing(status: int) -> Behaviour:
    """The first who are asked again are answered, which lets the others be asked; those are refused."""
    left, yes, no = iter(range(3)), answers(), says(b"", status)
    return lambda call: no(call) if next(left, None) is None else yes(call)


async def test_a_service_that_says_slow_down_to_those_who_wait_is_heeded(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock)
    async with stand.guard:
        shares = many()
        await known(stand, shares)
        began = trio.current_time()
        slow, yes = says(b"", 429, retry_after=b"30"), answers()
        behave: Behaviour = lambda call: slow(call) if call.path == EVALUATIONS else yes(call)  # noqa: E731 - one line
        stand.nodes.all(until(began + 0.05, fails(Failure.CONNECT), behave))
        asked = Asked(stand, shares)
        await asked.run()
        slowed = [verdict for verdict in asked.verdicts.values() if verdict.reason is Reason.SLOW_DOWN]
        assert len(slowed) == MANY - 3
        assert {verdict.retry_after for verdict in slowed} == {30.0}
        assert asked.ends[-1] - began < 1.0


async def test_a_check_of_many_waits_as_one_does(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock)
    async with stand.guard:
        shares = many(30)
        await stand.guard.check_many(shares)
        await trio.sleep(11)
        stand.nodes.all(fails(Failure.CONNECT))
        stand.nodes.calls.clear()
        found: list[Verdict] = []

        async def check(some: Sequence[Share]) -> None:
            found.extend(await stand.guard.check_many(some))

        async with trio.open_nursery() as nursery:
            for at in range(0, 30, 5):
                nursery.start_soon(check, shares[at : at + 5])
        assert [verdict.reason for verdict in found] == [Reason.LAST_KNOWN] * 30
        assert len(stand.nodes.calls) <= 6 + 9


async def test_no_more_wait_than_there_is_room_for(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "MOST", 10)
    stand = Stand(autojump_clock)
    async with stand.guard:
        shares = many()
        await known(stand, shares)
        stand.nodes.all(fails(Failure.CONNECT))
        asked, began = Asked(stand, shares), trio.current_time()
        await asked.run()
        reasons = [verdict.reason for verdict in asked.verdicts.values()]
        assert reasons.count(Reason.LAST_KNOWN) == 3 + 10
        assert reasons.count(Reason.UNANSWERED) == MANY - 13
        assert asked.ends.count(round(began, 6)) == MANY - 13


async def test_an_attempt_that_fails_after_the_circuit_has_opened_falls_back_at_once(autojump_clock: MockClock) -> None:
    """Its question began before: it makes no more calls, because nobody is called for 60 seconds."""
    stand = Stand(autojump_clock)
    async with stand.guard, trio.open_nursery() as nursery:
        await known(stand, [share()])
        began = trio.current_time()
        stand.nodes.all(until(began + 0.1, slowly(1.0, fails(Failure.CONNECT)), fails(Failure.CONNECT)))
        slow = Asked(stand, [share()])
        nursery.start_soon(slow.run)
        await trio.sleep(0.1)
        assert (await stand.guard.check(share())).reason is Reason.LAST_KNOWN
        assert stand.guard.status().circuit == "buffering"
        made = len(stand.nodes.calls)
        await trio.sleep(2)
        assert slow.reasons == {Reason.LAST_KNOWN}
        assert slow.ends == pytest.approx([began + 1.0])
        assert len(stand.nodes.calls) == made


async def test_shares_that_are_given_up_wait_no_more(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock)
    async with stand.guard, trio.open_nursery() as nursery:
        shares = many()
        await known(stand, shares)
        stand.nodes.all(fails(Failure.CONNECT))
        asked = Asked(stand, shares)
        nursery.start_soon(asked.run)
        await trio.sleep(0.05)
        assert WAITING._value.get() == MANY - 3
        for scope in asked.scopes:
            scope.cancel()
        await trio.sleep(0.01)
        assert WAITING._value.get() == 0
        stand.nodes.all(answers())
        assert (await stand.guard.check(share(data_to=UnixTime(NOW - 1)))).allowed
