"""The feed's copy in Redis: stream, head and records, changed only by scripts that check what they find.

Redis is not trusted and not needed: every script compares what stands there with what its caller last saw, and
refuses otherwise. So any number of projectors may work at once, and one that was stopped for a minute and goes on
where it was does no harm. What an honest copy looks like is decided by `judge`, without I/O.

Two keys beside those of `redis_names`: `{ccs}:whole` names the incarnation whose records are all there, and
`{ccs}:filling` is the lease of whoever is writing them anew; a lost lease stops the old holder's scripts.
"""

import enum
from collections.abc import Sequence
from typing import Final

import msgspec

from admin.ledger.sealing import Sealed
from engine.feed.entries import EntryKind, ForgedEntry, Position, unseal
from engine.feed.redis_commands import Executor, Script, raise_first_fault, run_script
from engine.feed.redis_faults import RedisNoScript
from engine.feed.redis_link import Arg
from engine.feed.redis_names import HEAD, STREAM, record_key, stream_id

WHOLE: Final = b"{ccs}:whole"
FILLING: Final = b"{ccs}:filling"
RECORDS_PATTERN: Final = b"{ccs}:rec:*"

LEASE_MS: Final = 10_000  # a batch takes milliseconds; ten seconds without one means that its writer is gone
SCRIPT_RECORDS: Final = 500  # records a script: Redis answers nobody else for about a millisecond

# The last id that the stream has ever given out ('' = no stream, '?' = another type) and its last entry's bytes.
_LAST: Final = """
local function last(key)
  local info = redis.pcall('XINFO', 'STREAM', key)
  if info.err then return redis.call('EXISTS', key) == 1 and '?' or '' end
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then return info[i + 1] end
  end
end
local function text(key)
  local value = redis.pcall('GET', key)
  if type(value) == 'table' then return '?' end
  return value or ''
end
"""

_LOOK: Final = Script(
    _LAST
    + """
local id = last(KEYS[2])
local tail = redis.pcall('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)
return {text(KEYS[1]), text(KEYS[3]), id, tail[1] and tail[1][2][2] or ''}
"""
)

# ARGV: head and last id as they must stand there, new head, bound of the stream, then (id, sealed, record?) each.
_APPEND: Final = Script(
    _LAST
    + """
if text(KEYS[1]) ~= ARGV[1] or last(KEYS[2]) ~= ARGV[2] then return 0 end
local key = 2
for i = 5, #ARGV, 3 do
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], ARGV[i], 'e', ARGV[i + 1])
  if ARGV[i + 2] == '1' then key = key + 1; redis.call('SET', KEYS[key], ARGV[i + 1]) end
end
redis.call('SET', KEYS[1], ARGV[3])
return 1
"""
)

# A filling under way goes with the rest: it may have read its records before the events of the new tail, whose records
# nobody else would write. ARGV: head and last id as they were seen, new head, then (id, sealed) each.
_RESTART: Final = Script(
    _LAST
    + """
if text(KEYS[1]) ~= ARGV[1] or last(KEYS[2]) ~= ARGV[2] then return 0 end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3], KEYS[4])
for i = 4, #ARGV, 2 do redis.call('XADD', KEYS[2], ARGV[i], 'e', ARGV[i + 1]) end
redis.call('SET', KEYS[1], ARGV[3])
return 1
"""
)

# Where the copy has become whole meanwhile, a sweep would empty it under its mark: somebody else was faster.
# A lease of another type is nobody's. ARGV: whose lease it may be, its first text, its life, the incarnation.
_CLAIM: Final = Script(
    _LAST
    + """
if text(KEYS[2]) == ARGV[4] then return 0 end
local held = text(KEYS[1])
if held ~= '' and held ~= '?' and string.sub(held, 1, #ARGV[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
"""
)

# Each step finds the lease as the step before left it: a lost lease stops its holder, and so does a Redis that went
# back in time and lost some of the steps. ARGV: the lease's text before and after, its life.
_STEP: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
"""

_SWEEP: Final = Script(
    _STEP
    + """
for i = 2, #KEYS do redis.call('UNLINK', KEYS[i]) end
return 1
"""
)

# A record that is there already was appended meanwhile and is newer, or equal.
_FILL: Final = Script(
    _STEP
    + """
for i = 2, #KEYS do redis.call('SET', KEYS[i], ARGV[i + 2], 'NX') end
return 1
"""
)

_FINISH: Final = Script("""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[2])
redis.call('DEL', KEYS[1])
return 1
""")


class Lease:
    """The right to write all records anew; it changes with every step. Made by `FeedCopy.claim`."""

    def __init__(self, token: bytes) -> None:
        self._token = token
        self._step = 0

    @property
    def text(self) -> bytes:
        """As it stands in Redis now, unless it was lost."""
        return self._token + b" %d" % self._step

    def step(self) -> tuple[bytes, bytes, int]:
        """Its text before and after the next step, and its life in milliseconds."""
        before = self.text
        self._step += 1
        return before, self.text, LEASE_MS


class Seen(msgspec.Struct, frozen=True):
    """What stands in Redis, at one moment. Empty = absent; `?` = a key of the wrong type."""

    head: bytes
    whole: bytes
    last_id: bytes
    last_sealed: bytes

    def position(self) -> Position | None:
        """Where the copy says it is; None = it says nothing that could be meant."""
        incarnation, _, seq = self.head.partition(b" ")
        if not (incarnation.isalnum() and seq.isdigit() and seq.isascii() and len(seq) <= 19):
            return None
        return Position(incarnation.decode("ascii", "replace"), int(seq))


class Verdict(enum.StrEnum):
    """What is to be done about a copy."""

    EVEN = "even"
    MISSING_TAIL = "missing_tail"  # an honest copy of an earlier position: append what is missing
    WORTHLESS = "worthless"  # absent, forged, damaged, or of another incarnation: begin anew
    AHEAD = "ahead"  # genuinely sealed entries that the ledger does not have: the ledger has lost its tail


def judge(seen: Seen, ledger: Position, keys: tuple[bytes, ...]) -> Verdict:
    """Compare a copy with the ledger's position, which must have been read after the copy."""
    position = seen.position()
    if position is None or position.incarnation != ledger.incarnation or not _tail_is_honest(seen, position, keys):
        return Verdict.WORTHLESS
    if position.seq > ledger.seq:
        return Verdict.AHEAD
    return Verdict.EVEN if position.seq == ledger.seq else Verdict.MISSING_TAIL


