"""Figures of made-up questions."""

from tests.chaos.plan import Fault, What
from tests.chaos.tally import (
    AFTERWARDS,
    Asked,
    Outcome,
    availability,
    by_second,
    effects,
    kind_of,
    quiet,
    seconds_without,
)

ASKED = [
    Asked(0.5, handles_last_known=True, node="node-1", first=Outcome.CURRENT),
    Asked(1.5, handles_last_known=True, node="node-1", first=Outcome.SILENT, second=Outcome.INACTIVE),
    Asked(1.6, handles_last_known=True, node="node-1", first=Outcome.LAST_KNOWN),
    Asked(9.0, handles_last_known=False, node="node-2", first=Outcome.UNAVAILABLE, second=Outcome.UNREACHABLE),
]
FREEZE = Fault(1, 1.0, 2.0, What.FREEZE, "node-12/worker", 0.5)


def test_a_question_is_answered_at_once_or_with_one_retry_or_not() -> None:
    found = availability(ASKED)
    assert (found.questions, found.raw, found.retried) == (4, 0.5, 0.75)
    assert availability([]).raw == 1.0


def test_each_second_has_its_outcomes() -> None:
    lines = by_second(ASKED, 5)
    assert lines[Outcome.CURRENT] == [1, 0, 0, 0, 0]
    assert lines[Outcome.SILENT] == [0, 1, 0, 0, 0]
    assert lines[Outcome.UNAVAILABLE] == [0, 0, 0, 0, 1]  # what comes late counts for the last one


def test_a_fault_is_held_to_what_was_asked_meanwhile_and_shortly_after() -> None:
    (effect,) = effects(ASKED, [FREEZE])
    assert (effect.fault, effect.times, effect.availability.questions) == ("freeze worker", 1, 2)
    assert (effect.availability.raw, effect.availability.retried, effect.last_known) == (0.5, 1.0, 1.0)
    assert quiet(ASKED, [FREEZE]) == [ASKED[0], ASKED[3]]
    assert FREEZE.until + AFTERWARDS < 9.0


def test_kinds_of_faults_do_not_tell_nodes_apart() -> None:
    assert kind_of(Fault(1, 0, 1, What.DELAY, "node-2 > redis", 0)) == "delay node > redis"
    assert kind_of(Fault(1, 0, 1, What.REFUSE, "edps > node-3", 0)) == "refuse edps > node"
    assert kind_of(Fault(1, 0, 1, What.KILL, "admin", 0)) == "kill -9 admin"


def test_a_second_without_any_answer_is_one_of_an_outage() -> None:
    late = Asked(9.5, handles_last_known=True, node="node-1", first=Outcome.SILENT, second=Outcome.INACTIVE)
    assert seconds_without(ASKED) == 1
    assert seconds_without([*ASKED, late]) == 0
