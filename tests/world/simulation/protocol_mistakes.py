"""The seven mistakes that the model of the bare protocol finds, in the real code."""

from typing import Any

import trio

from admin.ledger.barrier import _Wait
from admin.ledger.instances import Member, Membership, View
from admin.ledger.presence import Presence
from admin.ledger.questions import Questions
from engine.feed.entries import Position
from engine.feed.questions import Answer, Question
from engine.replica import reader
from engine.replica.asking import Asked
from engine.replica.follower import Follower
from tests.world.simulation.ledger import Store
from tests.world.simulation.mistake import Mistake, replaced, together
from tests.world.simulation.nodes import Machine

_take_answer, _has_applied = Follower.take_answer, Presence.has_applied


def _heard(self: Follower, answer: Answer) -> bool:
    if answer.nonce in self._asking._outstanding:
        self._asking._outstanding[answer.nonce] = Asked(self._clock.boot(), self._clock.now())
    return _take_answer(self, answer)


async def _read_first(self: Questions) -> None:
    before = await self._register.view()
    await trio.sleep(0.1)
    questions, lost = await self._read_questions()
    view = await self._register.admit(questions)
    await self._register.strike_off(view)
    if lost is not None:
        raise lost
    await self._answer(View(before.position, view.members), questions)


def _absent(self: Presence, member: Member, position: Position, head: int | None = None) -> bool:
    heard = self._heard.get(member.name)
    return heard is None or trio.current_time() - heard.at > 1.0 or _has_applied(self, member, position, head)


def _admits(self: View, question: Question) -> bool:
    member = self.members.get(question.instance)
    return member is not None and member.node_id == question.node_id


_missing = _Wait._missing


def _missing_of_those_in(self: _Wait, head: int) -> list[Member]:
    return [member for member in _missing(self, head) if member.state is Membership.IN]


_enter = reader.View.__enter__


def _two_transactions(self: reader.View) -> reader.View:
    view = _enter(self)
    opened, replica = view._opened, view._replica
    if opened is not None and replica is not None:
        replica._point()  # type: ignore[attr-defined] # of the simulation's reader
        later = opened.begin(opened.meta)
        opened.look(later)
        later.abort()
        view.moment, view.bound = opened.moment, opened.moment.bound
    return view


_restore = Store.restore


def _reuse(self: Store, image: Any, *, wall: float) -> None:
    _restore(self, image, wall=wall, new_incarnation=False)


def _sibling(self: Machine) -> str:
    return f"{int(self.node_id[-1]):016x}"


MODEL = (
    Mistake(
        "heard",
        "an answer counts from when it was heard (`Follower.take_answer`)",
        replaced(Follower, "take_answer", _heard),
    ),
    Mistake(
        "readfirst",
        "the ledger is read before the questions (`Questions.tick`)",
        replaced(Questions, "tick", _read_first),
    ),
    Mistake(
        "absent",
        "who was silent for a second counts as gone (`Presence.has_applied`)",
        replaced(Presence, "has_applied", _absent),
    ),
    Mistake(
        "strike",
        "who is struck off still gets answers, and no write waits for it (`View.admits`, `_Wait._missing`)",
        together(replaced(View, "admits", _admits), replaced(_Wait, "_missing", _missing_of_those_in)),
    ),
    Mistake(
        "worker",
        "the bound is read in a transaction after that of the records (`View.__enter__`)",
        replaced(reader.View, "__enter__", _two_transactions),
    ),
    Mistake(
        "restore",
        "a restored ledger goes on under its old incarnation (the restore)",
        replaced(Store, "restore", _reuse),
    ),
    Mistake(
        "sibling",
        "two copies of a node share one instance id (the draw at a feeder's start)",
        replaced(Machine, "draw_instance", _sibling),
    ),
)
