"""One run: load and writes on the whole system, the plan carried out, then everything held to account."""

import json
import ssl
import time
import urllib.request
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import trio

from tests.chaos.aftermath import Ledger, ask_about_all, compare_replicas, read_ledger, wait_applied
from tests.chaos.edps import Load
from tests.chaos.fates import settle
from tests.chaos.guarding import Guarding
from tests.chaos.judge import Judge, Violation
from tests.chaos.knowledge import Knowledge
from tests.chaos.pairs import guarded_by
from tests.chaos.participants import registrations
from tests.chaos.plan import Fault, draw, with_outages
from tests.chaos.results import Account, Guards, Results, States, Told, of_callers, percentiles, seconds_in
from tests.chaos.settings import GUARDS, Places
from tests.chaos.standing import Standing
from tests.chaos.system import System, broken, running
from tests.chaos.told import ask_guards_about_all, compare_memories, wait_told
from tests.chaos.watching import Watching
from tests.chaos.writer import Writers

SETTLED_WITHIN = 60.0  # seconds until every write that was begun is known
FIRST_CONSENTS = 40  # before the load starts
ALL, OUTAGE = PROFILES = ("all", "outage")  # what is broken: everything, or the engine and what it lives on
SPREAD = 2.5  # in the second, other faults come so many times as seldom


class Options(msgspec.Struct, frozen=True):
    """What to run. seconds: of load; directory: of everything that is written. pace: see `tests.chaos.paced_guard`.

    rate, checks: see `Load`. lasting: consents of each EDP with a guard that stand for longer than the run.
    """

    seconds: float
    seed: int
    directory: Path
    nodes: int = 3
    rate: float = 60.0
    postgres: bool = False
    pace: float = 10.0
    checks: float = 50.0
    lasting: int = 100
    profile: str = ALL


