"""Main of a worker process: answers introspections from the node's replica until it is told to drain.

Everything it needs to answer is on this machine. Redis is asked about consents that the replica has not seen yet,
the feed service for claims of one-off consents; when they are away, those answers say "ask again later".
"""

import os
import random
import time
from contextlib import aclosing
from typing import Final

import trio

from engine.clock import Clock, Seconds
from engine.config import NodeConfig
from engine.feed.redis_access import RedisAccess
from engine.listener.callers import Callers
from engine.listener.introspection import PATH, Introspection, Outcome
from engine.listener.issuer_keys import IssuerKeys
from engine.listener.read_through import NoReadThrough, ReadThrough, RedisReadThrough
from engine.listener.routes import by_path
from engine.listener.security import SecurityEvents
from engine.listener.serve import Handler
from engine.node.claims import FeedClaims
from engine.node.feed_access import FeedAccess
from engine.node.key_files import read_key, read_keys
from engine.node.process import Process, end_with
from engine.node.security_log import SecurityLog
from engine.node.serving import serve_until_drained
from engine.replica.reader import Replica
from engine.telemetry.host import SystemClock, boot_id
from engine.telemetry.tally import Tally
from engine.tokens.memo import MemoStatistics, VerifiedTokens

LOOK_EVERY: Final = Seconds(1.0)  # for another generation of the replica
COUNT_EVERY: Final = Seconds(1.0)


async def work(process: Process) -> None:
    """Serve until drained. Raises BadConfig, BadTlsFiles, NoBootId before it is ready."""
    config, clock = process.order.config, SystemClock()
    replica = Replica(config.replica.directory, map_size=config.replica.map_size)
    memo = VerifiedTokens(config.tokens.memo_size)
    feed = FeedAccess(config.feed)
    process.on_reload(feed.reload)
    security = SecurityLog(time.monotonic)
    outcomes = {outcome: Tally() for outcome in Outcome}
    async with aclosing(feed), trio.open_nursery() as aside:
        introspection = Introspection(
            replica=replica,
            memo=memo,
            meter_key=read_key(config.feed.meter_key_file),
            clock=clock,
            boot_id=boot_id(),
            read_through=_read_through(config, aside),
            claims=FeedClaims(feed, aside),
            callers=Callers(security),
            keys=IssuerKeys(config.tokens.issuer),
            counts=outcomes,
        )
        aside.start_soon(_keep_looking, replica)
        aside.start_soon(_keep_counting, process, memo, outcomes, security)
        handler = by_path({PATH: introspection})
        await serve_until_drained(process, handler, clock, _behind_proxies(process, handler, clock, security))
        aside.cancel_scope.cancel()
    replica.close()


def _behind_proxies(process: Process, handler: Handler, clock: Clock, security: SecurityEvents) -> Handler | None:
    """The same for requests that a proxy passes on; None where there is no proxy. Raises BadConfig."""
    config = process.order.config
    if config.proxy_listener is None:
        return None
    from engine.listener import forwarded  # noqa: PLC0415 - other workers do without X.509 in their memory

    authorities = forwarded.ClientAuthorities(config.listener.tls.client_ca_file)
    process.on_reload(authorities.reload)
    return forwarded.ForwardedCertificates(
        handler,
        hops=forwarded.thumbprints(config.proxy_listener.pinned_thumbprints),
        authorities=authorities,
        clock=clock,
        security=security,
    )


def _read_through(config: NodeConfig, aside: trio.Nursery) -> ReadThrough:
    """A link of the worker's own to Redis, kept up beside the requests; none where there is no Redis."""
    if config.redis is None:
        return NoReadThrough()
    client = RedisAccess(config.redis, jitter=random.random).client(f"{config.node_id}-worker-{os.getpid()}")
    aside.start_soon(client.run)
    return RedisReadThrough(client, read_keys(config.feed.mac_key_files))


async def _keep_looking(replica: Replica) -> None:
    while True:
        await trio.sleep(LOOK_EVERY)
        replica.refresh()


async def _keep_counting(
    process: Process, memo: VerifiedTokens, outcomes: dict[Outcome, Tally], security: SecurityLog
) -> None:
    await process.telemetry_loaded.wait()
    from engine.telemetry import metrics  # noqa: PLC0415 - not before the first requests

    before = MemoStatistics(0, 0, 0)
    while True:
        for outcome, tally in outcomes.items():
            metrics.OUTCOMES.labels(outcome.value).inc(tally.take())
        for kind, tally in security.counts.items():
            metrics.SECURITY_EVENTS.labels(kind.value).inc(tally.take())
        before = _count_memo(before, memo.statistics())
        await trio.sleep(COUNT_EVERY)


def _count_memo(before: MemoStatistics, now: MemoStatistics) -> MemoStatistics:
    from engine.telemetry import metrics  # noqa: PLC0415 - loaded by now

    metrics.TOKENS_REMEMBERED.set(now.size)
    metrics.MEMO_LOOKUPS.labels("hit").inc(now.hits - before.hits)
    metrics.MEMO_LOOKUPS.labels("miss").inc(now.misses - before.misses)
    return now


if __name__ == "__main__":
    end_with(work)
