"""The commands that we use, typed, over anything that can execute one: a link, a client, a wrapper of either.

Deliberately few. Whatever is missing is one `execute(…)` away; a command that is used twice earns a method here.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from engine.feed.redis_faults import RedisFault, RedisNoScript
from engine.feed.redis_link import Arg, Command, Reply


class StreamItem(NamedTuple):
    """One entry of a stream."""

    id: bytes
    fields: dict[bytes, bytes]


class Script:
    """A Lua script; sent as its digest, and whole only to a server that has not seen it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()  # what EVALSHA names it by


class Executor(Protocol):
    """Whatever carries commands to Redis. Raises RedisFault."""

    async def execute(self, *command: Arg) -> Reply: ...
    async def execute_many(self, commands: Sequence[Command]) -> list[Reply]: ...


async def ping(redis: Executor) -> None:
    """Returns when the server has answered."""
    await redis.execute("PING")


async def get(redis: Executor, key: bytes) -> bytes | None:
    """The value, or None."""
    value: bytes | None = await redis.execute("GET", key)
    return value


async def mget(redis: Executor, keys: Sequence[bytes]) -> list[bytes | None]:
    """The values in the order of the keys; no keys, no call."""
    if not keys:
        return []
    values: list[bytes | None] = await redis.execute("MGET", *keys)
    return values


async def put(redis: Executor, key: bytes, value: bytes, *, life_ms: int | None = None) -> None:
    """SET, with PX when life_ms is given."""
    await redis.execute("SET", key, value, *(("PX", life_ms) if life_ms is not None else ()))


async def delete(redis: Executor, *keys: bytes) -> int:
    """How many there were."""
    count: int = await redis.execute("DEL", *keys)
    return count


async def publish(redis: Executor, channel: bytes, message: bytes) -> int:
    """How many subscribers of this very server heard it."""
    count: int = await redis.execute("PUBLISH", channel, message)
    return count


async def keys_matching(redis: Executor, pattern: bytes) -> list[bytes]:
    """All keys of a pattern by SCAN: present throughout means found; may take several round trips."""
    found: set[bytes] = set()
    cursor = b"0"
    while True:
        cursor, page = await redis.execute("SCAN", cursor, "MATCH", pattern, "COUNT", 1000)
        found.update(page)
        if cursor == b"0":
            return sorted(found)


async def xadd(redis: Executor, stream: bytes, item_id: bytes, fields: Mapping[bytes, bytes]) -> bytes:
    """Append with an id of our own. An id not above the last is refused (RedisRefused)."""
    flat = [part for pair in fields.items() for part in pair]
    added: bytes = await redis.execute("XADD", stream, item_id, *flat)
    return added


async def xrange(
    redis: Executor, stream: bytes, first: bytes = b"-", last: bytes = b"+", *, count: int | None = None
) -> list[StreamItem]:
    """Entries between two ids, both included; `(id` excludes."""
    raw = await redis.execute("XRANGE", stream, first, last, *(("COUNT", count) if count is not None else ()))
    return stream_items(raw)


def xread_command(after: Mapping[bytes, bytes], *, count: int | None = None, block_ms: int | None = None) -> list[Arg]:
    """XREAD of several streams, each after its own id; block_ms: wait so long for something new."""
    command: list[Arg] = ["XREAD"]
    if count is not None:
        command += ["COUNT", count]
    if block_ms is not None:
        command += ["BLOCK", block_ms]
    return [*command, "STREAMS", *after.keys(), *after.values()]


async def xread(
    redis: Executor, after: Mapping[bytes, bytes], *, count: int | None = None
) -> dict[bytes, list[StreamItem]]:
    """What is there now after each id, without waiting; to wait, use `RedisClient.xread_blocking`."""
    return streams(await redis.execute(*xread_command(after, count=count)))


def streams(reply: Reply) -> dict[bytes, list[StreamItem]]:
    """An XREAD reply: only streams that had something; empty when the wait ran out."""
    return {name: stream_items(raw) for name, raw in reply.items()} if reply else {}


def stream_items(raw: list[Any]) -> list[StreamItem]:
    """The entries of one stream as XRANGE and XREAD give them."""
    return [StreamItem(item_id, dict(zip(flat[::2], flat[1::2], strict=True))) for item_id, flat in raw]


async def run_script(redis: Executor, script: Script, keys: Sequence[bytes], *args: Arg) -> Reply:
    """EVALSHA; a server that does not know the script gets its text and keeps it."""
    try:
        return await redis.execute("EVALSHA", script.digest, len(keys), *keys, *args)
    except RedisNoScript:
        return await redis.execute("EVAL", script.text, len(keys), *keys, *args)


def raise_first_fault(replies: Sequence[Reply]) -> None:
    """For batches of which every command must have been taken. Raises the first RedisFault among the replies."""
    for reply in replies:
        if isinstance(reply, RedisFault):
            raise reply
