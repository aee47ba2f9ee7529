"""The one way out to addresses that others registered (RFC 8935 over mTLS). Nothing else calls them.

https only. A name is resolved once for a connection, every address that it has is checked, and the connection goes to
one of those that were checked, to the first that answers: no second resolution in which a name could lead elsewhere.
The certificate must chain to the configured authority, carry the name, and be one that the directory has registered for
the receiver. Redirects are not followed; sizes and times are bounded. Connections are kept for each receiver apart.
"""

import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, Protocol

import msgspec
import trio

from engine.clock import Seconds
from engine.consent.records import ClientId
from engine.pusher.addresses import is_public
from engine.pusher.connections import Connection, Unreached, connect
from engine.pusher.gate import Gate
from engine.pusher.happy_eyeballs import Address, first_connected
from engine.pusher.replies import ReplyReader
from engine.pusher.schedule import Reply, Trouble
from engine.pusher.targets import Target

CONNECT: Final = Seconds(2.0)  # name, TCP and TLS
WHOLE: Final = Seconds(5.0)
IDLE: Final = Seconds(75.0)  # heartbeats come each 60 s, on a connection that is there
SWEEP: Final = Seconds(15.0)
KEPT: Final = 8  # idle connections of one receiver: as many as may be under way
OPENING: Final = 2  # connections to one receiver at once: what waits behind them may find one idle
LOOKUPS: Final = 256  # names being resolved at once, a thread each; one of each receiver


class Resolver(Protocol):
    """Turns a name into addresses, in the order to try."""

    async def __call__(self, host: str, port: int) -> list[Address]:
        """Raises OSError where there are none."""


class EgressConfig(msgspec.Struct, frozen=True):
    """allow_private: addresses that nobody outside may have are called too; for sandboxes and closed networks."""

    allow_private: bool = False
    connect: Seconds = CONNECT
    whole: Seconds = WHOLE
    idle: Seconds = IDLE


class SystemResolver:
    """The machine's. A server that hangs takes a thread for each name, not those that everybody needs."""

    def __init__(self) -> None:
        self._threads = trio.CapacityLimiter(LOOKUPS)

    async def __call__(self, host: str, port: int) -> list[Address]:
        """See Resolver."""
        found = await trio.to_thread.run_sync(_look_up, host, port, abandon_on_cancel=True, limiter=self._threads)
        return list(dict.fromkeys(found))


def _look_up(host: str, port: int) -> list[Address]:
    import socket  # noqa: PLC0415 - the blocking one, for this thread only

    kind = socket.SOCK_STREAM
    return [(int(family), place) for family, _, _, _, place in socket.getaddrinfo(host, port, type=kind)]


def _nobody_asks() -> None:
    """See `Egress.push`."""


class _Pool:
    """One receiver's connections that are idle, the newest last."""

    __slots__ = ("gone", "idle", "looking", "opening")

    def __init__(self) -> None:
        self.gone = False  # nothing is kept here any more
        self.idle: deque[Connection] = deque()
        self.looking = trio.Lock()
        self.opening = trio.CapacityLimiter(OPENING)

    def close_idle(self, since: float) -> None:
        """Close what has been idle from before that time on."""
        while self.idle and self.idle[0].idle_since < since:
            self.idle.popleft().close()


class _Timing:
    """How long one attempt may still take, and whom it tells that it has begun."""

    __slots__ = ("_begun", "_left", "_whole")

    def __init__(self, whole: trio.CancelScope, begun: Callable[[], None]) -> None:
        self._whole = whole
        self._begun: Callable[[], None] | None = begun
        self._left: float | None = None  # while it stands still

    def stand_still(self) -> None:
        """We are waiting for ourselves."""
        self._left = self._whole.deadline - trio.current_time()
        self._whole.deadline = float("inf")

    def begin(self) -> None:
        """The receiver's time runs, or runs on."""
        if self._left is not None:
            self._whole.deadline, self._left = trio.current_time() + self._left, None
        if self._begun is not None:
            begun, self._begun = self._begun, None
            begun()


