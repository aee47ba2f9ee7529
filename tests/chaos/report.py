"""What came of a run: a table, a chart over time with the faults marked, and what each kind of fault did."""

import os
import platform
import time
from pathlib import Path
from typing import Any

from tests.chaos.pairs import UNSEEN, Truth, Undecided
from tests.chaos.plan import is_outage
from tests.chaos.results import Results, States
from tests.chaos.tally import Effect, Outcome
from tests.chaos.verdicts import Said

COLOURS = {
    Outcome.CURRENT: "#00703c",
    Outcome.LAST_KNOWN: "#85994b",
    Outcome.INACTIVE: "#1d70b8",
    Outcome.UNAVAILABLE: "#f47738",
    Outcome.TOO_MANY: "#ffdd00",
    Outcome.OTHER: "#000000",
    Outcome.BROKEN: "#d4351c",
    Outcome.SILENT: "#942514",
    Outcome.UNREACHABLE: "#f499be",
}
SAID = {
    Said.CONSENTED: "#00703c",
    Said.LAST_KNOWN: "#85994b",
    Said.DENIED: "#1d70b8",
    Said.UNDECIDED: "#d4351c",
    Said.NOTHING: "#942514",
    UNSEEN: "#f47738",
}
CIRCUITS = {
    "closed": "#00703c",
    "ramping": "#85994b",
    "probing": "#ffdd00",
    "buffering": "#f47738",
    "suspended": "#d4351c",
    "silent": "#b1b4b6",
}
STATES = {"current": "#00703c", "last_known": "#ffdd00", "blind": "#d4351c", "silent": "#b1b4b6"}


def figures(results: Results) -> list[tuple[str, str]]:
    """Rows of the table, the ones that must be zero first."""
    callers, account, fates = results.callers, results.account, results.account.fates
    asked, calm = callers.all, callers.quiet
    return [
        ("wrong actives (must be 0)", f"{results.wrong_actives}"),
        ("lost events (must be 0)", f"{results.lost_events}"),
        ("wrong inactives (must be 0)", f"{results.wrong_inactives}"),
        ("shares after the end had reached the guard (must be 0)", f"{results.shares_after_told}"),
        ("shares on `current` after the end was effective, by guards (must be 0)", f"{results.shares_after_effect}"),
        ("violations of any kind (must be 0)", f"{len(results.violations)}"),
        ("questions", f"{asked.questions:,}"),
        ("answered by the first node asked", f"{asked.raw:.2%}"),
        ("answered with one try at another node", f"{asked.retried:.2%}"),
        ("… for EDPs that handle last known answers", f"{callers.handling.raw:.2%}, {callers.handling.retried:.2%}"),
        ("… for EDPs that do not", f"{callers.not_handling.raw:.2%}, {callers.not_handling.retried:.2%}"),
        ("… while nothing was broken", f"{calm.raw:.2%}, {calm.retried:.2%} of {calm.questions:,}"),
        *((f"answers: {name}", f"{count:,}") for name, count in callers.outcomes.items() if count),
        ("time to an answer, p50, p99, most", f"{_joined(callers.latency_ms)} ms"),
        ("answers judged", f"{results.judged:,}"),
        ("… to questions sent after the revocation was effective", f"{results.asked_after_effect:,}"),
        ("… of these active, said to be last known", f"{results.exposed:,}"),
        ("signed answers verified", f"{results.verified:,}"),
        ("faults", f"{len(results.plan)}"),
        ("events in the ledger", f"{account.events:,}"),
        ("writes acknowledged (after more than one attempt)", f"{fates.acknowledged:,} ({fates.repeated:,})"),
        ("writes never answered: done, not done", f"{fates.unknown_done}, {fates.unknown_not_done}"),
        ("writes refused for good", f"{fates.refused}"),
        ("revocations effective by acknowledgement, by waiting out", _pair(results.effective)),
        ("from first attempt to effective, p50, p99, most", f"{_joined(results.effective_ms)} ms"),
        ("seconds until each node had the last event, once verified", f"{_joined(account.back)}"),
        ("consents asked about on every node at the end", f"{account.asked:,}"),
        ("processes that ended by themselves", f"{len(results.ended_by_themselves)}"),
        ("questions not asked: the tool could not keep up", f"{callers.not_asked:,}"),
        ("the machine's cores were busy", f"{results.busy:.0%}"),
        ("this tool and its links, of one core", f"{results.own:.0%}"),
        *_guard_figures(results),
    ]  # fmt: skip


