"""A made-up world for the real parts of the freshness protocol: one clock, slow wires, and a Redis that lies.

Real are: the feeder with both of its ways and its LMDB replica, what a worker makes of it, the register with its
table in SQLite, the answering of questions, the barrier. Made up are the wires between them, Redis, and the
ledger's events; and time, which is simulated, so that minutes pass in moments and the same seed plays the same play.
"""

import contextlib
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any, TypeVar, cast

import msgspec
import pytest
import sqlalchemy as sa
import trio
from sqlalchemy.pool import StaticPool
from trio._core import _run as trio_run
from trio.testing import MockClock

from admin.ledger.barrier import Barrier, How, LedgerReplaced, Standing
from admin.ledger.database import Database, Work
from admin.ledger.presence import Presence
from admin.ledger.questions import Questions
from admin.ledger.register import Register
from admin.ledger.schema import ledger_meta, metadata
from admin.ledger.store import Receipt
from engine.clock import BootTime, Seconds, UnixTime
from engine.consent.states import State
from engine.decision.freshness import CLOCK_RATE_MARGIN, MAX_SILENCE, Bound, FreshnessState, freshness_of
from engine.errors import Fault, Kind
from engine.feed.entries import Entry, Position, seal
from engine.feed.questions import Answer, Question
from engine.feed.redis_client import RedisClient
from engine.feed.redis_commands import StreamItem
from engine.feed.redis_names import STREAM, STREAM_FIELD
from engine.replica.feeder import Feeder
from engine.replica.over_redis import RedisLinks
from engine.replica.reader import view_of
from engine.replica.store import ReplicaStore
from tests.support.projection import SEALER
from tests.support.replicas import BOOT, MAC_KEY, NOW, consent, consent_entry, consent_key, nothing, snapshot_of

T = TypeVar("T")
FAR: Seconds = Seconds(2.0**30)


class Foreign(Fault):
    """A position of another incarnation."""

    kind = Kind.CONFLICT


class Wrong(msgspec.Struct, frozen=True):
    """A broken promise: at which second, of whom."""

    at: float
    node: str
    promise: str


