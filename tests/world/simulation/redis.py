"""A made-up Redis: the commands and scripts that the parts use, on servers that can be lost, set back and split.

The scripts are the Lua ones of `admin.ledger.feed_copy`, in Python; a test holds them to a real server's.
"""

from collections.abc import Callable, Sequence
from functools import partial
from random import Random

import trio

from admin.ledger import feed_copy
from engine.feed.redis_faults import RedisFault, RedisNoScript, RedisRefused
from engine.feed.redis_link import Arg, Reply

Id = tuple[int, int]


class Stream:
    """Items in order, and the last id ever given out."""

    def __init__(self) -> None:
        self.items: list[tuple[Id, list[bytes]]] = []
        self.last: Id = (0, 0)

    def copy(self) -> "Stream":
        twin = Stream()
        twin.items, twin.last = list(self.items), self.last
        return twin

    def after(self, place: Id) -> list[tuple[bytes, list[bytes]]]:
        return [(id_text(at), fields) for at, fields in self.items if at > place]


class Server:
    """One server. skipped: told when a stream goes on from one number to another that is not the next."""

    def __init__(self, now: Callable[[], float], skipped: Callable[[bytes, int, int], None] = lambda *_: None) -> None:
        self._now, self._skipped = now, skipped
        self._held: dict[bytes, bytes | Stream] = {}
        self._expires: dict[bytes, float] = {}
        self._scripts: set[bytes] = set()
        self._waiting: list[tuple[frozenset[bytes], trio.Event]] = []

    def copy(self) -> "Server":
        """As a backup or a promoted copy has it; scripts and connections are not part of it."""
        twin = Server(self._now, self._skipped)
        twin._held = {k: v.copy() if isinstance(v, Stream) else v for k, v in self._held.items()}
        twin._expires = dict(self._expires)
        return twin

    def wipe(self) -> None:
        self._held.clear()
        self._expires.clear()

    def forget_scripts(self) -> None:
        self._scripts.clear()

    def get(self, key: bytes) -> bytes | Stream | None:
        if self._expires.get(key, float("inf")) <= self._now():
            self.delete(key)
        return self._held.get(key)

    def put(self, key: bytes, value: bytes | Stream, life_ms: int | None = None) -> None:
        self._held[key] = value
        self._expires.pop(key, None)
        if life_ms is not None:
            self._expires[key] = self._now() + life_ms / 1000

    def delete(self, *keys: bytes) -> int:
        self._expires = {k: v for k, v in self._expires.items() if k not in keys}
        return sum(self._held.pop(key, None) is not None for key in keys)

    def append(self, key: bytes, item_id: bytes, fields: Sequence[bytes], longest: int | None = None) -> bytes:
        """XADD. longest: an exact bound; what `~` leaves over does not matter at our sizes. Raises RedisRefused."""
        stream = self.get(key)
        if stream is None:
            self._held[key] = stream = Stream()
        if not isinstance(stream, Stream):
            raise RedisRefused("wrong type", code="WRONGTYPE")
        at = (
            max((int(self._now() * 1000), 0), (stream.last[0], stream.last[1] + 1))
            if item_id == b"*"
            else id_of(item_id)
        )
        if at <= stream.last:
            raise RedisRefused("the id is not above the last", code="ERR")
        if stream.items and at[0] != stream.last[0] + 1:
            self._skipped(key, stream.last[0], at[0])
        stream.items.append((at, list(fields)))
        stream.last = at
        if longest is not None:
            stream.items = stream.items[-longest:]
        for keys, event in self._waiting:
            if key in keys:
                event.set()
        return id_text(at)

    def text(self, key: bytes) -> bytes:
        value = self.get(key)
        return b"?" if isinstance(value, Stream) else value or b""

    def last_id(self, key: bytes) -> bytes:
        value = self.get(key)
        if value is None:
            return b""
        return id_text(value.last) if isinstance(value, Stream) else b"?"

    def after(self, places: dict[bytes, bytes]) -> dict[bytes, list[tuple[bytes, list[bytes]]]]:
        streams = {key: self.get(key) for key in places}
        found = {k: s.after(id_of(places[k])) for k, s in streams.items() if isinstance(s, Stream)}
        return {key: items for key, items in found.items() if items}

    def wake(self) -> None:
        """Let everybody look anew who waits for entries: the connection is gone."""
        for _, event in self._waiting:
            event.set()

    async def wait(self, keys: frozenset[bytes]) -> None:
        """Until something is appended to one of the streams."""
        waiting = (keys, trio.Event())
        self._waiting.append(waiting)
        try:
            await waiting[1].wait()
        finally:
            self._waiting.remove(waiting)

    def do(self, command: Sequence[Arg]) -> Reply:
        """One command; a refusal is the reply, as on the wire."""
        name, *args = [raw(arg) for arg in command]
        try:
            return self._do(name, args)
        except RedisFault as fault:
            return fault

    def _do(self, name: bytes, args: list[bytes]) -> Reply:  # noqa: PLR0911, PLR0912 - a table of commands
        match name, args:
            case b"GET", [key]:
                return self.get(key)
            case b"MGET", keys:
                return [value if isinstance(value := self.get(key), bytes) else None for key in keys]
            case b"SET", [key, value]:
                self.put(key, value)
            case b"SET", [key, value, b"PX", life]:
                self.put(key, value, int(life))
            case b"XADD", [key, b"MAXLEN", longest, item_id, *fields]:
                return self.append(key, item_id, fields, int(longest))
            case b"PEXPIRE", [key, life]:
                if self.get(key) is not None:
                    self._expires[key] = self._now() + int(life) / 1000
            case b"SCAN", [_, b"MATCH", pattern, *_]:
                return [b"0", [key for key in self._held if key.startswith(pattern.rstrip(b"*"))]]
            case b"EVALSHA", [digest, count, *rest]:
                if digest not in self._scripts:
                    raise RedisNoScript("unknown script")
                return _SCRIPTS[digest](self, rest[: int(count)], rest[int(count) :])
            case b"EVAL", [script, count, *rest]:
                digest = _DIGESTS[script]
                self._scripts.add(digest)
                return _SCRIPTS[digest](self, rest[: int(count)], rest[int(count) :])
            case b"SCRIPT", [b"LOAD", script]:
                self._scripts.add(_DIGESTS[script])
            case b"PUBLISH", _:
                return 1
            case _:
                raise AssertionError(f"nobody has taught this Redis {name!r} with {len(args)} arguments")
        return b"OK"


