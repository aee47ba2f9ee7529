"""What the figures should be, and how they are shown: a table in Markdown and a chart.

The targets are those of the design; a figure that falls short is marked, not hidden.
"""

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec


class Target(msgspec.Struct, frozen=True):
    """A figure with its bounds. read: takes all results by bench name. lower: whether less is better."""

    what: str
    unit: str
    must: float
    aim: float
    read: Callable[[dict[str, Any]], float]
    lower: bool = True


TARGETS = (
    Target("commit to inactive answer, p99, idle", "ms", 50, 10, lambda r: r["effect"]["idle"]["milliseconds"]["p99"]),
    Target(
        "commit to inactive answer, p99, under 2,000 introspections/s", "ms", 100, 20,
        lambda r: r["effect"]["loaded"]["milliseconds"]["p99"],
    ),
    Target(
        "durable appends, SQLite", "/s", 10_000, 20_000,
        lambda r: r["ledger_append sqlite"]["appends_per_second"], lower=False,
    ),
    Target(
        "durable appends, PostgreSQL", "/s", 8_000, 16_000,
        lambda r: r["ledger_append postgres"]["appends_per_second"], lower=False,
    ),
    Target("bytes a consent on disk", "B", 400, 200, lambda r: r["replica"]["bytes_a_consent"]),
    Target("private memory of a worker, 1 M consents", "MB", 120, 60,
           lambda r: r["million"]["worker_private_megabytes"]),
    Target("empty node to current, 1 M consents", "s", 60, 20,
           lambda r: r["million"]["seconds"]["empty node to current"]),
    Target(
        "restart with its replica to first answer, 1 M consents", "s", 2, 0.5,
        lambda r: r["million"]["seconds"]["node restart to first answer"],
    ),
)  # fmt: skip


def verdict(target: Target, value: float) -> str:
    """In words: the aim, the must, or neither."""
    sign = 1 if target.lower else -1
    if sign * value <= sign * target.aim:
        return "aim reached"
    return "must reached" if sign * value <= sign * target.must else "**falls short**"


def table(results: dict[str, Any]) -> list[tuple[Target, float]]:
    """The targets whose benches ran."""
    found = []
    for target in TARGETS:
        try:
            found.append((target, float(target.read(results))))
        except KeyError:
            continue
    return found


def page(outputs: dict[str, str], rows: list[tuple[Target, float]], *, quick: bool) -> str:
    """The Markdown of RESULTS.md."""
    lines = [
        "# Results",
        "",
        f"Written by `make bench` on {time.strftime('%Y-%m-%d')}: {platform.machine()}, {os.cpu_count()} cores,",
        f"CPython {platform.python_version()}, {platform.system()}. The machine is shared with other work:",
        "read these as medians with a spread of a fifth or more.",
        *(["", "**Short runs (`--quick`): not to be quoted.**"] if quick else []),
        "",
        "| figure | measured | must | aim | |",
        "|---|---|---|---|---|",
        *(row(target, value) for target, value in rows),
        "",
        "![measured against must and aim](results.png)",
        "",
    ]
    for name, output in outputs.items():
        lines += [f"## {name}", "", "```", output, "```", ""]
    return "\n".join(lines)


def row(target: Target, value: float) -> str:
    """One line of the table."""
    bound = f"{'≤' if target.lower else '≥'} {target.must:,}"
    return f"| {target.what} | {value:,.6g} {target.unit} | {bound} | {target.aim:,} | {verdict(target, value)} |"


def draw(rows: list[tuple[Target, float]], chart: Path) -> None:
    """Bars: how much of the must each figure uses; under 1 is good, whichever way the figure counts."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    shares = [(t.what, value / t.must if t.lower else t.must / value) for t, value in rows]
    aims = [t.aim / t.must if t.lower else t.must / t.aim for t, _ in rows]
    figure, axes = plt.subplots(figsize=(9, 0.5 * len(rows) + 1.2))
    axes.barh([what for what, _ in shares], [share for _, share in shares], color="#1d70b8")
    axes.scatter(aims, range(len(aims)), marker="|", s=260, color="#00703c", label="aim")
    axes.axvline(1.0, color="#d4351c", label="must")
    axes.invert_yaxis()
    axes.set_xlabel("share of the must that is used (less is better)")
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(chart, dpi=110)