class Egress:
    """tls: with our certificate and the receivers' authority. Any call may be cancelled."""

    def __init__(
        self,
        tls: ssl.SSLContext,
        config: EgressConfig = EgressConfig(),  # noqa: B008 - frozen
        *,
        resolve: Resolver | None = None,
        now: Callable[[], float] = trio.current_time,
        gate: Gate | None = None,
    ) -> None:
        self._tls = tls
        self._config = config
        self._resolve = resolve or SystemResolver()
        self._now = now
        self._pools: dict[ClientId, _Pool] = {}
        self._gate = gate or Gate()

    def reload(self, tls: ssl.SSLContext) -> None:
        """Another certificate or authority: connections from before serve no further push."""
        self._tls = tls

    async def push(
        self, client_id: ClientId, target: Target, content: bytes, *, begun: Callable[[], None] = _nobody_asks
    ) -> Reply:
        """One attempt. Raises Unreached. An answer counts once its head is there, also when time ends then.

        begun: called when its time begins to run, after any wait of our own.
        """
        readers = [ReplyReader()]
        request = b"%b%d\r\n\r\n%b" % (target.head, len(content), content)
        pool = self._pools.get(client_id) or self._pools.setdefault(client_id, _Pool())
        since = self._now()
        try:
            with trio.move_on_after(self._config.whole) as whole:
                await self._exchange(pool, target, request, readers, _Timing(whole, begun))
        finally:
            for reader in readers:
                reader.let_go()
        if not readers[-1].status:
            pool.close_idle(since)  # whatever swallowed this may swallow all of before: the next one connects anew
            raise Unreached(Trouble.TIMEOUT)
        return readers[-1].reply()

    async def _exchange(
        self, pool: _Pool, target: Target, request: bytes, readers: list[ReplyReader], timing: _Timing
    ) -> None:
        """Each connection has a reader, the last one counts: a head that broke off must not begin another's."""
        while True:
            connection, is_kept = await self._connection(pool, target, timing)
            try:
                return await self._on(connection, pool, request, readers[-1])
            except Unreached:
                if not is_kept:
                    raise
            readers.append(ReplyReader())  # the server closed it as we began: an event may be sent again

    async def _connection(self, pool: _Pool, target: Target, timing: _Timing) -> tuple[Connection, bool]:
        """One that is kept, also one that has become idle while a new one had to wait; else a new one."""
        kept = self._kept(pool, target)
        if kept is None:
            async with self._admitted(pool, timing):
                kept = self._kept(pool, target)
                if kept is None:
                    return await self._opened(pool, target), False
        timing.begin()
        return kept, True

    async def _opened(self, pool: _Pool, target: Target) -> Connection:
        with trio.move_on_after(self._config.connect):
            return await self._connected(pool, target)
        raise Unreached(Trouble.TIMEOUT, detail="connecting")

    @asynccontextmanager
    async def _admitted(self, pool: _Pool, timing: _Timing) -> AsyncIterator[None]:
        """What we wait for ourselves takes nothing of the receiver's time."""
        timing.stand_still()
        async with pool.opening:
            place = await self._gate.enter()
            try:
                timing.begin()
                yield
            finally:
                self._gate.leave(place)

    async def _on(self, connection: Connection, pool: _Pool, request: bytes, reader: ReplyReader) -> None:
        """One request on a connection, which is kept if it can be."""
        good = False
        try:
            await connection.exchange(request, reader)
            good = reader.is_reusable
        finally:
            if good and not pool.gone and len(pool.idle) < KEPT:
                connection.idle_since = self._now()
                pool.idle.append(connection)
            else:
                connection.close()

    def _kept(self, pool: _Pool, target: Target) -> Connection | None:
        """An idle connection that still is what a new one would be."""
        while pool.idle:
            connection = pool.idle.pop()
            if (
                connection.context is self._tls
                and connection.host == target.host
                and connection.port == target.port
                and connection.thumbprint in target.thumbprints
                and connection.is_quiet()
            ):
                return connection
            connection.close()
        return None

    async def _connected(self, pool: _Pool, target: Target) -> Connection:
        """Raises Unreached. A wrong certificate ends it: whoever shows one has the name, and another address of it."""
        tls = self._tls

        async def attempt(address: Address, reached: trio.Event) -> Connection:
            return await connect(address, tls, target.host, target.port, reached)

        connection = await first_connected(await self._addresses(pool, target), attempt)
        if connection.thumbprint not in target.thumbprints:
            connection.close()
            raise Unreached(Trouble.CERTIFICATE, detail=f"{target.host} shows {connection.thumbprint.hex()}")
        return connection

    async def _addresses(self, pool: _Pool, target: Target) -> list[Address]:
        """All of them checked. Raises Unreached."""
        async with pool.looking:
            try:
                found = await self._resolve(target.host, target.port)
            except (OSError, UnicodeError) as error:
                raise Unreached(Trouble.NAME, detail=repr(error)) from error
        private = [str(place[0]) for _, place in found if not is_public(str(place[0]))]
        if private and not self._config.allow_private:
            raise Unreached(Trouble.ADDRESS, detail=f"{target.host} leads to {private[0]}")
        return found

    def forget(self, client_id: ClientId) -> None:
        """The receiver is gone, or refused our credentials: its next connection proves them anew."""
        pool = self._pools.pop(client_id, None)
        if pool is not None:
            pool.gone = True
            for connection in pool.idle:
                connection.close()

    async def sweep(self) -> None:
        """Close what has been idle for too long, for ever."""
        while True:
            await trio.sleep(SWEEP)
            oldest = self._now() - self._config.idle
            for pool in self._pools.values():
                pool.close_idle(oldest)

    def close(self) -> None:
        """All idle connections."""
        for client_id in list(self._pools):
            self.forget(client_id)

    @property
    def idle(self) -> int:
        """Connections that are kept."""
        return sum(len(pool.idle) for pool in self._pools.values())
