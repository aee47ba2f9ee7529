"""How pushing stands, as operators read it in a terminal: what is well, and what is not, at a glance."""

import io
from pathlib import Path
from typing import Any

import pytest
import trio
from rich.console import Console

from admin.cli import run
from admin.cli.pushing import LATE, TOO_LATE, age, pushing_table, unknown_pushing_table
from admin.directory.receiver_watch import Lateness
from tests.support.admin_service import Site
from tests.support.pki import Pki

GUIDE = Path(__file__).parents[3] / "docs/operators/pusher.md"
FOUND: dict[str, Any] = {
    "as_of": "2026-11-28T08:00:00Z",
    "lease": {"pusher": "pusher-1", "since": "2026-11-28T07:58:29Z"},
    "lanes": [
        {"lane": "ends", "unsent": 0, "oldest_seconds": 0},
        {"lane": "ordinary", "unsent": 1_234, "oldest_seconds": 754},
        {"lane": "bulk", "unsent": 1, "oldest_seconds": 5},
    ],
    "parked": 0,
    "unsigned": 0,
    "receivers": {"well": 3, "behind": 0, "unreached": 0, "suspended": 0},
    "receivers_with_parked": 0,
    "receivers_without_fallback": 0,
    "streams": {"enabled": 5, "not_confirmed": 1, "paused": 0, "disabled": 0},
}


def shown(found: dict[str, Any], *, colours: bool = False) -> str:
    out = io.StringIO()
    system = "standard" if colours else None
    Console(file=out, width=120, force_terminal=colours, color_system=system).print(pushing_table(found))  # type: ignore[arg-type]  # a literal
    return out.getvalue()


def row(text: str, name: str) -> str:
    return next(line for line in text.splitlines() if f" {name} " in line)


def test_everything_at_a_glance() -> None:
    text = shown(FOUND)
    assert "pusher-1 since 2026-11-28T07:58:29Z" in row(text, "pusher")
    assert " 0 " in row(text, "ends")
    assert "1,234 not pushed, oldest 12 min" in row(text, "ordinary")
    assert "1 not pushed, oldest 5 s" in row(text, "bulk")
    assert "3 · 3 well" in row(text, "receivers")
    assert "6 · 5 enabled · 1 not confirmed" in row(text, "streams")
    assert " 0 " in row(text, "parked")
    assert "no fallback" not in text


def test_what_is_not_well() -> None:
    text = shown(
        FOUND | {
            "lease": None, "parked": 7, "receivers_with_parked": 1, "receivers_without_fallback": 2, "unsigned": 1_000,
            "receivers": {"well": 1, "behind": 2, "unreached": 1, "suspended": 1},
        }
    )  # fmt: skip
    assert "nobody pushes" in row(text, "pusher")
    assert "7 events of 1 receiver" in row(text, "parked")
    assert "2 receivers" in row(text, "no fallback")
    assert "1,000" in row(text, "not signed")
    assert "5 · 1 well · 2 behind · 1 unreached · 1 suspended" in row(text, "receivers")


def test_a_service_without_receivers_and_with_an_older_pusher() -> None:
    nobody = dict.fromkeys(FOUND["receivers"], 0)
    text = shown(FOUND | {"lease": {"since": "2026-11-28T07:58:29Z"}, "receivers": nobody})
    assert "an older one since" in row(text, "pusher")
    assert "none" in row(text, "receivers")


@pytest.mark.parametrize(("seconds", "colour"), [(600, None), (601, "33"), (3_600, "33"), (3_601, "31")])
def test_what_waits_too_long_has_its_colour(seconds: int, colour: str | None) -> None:
    text = shown(FOUND | {"lanes": [{"lane": "ends", "unsent": 1, "oldest_seconds": seconds}]}, colours=True)
    assert [code for code in ("33", "31") if f"\x1b[{code}moldest" in text] == ([] if colour is None else [colour])


def test_its_colours_change_where_the_service_alarms() -> None:
    assert (LATE, TOO_LATE) == (Lateness.ALERT, Lateness.CALL)


def test_the_picture_in_the_guide_is_what_is_shown() -> None:
    told = FOUND | {
        "parked": 7, "receivers_with_parked": 1,
        "lanes": [FOUND["lanes"][0], FOUND["lanes"][1], FOUND["lanes"][0] | {"lane": "bulk"}],
        "receivers": {"well": 2, "behind": 1, "unreached": 1, "suspended": 0},
    }  # fmt: skip
    assert f"```\n{shown(told)}```" in GUIDE.read_text()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59, "59 s"), (60, "1 min"), (3_599, "59 min"), (3_600, "1 h"), (86_399, "23 h"), (200_000, "2 d")],
)
def test_an_age_is_said_in_its_largest_unit(seconds: int, text: str) -> None:
    assert age(seconds) == text


def test_why_nothing_is_known_is_shown_as_it_is() -> None:
    out = io.StringIO()
    Console(file=out, width=120).print(unknown_pushing_table("the file [none].pem cannot be used"))
    assert "the file [none].pem cannot be used" in row(out.getvalue(), "why")


@pytest.mark.parametrize("options", [[], ["--json"]])
async def test_an_operator_of_a_real_installation_asks_by_its_certificate(
    site: Site, pki: Pki, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert await called(f"https://localhost:{site.port}", pki, "operator-1", *options) == 0
    out = capsys.readouterr().out
    assert ('"lease": null' in out) == bool(options)
    assert ("nobody pushes" in out) != bool(options)


async def test_refusals_keep_the_service_s_sentence_and_have_their_exit_codes(
    site: Site, pki: Pki, capsys: pytest.CaptureFixture[str]
) -> None:
    async with site.client("edp-1") as http:
        problem = (await http.get("/pushing")).json()
    assert await called(f"https://localhost:{site.port}", pki, "edp-1") == 6
    assert capsys.readouterr().err == f"ccs: {problem['detail']}\n"
    assert await called("https://localhost:1", pki, "operator-1") == 3
    assert "https://localhost:1 does not answer" in capsys.readouterr().err


async def called(url: str, pki: Pki, client_id: str, *options: str) -> int:
    """The exit code of the command, given so to this process."""
    files = pki.client(client_id)
    door = ["--url", url, "--ca-file", pki.ca_file, "--certificate", files.certificate_file, "--key", files.key_file]
    words = ["receivers", "pusher", *map(str, door), *options]
    return await trio.to_thread.run_sync(run, words)
