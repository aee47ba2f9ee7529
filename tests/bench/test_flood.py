"""The flood's figures from made-up times, lost and untraced events included; and the whole bench, small."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.flood_figures import LEGS, TIMES, Call, Counts, assembled, at, figures, say, seconds_to_all

ROOT = Path(__file__).parents[2]
CONSENTS, HOSTILE = 300, 400


def call(number: int, begun: float, *, row: float | None = None) -> Call:
    """Committed 10 ms after it began, its row seen 30 ms after."""
    return Call("edp-1", f"c-{number}", number, begun, begun + 0.01, begun + 0.02, begun + 0.03 if row is None else row)


def ways(*calls: Call) -> tuple[dict[Any, float], dict[Any, Any]]:
    """Signed 50 ms after the call began, received after 100, noted after 120."""
    ends = {(one.edp, one.consent): one.begun + 0.1 for one in calls}
    noted = {(one.edp, one.consent): (one.begun + 0.05, one.begun + 0.12) for one in calls}
    return ends, noted


@pytest.mark.parametrize(
    ("found", "share", "expected"),
    [
        ([], 95, None),
        ([3.0], 50, 3.0),
        ([3.0], 95, 3.0),
        (list(range(100, 0, -1)), 50, 51),
        (list(range(100, 0, -1)), 95, 96),
        (list(range(20)), 95, 19),
    ],
)
def test_a_percentile_is_one_of_the_samples(found: list[float], share: int, expected: float | None) -> None:
    assert at(found, share) == expected


def test_figures_are_of_those_whose_calls_began_in_that_time() -> None:
    calls = [call(number, float(number)) for number in range(10)]
    found = figures(calls, *ways(*calls), 2.0, 6.0)
    assert (found["seconds"], found["revocations"], found["samples"], found["traced"], found["lost"]) == (4, 4, 4, 4, 0)
    assert (found["p50_ms"], found["p95_ms"]) == pytest.approx((100, 100))


def test_legs_add_up_to_the_way_and_are_told_in_order() -> None:
    one = call(1, 5.0)
    found = figures([one], *ways(one), 0.0, 9.0)
    assert tuple(found["legs"]) == LEGS
    assert [median for median, _ in found["legs"].values()] == pytest.approx([10, 20, 20, 50, 20])


def test_what_was_not_received_is_lost_and_has_no_delay() -> None:
    calls = [call(number, float(number)) for number in range(4)]
    ends, noted = ways(*calls)
    del ends["edp-1", "c-2"]
    ends["edp-2", "c-2"] = 2.1  # another EDP's is not its own
    found = figures(calls, ends, noted, 0.0, 9.0)
    assert (found["revocations"], found["samples"], found["lost"], found["traced"]) == (4, 3, 1, 3)
    nothing = figures(calls, {}, noted, 0.0, 9.0)
    assert (nothing["lost"], nothing["p50_ms"], nothing["p95_ms"]) == (4, None, None)
    assert set(map(tuple, nothing["legs"].values())) == {(None, None)}


def test_what_was_not_traced_to_its_end_has_a_delay_and_no_legs() -> None:
    unseen, unsigned, unended, unnoted, whole = calls = [
        call(1, 1.0, row=0.0),
        *(call(n, float(n)) for n in range(2, 6)),
    ]
    ends, noted = ways(*calls)
    noted[unsigned.edp, unsigned.consent] = (None, 3.0)
    noted[unended.edp, unended.consent] = (3.0, None)
    del noted[unnoted.edp, unnoted.consent]
    found = figures(calls, ends, noted, 0.0, 9.0)
    assert (found["samples"], found["traced"], found["lost"]) == (5, 1, 0)
    assert unseen.row == 0.0
    assert found["legs"] == figures([whole], ends, noted, 0.0, 9.0)["legs"]


def test_a_row_that_is_seen_after_it_was_signed_was_there_before() -> None:
    one = call(1, 1.0, row=1.09)
    legs = figures([one], *ways(one), 0.0, 9.0)["legs"]
    assert [median for median, _ in legs.values()] == pytest.approx([10, 40, 0, 50, 20])


def test_a_stop_counts_once_the_last_edp_has_it() -> None:
    stops = {("edp-1", "atp-1"): 10.5, ("edp-2", "atp-1"): 12.0, ("edp-2", "atp-2"): 99.0}
    assert seconds_to_all(stops, ("edp-1", "edp-2"), "atp-1", 10.0) == 2.0
    assert seconds_to_all(stops, ("edp-1", "edp-2", "edp-3"), "atp-1", 10.0) is None


def result(counts: Counts, **times: Any) -> dict[str, Any]:
    found = {
        "paced": {"ended": 60, "seconds": 2.0},
        "hostile": {"seconds": 4.0},
        "hostile_consents": 200,
        "sequencer_passed": True,
        "cpu": {name: {"admin": 0.5} for name in TIMES},
    }
    return assembled(found, {name: figures([], {}, {}, 0.0, 1.0) for name in TIMES} | times, (0.5, None), counts)


def test_whatever_is_told_or_called_and_not_received_is_lost() -> None:
    told = result(Counts({"a": 1, "b": 3}, {"a", "b", "c"}), quiet=figures([call(1, 0.5)], {}, {}, 0.0, 1.0))
    assert (told["told_but_not_received"], told["received_again"], told["lost"]) == (1, 2, 2)
    assert result(Counts({"a": 1}, {"a"}))["lost"] == 0


def test_ratios_are_of_what_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    one = call(1, 0.5)
    quiet, slow = figures([one], *ways(one), 0.0, 1.0), figures([one], {("edp-1", "c-1"): 0.9}, {}, 0.0, 1.0)
    told = result(Counts({}, set()), quiet=quiet, paced=slow)
    assert (told["p95_ratio"], told["p50_ratio"]) == pytest.approx((4.0, 4.0))
    assert [told[name] for name in ("p95_ratio_by_busy", "hostile_p95_ratio", "hostile_p50_ratio")] == [None] * 3
    assert (told["ended_per_second"], told["appended_per_second"]) == (30, 50)
    json.dumps(told, allow_nan=False)
    say(told)
    said = capsys.readouterr().out
    assert "4.00 of 1 by 1 samples" in said
    assert "– of 0 by 1 samples" in said


@pytest.mark.timeout(300)
def test_a_small_flood_loses_nothing_and_stops_everybody() -> None:
    """What it must come to, never how fast: two ATPs' consents end, a third one's go on ending meanwhile."""
    sizes = ("--consents", CONSENTS, "--hostile", HOSTILE, "--trickle", 400, "--seconds", 1, "--rest", 0)
    command = [sys.executable, "-m", "bench.flood", *map(str, sizes), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["consents"], found["paced"]["ended"], found["hostile_consents"]) == (CONSENTS, CONSENTS, HOSTILE)
    assert found["sequencer_passed"]
    assert (found["lost"], found["told_but_not_received"]) == (0, 0)
    assert found["suspended_at_all_seconds"] > 0
    assert found["hostile_suspended_at_all_seconds"] > 0
    assert found["times"].keys() == found["cpu"].keys() == set(TIMES)
    for name, one in found["times"].items():
        assert one["lost"] == 0, name
        assert one["revocations"] == one["samples"], name
    assert all(found["times"][name]["samples"] > 0 for name in ("quiet", "busy", "after"))
    assert sum(one["traced"] for one in found["times"].values()) > 0
