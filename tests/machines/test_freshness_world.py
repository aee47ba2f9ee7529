"""Seeded attacks on the freshness protocol as it is built: nothing wrong, while deliberate mistakes are found.

The parts are the real ones (`tests.support.freshness_world`); Redis is flushed, rolled back and split, ledgers are
restored with loss, feeders killed, messages held up for seconds, and up to two admin processes work at once.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs

from admin.ledger import barrier as barrier_module
from admin.ledger.barrier import How
from admin.ledger.instances import Member, Membership, View
from admin.ledger.presence import Presence
from admin.ledger.questions import Questions
from engine.clock import Seconds
from engine.feed.entries import Position
from engine.feed.questions import Answer
from engine.replica import feeder as feeder_module
from engine.replica.asking import Asked, Asking
from engine.replica.follower import Follower
from tests.support.freshness_world import Mistakes, play

SECONDS = 20.0
SEEDS = range(4)
TRIES = range(12)  # a mistake is found by the first few of these


@pytest.fixture(autouse=True)
def _silence() -> Iterator[None]:
    with capture_logs():
        yield


def test_the_parts_as_they_are_keep_their_promises(tmp_path: Path) -> None:
    how: list[How] = []
    requests = current = 0
    for seed in SEEDS:
        world = play(seed, tmp_path / f"{seed}", SECONDS)
        assert world.wrong == [], f"seed {seed}"
        how += world.how
        requests, current = requests + world.requests, current + world.current
    assert min(how.count(each) for each in How) >= 10
    assert current > requests / 4


class Trusting(Follower):
    """Trusts an answer from the moment it is heard, not from the moment it was asked for."""

    def take_answer(self, answer: Answer) -> bool:
        if answer.nonce in self._asking._outstanding:
            self._asking._outstanding[answer.nonce] = Asked(self._clock.boot(), self._clock.now())
        return super().take_answer(answer)


class Hasty(Asking):
    """Counts an answer before its entries are applied."""

    def earned(self, applied: int) -> Asked | None:
        return super().earned(max(applied, self.head))


class ReadFirst(Questions):
    """Reads the ledger before the questions, from a database under load."""

    async def tick(self) -> None:
        before = await self._register.view()
        await trio.sleep(0.1)
        questions, _ = await self._read_questions()
        view = await self._register.admit(questions)
        await self._register.strike_off(view)
        await self._answer(View(before.position, view.members), questions)


class Absent(Presence):
    """Takes who has not spoken for a second for gone."""

    def has_applied(self, member: Member, position: Position, head: int | None = None) -> bool:
        heard = self._heard.get(member.name)
        gone = heard is None or trio.current_time() - heard.at > 1.0
        return gone or super().has_applied(member, position, head)


class Forgetful(Presence):
    """Forgets at once who fell silent for a moment, without waiting until its last answer is worth nothing."""

    def silent(self, members: object, now: float) -> list[Member]:
        known = list(members)  # type: ignore[call-overload] - the table's members
        super().silent(known, now)
        return [m for m in known if m.state is Membership.IN and now - self._heard[m.name].at > 0.3]

    def expired(self, members: object, _now: float) -> list[Member]:
        return [m for m in members if m.state is Membership.LEAVING]  # type: ignore[attr-defined] - as above


def _short_wait(patch: pytest.MonkeyPatch) -> Mistakes:
    patch.setattr(barrier_module, "WAIT_OUT", Seconds(1.0))
    return Mistakes()


def _trusting(patch: pytest.MonkeyPatch) -> Mistakes:
    patch.setattr(feeder_module, "Follower", Trusting)
    return Mistakes()


def _hasty(patch: pytest.MonkeyPatch) -> Mistakes:
    patch.setattr("engine.replica.follower.Asking", Hasty)
    return Mistakes()


MISTAKES: dict[str, Callable[[pytest.MonkeyPatch], Mistakes]] = {
    "an answer trusted from when it was heard": _trusting,
    "an answer counted before its entries are applied": _hasty,
    "the ledger read before the questions": lambda _: Mistakes(questions=ReadFirst),
    "the silent taken for gone": lambda _: Mistakes(presence=Absent),
    "the struck off forgotten at once": lambda _: Mistakes(presence=Forgetful),
    "a wait-out that is too short": _short_wait,
    "positions reused after a restore": lambda _: Mistakes(reused_positions=True),
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_found(
    mistake: Callable[[pytest.MonkeyPatch], Mistakes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mistakes = mistake(monkeypatch)
    found = (play(seed, tmp_path / f"{seed}", SECONDS, mistakes).wrong for seed in TRIES)
    assert any(found)
