"""Clients of the made-up Redis, in the shape of `RedisClient` and `Subscription`."""

from collections.abc import Sequence
from random import Random

import trio

from engine.feed.redis_commands import StreamItem
from engine.feed.redis_faults import RedisFault, RedisUnavailable
from engine.feed.redis_link import Arg, Reply
from tests.world.simulation.redis import Redis, Server, raw
from tests.world.simulation.wires import Lost, Wire


class Link:
    """One connection, bound to one server until that is gone or the connection breaks."""

    def __init__(self, redis: Redis, wire: Wire, random: Random, hints: "Hints") -> None:
        self._redis, self._wire, self._random, self._hints = redis, wire, random, hints
        self._bound = redis.pick()

    async def run(self) -> None:
        """Nothing has to be kept up."""
        await trio.sleep_forever()

    async def wait_up(self) -> None:
        await trio.lowlevel.checkpoint()

    async def execute(self, *command: Arg) -> Reply:
        (reply,) = await self.execute_many([command])
        if isinstance(reply, RedisFault):
            raise reply
        return reply

    async def execute_many(self, commands: Sequence[Sequence[Arg]]) -> list[Reply]:
        try:
            await self._wire.cross()
            server = self._server()
            replies = [server.do(command) for command in commands]
            for command in commands:
                self._redis.remember(command)
                if command[0] == "PUBLISH":
                    self._hints.ring(raw(command[2]))
            await self._wire.cross(back=True)
        except Lost:
            raise self._lost() from None
        return replies

    async def xread_blocking(
        self, after: dict[bytes, bytes], *, block_ms: int, count: int | None = None
    ) -> dict[bytes, list[StreamItem]]:
        try:
            await self._wire.cross()
            server = self._server()
            if not server.after(after):
                with trio.move_on_after(block_ms / 1000):
                    await server.wait(frozenset(after))
            found = self._server().after(after)
            await self._wire.cross(back=True)
        except Lost:
            raise self._lost() from None
        return {
            key: [StreamItem(at, dict(zip(f[::2], f[1::2], strict=True))) for at, f in items[:count]]
            for key, items in found.items()
        }

    def _server(self) -> Server:
        if self._bound not in self._redis.primaries:
            raise self._lost()
        return self._bound

    def _lost(self) -> RedisUnavailable:
        self._bound = self._redis.pick()
        return RedisUnavailable("the link was lost")


class Hints:
    """What is published to one admin process: heard, or not, and then the next tick is early enough."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._subscribers: list[Subscriber] = []

    def subscribe(self) -> "Subscriber":
        subscriber = Subscriber()
        self._subscribers.append(subscriber)
        return subscriber

    def ring(self, hint: bytes) -> None:
        for subscriber in self._subscribers[-4:]:
            if self._random.random() < 0.5:
                subscriber.hear(hint)


class Subscriber:
    """In the shape of `Subscription`."""

    def __init__(self) -> None:
        self._unread: dict[bytes, None] = {b"": None}  # in the order heard; the first is the new link's own
        self._rung = trio.Event()

    def hear(self, hint: bytes) -> None:
        self._unread[hint] = None
        self._rung.set()

    async def next_hints(self) -> set[bytes]:
        await trio.lowlevel.checkpoint()
        while not self._unread:
            self._rung = trio.Event()
            await self._rung.wait()
        hints, self._unread = set(self._unread), {}
        return hints
