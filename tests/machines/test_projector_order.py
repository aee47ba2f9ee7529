"""Whatever is done to Redis, and in whatever order, the stream is an unbroken tail of the ledger at every moment."""

import tempfile
from pathlib import Path

import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from admin.ledger.feed_copy import WHOLE, head_text
from admin.ledger.sql import SqlLedger
from engine.feed.entries import ForgedEntry, unseal
from engine.feed.redis_names import HEAD, STREAM
from tests.support.projection import MAC_KEY, SEALER, append_all, new_consents, projector_of, real_ledger, silent_event
from tests.support.valkey import Valkey, client_of

RESTORE = """
redis.call('FLUSHALL')
for i = 1, #KEYS do redis.call('RESTORE', KEYS[i], ARGV[2 * i], ARGV[2 * i - 1]) end
"""
ACTIONS = ["append", "append", "burst", "keep", "roll back", "flush", "forge", "cut", "settle"]
PATIENCE = 20.0


class Play:
    """One ledger, two projectors, and somebody at Redis."""

    def __init__(self, ledger: SqlLedger, server: Valkey) -> None:
        self.ledger = ledger
        self.server = server
        self.kept: list[tuple[bytes, bytes, int]] = []  # key, value, milliseconds to live

    async def act(self, action: str) -> None:
        match action:
            case "append":
                await self.ledger.append([*new_consents(2), silent_event()])
            case "burst":
                await append_all(self.ledger, new_consents(120), group=15)
            case "keep":
                flat = self.server.call("EVAL", KEEP, 0)
                self.kept = list(zip(flat[::3], flat[1::3], flat[2::3], strict=True))
            case "roll back":
                values = [part for _, value, life in self.kept for part in (value, life)]
                self.server.call("EVAL", RESTORE, len(self.kept), *(key for key, _, _ in self.kept), *values)
            case "flush":
                self.server.call("FLUSHALL")
            case "forge":
                self.server.call("EVAL", "redis.pcall('XADD', KEYS[1], '*', 'e', 'made up')", 1, STREAM)
            case "cut":
                self.server.call("DEL", STREAM)
            case "settle":
                await self.settle()

    async def settle(self) -> None:
        """Wait until Redis is even and whole, then hold it against the ledger."""
        head = (await self.ledger.head()).position
        due = [head_text(head), head.incarnation.encode()]
        with trio.fail_after(PATIENCE):
            while self.server.call("MGET", HEAD, WHOLE) != due or not self.ends_honestly():  # noqa: ASYNC110 - Redis says it
                await trio.sleep(0.01)
        self.hold_order([sealed for _, [_, sealed] in self.server.call("EVAL", RANGE, 1, STREAM)])
        await self.hold_records(head.incarnation)

    def ends_honestly(self) -> bool:
        last = self.server.call("EVAL", LAST, 1, STREAM)
        try:
            entry = unseal(last or b"", (MAC_KEY,))
        except ForgedEntry:
            return False
        return self.server.call("GET", HEAD) == f"{entry.incarnation} {entry.seq}".encode()

    def hold_order(self, stream: list[bytes]) -> None:
        seqs = [unseal(sealed, (MAC_KEY,)).seq for sealed in stream]
        assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))

    async def hold_records(self, incarnation: str) -> None:
        rows = await self.ledger.records((-1, b""), 1_000_000)
        keys = self.server.call("KEYS", "{ccs}:rec:*")
        values = self.server.call("MGET", *keys) if keys else []
        assert sorted(values) == sorted(SEALER.record(seq, record, incarnation).sealed for seq, record in rows)


# All of one moment, as a back-up is.
KEEP = """
local found = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
  found[#found + 1] = key
  found[#found + 1] = redis.call('DUMP', key)
  found[#found + 1] = math.max(0, redis.call('PTTL', key))
end
return found
"""
RANGE = "return redis.call('XRANGE', KEYS[1], '-', '+')"
LAST = "local t = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1) return t[1] and t[1][2][2] or ''"


async def play(actions: list[str], server: Valkey) -> None:
    server.call("FLUSHALL")
    with tempfile.TemporaryDirectory(prefix="ccs-") as name:
        async with real_ledger(Path(name)) as ledger, trio.open_nursery() as nursery:
            for _ in range(2):
                client = client_of(server.url)
                await nursery.start(client.run)
                await nursery.start(projector_of(ledger, client).run)
            played = Play(ledger, server)
            for action in [*actions, "append", "settle"]:
                await played.act(action)
            nursery.cancel_scope.cancel()


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(ACTIONS), min_size=3, max_size=12))
def test_two_projectors_and_somebody_at_redis(valkey_server: Valkey, actions: list[str]) -> None:
    trio.run(play, actions, valkey_server)
