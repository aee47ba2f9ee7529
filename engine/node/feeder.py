"""Main of the feeder process: the one writer of the node's replica.

It is ready as soon as it holds the replica; how far it has come, the replica's bound says. Draining is just
ending: entries and bound were committed together, so there is nothing to finish.
"""

import random
import secrets
from contextlib import aclosing
from typing import Final

import trio

from engine.clock import Seconds
from engine.config import NodeConfig
from engine.feed.entries import EntryKind
from engine.feed.redis_access import ONE_OF_MANY, RedisAccess
from engine.node.answer_key_files import AnswerKeyFiles
from engine.node.answer_registration import AnswerRegistration
from engine.node.feed_access import FeedAccess
from engine.node.key_files import read_keys
from engine.node.process import Process, end_with
from engine.replica.feeder import Feeder, Way
from engine.replica.over_redis import RedisLinks
from engine.replica.place import place_of
from engine.replica.store import ReplicaStore
from engine.telemetry import logs
from engine.telemetry.host import SystemClock, boot_id

FLUSH_EVERY: Final = Seconds(1.0)
TELL_EVERY: Final = Seconds(0.2)  # for a person who looks how far behind the node is

_log = logs.logger("feeder")


async def work(process: Process) -> None:
    """Keep the replica until drained. Raises BadConfig, NoBootId, ReplicaInUse and the like before it is ready."""
    config = process.order.config
    place = place_of(config.replica.directory, boot_id())
    mac_keys = read_keys(config.feed.mac_key_files)
    links = _links(config)
    feed = FeedAccess(config.feed)
    process.on_reload("feed", feed.reload)
    store = ReplicaStore(config.replica.directory, map_size=config.replica.map_size, boot_id=place)
    if store.discarded:
        _log.warning("replica_discarded", reason=store.discarded)
    try:
        async with aclosing(feed), trio.open_nursery() as nursery:
            feeder = Feeder(
                store,
                feed,
                links,
                node_id=config.node_id,
                instance=secrets.token_hex(16),
                boot_id=place,
                mac_keys=mac_keys,
                clock=SystemClock(),
                draw=lambda: secrets.token_hex(16),
                jitter=random.random,
                kept=_log_kept,
            )
            await nursery.start(feeder.run)
            registration = _registration(config, feed)
            if registration is not None:
                nursery.start_soon(registration.run)
            nursery.start_soon(_keep_flushing, process, feeder, registration)
            process.ready()
            nursery.start_soon(_keep_telling, process, feeder)
            await process.draining.wait()
            nursery.cancel_scope.cancel()
    finally:
        store.close()


def _registration(config: NodeConfig, feed: FeedAccess) -> AnswerRegistration | None:
    """Beside the replica, which does not wait for it. Raises BadConfig where no key can be made."""
    if config.signing is None:
        return None
    files = AnswerKeyFiles(config.signing.directory, config.tokens.issuer)
    files.make_first()
    return AnswerRegistration(
        files,
        feed,
        node_id=config.node_id,
        issuer=config.tokens.issuer,
        clock=SystemClock(),
        jitter=random.random,
    )


def _links(config: NodeConfig) -> RedisLinks | None:
    if config.redis is None:
        return None
    access = RedisAccess(config.redis, jitter=random.random, backoff=ONE_OF_MANY)
    return RedisLinks(tail=access.client(f"{config.node_id}-tail"), asks=access.client(f"{config.node_id}-asks"))


def _log_kept(ends: list[tuple[EntryKind, bytes]]) -> None:
    """Ends that the new incarnation does not know stay in force here; somebody must reconcile them."""
    for kind, key in ends:
        _log.critical("end_kept_over_incarnation", kind=kind.name, key=key.hex())


async def _keep_telling(process: Process, feeder: Feeder) -> None:
    told = -1
    while True:
        if (head := feeder.statistics().head) != told:
            process.tell_head(head)
            told = head
        await trio.sleep(TELL_EVERY)


async def _keep_flushing(process: Process, feeder: Feeder, registration: AnswerRegistration | None) -> None:
    await process.telemetry_loaded.wait()
    from engine.telemetry import metrics  # noqa: PLC0415 - not before the replica is served

    before = None
    while True:
        now = feeder.statistics()
        metrics.APPLIED.set(now.position.seq)
        metrics.HEAD.set(now.head)
        metrics.SILENCE.set(now.silence)
        for way in Way:
            metrics.WAY.labels(way.value).set(float(way is now.way))
        metrics.FORGED.inc(now.forged - (before.forged if before else 0))
        metrics.HEALED.inc(now.healed - (before.healed if before else 0))
        metrics.SNAPSHOTS.inc(now.snapshots - (before.snapshots if before else 0))
        before = now
        if registration is not None:
            metrics.ANSWER_KEY_UNTIL.set(registration.published_until)
        await trio.sleep(FLUSH_EVERY)


if __name__ == "__main__":
    end_with(work)