class Mistakes(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of a world, of which a test may replace some by bad ones."""

    questions: type[Questions] = Questions
    presence: type[Presence] = Presence
    reused_positions: bool = False  # a restored ledger goes on under the old incarnation


class Wire:
    """Delays: mostly milliseconds, now and then seconds; and nothing at all for a while when it is cut."""

    def __init__(self, random: Random, *, slow: float) -> None:
        self._random = random
        self._slow = slow  # the share of messages that takes seconds
        self._cut_until = 0.0

    async def pass_over(self) -> None:
        lost = self._random.random() < self._slow
        await trio.sleep(self._random.uniform(0.1, 4) if lost else self._random.expovariate(300))
        await trio.sleep(max(0.0, self._cut_until - trio.current_time()))

    def cut(self) -> None:
        self._cut_until = trio.current_time() + self._random.uniform(0.1, 5)


class InlineDatabase(Database):
    """The ledger's database, in memory; a call takes simulated time, and no thread."""

    def __init__(self, engine: sa.Engine, wire: Wire) -> None:
        self.engine = self._reading = engine
        self._wire = wire

    async def run(self, work: Work[T]) -> T:
        return await self._call(self.transact, work)

    async def read(self, work: Work[T]) -> T:
        return await self._call(self.inspect, work)

    async def _call(self, call: Callable[[Work[T]], T], work: Work[T]) -> T:
        await self._wire.pass_over()
        done = call(work)
        await self._wire.pass_over()
        return done


class MadeEvents:
    """The ledger: entries, and the head where the register reads it."""

    def __init__(self) -> None:
        self.engine = sa.create_engine("sqlite://", poolclass=StaticPool)
        self.entries: list[Entry] = []
        self.incarnation = f"{1:016x}"
        metadata.create_all(self.engine)
        meta = {"id": 1, "incarnation": self.incarnation, "kind": "sandbox", "created_at": 0}
        with self.engine.begin() as connection:
            connection.execute(sa.insert(ledger_meta).values(**meta, head_seq=0, head_hash=b""))

    @property
    def position(self) -> Position:
        return Position(self.incarnation, self.entries[-1].seq if self.entries else 0)

    def grant(self, number: int) -> None:
        self._append(consent_entry(self.position.seq + 1, number, incarnation=self.incarnation))

    def revoke(self, number: int) -> Position:
        ended = consent(State.REVOKED, version=2)
        return self._append(consent_entry(self.position.seq + 1, number, ended, incarnation=self.incarnation))

    def restore(self, *, losing: int, reused_positions: bool) -> None:
        """Lose the newest entries; go on above whatever was reported, under an incarnation of its own."""
        highest = self.position.seq
        kept = self.entries[: len(self.entries) - losing]
        if reused_positions:
            self.entries = kept
        else:
            self.incarnation = f"{int(self.incarnation, 16) + 1:016x}"
            self.entries = [msgspec.structs.replace(entry, incarnation=self.incarnation) for entry in kept]
            self._append(nothing(highest + 100, incarnation=self.incarnation))

    def _append(self, entry: Entry) -> Position:
        self.entries.append(entry)
        with self.engine.begin() as connection:
            connection.execute(sa.update(ledger_meta).values(incarnation=entry.incarnation, head_seq=entry.seq))
        return self.position


class Primary:
    """A Redis server: values and streams."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.streams: dict[bytes, list[tuple[int, dict[bytes, bytes]]]] = {}
        self.incarnation = ""  # of the feed's stream

    def copy(self) -> "Primary":
        twin = Primary()
        twin.values, twin.incarnation = dict(self.values), self.incarnation
        twin.streams = {name: list(items) for name, items in self.streams.items()}
        return twin

    def do(self, command: Sequence[Any]) -> Any:
        match command:
            case ("MGET", *keys):
                return [self.values.get(key) for key in keys]
            case ("SET", key, value, *_):
                self.values[key] = value
            case ("XADD", key, _, _, _, field, value):
                last = self.streams.get(key, [(0, {})])[-1][0]
                self.streams[key] = [(last + 1, {field: value})]
        return None

    def after(self, name: bytes, place: bytes) -> list[StreamItem]:
        passed = int(place.partition(b"-")[0])
        return [StreamItem(b"%d-0" % at, item) for at, item in self.streams.get(name, []) if at > passed]


class Link:
    """A client of Redis, bound to one of its primaries until it is dialled anew."""

    def __init__(self, redis: "MadeRedis", wire: Wire) -> None:
        self._redis = redis
        self._wire = wire
        self.bound_to = 0

    @property
    def primary(self) -> Primary:
        return self._redis.primaries[self.bound_to % len(self._redis.primaries)]

    async def run(self) -> None:
        await trio.sleep_forever()

    async def wait_up(self) -> None:
        await trio.lowlevel.checkpoint()

    async def execute(self, *command: Any) -> Any:
        return (await self.execute_many([command]))[0]

    async def execute_many(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        await self._wire.pass_over()
        done = [self.primary.do(tuple(command)) for command in commands]
        await self._wire.pass_over()
        return done

    async def xread_blocking(
        self, after: dict[bytes, bytes], *, block_ms: int, count: int | None = None
    ) -> dict[bytes, list[StreamItem]]:
        with trio.move_on_after(block_ms / 1000):
            while not any(self.primary.after(name, place) for name, place in after.items()):  # noqa: ASYNC110 - as Redis does
                await trio.sleep(0.02)
        found = {name: self.primary.after(name, place)[:count] for name, place in after.items()}
        await self._wire.pass_over()
        return {name: items for name, items in found.items() if items}


class MadeRedis:
    """One server, or two after a split; backups of both to fall back to."""

    def __init__(self, random: Random) -> None:
        self.primaries = [Primary()]
        self._random = random
        self._links: list[Link] = []
        self._kept: list[Primary] = []

    def link(self, wire: Wire) -> Link:
        self._links.append(Link(self, wire))
        return self._links[-1]

    def suffer(self) -> None:
        """Something that happens to a Redis."""
        match self._random.choice(["roll back", "flush", "split", "heal", "keep", "keep"]):
            case "roll back" if self._kept:
                self.primaries = [self._random.choice(self._kept).copy()]
            case "flush":
                self.primaries = [Primary()]
            case "split" if len(self.primaries) == 1:
                self.primaries.append(self.primaries[0].copy())
            case "heal":
                self.primaries = self.primaries[-1:]
            case _:
                self._kept = [*self._kept[-10:], self._random.choice(self.primaries).copy()]
        for link in self._links:
            if self._random.random() < 0.5:
                link.bound_to = self._random.randrange(2)


class SkewedClock:
    """A machine's clock, whose rate is a little off."""

    def __init__(self, rate: float) -> None:
        self._rate = rate

    def boot(self) -> BootTime:
        return BootTime(1_000 + trio.current_time() * self._rate)

    def now(self) -> UnixTime:
        return UnixTime(NOW + int(trio.current_time()))


class MadeService:
    """The feed over HTTPS, in front of a real register."""

    def __init__(self, ledger: MadeEvents, register: Register, wire: Wire) -> None:
        self._ledger, self._register, self._wire = ledger, register, wire

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[AsyncIterator[bytes]]:
        await self._wire.pass_over()
        yield self._pieces(snapshot_of(self._ledger.position, self._ledger.entries))

    async def _pieces(self, sealed: list[bytes]) -> AsyncIterator[bytes]:
        await self._wire.pass_over()
        for piece in sealed:
            yield piece

    async def entries(self, after: Position, wait: Seconds) -> list[bytes]:
        await self._wire.pass_over()
        with trio.move_on_after(wait):
            while self._ledger.position == after:  # noqa: ASYNC110 - a long poll
                await trio.sleep(0.05)
        if after.incarnation != self._ledger.incarnation:
            raise Foreign("another incarnation")
        found = [seal(entry, MAC_KEY) for entry in self._ledger.entries if entry.seq > after.seq]
        await self._wire.pass_over()
        return found

    async def check(self, question: Question) -> Answer:
        await self._wire.pass_over()
        position = await self._register.check(question)
        await self._wire.pass_over()
        return Answer(question.instance, question.nonce, position.incarnation, position.seq)

    async def keys(self) -> bytes:
        return b"{}"

    async def report(self, _idempotency_key: str, _body: bytes) -> None:
        await self._wire.pass_over()


class KnownIds:
    """All nodes of the world."""

    def __init__(self, ids: Sequence[str]) -> None:
        self._ids = frozenset(ids)

    async def ids(self) -> frozenset[str]:
        return self._ids


class Node:
    """A machine with a feeder that is killed now and then, and a worker beside it."""

    def __init__(self, world: "World", name: str, directory: Path) -> None:
        self._world = world
        self.name = name
        self.wires = [world.wire(), world.wire()]  # to Redis and to the feed service
        self.clock = SkewedClock(world.random.uniform(1 - CLOCK_RATE_MARGIN, 1 + CLOCK_RATE_MARGIN))
        self.store = ReplicaStore(directory, map_size=1 << 24, boot_id=BOOT)
        self._asked: list[tuple[float, Position]] = []  # when, and where the ledger stood

    async def live(self) -> None:
        while True:
            with trio.move_on_after(self._world.random.uniform(4, 20)):
                await self._feeder().run()
            await trio.sleep(self._world.random.uniform(0, 1))

    def _feeder(self) -> Feeder:
        world = self._world
        tail, asks = (cast("RedisClient", world.redis.link(self.wires[0])) for _ in range(2))
        return Feeder(
            self.store,
            MadeService(world.ledger, world.random.choice(world.registers), self.wires[1]),
            RedisLinks(tail, asks),
            node_id=self.name,
            instance=world.draw(),
            boot_id=BOOT,
            mac_keys=(MAC_KEY,),
            clock=self.clock,
            draw=self._draw_nonce,
            jitter=world.random.random,
        )

    def _draw_nonce(self) -> str:
        self._asked = [*self._asked[-500:], (self.clock.boot(), self._world.ledger.position)]
        return self._world.draw()

    async def work(self) -> None:
        """Requests, one after another; each is held against what had been reported before it was sent."""
        world = self._world
        while True:
            due = [number for number, position in world.effective.items() if world.stands(position)]
            await trio.sleep(world.random.expovariate(300))
            if self.store.environment is not None:
                with view_of(self.store.environment) as view:
                    boot = self.clock.boot()
                    state = freshness_of(view.bound, view.policy(), boot_id=BOOT, boot=boot, now=self.clock.now()).state
                    world.requests += 1
                    if state is FreshnessState.CURRENT and view.bound is not None:
                        world.current += 1
                        self._hold_question(view.bound, boot)
                        if any((found := view.consent(consent_key(n))) and found.state is State.ACTIVE for n in due):
                            world.tell_wrong(self.name, "P1")
            await trio.sleep(world.random.uniform(0, 0.04))

    def _hold_question(self, bound: Bound, boot: float) -> None:
        """The bound rests on a question of our own, and what the ledger held when it was asked is applied."""
        asked = bound.fresh_until - MAX_SILENCE
        heads = [head for at, head in self._asked if math.isclose(at, asked, abs_tol=1e-6)]
        if boot - asked >= MAX_SILENCE or not heads:
            self._world.tell_wrong(self.name, "P2")
        if any(head.incarnation == bound.incarnation and head.seq > bound.applied for head in heads):
            self._world.tell_wrong(self.name, "proof, case A")


class World:
    """All of it, for one seed. `wrong` holds what went wrong, `play` ends at the first."""

    def __init__(self, seed: int, directory: Path, mistakes: Mistakes = Mistakes()) -> None:  # noqa: B008 - frozen
        self.random = Random(seed)  # noqa: S311 - for chance that can be had again, not for secrets
        self.mistakes = mistakes
        self._slow = (0.002, 0.02)[seed % 2]
        self.ledger = MadeEvents()
        self.redis = MadeRedis(self.random)
        self.feeding = self.wire()
        self.answering: list[Wire] = []
        self.nodes = [Node(self, f"node-{n}", directory / f"{n}") for n in range(3)]
        self.registers = [self._register() for _ in range(1 + seed % 3 // 2)]  # as many admin processes
        self.effective: dict[int, Position] = {}  # consents whose revocation was reported effective
        self.how: list[How] = []
        self.wrong: list[Wrong] = []
        self.requests = self.current = 0
        self._ended = trio.Event()

    async def play(self, seconds: float) -> None:
        for number in range(1, 200):
            self.ledger.grant(number)
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                for register in self.registers:
                    nursery.start_soon(self._questions(register).run)
                    nursery.start_soon(self._project)
                nursery.start_soon(self._revoke, nursery)
                nursery.start_soon(self._harm)
                for delay, node in enumerate(self.nodes):
                    nursery.start_soon(self._start_late, node, delay * 2.0)
                await self._ended.wait()
                nursery.cancel_scope.cancel()
        for node in self.nodes:
            node.store.close()

    def draw(self) -> str:
        return f"{self.random.getrandbits(64):016x}"

    def wire(self) -> Wire:
        return Wire(self.random, slow=self._slow)

    def stands(self, position: Position) -> bool:
        """Whether the ledger still has what was written there; what a restore loses was never promised."""
        return any(entry.seq == position.seq for entry in self.ledger.entries)

    def tell_wrong(self, node: str, promise: str) -> None:
        self.wrong.append(Wrong(round(trio.current_time(), 2), node, promise))
        self._ended.set()

    def _register(self) -> Register:
        register = Register(
            InlineDatabase(self.ledger.engine, Wire(self.random, slow=self._slow / 10)), lambda: float(NOW)
        )
        register.presence = self.mistakes.presence()
        return register

    def _questions(self, register: Register) -> Questions:
        ids = cast("Any", KnownIds([node.name for node in self.nodes]))
        self.answering.append(self.wire())
        link = self.redis.link(self.answering[-1])
        return self.mistakes.questions(register, ids, None, link, None, SEALER, jitter=self.random.random)

    async def _start_late(self, node: Node, delay: float) -> None:
        await trio.sleep(delay)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.live)
            nursery.start_soon(node.work)

    async def _project(self) -> None:
        """The feed in Redis: whatever the primary at the other end lacks, or anew when it is of another ledger."""
        link = self.redis.link(self.feeding)
        while True:
            incarnation, entries = self.ledger.incarnation, list(self.ledger.entries)
            await self.feeding.pass_over()
            primary = link.primary
            if primary.incarnation != incarnation:
                primary.incarnation, primary.streams[STREAM] = incarnation, []
            stream = primary.streams.setdefault(STREAM, [])
            last = stream[-1][0] if stream else 0
            stream += [(e.seq, {STREAM_FIELD: seal(e, MAC_KEY)}) for e in entries if e.seq > last]
            await trio.sleep(self.random.uniform(0, 0.05))

    async def _revoke(self, nursery: trio.Nursery) -> None:
        for number in range(1, 200):
            await trio.sleep(self.random.uniform(0.05, 0.8))
            nursery.start_soon(self._wait_effective, number, self.ledger.revoke(number))

    async def _wait_effective(self, number: int, position: Position) -> None:
        receipt = Receipt(position, 2, float(NOW))
        await trio.sleep(self.random.expovariate(300))
        with contextlib.suppress(LedgerReplaced):
            effect = await Barrier(self.random.choice(self.registers)).wait_effective(receipt, FAR)
            assert effect.state is Standing.EFFECTIVE
            assert effect.how is not None
            self.effective[number] = position
            self.how.append(effect.how)

    async def _harm(self) -> None:
        while True:
            await trio.sleep(self.random.uniform(0.2, 2))
            match self.random.choice(["redis", "redis", "cut", "cut", "cut", "feed", "feed", "admin", "restore"]):
                case "redis":
                    self.redis.suffer()
                case "cut":
                    self.random.choice(self.random.choice(self.nodes).wires).cut()
                case "feed":
                    self.feeding.cut()
                case "admin":
                    self.random.choice(self.answering).cut()
                case "restore" if self.random.random() < 0.3:
                    losing = self.random.randint(0, 2)
                    self.ledger.restore(losing=losing, reused_positions=self.mistakes.reused_positions)


def play(seed: int, directory: Path, seconds: float, mistakes: Mistakes = Mistakes()) -> World:  # noqa: B008 - frozen
    """Play a world in simulated time; the same seed plays the same play."""

    async def main() -> World:
        trio_run._r.seed(seed)  # trio shuffles who runs first; there is no public way to make it repeatable
        world = World(seed, directory, mistakes)
        await world.play(seconds)
        return world

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trio_run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)
        return trio.run(main, clock=MockClock(autojump_threshold=0))
