"""The feeder: the one task that keeps a node's replica, from nothing to current and through every loss.

    no replica                      -> snapshot over HTTPS
    a replica                       -> follow through Redis; over HTTPS whenever Redis does not answer
    a gap, entries that do not come -> fetch them over HTTPS
    another incarnation             -> leave `current`, ask the feed service; if it is so, new snapshot; tell the ledger
                                       what it may have lost, keep what has ended (`engine.replica.gap`)

While a snapshot loads, the replica of the same incarnation goes on answering as last known.
"""

import enum
from collections.abc import Callable
from typing import Final

import msgspec
import trio

from engine.backoff import Backoff
from engine.clock import Clock, Seconds
from engine.decision.freshness import MAX_SILENCE
from engine.errors import Fault
from engine.feed.entries import Position
from engine.feed.gap_reports import GapReport
from engine.replica.environment import Environment
from engine.replica.follower import Follower
from engine.replica.gap import Kept, keep, past_of_replica, reports_of, tell
from engine.replica.housekeeping import keep_house
from engine.replica.over_https import HttpsWay
from engine.replica.over_redis import RedisLinks, RedisWay
from engine.replica.pace import LOOK_EVERY, REDIS_PATIENCE
from engine.replica.service import FeedService
from engine.replica.snapshot import SnapshotLoader, bound_after
from engine.replica.store import Generation, ReplicaStore
from engine.telemetry.logs import logger

KEYS_EVERY: Final = Seconds(30.0)  # should the entry that announces new keys be withheld
SNAPSHOT_RETRY: Final = Backoff(first=Seconds(0.2), limit=Seconds(5.0))
PROGRESS_EVERY: Final = 100_000  # records a log line

_log = logger("feeder")


class FeederState(enum.StrEnum):
    """What the feeder is doing."""

    STARTING = "starting"
    LOADING = "loading"  # a snapshot
    FOLLOWING = "following"


class Way(enum.StrEnum):
    """By which way answers come now."""

    REDIS = "redis"
    HTTPS = "https"
    NONE = "none"


class FeederStatistics(msgspec.Struct, frozen=True):
    """For metrics and the status page."""

    state: FeederState
    way: Way
    instance: str
    position: Position  # applied
    head: int  # the highest position of the ledger an answer spoke of
    silence: Seconds  # since the newest fulfilled question was asked; infinite: none yet
    forged: int
    healed: int  # gaps closed over HTTPS
    snapshots: int  # adopted
    loaded: int  # records of the snapshot under way or last loaded
    full: bool  # the replica has no room
    last_fault: str