def raw(arg: Arg) -> bytes:
    """As it goes over the wire."""
    return arg if isinstance(arg, bytes) else str(arg).encode()


def id_of(text: bytes) -> Id:
    milliseconds, _, number = text.partition(b"-")
    return int(milliseconds), int(number or 0)


def id_text(at: Id) -> bytes:
    return b"%d-%d" % at


def _look(server: Server, keys: list[bytes], _args: list[bytes]) -> Reply:
    head, stream, whole = keys
    held = server.get(stream)
    tail = held.items[-1][1][1] if isinstance(held, Stream) and held.items else b""
    return [server.text(head), server.text(whole), server.last_id(stream), tail]


def _append(server: Server, keys: list[bytes], args: list[bytes]) -> Reply:
    if server.text(keys[0]) != args[0] or server.last_id(keys[1]) != args[1]:
        return 0
    records = iter(keys[2:])
    for item_id, sealed, stored in zip(args[4::3], args[5::3], args[6::3], strict=True):
        server.append(keys[1], item_id, [b"e", sealed])
        if stored == b"1":
            server.put(next(records), sealed)
    server.put(keys[0], args[2])
    return 1


def _restart(server: Server, keys: list[bytes], args: list[bytes]) -> Reply:
    if server.text(keys[0]) != args[0] or server.last_id(keys[1]) != args[1]:
        return 0
    server.delete(*keys)
    for item_id, sealed in zip(args[3::2], args[4::2], strict=True):
        server.append(keys[1], item_id, [b"e", sealed])
    server.put(keys[0], args[2])
    return 1


