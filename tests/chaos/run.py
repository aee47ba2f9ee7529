"""One run: load and writes on the whole system, the plan carried out, then everything held to account."""

import json
import ssl
import time
import urllib.request
from base64 import b64encode
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import trio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.chaos.aftermath import ask_about_all, compare_replicas, read_ledger, wait_applied
from tests.chaos.edps import Load, published_keys
from tests.chaos.fates import Fates, settle
from tests.chaos.judge import Judge, Violation
from tests.chaos.knowledge import Knowledge
from tests.chaos.plan import Fault, draw
from tests.chaos.settings import ATPS, DATASET, EDPS, Places
from tests.chaos.system import System, broken, running
from tests.chaos.tally import Asked, Availability, Effect, availability, by_second, effects, outcomes, quiet
from tests.chaos.writer import Writers

WATCH_EVERY = 0.25  # seconds between two looks at the nodes' states
SETTLED_WITHIN = 60.0  # seconds until every write that was begun is known
FIRST_CONSENTS = 40  # before the load starts
LIMITS = {"max_connections": 10_000, "max_requests_per_second": 100_000}


class Options(msgspec.Struct, frozen=True):
    """What to run. seconds: of load; directory: of everything that is written."""

    seconds: float
    seed: int
    directory: Path
    nodes: int = 3
    rate: float = 300.0
    postgres: bool = False


class Results(msgspec.Struct, frozen=True):
    """Everything that the report shows; as JSON, everything that a later comparison may want."""

    seconds: float
    seed: int
    nodes: int
    ledger: str
    plan: tuple[Fault, ...]
    raw_and_retried: Availability
    handling: Availability
    not_handling: Availability
    quiet: Availability
    outcomes: dict[str, int]
    by_second: dict[str, list[int]]
    states: dict[str, list[tuple[float, str]]]
    effects: list[Effect]
    alone: list[Effect]
    judged: int
    asked_after_effect: int
    exposed: int
    verified: int
    not_asked: int
    latency_ms: dict[str, float]
    fates: Fates
    events: int
    effective: dict[str, int]
    effective_ms: dict[str, float]
    back: dict[str, float]
    asked_at_the_end: int
    ended_by_themselves: list[str]
    violations: list[Violation]

    @property
    def wrong_actives(self) -> int:
        """Actives that nobody should have got."""
        return sum(one.rule.startswith(("P1", "P2", "P6")) for one in self.violations)

    @property
    def lost_events(self) -> int:
        """Of the ledger or of a replica."""
        return sum(one.rule in ("P7 lost", "lost event") for one in self.violations)


class Watching:
    """What happens while it runs, for whoever watches."""

    def __init__(self, say: Callable[[str], None], show: Callable[[float, str], None]) -> None:
        self.say, self.show = say, show


async def run(options: Options, watching: Watching, ledger_url: str, *more: Any) -> Results:
    """Do it all. more: processes that are not ours to start, such as PostgreSQL's server."""
    random = Random(options.seed)  # noqa: S311 - a run that can be made again, no secret
    system = System(Places(options.directory), options.nodes, ledger_url, options.seed)
    system.processes = {process.name: process for process in more} | system.processes
    plan = draw(options.seed, options.seconds, system.targets(postgres=options.postgres))
    for fault in plan:
        watching.say(str(fault))
    knowledge, judge = Knowledge(random), Judge()
    async with running(system):
        writers = Writers(system, knowledge, random)
        load = Load(system, knowledge, judge, random, options.rate)
        await writers.register(registrations(system))
        states: dict[str, list[tuple[float, str]]] = {node: [] for node in system.nodes}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writers.run)
            with trio.fail_after(SETTLED_WITHIN):
                await knowledge.wait_standing(FIRST_CONSENTS)
            load.verify(await _keys(system))
            began = trio.current_time()
            async with _watched(system, load, judge, states, began, watching), trio.open_nursery() as faults:
                for fault in plan:
                    faults.start_soon(_carry_out, system, fault, began)
                await load.run(options.seconds)
            writers.stop()
            nursery.cancel_scope.deadline = trio.current_time() + SETTLED_WITHIN
        watching.say("mended; now everything is held to account")
        ledger = await read_ledger(system)
        back, violations = await wait_applied(system, ledger.head)
        load.verify(await _keys(system))
        asked, missing = await ask_about_all(system, load, knowledge, ledger)
        violations += [*missing, *await compare_replicas(system, ledger)]
        await load.close()
        await writers.close()
    fates = settle(writers.writes, ledger.events)
    violations += [*judge.violations, *fates.violations]
    violations += [Violation("ledger not whole", 0.0, ledger.fault)] if ledger.fault else []
    violations += [Violation("P7 unsettled", 0.0, f"{writers.open} writes got no answer")] if writers.open else []
    violations += [Violation("signature", 0.0, f"{load.unverified} with unpublished keys")] if load.unverified else []
    ended = [said for process in system.processes.values() for said in process.ended_by_itself]
    return Results(
        seconds=options.seconds,
        seed=options.seed,
        nodes=options.nodes,
        ledger="PostgreSQL" if options.postgres else "SQLite",
        plan=plan,
        **_of_callers(load.asked, plan, options.seconds),
        states=states,
        judged=judge.judged,
        asked_after_effect=judge.asked_after_effect,
        exposed=judge.exposed,
        verified=load.verified,
        not_asked=load.not_asked,
        latency_ms=_percentiles(load.latencies),
        fates=fates,
        events=len(ledger.events),
        effective=dict(Counter(how for how, _ in writers.effects)),
        effective_ms=_percentiles([seconds for _, seconds in writers.effects]),
        back=back,
        asked_at_the_end=asked,
        ended_by_themselves=ended,
        violations=violations,
    )


