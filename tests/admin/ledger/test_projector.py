"""Redis follows the ledger, whatever happens to either; what stands there afterwards is what a rebuild gives."""

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import redis
import trio

from admin.ledger.feed_copy import FILLING, WHOLE, FeedCopy, head_text
from admin.ledger.projector import Projector, ProjectorState
from admin.ledger.sealing import Sealer
from admin.ledger.sql import SqlLedger
from engine.clock import Seconds
from engine.feed.entries import Entry, EntryKind, Position, seal, unseal
from engine.feed.redis_client import RedisClient
from engine.feed.redis_names import HEAD, STREAM, record_key, stream_id
from tests.support.projection import (
    MAC_KEY,
    SEALER,
    append_all,
    consent_event,
    consent_record,
    new_consents,
    participant_event,
    projector_of,
    real_ledger,
    silent_event,
)
from tests.support.valkey import Valkey, client_of

PATIENCE = 30.0  # against hanging only


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[SqlLedger]:
    async with real_ledger(tmp_path) as opened:
        yield opened


@pytest.fixture
async def projector(ledger: SqlLedger, redis_client: RedisClient, nursery: trio.Nursery) -> Projector:
    started = projector_of(ledger, redis_client)
    await nursery.start(started.run)
    return started


async def until(holds: Callable[[], bool]) -> None:
    """Wait until it holds in another process, looking again every few milliseconds; bounded."""
    with trio.fail_after(PATIENCE):
        while True:
            with contextlib.suppress(redis.exceptions.RedisError):
                if holds():
                    return
            await trio.sleep(0.005)


async def even(projector: Projector, ledger: SqlLedger, server: Valkey) -> Position:
    """Wait until Redis says and holds what the ledger does, records included."""
    head = (await ledger.head()).position
    due = [head_text(head), head.incarnation.encode()]
    await until(lambda: server.call("MGET", HEAD, WHOLE) == due and projector.state is ProjectorState.FOLLOWING)
    return head


def stream_of(server: Valkey) -> list[tuple[bytes, bytes]]:
    if server.call("TYPE", STREAM) != b"stream":
        return []
    return [(item_id, fields.get(b"e", b"")) for item_id, fields in server.call("XRANGE", STREAM, "-", "+")]


def records_of(server: Valkey) -> dict[bytes, bytes]:
    keys = server.call("KEYS", "{ccs}:rec:*")
    return dict(zip(keys, server.call("MGET", *keys), strict=True)) if keys else {}


async def expected_records(ledger: SqlLedger) -> dict[bytes, bytes]:
    """What a rebuild from the ledger gives."""
    incarnation = (await ledger.head()).position.incarnation
    rows = await ledger.records((-1, b""), 1_000_000)
    sealed = [SEALER.record(seq, record, incarnation) for seq, record in rows]
    return {record_key(item.entry.kind, item.entry.key): item.sealed for item in sealed}


async def expected_stream(ledger: SqlLedger, after: int = 0) -> list[tuple[bytes, bytes]]:
    incarnation = (await ledger.head()).position.incarnation
    events = await ledger.events(after, 1_000_000)
    return [(stream_id(event.position.seq), SEALER.event(event, incarnation).sealed) for event in events]


async def require_honest_copy(ledger: SqlLedger, server: Valkey) -> None:
    """Records are those of a rebuild; the stream is an unbroken tail of the ledger's."""
    assert records_of(server) == await expected_records(ledger)
    stream = stream_of(server)
    first = int(stream[0][0].split(b"-")[0])
    assert stream == await expected_stream(ledger, first - 1)


async def test_every_event_becomes_one_entry_in_order(ledger: SqlLedger, projector: Projector, valkey: Valkey) -> None:
    """Also those that mean nothing to engines: the numbering stays gap-free."""
    await append_all(ledger, [*new_consents(3), silent_event(), participant_event("node-1")])
    head = await even(projector, ledger, valkey)
    entries = [unseal(sealed, (MAC_KEY,)) for _, sealed in stream_of(valkey)]
    assert [entry.seq for entry in entries] == list(range(1, head.seq + 1))
    assert [entry.kind for entry in entries[-2:]] == [EntryKind.NOTHING, EntryKind.PARTICIPANT]
    await require_honest_copy(ledger, valkey)


async def test_the_newest_record_of_a_consent_wins(ledger: SqlLedger, projector: Projector, valkey: Valkey) -> None:
    consent_id = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff"
    for version in range(4):
        await ledger.append([consent_event(consent_id, consent_record(consent_version=version + 1), version)])
    await even(projector, ledger, valkey)
    await require_honest_copy(ledger, valkey)


