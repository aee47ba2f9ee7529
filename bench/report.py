"""What the figures should be, and how they are shown: a table in Markdown and a chart.

The targets are those of the design; a figure that falls short is marked, not hidden.
"""

import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from bench.kept import Section, text_of
from bench.names import BATCHES, COLD, NGINX, OIDC, OURS, SIGNED
from bench.rounds import Figures


class Target(msgspec.Struct, frozen=True):
    """A figure with its bounds. read: takes all results by bench name. lower: whether less is better."""

    what: str
    unit: str
    must: float
    aim: float
    read: Callable[[dict[str, Any]], float]
    lower: bool = True


def compared(name: str, figure: str) -> Callable[[dict[str, Any]], float]:
    """The median of a contender's figure: `rate` or `cpu_us`."""
    return lambda results: float(results["comparison"]["contenders"][name][figure]["median"])


def ratio(first: tuple[str, str], second: tuple[str, str]) -> Callable[[dict[str, Any]], float]:
    """One contender's figure by another's of the same run."""
    above, below = compared(*first), compared(*second)
    return lambda results: above(results) / below(results)


TARGETS = (
    Target("commit to inactive answer, p99, idle", "ms", 50, 10, lambda r: r["effect"]["idle"]["milliseconds"]["p99"]),
    Target(
        "commit to inactive answer, p99, under 2,000 introspections/s", "ms", 100, 20,
        lambda r: r["effect"]["loaded"]["milliseconds"]["p99"],
    ),
    Target(
        "commit to inactive answer, p99, under 5,000 introspections/s", "ms", 100, 20,
        lambda r: r["effect"]["loaded_5000"]["milliseconds"]["p99"],
    ),
    Target(
        "revoke call to effective, 4 nodes under load, p50", "ms", 30, 10,
        lambda r: r["barrier"]["loaded"]["milliseconds"]["p50"],
    ),
    Target(
        "revoke call to effective, 4 nodes under load, p99", "ms", 150, 40,
        lambda r: r["barrier"]["loaded"]["milliseconds"]["p99"],
    ),
    Target("CPU of judging freshness, share of an introspection", "", 0.02, 0.005,
           lambda r: r["freshness"]["judging_share"]),
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
    Target("restore to a served ledger, 1 M consents", "s", 600, 180,
           lambda r: r["restore"]["seconds"]["restore to a served ledger"]),
    Target("loss of a followed backup while a full one is taken, at most", "s", 60, 5,
           lambda r: r["restore"]["rpo_seconds"]["largest"]),
    Target("CPU an introspection, mutual TLS", "µs", 50, 33, compared(OURS, "cpu_us")),
    Target("introspections, one worker on one core, mutual TLS", "/s", 20_000, 30_000,
           compared(OURS, "rate"), lower=False),
    Target("times the rate of oidc-provider over plain HTTP", "x", 4, 5,
           ratio((OURS, "rate"), (OIDC, "rate")), lower=False),
    Target("CPU of nginx's constant over TLS, as a share of ours", "", 0.15, 0.25,
           ratio((NGINX, "cpu_us"), (OURS, "cpu_us")), lower=False),
    Target("introspections of tokens never seen, PS256", "/s", 8_000, 12_000, compared(COLD, "rate"), lower=False),
    Target("signed answers, ES256", "/s", 7_000, 12_000, compared(SIGNED, "rate"), lower=False),
    Target("checks by a guard on one core, one by one", "/s", 3_000, 5_000,
           lambda r: r["guard"]["single"]["rate"], lower=False),
    Target("checks by a guard on one core, in batches of 500", "/s", 20_000, 50_000,
           lambda r: r["guard"]["batch"]["rate"], lower=False),
    Target("decisions in batches of 100, over TLS", "/s", 150_000, 300_000, compared(BATCHES, "rate"), lower=False),
    Target("latency at half of capacity, open loop, p50", "ms", 1, 0.5, lambda r: r["latency"]["p50_ms"]),
    Target("latency at half of capacity, open loop, p99", "ms", 5, 2, lambda r: r["latency"]["p99_ms"]),
    Target("latency at half of capacity, open loop, p99.9", "ms", 15, 8, lambda r: r["latency"]["p99_9_ms"]),
    Target("full mutual TLS handshakes, one core", "/s", 400, 800,
           lambda r: r["handshakes"]["handshakes_per_second"], lower=False),
    Target("goodput at twice the capacity, share of capacity", "", 0.8, 0.95,
           lambda r: r["overload"]["goodput_share"], lower=False),
    Target("answers not current, Redis killed and started again under load", "", 0.01, 0.0,
           lambda r: r["redis_lost"]["not_current_share"]),
    Target("failed requests, Redis killed and started again under load", "", 0, 0, lambda r: r["redis_lost"]["failed"]),
    Target("CPU an introspection, two workers by one", "x", 1.1, 1.03, lambda r: r["scaling"]["ratio"]),
    Target("pushes of one pusher, over TLS", "/s", 400, 1_000,
           lambda r: r["pushes"]["rate"]["per_second"], lower=False),
    Target("commit to first attempt, 200 receivers, p50", "ms", 200, 20,
           lambda r: r["pushes"]["first_attempt_ms"]["p50"]),
    Target("commit to first attempt, 200 receivers, p95", "ms", 1_000, 100,
           lambda r: r["pushes"]["first_attempt_ms"]["p95"]),
    Target("an ATP stopped, told to all EDPs", "s", 5, 1, lambda r: r["flood"]["suspended_at_all_seconds"]),
    Target("pushes of others while its consents end, p95 by that before", "x", 2, 1.2,
           lambda r: r["flood"]["p95_ratio"]),
    Target("events lost while its consents end", "", 0, 0, lambda r: r["flood"]["lost"]),
)  # fmt: skip


