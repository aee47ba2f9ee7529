"""A guard that is closed while shares are still being checked, as by a program that ends: on trio and on asyncio."""

import itertools
from collections.abc import Awaitable, Sequence

import anyio
import pytest

from engine.guard.calls import Call, CallFailed, Reply
from engine.guard.evidence_words import Failure
from engine.guard.retry import WORST_CASE
from engine.guard.shares import Reason, Share, Verdict
from tests.support.guard_stand import A, B, Behaviour, Stand, answers, fails
from tests.support.guard_words import share

BACKENDS = pytest.mark.parametrize("backend", ["trio", "asyncio"])
MANY = 40  # more than the budget of retries is for, so that some wait for others


class Clock:
    """The event loop's own."""

    def current_time(self) -> float:
        return anyio.current_time()


class Held:
    """So many calls fail at once; the others do when `closed` is set as `then` says."""

    def __init__(self, failing: int, then: Behaviour) -> None:
        self.closed = anyio.Event()
        self.held = 0
        self._failing = itertools.chain(range(failing))
        self._then = then

    def __call__(self, call: Call) -> Awaitable[Reply]:
        async def wait() -> Reply:
            if next(self._failing, None) is not None:
                raise CallFailed(Failure.CONNECT)
            self.held += 1
            await self.closed.wait()
            reply = self._then(call)
            assert isinstance(reply, Reply)
            return reply

        return wait()


def checked_across_the_end(
    backend: str, count: int, then: Behaviour, *, failing: int = 0, many: bool = False
) -> list[Verdict]:
    """Shares that are known and asked about again, while their guard is closed; and one that is asked about after."""
    found: list[Verdict] = []

    async def whole() -> None:
        stand = Stand(Clock(), A, B)
        shares = [share(token=f"t-{number}") for number in range(count)]

        async def ask(asked: Sequence[Share]) -> None:
            found.extend(await stand.guard.check_many(asked) if many else [await stand.guard.check(asked[0])])

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                async with stand.guard:
                    for each in shares:
                        assert (await stand.guard.check(each)).allowed
                    stand.nodes.all(held := Held(failing, then))
                    for each in shares:
                        tasks.start_soon(ask, [each, each])
                    while held.held < (1 if failing else count):  # noqa: ASYNC110 - it rings no bell
                        await anyio.sleep(0.01)
                closed_at, calls = anyio.current_time(), len(stand.nodes.calls)
                held.closed.set()
                tasks.start_soon(ask, shares[:1])
        assert anyio.current_time() - closed_at < WORST_CASE / 2, "nobody waits for what is not found out any more"
        assert len(stand.nodes.calls) == calls, "nobody is asked any more"
        assert stand.evidence.entries == []

    anyio.run(whole, backend=backend)
    return found


@BACKENDS
@pytest.mark.parametrize(
    ("count", "then", "failing"),
    [
        pytest.param(1, answers(), 0, id="a yes comes"),
        pytest.param(1, fails(Failure.CONNECT), 0, id="no answer comes"),
        pytest.param(MANY, fails(Failure.CONNECT), 0, id="no answer to many"),
        pytest.param(MANY, fails(Failure.CONNECT), MANY, id="some wait for the retries of others"),
    ],
)
def test_a_share_under_way_when_the_guard_is_closed_is_told_no(
    backend: str, count: int, then: Behaviour, failing: int
) -> None:
    """Memory and evidence are closed next: what was heard could not be looked at, nor written down what is shared."""
    verdicts = checked_across_the_end(backend, count, then, failing=failing)
    assert [(verdict.allowed, verdict.reason) for verdict in verdicts] == [(False, Reason.UNANSWERED)] * (count + 1)


@BACKENDS
def test_a_batch_under_way_when_the_guard_is_closed_is_told_no(backend: str) -> None:
    verdicts = checked_across_the_end(backend, 2, fails(Failure.CONNECT), many=True)
    assert [(verdict.allowed, verdict.reason) for verdict in verdicts] == [(False, Reason.UNANSWERED)] * 5
