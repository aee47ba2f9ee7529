"""What a guard can do on one core: single checks, and checks in batches of 500 by the tokens' digests.

A real worker has the first core to itself, the guard the second; both speak mutual TLS. Every check is a whole one: the
question, the answer read strictly, the certificate compared, memory told. Memory is the guard's own store on this disk
(`engine.guard.store`); `--dictionary` puts a dictionary in its place, to see what the store costs. `ceiling` is the
guard's rate if it had its core all of the time; where the rate is lower, it waited for the node. `speed`: the
machine's at that moment (`bench.yardstick`).

    .venv/bin/python -m bench.guard [--seconds 5] [--tokens 2000] [--tasks 32] [--dictionary] [--json] [--profile]
"""

import argparse
import cProfile
import json
import pstats
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs

import msgspec
import trio

from admin.pki.key_files import write_private
from bench.target import EDP, Target, running, take_second_core
from bench.yardstick import speed
from engine.clock import UnixTime, parse_utc
from engine.consent.records import Thumbprint
from engine.guard.config import GuardConfig, Service, Store
from engine.guard.guard import Guard
from engine.guard.memory import Memory
from engine.guard.opening import FLUSH_EVERY
from engine.guard.shares import Share
from engine.guard.store import GuardStore
from engine.telemetry.host import SystemClock
from engine.tokens import jws
from tests.support.guard_stand import Recorded, Told
from tests.support.pki import ISSUER

BATCH = 500
WARM_UP = 0.1  # of the measured time, at least one round over all tokens


def share_of(ending: bytes) -> Share:
    """A share of a day that the token of a request covers."""
    token = parse_qs(ending.partition(b"\r\n\r\n")[2].decode())["token"][0]
    parts = jws.split(token.encode())
    assert parts is not None
    claims = json.loads(jws.decode_part(parts.payload) or b"")
    (detail,) = claims["authorization_details"]
    start = parse_utc(detail["data_from"])
    bound_to = jws.decode_part(claims["cnf"]["x5t#S256"].encode())
    assert bound_to is not None
    return Share(
        token=token, thumbprint=Thumbprint(bound_to), dataset_id=detail["dataset_id"], mpxn=detail["meter_points"][0],
        data_from=start, data_to=UnixTime(start + 1800),
    )  # fmt: skip


OLD: Final = 120  # seconds: an empty store takes no answer about its first minute, and this one is past it


@contextmanager
def memory_of(*, dictionary: bool) -> Iterator[Memory]:
    """A store in a temporary directory on this disk, of which nothing is missing; or a dictionary."""
    if dictionary:
        yield Told()
        return
    clock = SystemClock()
    with tempfile.TemporaryDirectory(prefix="ccs-bench-guard-") as name:
        key = Path(name) / "store.key"
        write_private(key, bytes(32))
        settings = Store(directory=Path(name) / "store", key_file=key)
        store = GuardStore(settings, EDP, lambda: UnixTime(clock.now() - OLD))
        try:
            store.mark_whole()
            yield store
        finally:
            store.close()


def guard_of(target: Target, memory: Memory) -> Guard:
    """A guard that asks the node."""
    door, nowhere = target.door, Path("nowhere")
    service = Service(
        addresses=(f"https://localhost:{door.port}",), ca_file=Path(str(door.authority)),
        certificate_file=Path(door.certificate), key_file=Path(door.key), max_connections=64,
    )  # fmt: skip
    settings = GuardConfig(
        client_id=EDP, issuer=ISSUER, service=service, store=Store(directory=nowhere, key_file=nowhere)
    )
    return Guard(settings, memory=memory, evidence=Recorded())


async def keep_flushing(memory: Memory) -> None:
    """As an open guard does."""
    while isinstance(memory, GuardStore):
        await trio.sleep(FLUSH_EVERY)
        memory.flush()


class Rate(msgspec.Struct, frozen=True):
    """checks/s, CPU of the guard for each in microseconds, and what that would come to on a whole core."""

    rate: float
    cpu_us: float
    ceiling: float


async def load(check: Callable[[int], Awaitable[int]], tasks: int, seconds: float) -> Rate:
    """So many tasks at once, each asking again as soon as it was answered. check: returns how many it settled."""
    done = 0
    until = trio.current_time() + seconds

    async def ask(number: int) -> None:
        nonlocal done
        while trio.current_time() < until:
            settled = await check(number)
            done += settled
            number += tasks

    began, cpu = time.perf_counter(), time.process_time()
    async with trio.open_nursery() as nursery:
        for number in range(tasks):
            nursery.start_soon(ask, number)
    took, used = time.perf_counter() - began, time.process_time() - cpu
    return Rate(done / took, used / done * 1e6, done / used)


async def measure(
    guard: Guard, memory: Memory, shares: list[Share], arguments: argparse.Namespace
) -> dict[str, Rate | float]:
    """Warm up, then single checks, then batches."""

    async def one(number: int) -> int:
        verdict = await guard.check(shares[number % len(shares)])
        assert verdict.allowed, verdict
        return 1

    async def many(number: int) -> int:
        start = number * BATCH % len(shares)
        chosen = (shares + shares)[start : start + BATCH]
        verdicts = await guard.check_many(chosen)
        assert all(verdict.allowed for verdict in verdicts)
        return len(verdicts)

    async with guard, trio.open_nursery() as nursery:
        nursery.start_soon(keep_flushing, memory)
        await many(0)
        for number in range(len(shares)):
            await one(number)
        await load(one, arguments.tasks, arguments.seconds * WARM_UP)
        singles = await load(one, arguments.tasks, arguments.seconds)
        await load(many, 4, arguments.seconds * WARM_UP)
        batches = await load(many, 4, arguments.seconds)
        nursery.cancel_scope.cancel()
    return {"single": singles, "batch": batches, "speed": round(speed(), 2)}


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--tasks", type=int, default=32)
    parser.add_argument("--dictionary", action="store_true", help="as the guard's memory, instead of its store")
    parser.add_argument("--json", action="store_true", help="figures as JSON alone")
    parser.add_argument("--profile", action="store_true", help="where the guard's time goes; slows it down")
    arguments = parser.parse_args()
    with running({"good": arguments.tokens}) as target, memory_of(dictionary=arguments.dictionary) as memory:
        take_second_core()
        shares = [share_of(ending) for ending in target.endings["good"]]
        profile = cProfile.Profile()
        if arguments.profile:
            profile.enable()
        found = trio.run(measure, guard_of(target, memory), memory, shares, arguments)
        if arguments.profile:
            profile.disable()
            pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(45)
    if not arguments.json:
        for name, rate in found.items():
            if isinstance(rate, Rate):
                print(
                    f"{name:8}{rate.rate:10,.0f} checks/s {rate.cpu_us:8.1f} us CPU each  ceiling {rate.ceiling:,.0f}/s"
                )
    print(msgspec.json.encode(found).decode())


if __name__ == "__main__":
    main()
