"""Main of a worker process: answers introspections and evaluations from the node's replica until it is told to drain.

Everything it needs to answer is on this machine. Redis is asked about consents that the replica has not seen yet,
the feed service for claims of one-off consents; when they are away, those answers say "ask again later".
"""

import os
import random
import secrets
import time
from collections.abc import Callable
from contextlib import aclosing
from functools import partial
from typing import Final

import msgspec
import trio

from engine.clock import Clock, Seconds
from engine.config import NodeConfig
from engine.decision.evaluations import Outcome as ItemOutcome
from engine.feed.redis_access import ONE_OF_MANY, RedisAccess
from engine.feed.redis_client import RedisClient
from engine.listener.callers import Callers
from engine.listener.connection_limits import ConnectionLimits
from engine.listener.digests import NoTokenLookups, RedisTokenLookups, TokenDigests, TokenLookups
from engine.listener.evaluation_answers import BATCH_PATH, METADATA_PATH, SINGLE_PATH, metadata
from engine.listener.evaluations import Evaluations, Rules
from engine.listener.forgeries import Forgeries
from engine.listener.introspection import PATH, Introspection, Outcome
from engine.listener.issuer_keys import IssuerKeys
from engine.listener.read_through import NoReadThrough, ReadThrough, RedisReadThrough
from engine.listener.routes import by_path
from engine.listener.security import SecurityEvents
from engine.listener.serve import Handler
from engine.listener.signed_answers import NO_SIGNING, Signing
from engine.node.answer_key_files import AnswerKeyFiles, CurrentAnswerKey
from engine.node.claims import FeedClaims
from engine.node.feed_access import FeedAccess
from engine.node.key_files import read_key, read_keys
from engine.node.process import Process, end_with
from engine.node.security_log import SecurityLog
from engine.node.serving import serve_until_drained
from engine.replica.place import place_of, require_place
from engine.replica.reader import Replica
from engine.telemetry.host import SystemClock, boot_id
from engine.telemetry.tally import Tally
from engine.tokens.memo import MemoStatistics, VerifiedTokens

LOOK_EVERY: Final = Seconds(1.0)  # for another generation of the replica
COUNT_EVERY: Final = Seconds(1.0)


class _Further(msgspec.Struct, frozen=True):
    """What else is counted."""

    said_again: Tally
    last_known: tuple[Tally, ...]
    forged: Tally


async def work(process: Process) -> None:
    """Serve until drained. Raises BadConfig, BadTlsFiles, NoBootId before it is ready."""
    config, clock = process.order.config, SystemClock()
    replica = Replica(config.replica.directory, map_size=config.replica.map_size)
    memo = VerifiedTokens(config.tokens.memo_size)
    feed = FeedAccess(config.feed)
    process.on_reload("feed", feed.reload)
    security = SecurityLog(time.monotonic)
    answer_key = _answer_key(config)
    outcomes = {outcome: Tally() for outcome in Outcome}
    items = {outcome: Tally() for outcome in ItemOutcome}
    callers, keys = Callers(security), IssuerKeys(config.tokens.issuer)
    meter_key, place = read_key(config.feed.meter_key_file), place_of(config.replica.directory, boot_id())
    async with aclosing(feed), trio.open_nursery() as aside:
        redis, claims = _redis(config, aside), FeedClaims(feed, aside)
        forged = Forgeries()
        read_through = _read_through(config, redis, forged)
        introspection = Introspection(
            replica=replica,
            memo=memo,
            meter_key=meter_key,
            clock=clock,
            boot_id=place,
            read_through=read_through,
            claims=claims,
            callers=callers,
            keys=keys,
            counts=outcomes,
            signing=_signing(config, answer_key),
        )
        evaluations = Evaluations(
            replica=replica,
            digests=TokenDigests(memo, _lookups(config, redis, clock, forged), config.tokens.memo_size),
            meter_key=meter_key,
            clock=clock,
            boot_id=place,
            read_through=read_through,
            claims=claims,
            callers=callers,
            keys=keys,
            counts={outcome: tally.add for outcome, tally in items.items()},
            rules=_rules(config),
            draw_id=partial(secrets.token_hex, 16),
            signer=None if answer_key is None or not config.listener.public_url else answer_key.signer,
        )
        still_there = partial(require_place, config.replica.directory, boot_id(), place)
        aside.start_soon(_keep_looking, replica, answer_key, still_there)
        further = _Further(introspection.said_again, (introspection.last_known, evaluations.last_known), forged)
        aside.start_soon(_keep_counting, process, memo, outcomes, items, security, further)
        handler = by_path({PATH: introspection, **_evaluation_paths(evaluations, config)})
        proxied = _behind_proxies(process, handler, clock, security)
        await serve_until_drained(process, handler, clock, proxied, ConnectionLimits(replica))
        aside.cancel_scope.cancel()
    replica.close()


