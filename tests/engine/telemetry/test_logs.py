"""Log lines are JSON objects with an event's name, and no token gets into them."""

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from engine.config import BadConfig
from engine.telemetry import logs

TOKEN = "eyJhbGciOiJQUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl"


@pytest.fixture
def stream() -> Iterator[io.BytesIO]:
    stream = io.BytesIO()
    logs.configure("info", stream=stream, role="worker-1", node_id="node-a")
    yield stream
    structlog.reset_defaults()


def lines(stream: io.BytesIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_line_carries_event_room_role_level_and_time(stream: io.BytesIO) -> None:
    logs.logger("listener").info("refused", status=400)
    (line,) = lines(stream)
    assert line.pop("at").endswith("Z")
    assert line == {
        "event": "refused", "room": "listener", "role": "worker-1", "node_id": "node-a", "level": "info", "status": 400,
    }  # fmt: skip


def test_lines_below_the_level_are_not_written(stream: io.BytesIO) -> None:
    logs.logger("listener").debug("seen")
    assert lines(stream) == []


def test_logger_taken_before_configuration_writes_as_configured(stream: io.BytesIO) -> None:
    early = logs.logger("early")
    other = io.BytesIO()
    logs.configure("info", stream=other)
    early.info("later")
    assert (lines(stream), len(lines(other))) == ([], 1)


def test_a_configuration_that_comes_while_another_is_applied_is_not_lost(
    stream: io.BytesIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first line loads structlog in a thread for a good while; new settings may come meanwhile."""
    apply, newer = logs._apply, io.BytesIO()

    def slowly(*told: Any) -> None:
        monkeypatch.setattr(logs, "_apply", apply)
        logs.configure("warning", stream=newer, late=True)
        apply(*told)

    monkeypatch.setattr(logs, "_apply", slowly)
    logs.configure("info", stream=stream, late=True)
    logs.load()
    logs.logger("node").info("reloaded")
    logs.logger("node").warning("beware")
    assert [line["event"] for line in lines(newer)] == ["beware"]
    assert lines(stream) == []


@pytest.mark.parametrize("name", ["token", "access_token", "client_secret", "authorization", "client_assertion"])
def test_values_under_secret_names_are_struck_out(stream: io.BytesIO, name: str) -> None:
    logs.logger("x").info("event", **{name: "opaque"})
    assert lines(stream)[0][name] == "[removed]"


def test_token_in_any_text_is_struck_out(stream: io.BytesIO) -> None:
    logs.logger("x").info("event", detail=f"could not read {TOKEN} at all")
    assert lines(stream)[0]["detail"] == "could not read [removed] at all"


def test_token_in_a_traceback_is_struck_out(stream: io.BytesIO) -> None:
    try:
        raise ValueError(TOKEN)
    except ValueError:
        logs.logger("x").exception("failed")
    assert "ValueError: [removed]" in lines(stream)[0]["exception"]
    assert b"eyJ" not in stream.getvalue()


def test_value_that_json_does_not_know_is_shown(stream: io.BytesIO) -> None:
    logs.logger("x").info("event", value=frozenset((1,)))
    assert lines(stream)[0]["value"] == "frozenset({1})"


def test_unknown_level_is_named() -> None:
    with pytest.raises(BadConfig, match="'loud'"):
        logs.configure("loud")


def test_late_configuration_holds_from_the_first_line() -> None:
    stream = io.BytesIO()
    structlog.reset_defaults()
    logs.configure("warning", stream=stream, late=True, role="worker-1")
    assert not structlog.is_configured()
    log = logs.logger("listener")
    log.info("left_out")
    log.warning("written")
    structlog.reset_defaults()
    (line,) = lines(stream)
    assert (line["event"], line["role"], line["room"]) == ("written", "worker-1", "listener")