def _guard_figures(results: Results) -> list[tuple[str, str]]:
    """Rows about what EDPs got by their guards, beside what the same shares got of nodes."""
    guards = results.guards
    guarded, told = guards.guarded, guards.told
    answered = guarded.answered
    without = _without(guarded.outage_seconds, results.callers.seconds_without, results.seconds)
    three = "of a node, with one retry, by the guard"
    pushed = sum(told.pushed_late.values())
    return [
        ("shares checked both ways, raw and by a guard", f"{guarded.all.checks:,}"),
        (f"**answered: {three}, of tokens it had introspected before**", _decided(answered.seen)),
        ("… while nothing was done to the guard itself (aim of the guard: 99.99 %)", _decided(answered.seen_unhurt)),
        ("… while it was killed or frozen", _decided(answered.seen_hurt)),
        ("… in planned outages", _decided(answered.seen_in_outages)),
        ("… of consents that last", _decided(answered.lasting)),
        ("… of consents that come and go", _decided(answered.passing)),
        ("answered, of tokens never introspected by it (no yes allowed in an outage)", _decided(answered.unseen)),
        ("answered, all checks", _decided(answered.all)),
        ("planned outages; seconds in which no node answered", without),
        *((f"seconds of the circuit of {guard}", _circuit(found)) for guard, found in guards.circuits.items()),
        ("consents that last; of these ended meanwhile", f"{guards.lasting:,}; {guards.lasting_ended:,}"),
        (f"true answers: {three}", _truth(guarded.all)),
        ("… while nothing was done to the guard itself", _truth(guarded.unhurt)),
        ("… of consents that stood", _of(guarded.standing)),
        (f"… in planned outages, {guarded.outage_seconds:.0f} s", _of(guarded.outages)),
        ("… of consents that stood, in planned outages", _of(guarded.standing_in_outages)),
        *((f"verdicts: {said}", f"{count:,}") for said, count in guarded.said.items() if count),
        *((f"… undecided: {reason}", f"{count:,}") for reason, count in sorted(guarded.reasons.items())),
        ("shares in outages, by what was known", f"{guards.fallback_shares:,}"),
        ("… of consents whose end was effective and had not reached the guard", f"{guards.exposed:,}"),
        ("verdicts judged", f"{guards.judged:,}"),
        ("… on shares whose end had reached the guard", f"{guards.asked_after_told:,}"),
        ("seconds until each guard had every event", f"{_joined(told.back)}"),
        ("ends in the ledger, in the guards' memories", f"{_counts(told.ends)}; {_counts(told.remembered)}"),
        ("deliveries parked; polled, their push not due yet", f"{sum(told.parked.values())}; {pushed}"),
        ("shares asked of guards at the end", f"{told.asked:,}"),
        ("the guards' circuits wait a part of their time", f"1/{guards.pace:g}"),
    ]  # fmt: skip


def _truth(found: Truth) -> str:
    return f"{found.raw:.2%}, {found.retried:.2%}, {found.guarded:.2%}"


def _of(found: Truth) -> str:
    return f"{_truth(found)} of {found.checks:,}"


def _decided(found: Truth) -> str:
    shares = f"{found.raw:.3%}, {found.retried:.3%}, {found.guarded:.3%}"
    return f"{shares} of {found.checks:,} ({found.missed:,} not)"


def _without(planned: float, without: int, seconds: float) -> str:
    return f"{planned:.0f} s, {planned / seconds:.1%}; {without} s, {without / seconds:.1%}"


