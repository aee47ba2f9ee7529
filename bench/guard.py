"""What a guard can do on one core: single checks, and checks in batches of 500 by the tokens' digests.

A real worker has the first core to itself, the guard the second; both speak mutual TLS. Every check is a whole one: the
question, the answer read strictly, the certificate compared, memory told. Memory is a dictionary: the guard itself is
measured, and no disk. `ceiling` is the guard's rate if it had its core all of the time; where the rate is lower, it
waited for the node.

    .venv/bin/python -m bench.guard [--seconds 5] [--tokens 2000] [--tasks 32] [--json] [--profile]
"""

import argparse
import cProfile
import json
import pstats
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import parse_qs

import msgspec
import trio

from bench.target import EDP, Target, running, take_second_core
from engine.clock import UnixTime, parse_utc
from engine.consent.records import Thumbprint
from engine.guard.config import GuardConfig, Service, Store
from engine.guard.guard import Guard
from engine.guard.shares import Share
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


def guard_of(target: Target) -> Guard:
    """A guard that asks the node, with a dictionary as its memory."""
    door, nowhere = target.door, Path("nowhere")
    service = Service(
        addresses=(f"https://localhost:{door.port}",), ca_file=Path(str(door.authority)),
        certificate_file=Path(door.certificate), key_file=Path(door.key), max_connections=64,
    )  # fmt: skip
    settings = GuardConfig(
        client_id=EDP, issuer=ISSUER, service=service, store=Store(directory=nowhere, key_file=nowhere)
    )
    return Guard(settings, memory=Told(), evidence=Recorded())


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


async def measure(guard: Guard, shares: list[Share], arguments: argparse.Namespace) -> dict[str, Rate]:
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

    async with guard:
        await many(0)
        for number in range(len(shares)):
            await one(number)
        await load(one, arguments.tasks, arguments.seconds * WARM_UP)
        singles = await load(one, arguments.tasks, arguments.seconds)
        await load(many, 4, arguments.seconds * WARM_UP)
        return {"single": singles, "batch": await load(many, 4, arguments.seconds)}


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--tasks", type=int, default=32)
    parser.add_argument("--json", action="store_true", help="figures as JSON alone")
    parser.add_argument("--profile", action="store_true", help="where the guard's time goes; slows it down")
    arguments = parser.parse_args()
    with running({"good": arguments.tokens}) as target:
        take_second_core()
        shares = [share_of(ending) for ending in target.endings["good"]]
        profile = cProfile.Profile()
        if arguments.profile:
            profile.enable()
        found = trio.run(measure, guard_of(target), shares, arguments)
        if arguments.profile:
            profile.disable()
            pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(45)
    if not arguments.json:
        for name, rate in found.items():
            print(
                f"{name:8}{rate.rate:10,.0f} checks/s  {rate.cpu_us:8.1f} us CPU each  ceiling {rate.ceiling:10,.0f}/s"
            )
    print(msgspec.json.encode(found).decode())


if __name__ == "__main__":
    main()