def _claim(server: Server, keys: list[bytes], args: list[bytes]) -> Reply:
    held = server.text(keys[0])
    if server.text(keys[1]) == args[3] or (held not in (b"", b"?") and not held.startswith(args[0])):
        return 0
    server.put(keys[0], args[1], int(args[2]))
    return 1


def _step(server: Server, keys: list[bytes], args: list[bytes]) -> bool:
    if server.get(keys[0]) != args[0]:
        return False
    server.put(keys[0], args[1], int(args[2]))
    return True


def _sweep(server: Server, keys: list[bytes], args: list[bytes]) -> Reply:
    if not _step(server, keys, args):
        return 0
    server.delete(*keys[1:])
    return 1


def _fill(server: Server, keys: list[bytes], args: list[bytes]) -> Reply:
    if not _step(server, keys, args):
        return 0
    for key, value in zip(keys[1:], args[3:], strict=True):
        if server.get(key) is None:
            server.put(key, value)
    return 1


def _finish(server: Server, keys: list[bytes], args: list[bytes]) -> Reply:
    if server.get(keys[0]) != args[0]:
        return 0
    server.put(keys[1], args[1])
    server.delete(keys[0])
    return 1


_PORTED = {
    feed_copy._LOOK: _look,
    feed_copy._APPEND: _append,
    feed_copy._RESTART: _restart,
    feed_copy._CLAIM: _claim,
    feed_copy._SWEEP: _sweep,
    feed_copy._FILL: _fill,
    feed_copy._FINISH: _finish,
}
_SCRIPTS = {script.digest.encode(): ported for script, ported in _PORTED.items()}
_DIGESTS = {script.text.encode(): script.digest.encode() for script in _PORTED}


class Redis:
    """What its users take for one server: one, or two after a split; and copies to fall back to."""

    def __init__(self, random: Random, now: Callable[[], float], skipped: Callable[[bytes, int, int], None]) -> None:
        self._random = random
        self._new = partial(Server, now, skipped)
        self.primaries = [self._new()]
        self._kept: list[Server] = []
        self._past: list[Sequence[Arg]] = []

    def pick(self) -> Server:
        """Where a client that dials anew ends up."""
        return self._random.choice(self.primaries)

    def keep(self) -> None:
        """A replica, or a file, falls behind from here on."""
        self._kept = [*self._kept[-6:], self._random.choice(self.primaries).copy()]

    def wipe(self) -> None:
        for server in self.primaries:
            server.wipe()

    def restart_empty(self) -> None:
        self._replace([self._new()])

    def roll_back(self) -> bool:
        """An older copy is promoted."""
        if self._kept:
            self._replace([self._random.choice(self._kept).copy()])
        return bool(self._kept)

    def split(self) -> bool:
        """A copy is promoted while the old primary lives on."""
        if len(self.primaries) == 1:
            self.primaries.append((self._random.choice(self._kept) if self._kept else self.primaries[0]).copy())
        return len(self.primaries) == 2

    def heal(self) -> None:
        """One of the primaries gives way."""
        self._replace([self._random.choice(self.primaries)])

    def forget_scripts(self) -> None:
        for server in self.primaries:
            server.forget_scripts()

    def remember(self, command: Sequence[Arg]) -> None:
        if command[0] in ("SET", "XADD", "EVALSHA"):
            self._past = [*self._past[-200:], command]

    def repeat(self) -> bool:
        """A command of before arrives once more."""
        if self._past:
            self.pick().do(self._random.choice(self._past))
        return bool(self._past)

    def _replace(self, servers: list[Server]) -> None:
        gone = [server for server in self.primaries if server not in servers]
        self.primaries = servers
        for server in gone:
            server.wake()
