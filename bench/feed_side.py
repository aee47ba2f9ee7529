"""How fast the ledger's side of the feed is: commit to Redis, filling Redis anew, a snapshot, entries.

.venv/bin/python -m bench.feed_side [CONSENTS]     default 200,000; a ledger in a temporary folder, embedded Valkey
"""

import statistics
import sys
import tempfile
import time
from contextlib import aclosing
from pathlib import Path

import structlog
import trio

from admin.cli import embedded_redis
from admin.ledger.answer_keys import AnswerKeys
from admin.ledger.claims import Claims
from admin.ledger.feed_copy import WHOLE
from admin.ledger.feed_service import FeedService
from admin.ledger.nodes import KnownNodes
from admin.ledger.projector import Projector
from admin.ledger.register import Register
from admin.ledger.reports import Reports
from admin.ledger.sql import SqlLedger
from engine.clock import Seconds
from engine.feed.entries import Position
from engine.feed.frames import FrameReader
from engine.feed.redis_client import RedisClient
from engine.feed.redis_commands import get, xread
from engine.feed.redis_names import STREAM, stream_id
from tests.support.projection import SEALER, new_consents, projector_of, real_ledger
from tests.support.valkey import client_of

SAMPLES = 300


async def main(consents: int) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    with tempfile.TemporaryDirectory(prefix="ccs-") as name:
        directory = Path(name)
        server = embedded_redis.start(directory / "v")
        try:
            async with real_ledger(directory) as ledger, trio.open_nursery() as nursery:
                await measure(ledger, server.url, consents, nursery)
                nursery.cancel_scope.cancel()
        finally:
            server.stop()


async def measure(ledger: SqlLedger, url: str, consents: int, nursery: trio.Nursery) -> None:
    watch = Watch()
    for _ in range(consents // 1_000):
        await ledger.append(new_consents(1_000))
    watch.say("appending in thousands", consents)
    client = client_of(url)
    await nursery.start(client.run)
    watch = Watch()
    projector = projector_of(ledger, client)
    await nursery.start(projector.run)
    await wait_whole(client)
    watch.say("filling Redis anew", consents)
    await latency(ledger, client)
    await burst(ledger, projector)
    await snapshot(ledger)
    await entries(ledger)


async def wait_whole(client: RedisClient) -> None:
    while await get(client, WHOLE) is None:  # noqa: ASYNC110 - another process says it
        await trio.sleep(0.01)


async def latency(ledger: SqlLedger, client: RedisClient) -> None:
    """From the return of append to the entry's being readable, asked for without pause."""
    took = []
    for _ in range(SAMPLES):
        receipt = await ledger.append(new_consents(1))
        began, after = time.perf_counter(), {STREAM: stream_id(receipt.position.seq - 1)}
        while not await xread(client, after):
            pass
        took.append((time.perf_counter() - began) * 1000)
    took.sort()
    p99 = took[int(len(took) * 0.99)]
    print(f"commit to XADD visible: p50 {statistics.median(took):.2f} ms, p99 {p99:.2f} ms ({SAMPLES} commits)")


async def burst(ledger: SqlLedger, projector: Projector) -> None:
    watch = Watch()
    for _ in range(19):
        await ledger.append(new_consents(1_000))
    receipt = await ledger.append(new_consents(1_000))
    await projector.wait_reached(receipt.position, patience=Seconds(60.0))
    watch.say("appending and projecting a burst", 20_000)


def service_of(ledger: SqlLedger) -> FeedService:
    async def keys() -> bytes:
        return b"{}"

    database = ledger.database
    return FeedService(
        ledger,
        Register(database, time.time),
        Claims(database, time.time),
        Reports(database, time.time),
        SEALER,
        keys,
        AnswerKeys(database, KnownNodes(ledger), "https://localhost:8450", frozenset(), time.time),
    )


async def snapshot(ledger: SqlLedger) -> None:
    watch, count, size, reader = Watch(), 0, 0, FrameReader()
    async with aclosing(service_of(ledger).snapshot()) as chunks:
        async for chunk in chunks:
            count, size = count + len(reader.feed(chunk)), size + len(chunk)
    watch.say(f"snapshot, framed, sealed and read again ({size / count:.0f} B each)", count)


async def entries(ledger: SqlLedger) -> None:
    watch, count, service = Watch(), 0, service_of(ledger)
    at = Position((await ledger.head()).position.incarnation, 0)
    while count < 100_000 and (body := await service.entries(at, Seconds(0.0))):
        count += len(FrameReader().feed(body))
        at = Position(at.incarnation, count)
    watch.say("entries over the feed service", count)


class Watch:
    """A stop watch of both kinds of time."""

    def __init__(self) -> None:
        self._wall, self._used = time.perf_counter(), time.process_time()

    def say(self, what: str, count: int) -> None:
        wall, used = time.perf_counter() - self._wall, time.process_time() - self._used
        print(
            f"{what}: {count:,} in {wall:.2f} s = {count / wall:,.0f}/s; {count / used:,.0f}/s of one core", flush=True
        )


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 200_000)
