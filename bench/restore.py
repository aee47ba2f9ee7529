"""A million consents: backup, restore to a served ledger, and how far behind a followed backup is.

A sandbox is made by `ccs up` and stopped. Consents are then appended to its ledger by the ledger's own code, in this
process, with hashes, encryption and fsync but without the API's checks: seeding a million through the API takes many
minutes and measures nothing that is asked here. Everything that is timed is done by the commands that an operator
runs, as processes of their own, on the database file and a place on the same disk.

Lag of an event: from the return of its commit to the moment at which the segment that holds it has its name in the
place. What a lost site would lose is never older than the largest lag; a full backup is taken meanwhile.

    .venv/bin/python -m bench.restore [--consents 1000000] [--seconds 40] [--json]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import trio

from admin.cli import embedded_redis
from admin.cli.up import REDIS_MEMORY
from admin.config import load_admin_config
from admin.ledger.sql import open_ledger
from bench.ledger_append import grant
from bench.million import PATIENCE, seconds_to, service
from engine.telemetry.host import SystemClock
from tests.support.sandbox import Running

TASKS = 1_000  # that append at once while seeding
RATE = 100  # events a second while following: ten times the busiest second of a year at 50% uptake


class Commands:
    """`ccs ledger …` on one sandbox."""

    def __init__(self, directory: Path, state: Path) -> None:
        self._state = state
        self.place = directory / "place"
        self.place.mkdir()
        self._key = directory / "backup.key"
        self._key.touch(mode=0o600)
        self._key.write_bytes(os.urandom(32))

    def words(self, command: str, *more: str) -> list[str]:
        """The command line."""
        where = [str(self.place), "--key", str(self._key), "--state", str(self._state), "--json", *more]
        return [sys.executable, "-m", "admin.cli", "ledger", command, *where]

    def timed(self, command: str, *more: str) -> tuple[float, dict[str, Any]]:
        """Run it to its end: seconds, and what it said."""
        began = time.monotonic()
        done = subprocess.run(self.words(command, *more), capture_output=True, text=True, check=True, timeout=PATIENCE)
        return time.monotonic() - began, json.loads(done.stdout)


async def append(settings: Path, consents: int) -> None:
    """Seed: many tasks, one event each at a time."""
    numbers = iter(range(consents))

    async with open_ledger(load_admin_config(settings).ledger, SystemClock()) as ledger, trio.open_nursery() as nursery:

        async def writer() -> None:
            for number in numbers:
                await ledger.append((grant(number),))

        for _ in range(TASKS):
            nursery.start_soon(writer)


async def follow(settings: Path, commands: Commands, seconds: float) -> list[float]:
    """Write at RATE while a backup follows and a full one is taken; the lag of each event, in seconds."""
    committed: dict[int, float] = {}
    shipped: list[tuple[int, float]] = []
    process = await trio.lowlevel.open_process(commands.words("backup", "--follow"), stdout=subprocess.PIPE)

    async def listen() -> None:
        assert process.stdout is not None
        held = b""
        async for piece in process.stdout:
            *lines, held = (held + piece).split(b"\n")
            shipped.extend((json.loads(line)["seq"], time.monotonic()) for line in lines)

    async with open_ledger(load_admin_config(settings).ledger, SystemClock()) as ledger, trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        while not shipped:
            await ledger.append((grant(0),))
            await trio.sleep(0.5)
        beside = await trio.lowlevel.open_process(commands.words("backup"), stdout=subprocess.DEVNULL)
        begun = trio.current_time()
        for number in range(int(RATE * seconds)):
            await trio.sleep_until(begun + number / RATE)
            receipt = await ledger.append((grant(number),))
            committed[receipt.position.seq] = time.monotonic()
        last = max(committed)
        while shipped[-1][0] < last:  # noqa: ASYNC110 - another process says it
            await trio.sleep(0.1)
        await beside.wait()
        process.terminate()
        await process.wait()
        nursery.cancel_scope.cancel()
    return [next(at for seq, at in shipped if seq >= mine) - committed[mine] for mine in committed]


def measure(directory: Path, consents: int, seconds: float) -> dict[str, object]:
    """Seed, back up, follow, destroy, restore, serve."""
    sandbox = Running(directory / "var", consents=20)
    issuer = sandbox.start().about["issuer"]
    sandbox.stop()
    settings, database = sandbox.state / "config/admin.toml", sandbox.state / "ledger/ledger.db"
    began = time.monotonic()
    trio.run(append, settings, consents)
    seeded = time.monotonic() - began
    commands = Commands(directory, sandbox.state)
    full, shipped = commands.timed("backup")
    lags = sorted(trio.run(follow, settings, commands, seconds))
    size = database.stat().st_size
    for end in ("", "-wal", "-shm"):
        database.with_name(database.name + end).unlink(missing_ok=True)
    restored, made = commands.timed("restore")
    redis = embedded_redis.start(sandbox.state / "redis", max_memory=REDIS_MEMORY)
    admin = service("admin", sandbox)
    try:
        ready = seconds_to(admin, f"{issuer}/jwks", sandbox.state / "pki/ca.pem")
    finally:
        admin.stop()
        redis.stop()
    return {
        "bench": "restore",
        "consents": consents,
        "events": made["events"],
        "database_bytes": size,
        "backup_bytes": shipped["bytes"],
        "appends_per_second_when_seeding": round(consents / seeded),
        "seconds": {
            "full backup": round(full, 1),
            "restore": round(restored, 1),
            "admin start to ready": round(ready, 2),
            "restore to a served ledger": round(restored + ready, 1),
        },
        "rpo_seconds": {
            "median": round(statistics.median(lags), 2),
            "p99": round(lags[len(lags) * 99 // 100], 2),
            "largest": round(lags[-1], 2),
        },
        "events_followed": len(lags),
    }


def main() -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--consents", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=40.0, help="how long events are written while following")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ccs-bench-") as directory:
        result = measure(Path(directory), arguments.consents, arguments.seconds)
    if arguments.json:
        print(json.dumps(result))
        return
    for group in ("seconds", "rpo_seconds"):
        figures = result[group]
        assert isinstance(figures, dict)
        for name, value in figures.items():
            print(f"{name:<32}{value:>10} s")
    print(f"{'backup':<32}{result['backup_bytes']:>10} B, of a database of {result['database_bytes']} B")


if __name__ == "__main__":
    main()
