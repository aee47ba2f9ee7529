"""Wires between processes: mostly milliseconds, now and then seconds; lossy, and cut for a while in one way or both."""

from collections.abc import Awaitable, Callable
from random import Random
from typing import TypeVar

import trio

from tests.world.simulation.machines import Process

T = TypeVar("T")

PATIENCE = 3.0  # seconds after which either end takes the other for lost (`redis_client.SILENCE`, `https.CONNECT`)


class Lost(Exception):
    """The message did not arrive, or not in time; whether its effect took place is not known."""


class Wire:
    """slow: the share of messages that take seconds. loss: of those that break the connection.

    count: told of each fault that a message meets.
    """

    def __init__(self, random: Random, count: Callable[[str], None], *, slow: float, loss: float) -> None:
        self._random, self._count = random, count
        self.slow, self.loss = slow, loss
        self._cut_until = [0.0, 0.0]  # there, back

    def cut(self, seconds: float, *, there: bool = True, back: bool = True) -> None:
        """A cut that lasts longer already is not shortened by it."""
        until, before = trio.current_time() + seconds, self._cut_until
        self._cut_until = [max(until, before[0]) if there else before[0], max(until, before[1]) if back else before[1]]

    def heal(self) -> None:
        self._cut_until = [0.0, 0.0]

    async def cross(self, *, back: bool = False) -> None:
        """Bring one message over. Raises Lost."""
        random = self._random.random
        delay = self._delay()
        wait = self._cut_until[back] - trio.current_time()
        if wait > 0:
            self._count("fault: message meets a cut")
            if wait > PATIENCE or random() < 0.3:
                await trio.sleep(min(wait, PATIENCE) * random())
                raise Lost
            delay += wait
        if delay:
            await trio.sleep(delay)
        if random() < self.loss:
            self._count("fault: message lost")
            raise Lost

    def _delay(self) -> float:
        chance = self._random.random()
        if chance < self.slow:
            self._count("fault: message takes seconds")
            return self._random.uniform(0.1, 2.5)
        return self._random.expovariate(150) if chance < 0.3 else 0.0


class Reply:
    """What a called process will say."""

    def __init__(self) -> None:
        self.said = trio.Event()
        self.value: object = None
        self.error: Exception | None = None

    def fail(self, error: Exception) -> None:
        if not self.said.is_set():
            self.error = error
            self.said.set()


async def call(
    wire: Wire,
    server: Process | None,
    function: Callable[..., Awaitable[T]],
    *args: object,
    patience: float,
    twice: bool = False,
) -> T:
    """Have another process do something and say what came of it. Raises Lost, and what the function raises.

    twice: the message is delivered a second time. A dead process refuses; one that dies meanwhile is noticed at once.
    """
    await wire.cross()
    if server is None or not server.alive:
        raise Lost
    reply = Reply()
    server.at_death.append(gone := lambda: reply.fail(Lost()))
    for said in [reply, Reply()][: 1 + twice]:
        server.start(_serve, said, function, args)
    with trio.move_on_after(patience):
        await reply.said.wait()
    if gone in server.at_death:
        server.at_death.remove(gone)
    if not reply.said.is_set():
        raise Lost
    if not isinstance(reply.error, Lost):
        await wire.cross(back=True)
    if reply.error is not None:
        raise reply.error
    return reply.value  # type: ignore[return-value] # the function's own


async def _serve(reply: Reply, function: Callable[..., Awaitable[object]], args: tuple[object, ...]) -> None:
    try:
        reply.value = await function(*args)
    except Exception as error:
        reply.error = error
    reply.said.set()