async def test_a_burst_of_ten_thousand_arrives_in_order_and_without_a_gap(
    ledger: SqlLedger, projector: Projector, valkey: Valkey
) -> None:
    async with trio.open_nursery() as writers:
        for _ in range(20):
            writers.start_soon(append_all, ledger, new_consents(500))
    head = await even(projector, ledger, valkey)
    assert head.seq == 10_001
    stream = stream_of(valkey)
    assert stream == await expected_stream(ledger, int(stream[0][0].split(b"-")[0]) - 1)
    assert int(stream[-1][0].split(b"-")[0]) == head.seq
    await require_honest_copy(ledger, valkey)


async def test_a_flushed_redis_is_filled_again(ledger: SqlLedger, projector: Projector, valkey: Valkey) -> None:
    await append_all(ledger, new_consents(2_500))
    await even(projector, ledger, valkey)
    valkey.call("FLUSHALL")
    await append_all(ledger, new_consents(10))
    await even(projector, ledger, valkey)
    await require_honest_copy(ledger, valkey)
    assert projector.statistics().restarts >= 2  # the first one found Redis empty


async def test_a_rolled_back_redis_gets_its_missing_tail_and_nothing_else(
    ledger: SqlLedger, projector: Projector, valkey: Valkey
) -> None:
    await append_all(ledger, new_consents(20))
    await even(projector, ledger, valkey)
    older = {key: valkey.call("DUMP", key) for key in valkey.call("KEYS", "*")}
    await append_all(ledger, new_consents(30))
    await even(projector, ledger, valkey)
    restarts = projector.statistics().restarts
    valkey.call("EVAL", RESTORE, len(older), *older.keys(), *older.values())
    await even(projector, ledger, valkey)
    await require_honest_copy(ledger, valkey)
    assert projector.statistics().restarts == restarts


RESTORE = """
redis.call('FLUSHALL')
for i = 1, #KEYS do redis.call('RESTORE', KEYS[i], 0, ARGV[i]) end
"""


async def test_a_replaced_server_is_filled(ledger: SqlLedger, doomed_valkey: Valkey, nursery: trio.Nursery) -> None:
    """The files of the old one are gone, as after a failover to an empty machine."""
    client = client_of(doomed_valkey.url)
    await nursery.start(client.run)
    projector = projector_of(ledger, client)
    await nursery.start(projector.run)
    await append_all(ledger, new_consents(50))
    await even(projector, ledger, doomed_valkey)
    doomed_valkey.kill()
    for path in (doomed_valkey.directory / "appendonlydir").iterdir():
        path.unlink()
    await append_all(ledger, new_consents(50))
    doomed_valkey.restart()
    await even(projector, ledger, doomed_valkey)
    await require_honest_copy(ledger, doomed_valkey)


async def test_a_killed_redis_is_caught_up_when_it_is_back(
    ledger: SqlLedger, doomed_valkey: Valkey, nursery: trio.Nursery
) -> None:
    client = client_of(doomed_valkey.url)
    await nursery.start(client.run)
    projector = projector_of(ledger, client)
    await nursery.start(projector.run)
    await append_all(ledger, new_consents(50))
    await even(projector, ledger, doomed_valkey)
    doomed_valkey.kill()
    await append_all(ledger, new_consents(50))
    await until(lambda: projector.state is ProjectorState.REDIS_AWAY)
    doomed_valkey.restart()
    await even(projector, ledger, doomed_valkey)
    await require_honest_copy(ledger, doomed_valkey)
    await until(lambda: projector.state is ProjectorState.FOLLOWING)


def attacks(last: Entry) -> dict[str, list[tuple[Any, ...]]]:
    """What somebody who can write to Redis may do; last: the newest entry there."""
    following = f"{last.seq + 1}-0"
    return {
        "forged": [("XADD", STREAM, following, "e", seal(last, b"x" * 32))],
        "rubbish": [("XADD", STREAM, following, "e", b"rubbish")],
        "far": [("XADD", STREAM, "9999999-0", "x", b"rubbish")],
        "replayed": [("XADD", STREAM, following, "e", seal(last, MAC_KEY))],
        "removed": [("XDEL", STREAM, stream_id(last.seq))],
        "used up": [("XADD", STREAM, "9999999-0", "e", b"x"), ("XDEL", STREAM, "9999999-0")],
        "stream gone": [("DEL", STREAM)],
        "stream of another type": [("SET", STREAM, "text")],
        "head of nonsense": [("SET", HEAD, "nonsense")],
        "head too far": [("SET", HEAD, f"{last.incarnation} {last.seq + 50}")],
        "head too early": [("SET", HEAD, f"{last.incarnation} {last.seq - 5}")],
        "head of another incarnation": [("SET", HEAD, f"{'f' * 16} {last.seq}")],
        "head of another type": [("DEL", HEAD), ("XADD", HEAD, "*", "a", "b")],
        "mark gone": [("DEL", WHOLE)],
        "mark of another type": [("DEL", WHOLE), ("SADD", WHOLE, "a")],
        "lease of another type": [("DEL", WHOLE), ("SADD", FILLING, "a")],
    }