class Feeder:
    """Keeps `store` until cancelled. The store is open and stays the caller's to close.

    redis: None = the node lives on the HTTPS feed alone. mac_keys: newest first. instance: drawn for this start.
    draw: gives nonces, 16-64 lower-case hexadecimal digits. jitter: gives numbers in [0, 1).
    kept: told which ends were carried into an incarnation that has not got them; they are told to the ledger besides.
    """

    def __init__(
        self,
        store: ReplicaStore,
        service: FeedService,
        redis: RedisLinks | None,
        *,
        node_id: str,
        instance: str,
        boot_id: str,
        mac_keys: tuple[bytes, ...],
        clock: Clock,
        draw: Callable[[], str],
        jitter: Callable[[], float],
        kept: Callable[[list[Kept]], None] = lambda _: None,
    ) -> None:
        self.follower = Follower(store, node_id=node_id, instance=instance, boot_id=boot_id, clock=clock, draw=draw)
        self._store, self._service, self._clock = store, service, clock
        self._node_id, self._boot_id, self._mac_keys = node_id, boot_id, mac_keys
        self._jitter, self._kept = jitter, kept
        self._redis = None if redis is None else RedisWay(redis, self.follower, mac_keys=mac_keys, clock=clock)
        self._https = HttpsWay(
            service, self.follower, mac_keys=mac_keys, redis_silence=self._redis_silence, jitter=jitter
        )
        self._state = FeederState.STARTING
        self._snapshots = self._loaded = 0
        self._last_fault = ""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled. Ready at once: `statistics` says how far it has come."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_house, self._store, self._clock)
            task_status.started()
            if self._store.bound is None:
                await self._take_snapshot()
            self._state = FeederState.FOLLOWING
            nursery.start_soon(self._keep_keys)
            nursery.start_soon(self._https.run)
            if self._redis is not None:
                nursery.start_soon(self._redis.run)
            await self._renew()

    def statistics(self) -> FeederStatistics:
        """A snapshot."""
        return FeederStatistics(
            state=self._state,
            way=self._way(),
            instance=self.follower.instance,
            position=self.follower.position,
            head=self.follower.head,
            silence=self.follower.silence(),
            forged=0 if self._redis is None else self._redis.forged,
            healed=self._https.healed,
            snapshots=self._snapshots,
            loaded=self._loaded,
            full=self.follower.full,
            last_fault=self._last_fault or self._https.last_fault or self._redis_fault(),
        )

    def _redis_silence(self) -> Seconds:
        return Seconds(float("inf")) if self._redis is None else self._redis.silence()

    def _redis_fault(self) -> str:
        return "" if self._redis is None else self._redis.last_fault

    def _way(self) -> Way:
        if not self._https.needed() and self._redis is not None and self._redis.answered_at is not None:
            return Way.REDIS
        return Way.HTTPS if self.follower.silence() < MAX_SILENCE else Way.NONE

    async def _renew(self) -> None:
        while True:
            await self._https.renew.wait_beyond(self._https.renew.rings)
            await self._take_snapshot()

    async def _take_snapshot(self) -> None:
        state, self._state, failures = self._state, FeederState.LOADING, 0
        while True:
            try:
                await self._load()
                break
            except Fault as fault:
                failures += 1
                self._last_fault = fault.text
                _log.warning("snapshot_failed", text=fault.text, detail=fault.detail, failures=failures)
            await trio.sleep(SNAPSHOT_RETRY.delay(failures, self._jitter()))
        self._last_fault = ""
        self._state = state

    async def _load(self) -> None:
        generation = self._store.begin_generation()
        try:
            await self._fill(generation)
            self._store.adopt(generation)  # no await since the bound was worked out: nothing was applied meanwhile
        except BaseException:
            self._store.abandon(generation)
            raise
        self._snapshots += 1
        self.follower.begin_anew()
        self.follower.keys_changed.ring()
        _log.info("snapshot_adopted", position=self.follower.position, records=self._loaded)

    async def _fill(self, generation: Generation) -> None:
        asked_at, asked_wall = self._clock.boot(), self._clock.now()
        loader = SnapshotLoader(generation, self._mac_keys)
        async with self._service.snapshot() as pieces:
            async for sealed in pieces:
                loader.take(sealed)
                self._tell_progress(loader.count)
        position = loader.finish()
        await self._tell_gap(generation.environment, position)
        bound = bound_after(position, self._store.bound, self._boot_id, asked_at, asked_wall)
        self._keep_ends(generation.environment, position)
        generation.seal(bound, self._store.keys())

    async def _tell_gap(self, new: Environment, position: Position) -> None:
        """Tell the ledger what it has lost, as far as the old replica knows it; anew if that grows meanwhile."""
        past, known = past_of_replica(new), self.follower.position
        if known.incarnation == position.incarnation:
            return
        old = self._store.environment
        if old is None:
            if past.recovery() is not None:
                nothing = GapReport(self._node_id, "", 0, position.incarnation)
                await tell(self._service, [nothing], self._jitter)
            return
        told = None
        while told != (known := self.follower.position):
            reports = reports_of(old, new, past, node_id=self._node_id, known=known, missing_under=position.incarnation)
            await tell(self._service, reports, self._jitter)
            told = known

    def _keep_ends(self, new: Environment, position: Position) -> None:
        known, old = self.follower.position, self._store.environment
        if old is not None and known.incarnation != position.incarnation:
            self._kept(keep(old, new, position, past_of_replica(new), known.incarnation))

    def _tell_progress(self, count: int) -> None:
        if count != self._loaded and count % PROGRESS_EVERY == 0:
            _log.info("snapshot_loading", records=count)
        self._loaded = count

    async def _keep_keys(self) -> None:
        """Hold the verification keys of the feed service, so that a start without it knows them.

        Where the replica holds some, the service's client is not loaded beside the first question; until that is
        answered, workers say nothing of tokens whose key they do not know.
        """
        if self._store.keys() is not None:
            with trio.move_on_after(REDIS_PATIENCE):
                while self.follower.silence() == float("inf"):  # noqa: ASYNC110 - silence is no event
                    await trio.sleep(LOOK_EVERY)
        while True:
            rings = self.follower.keys_changed.rings
            try:
                raw = await self._service.keys()
                if raw != self._store.keys():
                    self._store.put_keys(raw)
                    _log.info("keys_fetched")
            except Fault as fault:
                _log.warning("keys_not_fetched", text=fault.text)
            with trio.move_on_after(KEYS_EVERY):
                await self.follower.keys_changed.wait_beyond(rings)