class Run:
    """more: processes that are not the system's to make, such as PostgreSQL's server."""

    def __init__(self, options: Options, watching: Watching, ledger_url: str, *more: Any) -> None:
        self._options, self._watching = options, watching
        random = Random(options.seed)  # noqa: S311 - a run that can be made again, no secret
        self._system = system = System(Places(options.directory), options.nodes, ledger_url, options.seed, options.pace)
        system.processes = {process.name: process for process in more} | system.processes
        targets = system.targets(postgres=options.postgres, guards=options.profile == ALL)
        plan = draw(options.seed, options.seconds, targets, 1.0 if options.profile == ALL else SPREAD)
        self._plan = with_outages(plan, options.seed, options.seconds, options.pace)
        self._knowledge, self._judge = Knowledge(random), Judge()
        self._writers = Writers(system, self._knowledge, random)
        self._guarding = Guarding(system)
        self._standing = Standing(random)
        self._load = Load(
            system, self._knowledge, self._standing, self._judge, self._guarding, random, options.rate, options.checks
        )
        self._busy = self._own = 0.0
        self._states: States = {}
        self._found: list[Violation] = []

    async def __call__(self) -> Results:
        """Do it all. Raises NotReady."""
        for fault in self._plan:
            self._watching.say(str(fault))
        async with running(self._system):
            await self._writers.register(registrations(self._system.places))
            await self._guarding.start()
            await self._writers.grant_lasting(self._standing, self._options.lasting)
            await self._break_it()
            self._watching.say("mended; now everything is held to account")
            ledger = await read_ledger(self._system)
            account = await self._hold_to_account(ledger)
            told = await self._hold_guards_to_account(ledger)
            await self._load.close()
            await self._guarding.close()
            await self._writers.close()
        ends, remembered, wrong = compare_memories(self._system, self._knowledge, ledger)
        self._found += wrong
        return self._results(account, msgspec.structs.replace(told, ends=ends, remembered=remembered))

    async def _break_it(self) -> None:
        """Until the load is over and the fate of every write is known."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._writers.run)
            with trio.fail_after(SETTLED_WITHIN):
                await self._knowledge.wait_standing(FIRST_CONSENTS)
            self._load.signed.learn(await _published_keys(self._system))
            await self._load.introspect_all()
            began, ticks, own = trio.current_time(), cpu_ticks(), time.process_time()
            watched = self._watching.over(self._system, self._load, self._judge, began)
            async with watched as self._states, trio.open_nursery() as followers, trio.open_nursery() as faults:
                followers.start_soon(self._guarding.follow, began)
                followers.start_soon(self._writers.keep_lasting, self._standing, self._options.seconds, nursery)
                for fault in self._plan:
                    faults.start_soon(self._carry_out, fault, began)
                await self._load.run(self._options.seconds)
                self._busy = busy_share(ticks, cpu_ticks())
                self._own = (time.process_time() - own) / self._options.seconds
                followers.cancel_scope.cancel()
            self._writers.stop()
            nursery.cancel_scope.deadline = trio.current_time() + SETTLED_WITHIN

    async def _carry_out(self, fault: Fault, began: float) -> None:
        await trio.sleep_until(began + fault.at)
        with broken(self._system, fault):
            await trio.sleep_until(began + fault.until)

    async def _hold_guards_to_account(self, ledger: Ledger) -> Told:
        back, receivers, late = await wait_told(self._guarding, self._writers)
        asked, wrong = await ask_guards_about_all(self._guarding, self._knowledge, ledger)
        self._found += [*late, *wrong]
        numbers = {edp.client_id: receivers.get(edp.client_id, {}) for edp in GUARDS.values()}
        return Told(
            back=back,
            pushed_late={edp: one.get("unsent", 0) for edp, one in numbers.items()},
            parked={edp: one.get("parked", 0) for edp, one in numbers.items()},
            asked=asked,
        )

    async def _hold_to_account(self, ledger: Ledger) -> Account:
        system, load = self._system, self._load
        back, late = await wait_applied(system, ledger.head)
        load.signed.learn(await _published_keys(system))
        asked, missing = await ask_about_all(system, load, self._knowledge, ledger)
        fates = settle(self._writers.writes, ledger.events)
        self._found += [*late, *missing, *await compare_replicas(system, ledger), *fates.violations]
        if ledger.fault:
            self._found.append(Violation("ledger not whole", 0.0, ledger.fault))
        if self._writers.open:
            self._found.append(Violation("P7 unsettled", 0.0, f"{self._writers.open} writes got no answer"))
        self._found += [Violation("signature", 0.0, fault) for fault in load.signed.faults]
        if load.signed.unverified:
            self._found.append(Violation("signature", 0.0, f"{load.signed.unverified} by keys that nobody published"))
        return Account(fates, len(ledger.events), back, asked)

    def _guards(self, told: Told) -> Guards:
        options, guarding = self._options, self._guarding
        judge = guarding.judge
        return Guards(
            pace=options.pace,
            guarded=guarded_by(guarding.pairs, self._plan, options.seconds),
            states=guarding.states,
            circuits={guard: seconds_in(states, options.seconds) for guard, states in guarding.states.items()},
            lasting=len(self._standing.held),
            lasting_ended=sum(one.ended for one in self._standing.held),
            judged=judge.judged,
            asked_after_told=judge.asked_after_told,
            fallback_shares=judge.fallback_shares,
            exposed=judge.exposed,
            told=told,
        )

    def _results(self, account: Account, told: Told) -> Results:
        options, judge, load, effects = self._options, self._judge, self._load, self._writers.effects
        return Results(
            seconds=options.seconds,
            seed=options.seed,
            nodes=options.nodes,
            ledger="PostgreSQL" if options.postgres else "SQLite",
            profile=options.profile,
            busy=self._busy,
            own=self._own,
            plan=self._plan,
            callers=of_callers(load.asked, self._plan, options.seconds, load.latencies, load.not_asked),
            states=self._states,
            judged=judge.judged,
            asked_after_effect=judge.asked_after_effect,
            exposed=judge.exposed,
            verified=load.signed.verified,
            effective=dict(Counter(how for how, _ in effects)),
            effective_ms=percentiles([seconds for _, seconds in effects]),
            account=account,
            guards=self._guards(told),
            ended_by_themselves=[said for one in self._system.processes.values() for said in one.ended_by_itself],
            violations=[*judge.violations, *self._guarding.judge.violations, *self._found],
        )


def cpu_ticks() -> tuple[int, int]:
    """Of this whole machine since it started: worked, and in all."""
    numbers = [int(one) for one in Path("/proc/stat").read_text().partition("\n")[0].split()[1:9]]
    idle = numbers[3] + numbers[4]
    return sum(numbers) - idle, sum(numbers)


def busy_share(before: tuple[int, int], after: tuple[int, int]) -> float:
    """Share of its cores' time that the machine worked."""
    return (after[0] - before[0]) / max(1, after[1] - before[1])


async def _published_keys(system: System) -> dict[str, Any]:
    """The issuer's key set, by its own listener, which no link leads to. Raises OSError when it stays away."""
    context = ssl.create_default_context(cafile=str(system.places.pki / "ca.pem"))

    def fetch() -> dict[str, Any]:
        deadline = time.monotonic() + SETTLED_WITHIN
        while True:
            try:
                with urllib.request.urlopen(f"{system.issuer}/jwks", timeout=5, context=context) as answer:  # noqa: S310 - our own address
                    found: dict[str, Any] = json.loads(answer.read())
                    return found
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    return await trio.to_thread.run_sync(fetch)