@pytest.mark.parametrize("attack", attacks(Entry("0" * 16, 9, EntryKind.NOTHING)))
async def test_what_somebody_wrote_into_redis_is_thrown_out(
    ledger: SqlLedger, projector: Projector, valkey: Valkey, attack: str
) -> None:
    await append_all(ledger, new_consents(20))
    await even(projector, ledger, valkey)
    last = unseal(stream_of(valkey)[-1][1], (MAC_KEY,))
    for command in attacks(last)[attack]:
        valkey.call(*command)
    await until(lambda: stream_of(valkey)[-1:] == [(stream_id(last.seq), seal(last, MAC_KEY))])
    await append_all(ledger, new_consents(5))
    await even(projector, ledger, valkey)
    await require_honest_copy(ledger, valkey)


async def test_forged_records_do_not_survive_a_refill(ledger: SqlLedger, projector: Projector, valkey: Valkey) -> None:
    await append_all(ledger, new_consents(5))
    await even(projector, ledger, valkey)
    valkey.call("SET", record_key(EntryKind.CONSENT, b"made up"), b"forged")
    valkey.call("SET", next(iter(await expected_records(ledger))), b"forged")
    valkey.call("DEL", WHOLE)
    await even(projector, ledger, valkey)
    await require_honest_copy(ledger, valkey)


async def test_two_projectors_do_no_harm(
    ledger: SqlLedger, valkey: Valkey, redis_client: RedisClient, nursery: trio.Nursery
) -> None:
    """Also while Redis is flushed under them: no entry twice, none left out."""
    other = client_of(valkey.url)
    await nursery.start(other.run)
    pair = [projector_of(ledger, client) for client in (redis_client, other)]
    for projector in pair:
        await nursery.start(projector.run)
    for _ in range(5):
        await append_all(ledger, new_consents(400), group=20)
        valkey.call("FLUSHALL")
    await append_all(ledger, new_consents(100), group=7)
    await even(pair[0], ledger, valkey)
    await require_honest_copy(ledger, valkey)


async def test_the_stream_is_trimmed(
    ledger: SqlLedger, redis_client: RedisClient, valkey: Valkey, nursery: trio.Nursery
) -> None:
    projector = projector_of(ledger, redis_client, bound=200)
    await nursery.start(projector.run)
    await append_all(ledger, new_consents(3_000))
    await even(projector, ledger, valkey)
    assert 200 <= valkey.call("XLEN", STREAM) <= 400  # trimmed by whole nodes of a hundred entries
    await require_honest_copy(ledger, valkey)


async def test_a_ledger_that_lost_its_tail_is_not_followed(
    ledger: SqlLedger, projector: Projector, valkey: Valkey, redis_client: RedisClient
) -> None:
    """Genuinely sealed entries above the head, under the same incarnation: somebody restored a back-up by hand."""
    head = await even(projector, ledger, valkey)
    lost = SEALER.entry(Entry(head.incarnation, head.seq + 1, EntryKind.CONSENT, b"k" * 16, b"r"))
    assert await FeedCopy(redis_client).append(head, [lost], bound=100)
    await until(lambda: projector.state is ProjectorState.LEDGER_BEHIND)
    assert stream_of(valkey)[-1] == (stream_id(head.seq + 1), lost.sealed)


