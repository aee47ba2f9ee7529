"""What balancers and people are told, in every state a node can be in."""

import json

import msgspec
import pytest

from engine.clock import UnixTime
from engine.decision.freshness import FreshnessState
from engine.telemetry.health import STATES, ChildStatus, NodeStatus, healthz, readyz, readyz_current, statusz

WORKER = ChildStatus("worker-1", "running", 10, 0, 0, 1000)
FEEDER = ChildStatus("feeder", "running", 11, 0, 0, 1000)
STATUS = NodeStatus(
    node_id="node-a",
    draining=False,
    state=FreshnessState.CURRENT,
    incarnation="0123456789abcdef",
    applied=7,
    as_of=UnixTime(1_790_000_000),
    last_known_until=UnixTime(1_790_086_400),
    children=(WORKER, FEEDER),
    ports={"introspection": 8440, "status": 8441},
    head=9,
)


def but(**changes: object) -> NodeStatus:
    return msgspec.structs.replace(STATUS, **changes)


DEAD = (msgspec.structs.replace(WORKER, life="waiting"), FEEDER)


@pytest.mark.parametrize(
    ("status", "ready", "current"),
    [
        (STATUS, 200, 200),
        (but(state=FreshnessState.LAST_KNOWN), 200, 503),
        (but(state=FreshnessState.BLIND), 503, 503),
        (but(draining=True), 503, 503),
        (but(children=DEAD), 503, 503),
        (but(children=()), 503, 503),
        (but(children=(WORKER,)), 200, 200),
    ],
)
def test_ready_and_current(status: NodeStatus, ready: int, current: int) -> None:
    assert readyz(status)[0] == ready
    assert readyz_current(status)[0] == current
    assert healthz(status)[0] == 200


def test_ready_says_the_state() -> None:
    assert json.loads(readyz(but(state=FreshnessState.LAST_KNOWN))[1]) == {"state": "last_known", "draining": False}


def test_a_node_of_a_recovering_ledger_is_ready_and_says_so() -> None:
    recovering = but(state=FreshnessState.LAST_KNOWN, recovering_since=UnixTime(1_790_000_000))
    told = {"state": "last_known", "draining": False, "recovering": True}
    assert (readyz(recovering)[0], json.loads(readyz(recovering)[1])) == (200, told)
    assert (readyz_current(recovering)[0], json.loads(readyz_current(recovering)[1])) == (503, told)
    assert json.loads(statusz(recovering)[1])["recovering_since"] == "2026-09-21T14:13:20Z"
    assert json.loads(statusz(STATUS)[1])["recovering_since"] is None


def test_status_says_everything_for_people() -> None:
    page = json.loads(statusz(STATUS)[1])
    assert page["as_of"] == "2026-09-21T14:13:20Z"
    assert (page["state"], page["applied"], page["head"], page["ready"]) == ("current", 7, 9, True)
    assert page["children"][0] == msgspec.to_builtins(WORKER)


def test_node_that_never_was_current_has_no_time() -> None:
    page = json.loads(statusz(but(as_of=UnixTime(0), state=FreshnessState.BLIND))[1])
    assert (page["as_of"], page["last_known_until"], page["ready"]) == (None, None, False)


def test_states_are_those_of_the_freshness_machine() -> None:
    assert set(STATES) == {state.value for state in FreshnessState}
