"""Rounds are interleaved, and their medians, spread and tables are what was measured."""

import json
from pathlib import Path

import pytest

from bench.kept import Section, sections_of
from bench.report import TARGETS, draw_comparison, page, table
from bench.rounds import Measured, Spread, as_json, figures, interleave, lines, spread

SAID = Section("2026-11-24", 'two lines\n{"bench": "a", "figure": 1.5}')


def test_a_page_keeps_what_each_bench_said_and_when() -> None:
    slow = Section("2026-11-20", "text", "0.52 before and 0.61 after")
    sections = {"effect": SAID, "ledger_append sqlite": slow}
    found = sections_of(page(sections, []))
    assert found == sections
    assert found["effect"].figures == {"bench": "a", "figure": 1.5}
    assert found["ledger_append sqlite"].figures == {}


def test_a_target_without_a_figure_is_named() -> None:
    assert "| latency at half of capacity, open loop, p50 | no figure" in page({"effect": SAID}, [])


def test_rounds_take_turns() -> None:
    ran: list[str] = []

    def contender(name: str) -> Measured:
        ran.append(name)
        return Measured(len(ran), 1.0, 1.0)

    found = interleave({name: lambda name=name: contender(name) for name in "ABC"}, 2)
    assert ran == ["A", "B", "C", "A", "B", "C"]
    assert {k: [one.items for one in v] for k, v in found.items()} == {"A": [1, 4], "B": [2, 5], "C": [3, 6]}


def test_a_round_gives_rate_cpu_and_use_of_the_core() -> None:
    measured = Measured(items=20_000, elapsed=2.0, cpu=1.0)
    assert (measured.rate, measured.cpu_us, measured.busy) == (10_000, 50.0, 0.5)


def test_spread_is_median_least_and_greatest() -> None:
    assert Spread(3.0, 1.0, 9.0) == spread([9.0, 1.0, 3.0])


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (Spread(20_000.4, 15_000, 30_000), "20,000 (15,000 to 30,000)"),
        (Spread(33.333, 30, 41), "33.3 (30.0 to 41.0)"),
        (Spread(1.5, 1, 2), "1.50 (1.00 to 2.00)"),
    ],
)
def test_spread_reads_well(value: Spread, shown: str) -> None:
    assert shown == str(value)


def test_the_table_has_a_line_for_each_contender_under_its_head() -> None:
    found = {name: figures([Measured(100, 1.0, 0.01)]) for name in ("one", "another")}
    head, first, second = lines(found)
    assert "CPU-µs each" in head
    assert first.startswith("one ")
    assert second.startswith("another ")
    assert second.endswith("1%")


def results() -> dict[str, object]:
    names = {
        "ours, mutual TLS": Measured(25_000, 1.0, 1.0),
        "oidc-provider, plain HTTP": Measured(5_000, 1.0, 1.0),
        "nginx constant, mutual TLS": Measured(30_000, 1.0, 0.3),
    }
    found = {name: figures([measured]) for name, measured in names.items()}
    read: dict[str, object] = json.loads(as_json("comparison", found, skipped={"x": "why"}))
    return read


def test_targets_of_the_comparison_read_its_json() -> None:
    rows = {target.what: value for target, value in table({"comparison": results()})}
    assert {what: round(value, 6) for what, value in rows.items()} == {
        "CPU an introspection, mutual TLS": 40.0,
        "introspections, one worker on one core, mutual TLS": 25_000.0,
        "times the rate of oidc-provider over plain HTTP": 5.0,
        "CPU of nginx's constant over TLS, as a share of ours": 0.25,
    }


def test_a_target_without_its_contender_is_left_out_of_the_table() -> None:
    assert len(TARGETS) > len(table({"comparison": results()}))


def test_the_page_shows_the_chart_only_of_a_full_comparison() -> None:
    full = page({"comparison": SAID}, [], quick=False)
    assert "(comparison.png)" in full
    assert "(comparison.png)" not in page({"comparison": SAID}, [], quick=True)
    assert "(comparison.png)" not in page({"effect": SAID}, [], quick=False)


def test_the_chart_is_a_picture(tmp_path: Path) -> None:
    chart = tmp_path / "chart.png"
    draw_comparison({"one": figures([Measured(10, 1.0, 0.1), Measured(10, 1.0, 0.2)])}, chart)
    assert chart.read_bytes().startswith(b"\x89PNG")
