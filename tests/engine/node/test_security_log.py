"""Security events are counted always and written up to a bound."""

import io
import json
from collections.abc import Iterator

import pytest
import structlog

from engine.consent.records import ClientId
from engine.listener.security import SecurityEvent, SecurityEventKind
from engine.node.security_log import SecurityLog
from engine.telemetry import logs
from engine.telemetry.floods import LINES_A_SECOND

EVENT = SecurityEvent(SecurityEventKind.FORGED_TOKEN, ClientId("edp-a"), "0011223344556677", "bad_signature")


@pytest.fixture
def stream() -> Iterator[io.BytesIO]:
    stream = io.BytesIO()
    logs.configure("info", stream=stream)
    yield stream
    structlog.reset_defaults()


def test_event_is_written_with_its_digest(stream: io.BytesIO) -> None:
    SecurityLog(lambda: 1.0).record(EVENT)
    line = json.loads(stream.getvalue())
    assert (line["event"], line["kind"], line["caller"]) == ("security_event", "forged_token", "edp-a")
    assert line["digest"] == "0011223344556677"


def test_flood_is_counted_and_not_written(stream: io.BytesIO) -> None:
    now = [1.0]
    log = SecurityLog(lambda: now[0])
    for _ in range(LINES_A_SECOND + 30):
        log.record(EVENT)
    now[0] = 2.0
    log.record(EVENT)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert len(lines) == LINES_A_SECOND + 1
    assert lines[-1]["left_out"] == 30
    assert log.counts[EVENT.kind].take() == LINES_A_SECOND + 31