def _behind_proxies(process: Process, handler: Handler, clock: Clock, security: SecurityEvents) -> Handler | None:
    """The same for requests that a proxy passes on; None where there is no proxy. Raises BadConfig."""
    config = process.order.config
    if config.proxy_listener is None:
        return None
    from engine.listener import forwarded  # noqa: PLC0415 - other workers do without X.509 in their memory

    authorities = forwarded.ClientAuthorities(config.listener.tls.client_ca_file)
    process.on_reload("proxy-listener", authorities.reload)
    return forwarded.ForwardedCertificates(
        handler,
        hops=forwarded.thumbprints(config.proxy_listener.pinned_thumbprints),
        authorities=authorities,
        clock=clock,
        security=security,
    )


def _evaluation_paths(evaluations: Evaluations, config: NodeConfig) -> dict[bytes, Handler]:
    paths: dict[bytes, Handler] = {SINGLE_PATH: evaluations.single, BATCH_PATH: evaluations.batch}
    if config.listener.public_url:
        paths[METADATA_PATH] = metadata(config.listener.public_url)
    return paths


def _rules(config: NodeConfig) -> Rules:
    chosen = config.evaluations
    return Rules(config.listener.public_url, chosen.explain, chosen.permit_on_first_permit)


def _redis(config: NodeConfig, aside: trio.Nursery) -> RedisClient | None:
    """A link of the worker's own to Redis, kept up beside the requests; none where there is no Redis."""
    if config.redis is None:
        return None
    access = RedisAccess(config.redis, jitter=random.random, backoff=ONE_OF_MANY)
    client = access.client(f"{config.node_id}-worker-{os.getpid()}")
    aside.start_soon(client.run)
    return client


def _answer_key(config: NodeConfig) -> CurrentAnswerKey | None:
    """What the feeder has made and registered; perhaps nothing yet."""
    if config.signing is None:
        return None
    key = CurrentAnswerKey(AnswerKeyFiles(config.signing.directory, config.tokens.issuer))
    key.refresh()
    return key


def _signing(config: NodeConfig, key: CurrentAnswerKey | None) -> Signing:
    if config.signing is None or key is None:
        return NO_SIGNING
    return Signing(config.tokens.issuer, key.signer, shows_codes=config.signing.decision_codes)


def _read_through(config: NodeConfig, redis: RedisClient | None, forged: Forgeries) -> ReadThrough:
    return NoReadThrough() if redis is None else RedisReadThrough(redis, read_keys(config.feed.mac_key_files), forged)


def _lookups(config: NodeConfig, redis: RedisClient | None, clock: Clock, forged: Forgeries) -> TokenLookups:
    if redis is None:
        return NoTokenLookups()
    keys = read_keys(config.feed.mac_key_files)
    return RedisTokenLookups(redis, keys, clock, one_issuer=config.tokens.one_issuer, forged=forged)


async def _keep_looking(replica: Replica, answer_key: CurrentAnswerKey | None, still_there: Callable[[], None]) -> None:
    """Raises ReplicaReplaced, which ends the worker: the next one knows the new place."""
    while True:
        await trio.sleep(LOOK_EVERY)
        still_there()
        replica.refresh()
        if answer_key is not None:
            answer_key.refresh()


async def _keep_counting(
    process: Process,
    memo: VerifiedTokens,
    outcomes: dict[Outcome, Tally],
    items: dict[ItemOutcome, Tally],
    security: SecurityLog,
    further: _Further,
) -> None:
    await process.telemetry_loaded.wait()
    from engine.telemetry import metrics  # noqa: PLC0415 - not before the first requests

    before = MemoStatistics(0, 0, 0)
    while True:
        for outcome, tally in outcomes.items():
            metrics.OUTCOMES.labels(outcome.value).inc(tally.take())
        for item_outcome, tally in items.items():
            metrics.EVALUATIONS.labels(item_outcome.value).inc(tally.take())
        metrics.SAID_AGAIN.inc(further.said_again.take())
        metrics.LAST_KNOWN.inc(sum(tally.take() for tally in further.last_known))
        metrics.FORGED.inc(further.forged.take())
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