def verdict(target: Target, value: float) -> str:
    """In words: the aim, the must, or neither."""
    sign = 1 if target.lower else -1
    if sign * value <= sign * target.aim:
        return "aim reached"
    return "must reached" if sign * value <= sign * target.must else "**falls short**"


def table(results: dict[str, Any]) -> list[tuple[Target, float]]:
    """The targets whose benches ran and gave the figure."""
    found = []
    for target in TARGETS:
        try:
            found.append((target, float(target.read(results))))
        except KeyError:
            continue
    return found


def missing(rows: list[tuple[Target, float]]) -> list[str]:
    """What no bench has a figure for: it did not run, or would not quote one."""
    there = {target.what for target, _ in rows}
    return [target.what for target in TARGETS if target.what not in there]


def page(sections: Mapping[str, Section], rows: list[tuple[Target, float]], *, quick: bool = False) -> str:
    """The Markdown of RESULTS.md."""
    lines = [
        "# Results",
        "",
        f"Written by `make bench` on {time.strftime('%Y-%m-%d')}: {platform.machine()}, {os.cpu_count()} cores,",
        f"CPython {platform.python_version()}, {platform.system()}. The machine is shared with other work:",
        "read these as medians with a spread of a fifth or more. Each section says when its bench last ran, and how",
        "fast the machine was just before and after: 1.0 is the machine of the targets, which verifies a raw PS256",
        "signature in 24 µs of one core (`bench.yardstick`). At half of that speed everything costs twice as much.",
        *(["", "**Short runs (`--quick`): not to be quoted.**"] if quick else []),
        "",
        "| figure | measured | must | aim | |",
        "|---|---|---|---|---|",
        *(row(target, value) for target, value in rows),
        *(f"| {what} | no figure: see its bench below | | | **not shown** |" for what in missing(rows)),
        "",
        "![measured against must and aim](results.png)",
        "",
        *(["![CPU time of each contender](comparison.png)", ""] if "comparison" in sections and not quick else []),
    ]
    return "\n".join(lines + text_of(sections))


def row(target: Target, value: float) -> str:
    """One line of the table."""
    bound = f"{'≤' if target.lower else '≥'} {target.must:,}"
    return f"| {target.what} | {value:,.6g} {target.unit} | {bound} | {target.aim:,} | {verdict(target, value)} |"


def used(target: Target, value: float) -> float:
    """How much of the must a figure uses; where nothing at all is allowed, anything is twice too much."""
    if not target.must:
        return 2.0 if value else 0.0
    return value / target.must if target.lower else target.must / value


def draw(rows: list[tuple[Target, float]], chart: Path) -> None:
    """Bars: how much of the must each figure uses; under 1 is good, whichever way the figure counts."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    shares = [(target.what, used(target, value)) for target, value in rows]
    aims = [used(target, target.aim) for target, _ in rows]
    figure, axes = plt.subplots(figsize=(9, 0.5 * len(rows) + 1.2))
    axes.barh([what for what, _ in shares], [share for _, share in shares], color="#1d70b8")
    axes.scatter(aims, range(len(aims)), marker="|", s=260, color="#00703c", label="aim")
    axes.axvline(1.0, color="#d4351c", label="must")
    axes.invert_yaxis()
    axes.set_xlabel("share of the must that is used (less is better)")
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(chart, dpi=110)


def draw_comparison(found: Mapping[str, Figures], chart: Path) -> None:
    """Bars: the server's CPU time for each item, the spread of its rounds as whiskers. Logarithmic."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    costs = [one.cpu_us for one in found.values()]
    whiskers = [[one.median - one.least for one in costs], [one.greatest - one.median for one in costs]]
    figure, axes = plt.subplots(figsize=(9, 0.5 * len(costs) + 1.2))
    bars = axes.barh(list(found), [one.median for one in costs], xerr=whiskers, color="#1d70b8", capsize=3)
    axes.bar_label(bars, fmt="%.1f", padding=18)
    axes.set_xscale("log")
    axes.margins(x=0.25)
    axes.invert_yaxis()
    axes.set_xlabel("CPU-microseconds of the server for each request or decision (less is better)")
    figure.tight_layout()
    figure.savefig(chart, dpi=110)
