"""What the Redis link carries on one core of this process: GETs by many callers, by one, in batches; blocked reads.

    .venv/bin/python bench/redis_link.py

Rates are per second of this process's processor time: one core's, also on a machine that is shared. Starts a server
of its own on a unix socket in a temporary folder.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import trio

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from admin.cli import embedded_redis
from engine.feed.redis_client import RedisClient
from engine.feed.redis_commands import get, put, xadd
from engine.feed.redis_link import Credentials
from engine.feed.topology import topology_of

SECONDS: Final = 2.0
CALLERS: Final = 64
BATCH: Final = 50
WAKES: Final = 1000


def client_of(url: str) -> RedisClient:
    topology = topology_of(url, credentials=Credentials())
    return RedisClient(topology, credentials=Credentials(), tls=None, name="bench", jitter=lambda: 0.5)


async def gets(client: RedisClient, callers: int) -> float:
    done, used = 0, time.process_time()
    deadline = time.perf_counter() + SECONDS

    async def call() -> None:
        nonlocal done
        while time.perf_counter() < deadline:
            await get(client, b"{ccs}:bench")
            done += 1

    async with trio.open_nursery() as nursery:
        for _ in range(callers):
            nursery.start_soon(call)
    return done / (time.process_time() - used)


async def batches(client: RedisClient) -> float:
    done, used = 0, time.process_time()
    deadline = time.perf_counter() + SECONDS
    while time.perf_counter() < deadline:
        await client.execute_many([("GET", b"{ccs}:bench")] * BATCH)
        done += BATCH
    return done / (time.process_time() - used)


async def wakes(client: RedisClient, reader: RedisClient) -> list[float]:
    """Milliseconds from XADD's start until a blocked reader has the entry."""
    took: list[float] = []
    last = b"0-0"
    for number in range(1, WAKES + 1):
        woken: list[float] = []

        async def wait(after: bytes, woken: list[float] = woken) -> None:
            await reader.xread_blocking({b"{ccs}:feed": after}, block_ms=1000)
            woken.append(time.perf_counter())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, last)
            await trio.sleep(0.0005)  # let the server block it
            started = time.perf_counter()
            last = await xadd(client, b"{ccs}:feed", b"%d-0" % number, {b"e": b"x" * 250})
        took.append((woken[0] - started) * 1000)
    return sorted(took)


async def main() -> None:
    with tempfile.TemporaryDirectory(prefix="ccs-") as directory:
        server = embedded_redis.start(Path(directory) / "redis")
        try:
            client, reader = client_of(server.url), client_of(server.url)
            async with trio.open_nursery() as nursery:
                await nursery.start(client.run)
                await nursery.start(reader.run)
                await put(client, b"{ccs}:bench", b"x" * 250)
                print(f"GET, {CALLERS} callers: {await gets(client, CALLERS):>10,.0f}/s")
                print(f"GET, one caller:  {await gets(client, 1):>10,.0f}/s")
                print(f"GET, batches of {BATCH}: {await batches(client):>8,.0f}/s")
                took = await wakes(client, reader)
                print(f"blocked read: p50 {statistics.median(took):.2f} ms, p99 {took[int(WAKES * 0.99)]:.2f} ms")
                nursery.cancel_scope.cancel()
        finally:
            server.stop()


if __name__ == "__main__":
    trio.run(main)
