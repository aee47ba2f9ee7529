"""The owner of a link: dials, signs in, serves, dials again with back-off, for ever while `run` runs.

While there is no link every call fails at once with `RedisUnavailable`; nothing queues, nothing is retried
behind the caller's back. A server that turns out not to be the primary (READONLY, MOVED) costs its link: the
topology is asked anew. One client is one connection: whoever blocks (XREAD BLOCK) or subscribes has its own.
"""

import enum
import ssl
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final

import msgspec
import trio

from engine.backoff import HEALTHY_AFTER, Backoff
from engine.clock import Seconds
from engine.feed.redis_commands import StreamItem, streams, xread_command
from engine.feed.redis_faults import RedisFault, RedisMoved, RedisReadOnly, RedisUnavailable
from engine.feed.redis_link import Arg, Command, Credentials, Endpoint, Link, Push, Reply, dial, greet
from engine.feed.topology import Topology

DIAL_TIMEOUT: Final = Seconds(3.0)  # connect, TLS and sign-in together; discovery has its own limits
SILENCE: Final = Seconds(3.0)  # commands take well under a millisecond; a stopped server should not hold callers
HINTS: Final = 1_024  # unread messages of a subscription; whoever listens looks of itself as well


class LinkState(enum.StrEnum):
    """What the owner is doing."""

    DIALLING = "dialling"
    UP = "up"
    WAITING = "waiting"  # for the next try
    STOPPED = "stopped"


class LinkStatistics(msgspec.Struct, frozen=True):
    """For metrics and the status page."""

    state: LinkState
    endpoint: str  # of the link that is up, or of the last one
    waiting: int  # commands under way
    dials: int
    losses: int  # links that were up and broke
    failures: int  # in a row, up to now
    last_fault: str


class RedisClient:
    """Commands to the primary that holds our keys.

    jitter: gives numbers in [0, 1). silence: see `Link`.
    """

    def __init__(
        self,
        topology: Topology,
        *,
        credentials: Credentials,
        tls: ssl.SSLContext | None,
        name: str,
        jitter: Callable[[], float],
        backoff: Backoff = Backoff(),  # noqa: B008 - frozen
        silence: Seconds = SILENCE,
    ) -> None:
        self._topology = topology
        self._credentials = credentials
        self._tls = tls
        self._name = name
        self._jitter = jitter
        self._backoff = backoff
        self._silence = silence
        self._link: Link | None = None
        self._endpoint: Endpoint | None = None
        self._redirected: Endpoint | None = None
        self._up_since = float("inf")  # trio's clock
        self._state = LinkState.STOPPED
        self._changed = trio.Event()
        self._dials = self._losses = self._failures = 0
        self._last_fault = ""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep a link until cancelled. Ready once the first dial has succeeded or failed."""
        ready = _once(task_status.started)
        try:
            while True:
                async with trio.open_nursery() as nursery:
                    up_since = await self._try_to_link(nursery)
                    if up_since is not None:
                        ready()
                self._count_end(up_since)
                self._enter(LinkState.WAITING)
                ready()
                await trio.sleep(self._backoff.delay(self._failures, self._jitter()))
        finally:
            self._link = None
            self._enter(LinkState.STOPPED)

    def statistics(self) -> LinkStatistics:
        """A snapshot."""
        return LinkStatistics(
            state=self._state,
            endpoint=str(self._endpoint or ""),
            waiting=self._link.waiting if self._link is not None else 0,
            dials=self._dials,
            losses=self._losses,
            failures=self._failures,
            last_fault=self._last_fault,
        )

    async def wait_up(self) -> None:
        """Returns when there is a link; it may be gone again by the next call."""
        while not self._up:
            await self._changed.wait()

    async def wait_down(self) -> None:
        """Returns when there is no link."""
        while self._up:
            await self._changed.wait()

    async def execute(self, *command: Arg) -> Reply:
        """One command. Raises RedisFault; cancelling is safe (`Link.execute`)."""
        link = self._require_link()
        try:
            return await link.execute(*command)
        except RedisFault as fault:
            self._learn(link, fault)
            raise

    async def execute_many(self, commands: Sequence[Command]) -> list[Reply]:
        """Several commands in one write (`Link.execute_many`)."""
        link = self._require_link()
        replies = await link.execute_many(commands)
        for reply in replies:
            if isinstance(reply, RedisFault):
                self._learn(link, reply)
        return replies

    async def xread_blocking(
        self, after: Mapping[bytes, bytes], *, block_ms: int, count: int | None = None
    ) -> dict[bytes, list[StreamItem]]:
        """Wait for something new in any of the streams; empty when block_ms, or most of `silence`, ran out.

        Use a client of its own. Cancelled, the link is dropped and dialled anew, because the server would go on
        blocking it. Raises RedisFault.
        """
        link = self._require_link()
        block_ms = min(block_ms, int(self._silence * 800))  # a reply that is due later would look like a dead server
        try:
            return streams(await link.execute(*xread_command(after, count=count, block_ms=block_ms)))
        except RedisFault as fault:
            self._learn(link, fault)
            raise
        except trio.Cancelled:
            link.drop(RedisUnavailable("a blocking read was given up"))
            raise

    @property
    def up_for(self) -> Seconds:
        """How long the present link has stood; 0.0 = there is none."""
        return Seconds(trio.current_time() - self._up_since if self._up else 0.0)

    @property
    def _up(self) -> bool:
        # A link is down from its first fault on, a little before its task has ended.
        return self._link is not None and self._link.up

    def _require_link(self) -> Link:
        if self._link is None or not self._link.up:
            raise RedisUnavailable("there is no link to Redis", detail=self._last_fault)
        return self._link

    def _learn(self, link: Link, fault: RedisFault) -> None:
        if isinstance(fault, RedisMoved):
            tls = self._endpoint is not None and self._endpoint.tls
            self._redirected = Endpoint(host=fault.host or self._host(), port=fault.port, tls=tls)
            link.drop(fault)
        elif isinstance(fault, RedisReadOnly):
            link.drop(fault)

    def _host(self) -> str:
        return self._endpoint.host if self._endpoint is not None else ""

    async def _try_to_link(self, nursery: trio.Nursery) -> float | None:
        """Dial and sign in; when that worked the link runs in the nursery, whose end is the link's end."""
        self._dials += 1
        self._enter(LinkState.DIALLING)
        try:
            await self._establish(nursery)
        except RedisFault as fault:
            self._last_fault = fault.text
            nursery.cancel_scope.cancel()
            return None
        return trio.current_time()

    async def _establish(self, nursery: trio.Nursery) -> None:
        redirected, self._redirected = self._redirected, None
        endpoint = redirected or await self._topology.find_primary()
        self._endpoint = endpoint
        with trio.move_on_after(DIAL_TIMEOUT) as limit:
            link = self._make_link(await dial(endpoint, self._tls))
            await nursery.start(self._serve, link)
            await self._greet(link)
        if limit.cancelled_caught:
            raise RedisUnavailable(f"Redis at {endpoint} took too long to answer")
        if not link.up:
            raise RedisUnavailable("the Redis link was lost at once")
        self._link = link
        self._up_since = trio.current_time()
        self._enter(LinkState.UP)

    def _make_link(self, stream: trio.abc.Stream) -> Link:
        return Link(stream, silence=self._silence)

    async def _greet(self, link: Link) -> None:
        await greet(link, self._credentials, self._name)

    async def _serve(self, link: Link, *, task_status: trio.TaskStatus[None]) -> None:
        await link.run(task_status=task_status)
        if self._link is link:
            self._link = None
            self._losses += 1
            self._last_fault = link.lost_because.text if link.lost_because is not None else ""
            self._enter(LinkState.WAITING)

    def _count_end(self, up_since: float | None) -> None:
        lasted = 0.0 if up_since is None else trio.current_time() - up_since
        self._failures = 1 if lasted >= HEALTHY_AFTER else self._failures + 1

    def _enter(self, state: LinkState) -> None:
        self._state = state
        self._changed.set()
        self._changed = trio.Event()


