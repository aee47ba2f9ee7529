"""Who hears of an attempt, by what became of it: the column of the transmitter's table that is about people."""
# ruff: noqa: ARG001 - a test asks for the virtual clock and need not read it

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from engine.clock import Seconds
from engine.consent.records import ClientId
from engine.pusher.alarms import Alarms
from engine.pusher.schedule import Attempt, Reply, Trouble, judge
from engine.pusher.service import Lane
from tests.support.deliveries import AT, delivery

EDP = ClientId("edp-1")
Told = Callable[[Reply | Trouble, Lane], list[dict[str, Any]]]


@pytest.fixture
def told(log: io.BytesIO) -> Told:
    """What is written of one attempt at one delivery, by the same alarms each time."""
    alarms = Alarms()

    def attempt(result: Reply | Trouble, lane: Lane = Lane.ENDS) -> list[dict[str, Any]]:
        before = len(log.getvalue())
        judged = judge(Attempt(lane, 1, result, AT, 0.5))
        alarms.attempted(delivery(7, to=EDP, lane=lane), result, judged, now=AT + 1.0, detail="what it was")
        return [json.loads(line) for line in log.getvalue()[before:].splitlines()]

    return attempt


async def test_what_was_taken_or_is_tried_again_is_told_to_nobody(told: Told) -> None:
    assert told(Reply(202), Lane.ENDS) == []
    assert told(Reply(503), Lane.ENDS) == []


async def test_another_success_is_told_once_for_each_receiver(told: Told) -> None:
    (line,) = told(Reply(200), Lane.ENDS)
    assert (line["event"], line["level"], line["client"], line["status"]) == (
        "push_answered_oddly",
        "warning",
        EDP,
        200,
    )
    assert told(Reply(204), Lane.ORDINARY) == []


@pytest.mark.parametrize(
    "reply",
    [Reply(307), Reply(403), Reply(400), Reply(400, "invalid_request"), Reply(400, "invalid_issuer")],
    ids=str,
)
async def test_what_is_parked_is_an_error_to_look_at(told: Told, reply: Reply) -> None:
    (line,) = told(reply, Lane.ENDS)
    assert (line["event"], line["level"]) == ("push_parked", "error")
    assert (line["client"], line["number"], line["lane"]) == (EDP, 7, "ends")
    assert line["error"] == (reply.err or f"http_{reply.status}")


async def test_gone_alerts_a_human_where_an_end_could_not_be_told(told: Told) -> None:
    (line,) = told(Reply(410), Lane.ENDS)
    assert (line["event"], line["level"]) == ("push_gone", "critical")
    (line,) = told(Reply(410), Lane.ORDINARY)
    assert (line["event"], line["level"]) == ("push_parked", "error")


async def test_a_stream_whose_state_differs_is_parked_and_told(told: Told) -> None:
    (line,) = told(Reply(400, "invalid_state"), Lane.ORDINARY)
    assert (line["event"], line["error"]) == ("push_parked", "invalid_state")


@pytest.mark.parametrize(
    ("result", "kind"),
    [
        (Reply(400, "invalid_audience"), "push_wrong_audience"),
        (Trouble.ADDRESS, "push_address_refused"),
        (Trouble.CERTIFICATE, "push_certificate_unregistered"),
    ],
)
async def test_what_somebody_may_be_trying_is_a_security_event(told: Told, result: Reply | Trouble, kind: str) -> None:
    lines = told(result, Lane.ENDS)
    (line,) = [line for line in lines if line["event"] == "security_event"]
    assert (line["kind"], line["caller"], line["level"]) == (kind, EDP, "warning")


async def test_a_receiver_that_cannot_be_reached_is_told_and_a_flood_of_it_is_counted(
    told: Told, autojump_clock: MockClock
) -> None:
    (line,) = told(Trouble.TIMEOUT, Lane.ENDS)
    assert (line["event"], line["trouble"], line["detail"]) == ("push_unreached", "timeout", "what it was")
    written = sum(len(told(Trouble.TIMEOUT, Lane.ENDS)) for _ in range(1_000))
    assert written < 1_000
    await trio.sleep(Seconds(1.0))
    (line,) = told(Trouble.TIMEOUT, Lane.ENDS)
    assert line["left_out"] == 1_000 - written
