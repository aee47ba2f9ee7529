"""One connection to Redis as one task: many callers, one pipeline, safe to cancel at any point.

Commands of all callers queued since the last wake leave in one write; replies come back in order and are handed
to whoever asked. A caller that gives up leaves its place in the queue behind, so that its late reply is read and
dropped and nobody gets another's answer. When the link is lost every waiting caller gets `RedisUnavailable` at
once. This is the only module that imports hiredis (RESP3 parsing); nothing private of any client is used.
"""

import collections
import ssl
from collections.abc import Callable, Sequence
from typing import Any, Final

import hiredis
import msgspec
import trio

from engine.clock import Seconds
from engine.feed.redis_faults import RedisFault, RedisReadOnly, RedisRefused, RedisUnavailable, fault_of_reply

Arg = bytes | str | int | float
Command = Sequence[Arg]
Reply = Any  # RESP3: bytes, int, float, bool, None, list, dict, set; typed by the callers in `redis_commands`
Push = list[Any]

RECEIVE_BYTES: Final = 65_536
MAX_WAITING: Final = 20_000  # commands under way on one link; more means that Redis is not keeping up
_NO_MORE: Final = object()


class Endpoint(msgspec.Struct, frozen=True):
    """Where one server is. path: a unix socket, else host and port."""

    path: str = ""
    host: str = ""
    port: int = 0
    tls: bool = False

    def __str__(self) -> str:
        scheme = "rediss" if self.tls else "redis"
        return f"unix://{self.path}" if self.path else f"{scheme}://{self.host}:{self.port}"


class Credentials(msgspec.Struct, frozen=True):
    """How to sign in. Both empty: not at all; password alone: as the user `default`."""

    username: str = ""
    password: str = ""

    def __repr__(self) -> str:
        return f"Credentials(username={self.username!r})"


class _Waiter:
    """A caller's place in the pipeline. task is None once the caller has given up."""

    __slots__ = ("expected", "fault", "replies", "task")

    def __init__(self, task: trio.lowlevel.Task | None, expected: int) -> None:
        self.task = task
        self.expected = expected
        self.replies: list[Reply] = []
        self.fault: RedisFault | None = None

    def resume(self) -> None:
        task, self.task = self.task, None
        if task is not None:
            trio.lowlevel.reschedule(task)


