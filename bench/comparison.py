"""Our node beside other servers that introspect, on one machine in one run, rounds interleaved.

The server has one core, the generator the other. The first figure is the server's CPU time for each request, by the
operating system's account, all its processes summed: it does not depend on whether the generator could keep up. The
rate is what came through beside it, with the share of its core that the server used. Contenders:

- ours, mutual TLS: a whole node with one worker, real tokens (PS256), metrics and limits on, 1,000 warm tokens
- oidc-provider, plain HTTP: node-oidc-provider, opaque tokens in memory, a confidential client (Node.js, npm)
- Quart-Trio, plain HTTP: our endpoint's own work behind Hypercorn and Quart-Trio
- nginx constant, mutual TLS: a constant of our answer's size, which is as little as a server can do (nginx)

Then ours alone: tokens each seen for the first time, signed answers, batches of 100 decisions where the node has
them. What a second worker costs is measured by `bench.scaling`.

    .venv/bin/python -m bench.comparison [--rounds 5] [--seconds 3] [--quick] [--json] [--chart FILE]
"""

import argparse
import contextlib
import re
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from bench.accounting import core
from bench.cases import Case, batch, cold, signed
from bench.contenders import Absent, Contender, Failed, node, oidc_provider, quart
from bench.generator import Length, measure
from bench.names import NGINX, OIDC, OURS, QUART
from bench.population import Population
from bench.report import draw_comparison
from bench.rivals.nginx import nginx, size_of_answer
from bench.rounds import Figures, Round, WrongAnswer, as_json, figures, interleave, lines

TOKENS = 1_000
SERVER, GENERATOR = 0, 1  # cores


class Plan(argparse.Namespace):
    """The command line."""

    rounds: int
    seconds: float
    requests: int
    quick: bool
    json: bool
    chart: Path | None

    def length(self) -> Length:
        """Of one round."""
        return Length(self.seconds, self.requests, connections=4 if self.quick else 32)


def plan_of(arguments: list[str]) -> Plan:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of one round of one contender")
    parser.add_argument("--requests", type=int, default=10**12, help="a round ends with so many, if that is sooner")
    parser.add_argument("--quick", action="store_true", help="two short rounds without downloads: not to be quoted")
    parser.add_argument("--json", action="store_true", help="the figures as the last line")
    parser.add_argument("--chart", type=Path, help="where to draw a PNG")
    plan = parser.parse_args(arguments, Plan())
    if plan.quick:
        plan.rounds, plan.requests, plan.seconds = 2, 200, 1.0
    return plan


def round_of(contender: Contender, length: Length, cores: set[int]) -> Round:
    """One round of a contender."""
    return partial(measure, contender.question, length, cores, contender.cpu)


class Comparison:
    """One run: what was found, and what could not be."""

    def __init__(self, plan: Plan, population: Population) -> None:
        self.plan = plan
        self.population = population
        self.tokens = population.tokens(100 if plan.quick else TOKENS)
        self.found: dict[str, Figures] = {}
        self.skipped: dict[str, str] = {}

    def run(self) -> None:
        """Everything, in order."""
        with contextlib.ExitStack() as servers:
            ours = servers.enter_context(node(self.population, self.tokens, core(SERVER)))
            self.keep({name: round_of(one, self.plan.length(), core(GENERATOR))
                       for name, one in self.rivals(servers, ours).items()})  # fmt: skip
            for case in (batch, signed, cold):  # the cold ones push warm tokens out of the memo
                self.try_case(case(self.population, ours, quick=self.plan.quick))

    def rivals(self, servers: contextlib.ExitStack, ours: Contender) -> dict[str, Contender]:
        """Ours and whoever else can run here."""
        population, place = self.population, core(SERVER)
        contenders = {OURS: ours}
        starts = {
            OIDC: partial(oidc_provider, population.directory, len(self.tokens), place),
            QUART: partial(quart, population, self.tokens, place, population.directory / "ours/replica"),
            NGINX: partial(nginx, population, self.tokens, place, size_of_answer(ours.question)),
        }
        for name in [QUART] if self.plan.quick else starts:
            try:
                contenders[name] = servers.enter_context(starts[name]())
            except (Absent, Failed) as fault:
                self.skip(name, str(fault))
        return contenders

    def try_case(self, case: Case) -> None:
        """A case of ours, if the node knows it."""
        try:
            measure(case.probe(), Length(1.0, 1, 1), core(GENERATOR), float)
        except WrongAnswer as wrong:
            status = re.search(r"HTTP/1.1 \d{3}", str(wrong))
            self.skip(case.name, f"{case.name}: left out, the node answers {status.group() if status else wrong}.")
            return
        length, place = self.plan.length(), core(GENERATOR)
        self.keep({case.name: lambda: measure(case.question(), length, place, case.contender.cpu)})

    def keep(self, contenders: Mapping[str, Round]) -> None:
        """Measure them, round by round."""
        for name, rounds in interleave(contenders, self.plan.rounds).items():
            self.found[name] = figures(rounds)

    def skip(self, name: str, why: str) -> None:
        """Said at once and kept."""
        self.skipped[name] = why
        print(why, file=sys.stderr)


def main(arguments: list[str] | None = None) -> None:
    """Compare and tell."""
    plan = plan_of(sys.argv[1:] if arguments is None else arguments)
    with tempfile.TemporaryDirectory(prefix="ccs-bench-") as name:
        directory = Path(name)
        directory.chmod(0o755)  # nginx's worker is another user where the bench is root
        population = Population(directory, TOKENS)
        population.write()
        comparison = Comparison(plan, population)
        comparison.run()
    print("\n".join([*lines(comparison.found), *comparison.skipped.values()]))
    if plan.chart and not plan.quick:
        draw_comparison(comparison.found, plan.chart)
    if plan.json:
        print(as_json("comparison", comparison.found, skipped=comparison.skipped))


if __name__ == "__main__":
    main()