def _tail_is_honest(seen: Seen, position: Position, keys: tuple[bytes, ...]) -> bool:
    if position.seq == 0:
        return not seen.last_id
    try:
        last = unseal(seen.last_sealed, keys)
    except ForgedEntry:
        return False
    return (seen.last_id, last.incarnation, last.seq) == (stream_id(position.seq), position.incarnation, position.seq)


def head_text(position: Position) -> bytes:
    """The head as it stands in Redis."""
    return f"{position.incarnation} {position.seq}".encode()


class FeedCopy:
    """The copy behind one Redis client. Every method raises RedisFault; every call may be cancelled."""

    def __init__(self, redis: Executor) -> None:
        self._redis = redis

    async def look(self) -> Seen:
        """Head, mark and last entry, all of one moment."""
        return Seen(*await run_script(self._redis, _LOOK, (HEAD, STREAM, WHOLE)))

    async def append(self, after: Position, entries: Sequence[Sealed], *, bound: int) -> bool:
        """Write stream and records of the entries after `after`; False = the copy does not stand there.

        bound: about how many entries the stream keeps.
        """
        keys, args = [HEAD, STREAM], list[Arg]()
        for item in entries:
            stored = item.entry.kind is not EntryKind.NOTHING
            if stored:
                keys.append(record_key(item.entry.kind, item.entry.key))
            args += (stream_id(item.entry.seq), item.sealed, b"1" if stored else b"0")
        last_id = stream_id(after.seq) if after.seq else b""
        end = Position(after.incarnation, entries[-1].entry.seq)
        done = await run_script(self._redis, _APPEND, keys, head_text(after), last_id, head_text(end), bound, *args)
        return bool(done)

    async def restart(self, seen: Seen, at: Position, tail: Sequence[Sealed]) -> bool:
        """Throw the stream away and begin anew at `at` with its last entries; False = it is not as `seen` any more.

        The records stay until they are swept; the copy is not whole until then. Whoever is writing them loses the
        lease.
        """
        args = [part for item in tail for part in (stream_id(item.entry.seq), item.sealed)]
        keys = (HEAD, STREAM, WHOLE, FILLING)
        return bool(await run_script(self._redis, _RESTART, keys, seen.head, seen.last_id, head_text(at), *args))

    async def claim(self, owner: bytes, number: int, incarnation: str) -> Lease | None:
        """Take the lease for filling, anew where it is the owner's own; None = somebody else holds it, or has finished.

        number: of the owner's filling, so that what is still under way from an earlier one finds its lease lost.
        """
        lease = Lease(b"%s:%d" % (owner, number))
        taken = await run_script(self._redis, _CLAIM, (FILLING, WHOLE), owner + b":", lease.text, LEASE_MS, incarnation)
        return lease if taken else None

    async def sweep(self, lease: Lease) -> bool:
        """Remove every record; False = the lease is lost."""
        cursor = b"0"
        while True:
            cursor, found = await self._redis.execute("SCAN", cursor, "MATCH", RECORDS_PATTERN, "COUNT", 2_000)
            if not await run_script(self._redis, _SWEEP, (FILLING, *found), *lease.step()):
                return False
            if cursor == b"0":
                return True

    async def fill(self, lease: Lease, records: Sequence[Sealed]) -> bool:
        """Write records that are not there; False = the lease is lost."""
        calls = [_fill_call(lease, records[i : i + SCRIPT_RECORDS]) for i in range(0, len(records), SCRIPT_RECORDS)]
        replies = await self._redis.execute_many(calls)
        if any(isinstance(reply, RedisNoScript) for reply in replies):
            await self._redis.execute("SCRIPT", "LOAD", _FILL.text)
            replies = await self._redis.execute_many(calls)
        raise_first_fault(replies)
        return all(replies)

    async def finish(self, lease: Lease, incarnation: str) -> bool:
        """Say that all records of an incarnation are there, and give the lease back; False = it was lost."""
        return bool(await run_script(self._redis, _FINISH, (FILLING, WHOLE), lease.text, incarnation))


def _fill_call(lease: Lease, records: Sequence[Sealed]) -> list[Arg]:
    keys = [record_key(item.entry.kind, item.entry.key) for item in records]
    values = [item.sealed for item in records]
    return ["EVALSHA", _FILL.digest, 1 + len(keys), FILLING, *keys, *lease.step(), *values]
