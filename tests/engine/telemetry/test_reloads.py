"""What the log says of a round of reading files anew: `reloaded` only where nothing failed."""

from functools import partial
from typing import Any

import pytest
from structlog.testing import capture_logs

from engine.config import BadConfig
from engine.telemetry import logs
from engine.telemetry.reloads import reload_each


def round_of(*broken: str) -> tuple[list[str], list[Any]]:
    """Three parts, of which some cannot read their files: who has read, and the lines."""
    read: list[str] = []

    def reload(part: str) -> None:
        if part in broken:
            raise BadConfig(f"{part}.pem cannot be read", detail="no such file")
        read.append(part)

    with capture_logs() as lines:
        reload_each({part: partial(reload, part) for part in ("first", "second", "third")}, logs.logger("x"))
    return read, lines


def test_a_round_in_which_all_went_well_is_reloaded() -> None:
    assert round_of() == (["first", "second", "third"], [{"event": "reloaded", "log_level": "info", "room": "x"}])


@pytest.mark.parametrize("broken", [("first",), ("third",), ("first", "second"), ("first", "second", "third")])
def test_what_failed_names_what_stays_and_what_was_taken_and_nothing_is_reloaded(broken: tuple[str, ...]) -> None:
    read, lines = round_of(*broken)
    assert read == [part for part in ("first", "second", "third") if part not in broken]
    assert [(line["event"], line["kept"], line["taken"]) for line in lines] == [
        ("reload_failed", part, read) for part in broken
    ]
    assert lines[0]["text"] == f"{broken[0]}.pem cannot be read"
    assert lines[0]["detail"] == "no such file"