async def test_the_away_ledger_is_waited_for(
    ledger: SqlLedger, projector: Projector, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    from admin.ledger.store import LedgerUnavailable

    async def away() -> Any:
        raise LedgerUnavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(ledger, "head", away)
        await until(lambda: projector.state is ProjectorState.LEDGER_AWAY)
    await append_all(ledger, new_consents(5))
    await even(projector, ledger, valkey)
    await until(lambda: projector.state is ProjectorState.FOLLOWING)


async def test_a_stale_append_is_refused(ledger: SqlLedger, projector: Projector, valkey: Valkey) -> None:
    """Only last + 1 of the same incarnation, however late the writer wakes up."""
    await append_all(ledger, new_consents(5))
    head = await even(projector, ledger, valkey)
    client, stale = projector._copy, Position(head.incarnation, head.seq - 1)
    before = stream_of(valkey)
    again = SEALER.entry(Entry(head.incarnation, head.seq, EntryKind.CONSENT, b"k" * 16, b"r"))
    assert not await client.append(stale, [again], bound=100)
    other = SEALER.entry(Entry("f" * 16, head.seq + 1, EntryKind.CONSENT, b"k" * 16, b"r"))
    assert not await client.append(Position("f" * 16, head.seq), [other], bound=100)
    assert stream_of(valkey) == before


async def test_a_lost_lease_stops_a_filler(redis_client: RedisClient, valkey: Valkey) -> None:
    copy = FeedCopy(redis_client)
    item = SEALER.entry(Entry("a" * 16, 1, EntryKind.CONSENT, b"k" * 16, b"r"))
    first = await copy.claim(b"first", 1, "a" * 16)
    assert first is not None
    assert await copy.claim(b"second", 1, "a" * 16) is None
    assert await copy.fill(first, [item])
    valkey.call("DEL", FILLING)
    assert await copy.claim(b"second", 1, "a" * 16) is not None
    assert not await copy.sweep(first)
    assert not await copy.fill(first, [item])
    assert not await copy.finish(first, "a" * 16)
    assert records_of(valkey) == {record_key(EntryKind.CONSENT, b"k" * 16): item.sealed}


async def test_a_copy_that_somebody_else_made_whole_is_not_emptied_under_its_mark(redis_client: RedisClient) -> None:
    """Two looked when it was not whole; the slower one must not begin again when the faster one is done."""
    copy = FeedCopy(redis_client)
    first = await copy.claim(b"first", 1, "a" * 16)
    assert first is not None
    assert await copy.finish(first, "a" * 16)
    assert await copy.claim(b"second", 1, "a" * 16) is None
    assert await copy.claim(b"second", 1, "b" * 16) is not None


async def test_a_filler_takes_its_own_lease_anew(redis_client: RedisClient) -> None:
    """Nobody has to wait for it to run out; what is under way from before finds it lost."""
    copy = FeedCopy(redis_client)
    before = await copy.claim(b"owner", 1, "a" * 16)
    after = await copy.claim(b"owner", 2, "a" * 16)
    assert before is not None
    assert after is not None
    assert not await copy.sweep(before)
    assert await copy.sweep(after)


async def test_a_redis_that_goes_back_in_time_stops_the_filler(redis_client: RedisClient, valkey: Valkey) -> None:
    """The lease is still there, some of what was written under it is not: the copy must not be called whole."""
    copy = FeedCopy(redis_client)
    items = [SEALER.entry(Entry("a" * 16, n, EntryKind.CONSENT, bytes([n]) * 16, b"r")) for n in (1, 2, 3)]
    lease = await copy.claim(b"owner", 1, "a" * 16)
    assert lease is not None
    older = valkey.call("DUMP", FILLING)
    assert await copy.fill(lease, items[:1])
    valkey.call("DEL", FILLING, record_key(EntryKind.CONSENT, b"\x01" * 16))
    valkey.call("RESTORE", FILLING, 10_000, older)
    assert not await copy.fill(lease, items[1:])
    assert not await copy.finish(lease, "a" * 16)
    assert not valkey.call("EXISTS", WHOLE)


async def test_reaching_a_position_can_be_waited_for(ledger: SqlLedger, projector: Projector) -> None:
    receipt = await ledger.append(new_consents(1))
    assert await projector.wait_reached(receipt.position, patience=Seconds(PATIENCE))
    beyond = Position(receipt.position.incarnation, receipt.position.seq + 1)
    assert not await projector.wait_reached(beyond, patience=Seconds(0.01))


def test_keys_that_are_too_short_are_refused() -> None:
    with pytest.raises(ValueError, match="32"):
        Sealer((b"short",))


async def test_a_stream_that_begins_anew_ends_the_filling_under_way(redis_client: RedisClient, valkey: Valkey) -> None:
    """The filler may have read its records before the events of the new tail were written."""
    copy = FeedCopy(redis_client)
    lease = await copy.claim(b"owner", 1, "a" * 16)
    assert lease is not None
    assert await copy.sweep(lease)
    tail = [SEALER.entry(Entry("a" * 16, 1, EntryKind.CONSENT, b"k" * 16, b"r"))]
    assert await copy.restart(await copy.look(), Position("a" * 16, 1), tail)
    assert not await copy.fill(lease, tail)
    assert not await copy.finish(lease, "a" * 16)
    assert valkey.call("GET", WHOLE) is None
    assert await copy.claim(b"another", 1, "a" * 16) is not None