def _circuit(found: dict[str, float]) -> str:
    return ", ".join(f"{state} {seconds:.0f}" for state, seconds in found.items())


def _counts(found: dict[str, int]) -> str:
    return ", ".join(f"{count:,}" for count in found.values())


def write_report(results: Results, folder: Path) -> None:
    """CHAOS.md and chaos.png."""
    folder.mkdir(parents=True, exist_ok=True)
    draw(results, folder / "chaos.png")
    (folder / "CHAOS.md").write_text(page(results))


def page(results: Results) -> str:
    """The Markdown."""
    command = f"make chaos SECONDS={results.seconds:.0f} SEED={results.seed}"
    if results.ledger == "PostgreSQL":
        command += " POSTGRES=1"
    if results.profile != "all":
        command += f" PROFILE={results.profile}"
    command += f" PACE={results.guards.pace:g}"
    lines = [
        "# Chaos",
        "",
        f"Written by `{command} REPORT=bench` on {time.strftime('%Y-%m-%d')}: {platform.machine()},",
        f"{os.cpu_count()} cores shared with the load itself and with other work, CPython {platform.python_version()},",
        f"{results.ledger}. {results.nodes} nodes, admin, Redis, a pusher and guards, real processes over mutual TLS,",
        "are killed, frozen and cut off from each other by a plan that the seed gives; [chaos.md](../docs/chaos.md)",
        "says how to read this.",
        "",
        "| figure | value |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in figures(results)),
        "",
        "![answers and verdicts over time, faults, states of nodes and guards](chaos.png)",
        "",
        *_violations(results),
        *_undecided(results.guards.guarded.undecided),
        "## What each kind of fault did",
        "",
        "While it lasted and for two seconds after; faults that overlap share what happened meanwhile. `last known`:",
        "share of the active answers.",
        "",
        "| fault | times | questions | answered | with a retry | last known |",
        "|---|---|---|---|---|---|",
        *(_row(effect) for effect in results.callers.effects),
        "",
        "## Every fault",
        "",
        "| number, at | questions | answered | with a retry | last known |",
        "|---|---|---|---|---|",
        *(_row(effect, times=False) for effect in results.callers.each_fault),
        "",
    ]  # fmt: skip
    return "\n".join(lines)


