"""The simulation's Redis does what a real server does, whatever is asked of it and in whatever order."""

from collections.abc import Sequence
from random import Random
from typing import Any

import pytest

from admin.ledger.feed_copy import FILLING, WHOLE, FeedCopy, Lease, Seen
from engine.feed.entries import EntryKind, Position
from engine.feed.redis_client import RedisClient
from engine.feed.redis_commands import StreamItem, mget, stream_items, streams, xread_command
from engine.feed.redis_faults import RedisFault, RedisNoScript
from engine.feed.redis_link import Arg, Reply
from engine.feed.redis_names import HEAD, STREAM, answers_key, question_key, record_key, stream_id
from tests.support.projection import SEALER
from tests.support.replicas import consent_entry, consent_key, nothing
from tests.world.simulation.redis import Server

INCARNATIONS = ("00000000000000a1", "00000000000000b2")
KEYS = [record_key(EntryKind.CONSENT, consent_key(number)) for number in range(4)]


class Direct:
    """The made-up server, without a wire."""

    def __init__(self) -> None:
        self.server = Server(lambda: 0.0)

    async def execute(self, *command: Arg) -> Reply:
        reply = self.server.do(command)
        if isinstance(reply, RedisFault):
            raise reply
        return reply

    async def execute_many(self, commands: Sequence[Sequence[Arg]]) -> list[Reply]:
        return [self.server.do(command) for command in commands]


class Side:
    """One server and what its user holds: the same acts are done to two of them."""

    def __init__(self, redis: Any) -> None:
        self.redis, self.copy = redis, FeedCopy(redis)
        self.leases: list[Lease] = []
        self.seen = Seen(b"", b"", b"", b"")

    async def act(self, name: str, random: Random) -> object:
        """Do it, and say what came of it. random: in the same state for both sides."""
        try:
            return await getattr(self, f"_{name}")(random)
        except RedisFault as fault:
            return type(fault).__name__

    async def _look(self, _: Random) -> object:
        self.seen = await self.copy.look()
        return self.seen

    async def _append(self, random: Random) -> object:
        after = self.seen.position() or Position(random.choice(INCARNATIONS), 0)
        if random.random() < 0.2:
            after = Position(after.incarnation, after.seq + 1)
        entries = [self._entry(random, after.incarnation, after.seq + n) for n in range(1, random.randint(2, 4))]
        return await self.copy.append(after, entries, bound=1000)

    async def _restart(self, random: Random) -> object:
        at = Position(random.choice(INCARNATIONS), random.randint(0, 9))
        tail = [self._entry(random, at.incarnation, seq) for seq in range(max(1, at.seq - 2), at.seq + 1)]
        return await self.copy.restart(self.seen, at, tail)

    async def _claim(self, random: Random) -> object:
        lease = await self.copy.claim(random.choice((b"aa", b"bb")), random.randint(1, 9), random.choice(INCARNATIONS))
        self.leases += [] if lease is None else [lease]
        return lease is None

    async def _sweep(self, random: Random) -> object:
        return await self.copy.sweep(random.choice(self.leases)) if self.leases else None

    async def _fill(self, random: Random) -> object:
        records = [self._entry(random, INCARNATIONS[0], seq) for seq in range(1, 4)]
        stored = [record for record in records if record.entry.kind is not EntryKind.NOTHING]
        return await self.copy.fill(random.choice(self.leases), stored) if self.leases else None

    async def _finish(self, random: Random) -> object:
        return await self.copy.finish(random.choice(self.leases), INCARNATIONS[0]) if self.leases else None

    async def _ask(self, random: Random) -> object:
        await self.redis.execute("SET", question_key("node-1"), b"%d" % random.randint(1, 9), "PX", 30_000)
        return await mget(self.redis, [question_key("node-1"), question_key("node-2"), STREAM])

    async def _answer(self, random: Random) -> object:
        key = answers_key("a1")
        item = b"%d" % random.randint(1, 9)
        await self.redis.execute_many([["XADD", key, "MAXLEN", 1, "*", "a", item], ["PEXPIRE", key, 10_000]])
        found = await self._read({key: b"0-0"})
        return [fields for _, fields in found[key]]

    async def _tail(self, random: Random) -> object:
        return await self._read({STREAM: stream_id(random.randint(0, 9))})

    async def _read(self, after: dict[bytes, bytes]) -> dict[bytes, list[StreamItem]]:
        if isinstance(self.redis, Direct):
            found = self.redis.server.after(after)
            return {key: stream_items(items) for key, items in found.items()}
        return streams(await self.redis.execute(*xread_command(after)))

    async def _forge(self, random: Random) -> object:
        await self.redis.execute(
            "SET", random.choice((HEAD, WHOLE, FILLING)), random.choice((b"x", b"00000000000000a1 3"))
        )
        return None

    async def _flush(self, _: Random) -> object:
        if isinstance(self.redis, Direct):
            self.redis.server.wipe()
        else:
            await self.redis.execute("FLUSHALL")
        return None

    async def _records(self, _: Random) -> object:
        return await mget(self.redis, KEYS)

    async def _list(self, _: Random) -> object:
        _, found = await self.redis.execute("SCAN", b"0", "MATCH", b"{ccs}:rec:*", "COUNT", 1000)
        return sorted(found)

    @staticmethod
    def _entry(random: Random, incarnation: str, seq: int) -> Any:
        if random.random() < 0.3:
            return SEALER.entry(nothing(seq, incarnation=incarnation))
        return SEALER.entry(consent_entry(seq, random.randrange(4), incarnation=incarnation))


ACTS = [
    "look",
    "append",
    "restart",
    "claim",
    "sweep",
    "fill",
    "finish",
    "ask",
    "answer",
    "tail",
    "forge",
    "records",
    "list",
]


@pytest.mark.parametrize("seed", range(12))
async def test_both_say_the_same(redis_client: RedisClient, seed: int) -> None:
    await redis_client.execute("FLUSHALL")
    random, made, real = Random(seed), Side(Direct()), Side(redis_client)  # noqa: S311 - for chance that can be had again
    for step in range(120):
        name = "flush" if random.random() < 0.02 else random.choice(["look", "append", *ACTS])
        chance = random.getrandbits(64)
        said = [await side.act(name, Random(chance)) for side in (made, real)]  # noqa: S311 - as above
        assert said[0] == said[1], f"step {step}: {name}"


async def test_a_script_that_was_not_seen_is_asked_for() -> None:
    server = Server(lambda: 0.0)
    copy = FeedCopy(Direct())
    digest = "0" * 40
    assert isinstance(server.do(["EVALSHA", digest, 0]), RedisNoScript)
    assert await copy.look() == Seen(b"", b"", b"", b"")


def test_what_was_put_for_a_while_is_gone_after_it() -> None:
    now = [0.0]
    server = Server(lambda: now[0])
    server.do(["SET", "a", "b", "PX", 500])
    assert server.do(["GET", "a"]) == b"b"
    now[0] = 0.5
    assert server.do(["GET", "a"]) is None