def registrations(system: System) -> list[dict[str, Any]]:
    """The forms of all EDPs and ATPs."""
    edps = [
        {
            **_form(system, edp.client_id, "edp"),
            "organisation": {"name": edp.client_id, "locations": [f"https://api.{edp.client_id}.example/hh"]},
            "datasets": [DATASET],
            "answers": edp.answers,
            "handles_last_known": edp.handles_last_known,
            **LIMITS,
        }
        for edp in EDPS
    ]
    return [*edps, *({**_form(system, atp, "atp"), "organisation": {"name": atp}} for atp in ATPS)]


def _form(system: System, client: str, role: str) -> dict[str, Any]:
    pem = (system.places.pki / f"{client}.pem").read_bytes()
    der = x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
    return {"client_id": client, "role": role, "certificates": [b64encode(der).decode()]}


def _of_callers(asked: list[Asked], plan: tuple[Fault, ...], seconds: float) -> dict[str, Any]:
    return {
        "raw_and_retried": availability(asked),
        "handling": availability(one for one in asked if one.handles_last_known),
        "not_handling": availability(one for one in asked if not one.handles_last_known),
        "quiet": availability(quiet(asked, plan)),
        "outcomes": outcomes(asked),
        "by_second": {outcome.value: counts for outcome, counts in by_second(asked, int(seconds) + 1).items()},
        "effects": effects(asked, plan),
        "alone": effects(asked, plan, lambda fault: f"{fault.number:03} {fault}"),
    }


async def _carry_out(system: System, fault: Fault, began: float) -> None:
    await trio.sleep_until(began + fault.at)
    with broken(system, fault):
        await trio.sleep_until(began + fault.until)


@asynccontextmanager
async def _watched(
    system: System,
    load: Load,
    judge: Judge,
    states: dict[str, list[tuple[float, str]]],
    began: float,
    watching: Watching,
) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        for node in system.nodes:
            nursery.start_soon(_watch_node, system, node, states[node], began)
        nursery.start_soon(_watch_load, load, judge, began, watching)
        yield
        nursery.cancel_scope.cancel()


async def _watch_node(system: System, node: str, states: list[tuple[float, str]], began: float) -> None:
    while True:
        state = str((await system.status(node)).get("state", "silent"))
        if not states or states[-1][1] != state:
            states.append((trio.current_time() - began, state))
        await trio.sleep(WATCH_EVERY)


async def _watch_load(load: Load, judge: Judge, began: float, watching: Watching) -> None:
    while True:
        found = availability(load.asked[-2_000:])
        watching.show(
            trio.current_time() - began,
            f"{len(load.asked):,} asked · {found.raw:.1%} answered, {found.retried:.1%} with a retry · "
            f"{len(judge.violations)} violations",
        )
        await trio.sleep(WATCH_EVERY)


async def _keys(system: System) -> dict[str, Any]:
    """What the issuer publishes; by its own listener, which no link leads to."""
    context = ssl.create_default_context(cafile=str(system.places.pki / "ca.pem"))

    def fetch() -> dict[str, Any]:
        deadline = time.monotonic() + SETTLED_WITHIN
        while True:
            try:
                with urllib.request.urlopen(f"{system.issuer}/jwks", timeout=5, context=context) as answer:  # noqa: S310 - our own address
                    return published_keys(json.loads(answer.read()))
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    return await trio.to_thread.run_sync(fetch)


def _percentiles(seconds: list[float]) -> dict[str, float]:
    if not seconds:
        return {}
    ordered = sorted(seconds)
    shares = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {name: round(1e3 * ordered[int(share * (len(ordered) - 1))], 1) for name, share in shares.items()}
