"""What `ccs ledger recovering` and `go-live` show; `tests/world/test_recovering.py` makes the calls."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from admin.cli.ledger_recovery import Door, NotYet, go_live, rehearse, show
from engine.config import BadConfig

FOUND: dict[str, Any] = {
    "state": "recovering",
    "restored": True,
    "gap_from": "2026-11-27T20:00:00Z",
    "gap_to": "2026-11-27T20:01:00Z",
    "restored_seq": 1_200,
    "reported_seq": 1_260,
    "told_to": 1_250,
    "ended": 3,
    "doubts": 2,
    "parties": [
        {"client_id": "node-1", "role": "node", "reported": True, "told_at": "2026-11-27T20:05:00Z", "known_to": 1_250},
        {"client_id": "edp-2", "role": "edp", "reported": False},
    ],
    "in_doubt": [
        {"consent_id": "c-1", "change": "granted", "told_by": "atp-1", "known": False, "parties": ["atp-1"]},
        {"consent_id": "c-2", "change": "renewed", "told_by": "node-1", "known": True},
    ],
    "obstacles": ["edp-2", "untold-events"],
    "to_look_at": ["edp-1", "policy"],
}


def shown(found: dict[str, Any]) -> str:
    out = io.StringIO()
    show(found, Console(file=out, width=160))
    return out.getvalue()


def test_everything_that_an_operator_works_through_is_shown() -> None:
    text = shown(FOUND)
    for word in ("recovering", "20:00:00Z", "1,200", "1,260", "1,250", "edp-2", "unknown to the ledger", "policy"):
        assert word in text
    assert "Against going live: edp-2, untold-events" in text


def test_a_ledger_that_was_never_restored_is_shown_as_live() -> None:
    assert "never restored" in shown({"state": "live", "restored": False})


def test_what_speaks_against_going_live_is_told_without_doing_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NotYet, match="edp-2, untold-events"):
        rehearse(FOUND, (), json=False)
    with pytest.raises(NotYet, match="untold-events"):
        rehearse(FOUND, ("edp-2",), json=False)
    rehearse(FOUND, ("edp-2", "untold-events"), json=False)
    assert "--apply" in capsys.readouterr().out
    rehearse(FOUND, ("edp-2", "untold-events"), json=True)
    assert capsys.readouterr().out == '{"state": "recovering", "obstacles": []}\n'


def test_a_live_ledger_has_nothing_to_end() -> None:
    with pytest.raises(NotYet, match="live"):
        rehearse({"state": "live", "restored": True}, (), json=False)


def test_an_address_without_a_certificate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="--certificate"):
        go_live(door=Door(url="https://localhost:1", ca_file=tmp_path / "ca.pem"))
