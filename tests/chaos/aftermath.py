"""When all is mended: does the whole system come back, and has every node every event of the ledger?

The ledger is walked and exported by the project's own commands. Each node's replica is compared with it record by
record, and each node is asked about every consent.
"""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import trio

from engine.consent.records import ConsentId, consent_key
from engine.consent.states import State
from engine.replica.environment import Environment
from engine.replica.generations import current_name
from engine.replica.reader import view_of
from tests.chaos.edps import Load
from tests.chaos.fates import Event
from tests.chaos.judge import Violation
from tests.chaos.knowledge import Knowledge, Token
from tests.chaos.processes import ROOT
from tests.chaos.system import System
from tests.chaos.tally import Outcome

BACK_WITHIN = 30.0  # seconds until each node has the last event; far more than it should take
COMMAND_WITHIN = 120.0
ASKING = 24  # questions at once


class Standing(msgspec.Struct, frozen=True):
    """A consent as the ledger's last event about it leaves it."""

    consent_id: str
    active: bool
    version: int
    expires_at: float


class Ledger(msgspec.Struct, frozen=True):
    """What the commands said. whole: the verdict's fault, empty if there is none."""

    events: tuple[Event, ...]
    consents: dict[str, Standing]
    head: int
    fault: str


async def command(system: System, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run `ccs`, bounded."""

    def run() -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-m", "admin.cli", *arguments], cwd=ROOT, capture_output=True, timeout=COMMAND_WITHIN,
            env=system.environment, check=False,
        )  # fmt: skip

    return await trio.to_thread.run_sync(run)


async def read_ledger(system: System) -> Ledger:
    """Verify it and export it."""
    config, out = str(system.places.config("admin")), system.places.root / "ledger.jsonl"
    verified = await command(system, "ledger", "verify", "--json", "--config", config)
    verdict = msgspec.json.decode(verified.stdout or b"{}")
    exported = await command(system, "ledger", "export", "--config", config, "--out", str(out))
    fault = "" if verdict.get("whole") else f"{verdict.get('fault')} {verified.stderr.decode(errors='replace')[-500:]}"
    if exported.returncode:
        fault += exported.stderr.decode(errors="replace")[-500:]
    lines = [msgspec.json.decode(line) for line in out.read_bytes().splitlines()] if out.exists() else []
    consents = {line["event"]["consent_id"]: _standing(line) for line in lines if line["tag"].startswith("consent.")}
    head = verdict.get("head", {}).get("seq", 0)
    return Ledger(tuple(Event(line["seq"], line["tag"], _mark(line)) for line in lines), consents, head, fault)


async def wait_applied(system: System, head: int) -> tuple[dict[str, float], list[Violation]]:
    """Seconds until each node was current and had the ledger's last event."""
    began, found = trio.current_time(), dict[str, float]()
    while len(found) < len(system.nodes) and trio.current_time() < began + BACK_WITHIN:
        for node in system.nodes:
            status = await system.status(node)
            if node not in found and status.get("state") == "current" and status.get("applied", -1) >= head:
                found[node] = trio.current_time() - began
        await trio.sleep(0.05)
    late = [node for node in system.nodes if node not in found]
    return found, [Violation("not current again", 0.0, f"{node} within {BACK_WITHIN:.0f} s") for node in late]


async def compare_replicas(system: System, ledger: Ledger) -> list[Violation]:
    """Every consent of the ledger in every node's replica, as the ledger has it; and what `ccs replica stat` says."""
    found = []
    for node in system.nodes:
        done = await command(system, "replica", "stat", "--json", "--config", str(system.places.config(node)))
        stat: dict[str, Any] = msgspec.json.decode(done.stdout or b"{}")
        applied = (stat.get("bound") or ["", -1])[1]  # incarnation, position, …
        if applied < ledger.head:
            found.append(Violation("lost event", 0.0, f"{node}: applied {applied} of {ledger.head}"))
        found += await trio.to_thread.run_sync(differences, node, system.places.root / node / "replica", ledger)
    return found


def differences(node: str, directory: Path, ledger: Ledger) -> list[Violation]:
    """Consents that a replica does not have as the ledger has them."""
    name = current_name(directory)
    if name is None:
        return [Violation("lost event", 0.0, f"{node}: there is no replica")]
    environment = Environment(directory / name, map_size=1 << 28, writable=False)
    found = []
    try:
        with view_of(environment) as view:
            for consent in ledger.consents.values():
                record = view.consent(consent_key(ConsentId(consent.consent_id)))
                if record is None:
                    said = "not there"
                elif record.consent_version < consent.version or (
                    record.consent_version == consent.version and (record.state is State.ACTIVE) != consent.active
                ):
                    said = f"version {record.consent_version}, {record.state.name}"
                else:
                    continue
                found.append(Violation("lost event", 0.0, f"{node}: {consent.consent_id} is {said}"))
    finally:
        environment.close()
    return found


async def ask_about_all(
    system: System, load: Load, knowledge: Knowledge, ledger: Ledger
) -> tuple[int, list[Violation]]:
    """Every node about every consent whose token still lives: active if and only if the ledger says so."""
    violations: list[Violation] = []
    asked = 0
    limiter = trio.CapacityLimiter(ASKING)

    async def ask(token: Token, node: str) -> None:
        nonlocal asked
        async with limiter:
            outcome, _ = await load.ask_one(token, node)
            asked += 1
            expected = _expected(token, ledger)
            if expected is not None and outcome is not expected:
                said = f"{node}: {token.consent.consent_id} is {outcome}, the ledger says {expected}"
                violations.append(Violation("lost event", time.time(), said))

    async with trio.open_nursery() as nursery:
        for token in knowledge.all.values():
            if _expected(token, ledger) is not None:
                for node in system.nodes:
                    nursery.start_soon(ask, token, node)
    return asked, violations


def _expected(token: Token, ledger: Ledger) -> Outcome | None:
    """None: it is about to change, or the token is over."""
    now = time.time()
    standing = ledger.consents.get(token.consent.consent_id)
    if token.expires_at < now + 5 or standing is None:
        return None
    if abs(standing.expires_at - now) < 5:
        return None
    return Outcome.CURRENT if standing.active and standing.expires_at > now else Outcome.INACTIVE


def _standing(line: dict[str, Any]) -> Standing:
    event = line["event"]
    record = event["consent"]
    return Standing(
        event["consent_id"], record["state"] == State.ACTIVE.value, record["consent_version"], record["expires_at"]
    )


def _mark(line: dict[str, Any]) -> str:
    event = line["event"]
    if line["tag"] == "consent.granted":
        return str(event["terms"]["atp_reference"])
    return str(event["consent_id"]) if line["tag"].startswith("consent.") else str(line["subject"])