class Link:
    """One open connection. `run` is its task; the link is up while `run` runs.

    silence: a server that owes a reply and says nothing for this long, or for up to twice as long, counts as lost;
    an idle link is pinged as often, so that a connection whose other end vanished is noticed.
    on_push: gets pub/sub messages (RESP3 pushes); called between replies, must not block or raise.
    """

    def __init__(
        self, stream: trio.abc.Stream, *, silence: Seconds, on_push: Callable[[Push], None] | None = None
    ) -> None:
        self._stream = stream
        self._silence = silence
        self._on_push = on_push
        self._waiters: collections.deque[_Waiter] = collections.deque()
        self._outgoing: list[bytes] = []
        self._wake = trio.Event()
        self._scope = trio.CancelScope()
        self._waiting = 0
        self.up = False
        self.lost_because: RedisFault | None = None

    @property
    def waiting(self) -> int:
        """Commands sent and not yet answered."""
        return self._waiting

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until the connection is lost or dropped, then return; `lost_because` says why. Closes the stream."""
        self.up = True
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    nursery.start_soon(self._read)
                    task_status.started()
        finally:
            self._settle_all()
            await trio.aclose_forcefully(self._stream)

    def drop(self, why: RedisFault | None = None) -> None:
        """Lose the link now: the way to cancel a blocking read, or to leave a server that is the wrong one."""
        if self.lost_because is None:
            self.lost_because = why or RedisUnavailable("the Redis link was dropped")
        self._scope.cancel()

    async def execute(self, *command: Arg) -> Reply:
        """Send one command and wait for its reply. Raises RedisFault.

        Cancelled, it leaves the link whole; the command may or may not have been done.
        """
        (reply,) = await self._replies(_pack(command), 1)
        if isinstance(reply, RedisFault):
            raise reply
        return reply

    async def execute_many(self, commands: Sequence[Command]) -> list[Reply]:
        """Send commands in one write, nothing of other callers between them; replies in order.

        A refused command's place holds its RedisFault. Raises RedisUnavailable when the link is lost.
        """
        if not commands:
            return []
        return await self._replies(b"".join([_pack(command) for command in commands]), len(commands))

    def send_unanswered(self, *command: Arg) -> None:
        """Send a command whose only reply is a push: SUBSCRIBE and its kin."""
        if not self.up:
            raise RedisUnavailable("the Redis link is down")
        self._outgoing.append(_pack(command))
        self._wake.set()

    async def _replies(self, packed: bytes, expected: int) -> list[Reply]:
        waiter = self._enqueue(packed, expected, trio.lowlevel.current_task())

        def abandon(_: object) -> trio.lowlevel.Abort:
            waiter.task = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abandon)
        if waiter.fault is not None:
            raise waiter.fault
        return waiter.replies

    def _enqueue(self, packed: bytes, expected: int, task: trio.lowlevel.Task | None) -> _Waiter:
        if not self.up:
            raise RedisUnavailable("the Redis link is down")
        if self._waiting + expected > MAX_WAITING:
            raise RedisUnavailable("too many Redis commands are under way")
        waiter = _Waiter(task, expected)
        self._outgoing.append(packed)
        self._waiters.append(waiter)
        self._waiting += expected
        self._wake.set()
        return waiter

    async def _write(self) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake = trio.Event()
                block = b"".join(self._outgoing)
                self._outgoing.clear()
                await self._stream.send_all(block)
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError, ssl.SSLError) as error:
            self.drop(RedisUnavailable("the Redis link broke while sending", detail=repr(error)))

    async def _read(self) -> None:
        reader = hiredis.Reader(replyError=fault_of_reply, notEnoughData=_NO_MORE)
        try:
            while block := await self._receive():
                reader.feed(block)
                while (reply := reader.gets()) is not _NO_MORE:
                    self._deliver(reply)
            self.drop(RedisUnavailable("Redis closed the link"))
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError, ssl.SSLError) as error:
            self.drop(RedisUnavailable("the Redis link broke while receiving", detail=repr(error)))
        except hiredis.ProtocolError as error:
            self.drop(RedisUnavailable("Redis sent what is not its protocol", detail=str(error)))

    async def _receive(self) -> bytes:
        suspect: _Waiter | None = None
        while True:
            with trio.move_on_after(self._silence):
                return bytes(await self._stream.receive_some(RECEIVE_BYTES))
            oldest = self._waiters[0] if self._waiters else self._enqueue(_PING, 1, None)
            if oldest is suspect:  # it has waited a whole silence, not just the end of one
                self.drop(RedisUnavailable("Redis has gone silent", detail=f"{self._waiting} commands unanswered"))
                await trio.sleep_forever()  # the scope was cancelled: this ends at once
            suspect = oldest

    def _deliver(self, reply: Reply) -> None:
        if isinstance(reply, hiredis.PushNotification):
            if self._on_push is not None:
                self._on_push(reply)
            return
        if not self._waiters:
            self.drop(RedisUnavailable("Redis answered a question that nobody asked"))
            return
        waiter = self._waiters[0]
        waiter.replies.append(reply)
        self._waiting -= 1
        if len(waiter.replies) == waiter.expected:
            self._waiters.popleft()
            waiter.resume()

    def _settle_all(self) -> None:
        self.up = False
        why = self.lost_because or RedisUnavailable("the Redis link was closed")
        self.lost_because = why
        self._waiting = 0
        while self._waiters:
            waiter = self._waiters.popleft()
            waiter.fault = RedisUnavailable("the Redis link was lost under way", detail=why.text)
            waiter.resume()


def _pack(command: Command) -> bytes:
    packed: bytes = hiredis.pack_command(tuple(command))  # type: ignore[arg-type]  # its stub allows a tuple of one
    return packed


_PING: Final = _pack(("PING",))


async def dial(endpoint: Endpoint, tls: ssl.SSLContext | None) -> trio.abc.Stream:
    """Open the connection; over TLS the certificate's name must be the endpoint's host. Raises RedisUnavailable.

    The caller sets the deadline.
    """
    try:
        if endpoint.path:
            return await trio.open_unix_socket(endpoint.path)
        stream = await trio.open_tcp_stream(endpoint.host, endpoint.port)
        return await _handshake(stream, endpoint.host, tls) if endpoint.tls else stream
    except (OSError, trio.BrokenResourceError, ssl.SSLError, ssl.CertificateError) as error:
        raise RedisUnavailable(f"cannot reach Redis at {endpoint}", detail=repr(error)) from error


async def _handshake(stream: trio.SocketStream, host: str, tls: ssl.SSLContext | None) -> trio.abc.Stream:
    if tls is None:
        await trio.aclose_forcefully(stream)
        raise RedisUnavailable("a rediss:// address needs a TLS context")
    secured = trio.SSLStream(stream, tls, server_hostname=host)
    try:
        await secured.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(secured)
        raise
    return secured


async def greet(link: Link, credentials: Credentials, name: str) -> None:
    """Sign in, choose RESP3, and make sure that this server is a primary that has loaded its data.

    Raises RedisFault: RedisReadOnly on a replica, RedisLoading, RedisRefused for a bad password.
    """
    sign_in: list[Arg] = ["HELLO", 3]
    if credentials.password:
        sign_in += ["AUTH", credentials.username or "default", credentials.password]
    hello, ping, role = await link.execute_many(((*sign_in, "SETNAME", name), ("PING",), ("ROLE",)))
    for reply in (hello, ping):
        if isinstance(reply, RedisFault):
            raise reply
    # An access list may keep ROLE from a node; then a replica shows itself by READONLY at the first write.
    if isinstance(role, RedisFault):
        if not isinstance(role, RedisRefused):
            raise role
    elif role[0] != b"master":
        raise RedisReadOnly("Redis is a read-only copy here", detail=f"role {role[0]!r}")