def draw(results: Results, chart: Path) -> None:
    """Answers of each second, stacked; below, what was broken, and what the nodes called themselves."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rows = sorted({fault.target for fault in results.plan}, reverse=True)
    figure, (above, guarded, middle, below, circuits) = plt.subplots(
        5, 1, sharex=True, figsize=(14, 9 + 0.2 * len(rows) + 0.5 * results.nodes),
        height_ratios=(20, 14, max(3, len(rows)), 1.5 * results.nodes, 1.5 * len(results.guards.states)),
    )  # fmt: skip
    _draw_answers(above, results)
    _draw_verdicts(guarded, results)
    for fault in results.plan:
        colour = "#d4351c" if fault.what.startswith(("kill", "lose", "roll")) else "#505a5f"
        middle.barh(rows.index(fault.target), max(0.4, fault.until - fault.at), left=fault.at, color=colour, height=0.7)
        above.axvline(fault.at, color="#0b0c0c", linewidth=0.4, alpha=0.5)
        if is_outage(fault):
            for axes in (above, guarded):
                axes.axvspan(fault.at, fault.until, color="#b1b4b6", alpha=0.4)
    middle.set_yticks(range(len(rows)), rows, fontsize=7)
    middle.set_ylabel("broken (red: killed)")
    _draw_states(below, results.states, STATES, results.seconds)
    _draw_states(circuits, results.guards.states, CIRCUITS, results.seconds)
    circuits.set_xlabel("seconds")
    figure.tight_layout()
    figure.savefig(chart, dpi=90)
    plt.close(figure)


def _draw_verdicts(axes: Any, results: Results) -> None:
    lines = results.guards.guarded.by_second
    shown = [name for name in SAID if sum(lines[name])]
    if shown:
        axes.stackplot(
            range(len(lines[shown[0]])), *(lines[name] for name in shown),
            labels=list(shown), colors=[SAID[name] for name in shown], step="post",
        )  # fmt: skip
        axes.legend(loc="lower left", ncols=5, fontsize=8)
    axes.set_ylabel("verdicts a second, by guards")
    found = results.guards.guarded.answered.seen
    said = "by the guard, of tokens that it had introspected before"
    axes.set_title(f"the same shares answered by a node, with one retry, {said}: {_decided(found)}")


def _draw_answers(axes: Any, results: Results) -> None:
    seconds = range(len(next(iter(results.callers.by_second.values()))))
    shown = [outcome for outcome in Outcome if sum(results.callers.by_second[outcome.value])]
    lines = [results.callers.by_second[outcome.value] for outcome in shown]
    axes.stackplot(
        seconds, *lines, labels=[one.value for one in shown], colors=[COLOURS[one] for one in shown], step="post"
    )
    axes.set_xlim(0, results.seconds)
    axes.set_ylabel("answers a second, by the first node asked")
    axes.legend(loc="lower left", ncols=8, fontsize=8)
    axes.set_title(
        f"seed {results.seed}: {results.callers.all.raw:.2%} answered at once, "
        f"{results.callers.all.retried:.2%} with one retry, {results.wrong_actives} wrong actives, "
        f"{results.lost_events} lost events"
    )


def _draw_states(axes: Any, all_states: States, colours: dict[str, str], seconds: float) -> None:
    for row, (_, states) in enumerate(all_states.items()):
        ends = [at for at, _ in states[1:]] + [seconds]
        for (start, state), end in zip(states, ends, strict=True):
            axes.barh(row, end - start, left=start, color=colours.get(state, "#000000"), height=0.8)
    axes.set_yticks(range(len(all_states)), list(all_states), fontsize=8)
    axes.legend(
        handles=[axes.barh(0, 0, color=colour, label=state) for state, colour in colours.items()],
        loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=7,
    )  # fmt: skip


def _violations(results: Results) -> list[str]:
    if not results.violations:
        return []
    return ["## Violations", "", *(f"- {one.rule}: {one.says}" for one in results.violations), ""]


def _undecided(found: list[Undecided]) -> list[str]:
    if not found:
        return []
    rows = [
        f"| {one.reason} | {'yes' if one.seen else 'never'} | {'yes' if one.hurt else 'no'} | {one.count:,} "
        f"| {spans(one.seconds)} |"
        for one in found
    ]
    head = "| reason | token introspected before | guard killed or frozen then | checks | asked in seconds |"
    return ["## What was not answered by guards", "", head, "|---|---|---|---|---|", *rows, ""]


def spans(seconds: dict[int, int]) -> str:
    """`4-7 (31), 9 (1)`: what lies within a second of each other together."""
    found: list[list[int]] = []
    for second, count in seconds.items():
        if found and second - found[-1][1] <= 1:
            found[-1][1], found[-1][2] = second, found[-1][2] + count
        else:
            found.append([second, second, count])
    shown = [f"{first}-{last} ({count})" if last > first else f"{first} ({count})" for first, last, count in found]
    return ", ".join(shown[:12]) + (", …" if len(shown) > 12 else "")


def _row(effect: Effect, *, times: bool = True) -> str:
    found = effect.availability
    first = f"| {effect.fault} | {effect.times} |" if times else f"| {effect.fault} |"
    return f"{first} {found.questions:,} | {found.raw:.1%} | {found.retried:.1%} | {effect.last_known:.1%} |"


def _joined(figures: dict[str, float]) -> str:
    return ", ".join(f"{value:,.1f}" for value in figures.values())


def _pair(how: dict[str, int]) -> str:
    return f"{how.get('acknowledged', 0):,}, {how.get('waited_out', 0):,}"