def _once(call: Callable[[], None]) -> Callable[[], None]:
    """The same call, done the first time only."""
    left = [call]

    def first_time_only() -> None:
        if left:
            left.pop()()

    return first_time_only


class Subscription(RedisClient):
    """Hints from pub/sub channels. Messages may be lost whenever the link is: treat them as "look now".

    Each new link puts an empty hint in front, so that a reader looks after every gap by itself.
    """

    def __init__(
        self,
        topology: Topology,
        channels: Sequence[bytes],
        *,
        credentials: Credentials,
        tls: ssl.SSLContext | None,
        name: str,
        jitter: Callable[[], float],
        backoff: Backoff = Backoff(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__(topology, credentials=credentials, tls=tls, name=name, jitter=jitter, backoff=backoff)
        self._channels = tuple(channels)
        self._hints, self._unread = trio.open_memory_channel[bytes](HINTS)

    async def next_hint(self) -> bytes:
        """Wait for a message, or for a new link (b"")."""
        return await self._unread.receive()

    async def next_hints(self) -> set[bytes]:
        """As `next_hint`, with all that have come meanwhile."""
        hints = {await self.next_hint()}
        with suppress(trio.WouldBlock):
            while True:
                hints.add(self._unread.receive_nowait())
        return hints

    def _make_link(self, stream: trio.abc.Stream) -> Link:
        return Link(stream, silence=self._silence, on_push=self._take)

    async def _greet(self, link: Link) -> None:
        await super()._greet(link)
        # The replies of SUBSCRIBE are pushes; the PING's comes after them and is an ordinary one.
        link.send_unanswered("SUBSCRIBE", *self._channels)
        await link.execute("PING")
        self._offer(b"")

    def _take(self, push: Push) -> None:
        if push[0] == b"message":
            self._offer(push[2])

    def _offer(self, hint: bytes) -> None:
        try:
            self._hints.send_nowait(hint)
        except trio.WouldBlock:
            return  # the reader has enough reasons to look already
