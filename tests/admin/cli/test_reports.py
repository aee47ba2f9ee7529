"""What `ccs reports fallback` shows; `tests/admin/reports` makes the calls."""

import io
from typing import Any

from rich.console import Console

from admin.cli.reports import show

SHARE = {
    "edp": "edp-1",
    "evidence_id": "0a1b2c3d-1",
    "received_at": "2026-11-28T02:00:00Z",
    "at": "2026-11-28T01:00:00Z",
    "outage_since": "2026-11-28T00:50:00Z",
    "consent_id": "7f3c1b1e-5a0e-4a55-9a53-0d6c2f7c9b10",
    "consent_version": 3,
    "client_id": "atp-1",
    "dataset_id": "hh-electricity-import",
    "result": "taken",
    "flags": [],
    "outage_shown": True,
}


def shown(*shares: dict[str, Any]) -> str:
    out = io.StringIO()
    show(shares, Console(file=out, width=200))
    return out.getvalue()


def test_nothing_reported_is_said() -> None:
    assert shown() == "No fallback share was reported.\n"


def test_each_share_is_a_line_and_what_to_look_at_is_counted() -> None:
    text = shown(SHARE, SHARE | {"flags": ["after_end"]}, SHARE | {"outage_shown": False})
    assert text.count("7f3c1b1e-5a0e-4a55-9a53-0d6c2f7c9b10") == 3
    assert "after_end" in text
    assert "outage not shown" in text
    assert "3 shares, 2 to look at." in text
