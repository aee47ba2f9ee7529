"""The feed over real mTLS: snapshots, entries, checks, claims and reports, and who may not have them."""

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import msgspec
import pytest
import trio

from admin.ledger import feed_service as service_module
from admin.ledger.sql import SqlLedger
from engine.clock import Seconds, UnixTime
from engine.consent.records import AccessMode, ClientId
from engine.consent.states import State
from engine.feed.entries import Entry, EntryKind, Position, unseal
from engine.feed.gap_reports import GapReport
from engine.feed.https import FeedBroken, FeedClient, FeedForbidden, FeedUnavailable, WrongIncarnation
from engine.feed.snapshots import SnapshotCheck
from tests.support.feed_services import KEYS, RunningService, feed_service, question
from tests.support.pki import Pki
from tests.support.projection import (
    MAC_KEY,
    append_all,
    consent_event,
    consent_record,
    new_consents,
    real_ledger,
    silent_event,
)
from tests.support.restored import say_restored

NO_WAIT = Seconds(0.0)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def ledger(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[SqlLedger]:
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else None
    async with real_ledger(tmp_path, url) as opened:
        yield opened


@pytest.fixture
async def service(ledger: SqlLedger, pki: Pki) -> AsyncIterator[RunningService]:
    async with feed_service(ledger, pki) as running:
        yield running


@pytest.fixture
async def node(service: RunningService) -> AsyncIterator[FeedClient]:
    async with service.client("node-1") as client:
        yield client


async def head_of(ledger: SqlLedger) -> Position:
    return (await ledger.head()).position


async def snapshot_of(client: FeedClient) -> tuple[SnapshotCheck, list[Entry]]:
    check, found = SnapshotCheck(), []
    async with client.snapshot() as entries:
        async for sealed in entries:
            entry = unseal(sealed, (MAC_KEY,))
            check.take(entry)
            found.append(entry)
    return check, found


async def test_a_snapshot_holds_the_newest_record_of_every_key(ledger: SqlLedger, node: FeedClient) -> None:
    await append_all(ledger, new_consents(1_200))
    check, entries = await snapshot_of(node)
    assert (check.whole, check.position) == (True, await head_of(ledger))
    rows = await ledger.records((-1, b""), 10_000)
    assert [(e.seq, e.kind, e.key, e.record) for e in entries[1:-1]] == [
        (seq, record.kind, record.key, record.record) for seq, record in rows
    ]


async def test_a_snapshot_taken_while_somebody_writes_misses_nothing(
    ledger: SqlLedger, node: FeedClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Snapshot plus the entries after its position give the ledger's records, whatever happened in between."""
    monkeypatch.setattr(service_module, "PAGE", 50)
    ids = [str(uuid.uuid4()) for _ in range(300)]
    await append_all(ledger, [consent_event(i, consent_record()) for i in ids])
    async with trio.open_nursery() as nursery:

        async def write() -> None:
            for consent_id in ids:
                await ledger.append([consent_event(consent_id, consent_record(state=State.REVOKED), 1)])
                await ledger.append(new_consents(1))

        nursery.start_soon(write)
        check, entries = await snapshot_of(node)
    assert check.whole
    assert check.position is not None
    known = {(e.kind, e.key): e for e in entries[1:-1]}
    after = check.position
    while page := await node.entries(after, NO_WAIT):
        for entry in [unseal(sealed, (MAC_KEY,)) for sealed in page]:
            after = Position(entry.incarnation, entry.seq)
            if entry.seq > known.get((entry.kind, entry.key), Entry("", 0, entry.kind)).seq:
                known[entry.kind, entry.key] = entry
    rows = await ledger.records((-1, b""), 10_000)
    assert {place: e.record for place, e in known.items()} == {(r.kind, r.key): r.record for _, r in rows}
    assert after == await head_of(ledger)


async def test_entries_come_in_order_without_a_gap(ledger: SqlLedger, node: FeedClient) -> None:
    """Events that mean nothing to engines have their entry too."""
    before = await head_of(ledger)
    await append_all(ledger, [*new_consents(5), silent_event(), *new_consents(5)])
    entries = [unseal(sealed, (MAC_KEY,)) for sealed in await node.entries(before, NO_WAIT)]
    assert [entry.seq for entry in entries] == list(range(before.seq + 1, before.seq + 12))
    assert entries[5].kind is EntryKind.NOTHING


async def test_a_long_poll_wakes_with_the_commit(
    ledger: SqlLedger, node: FeedClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait is far longer than the test may take."""
    before = await head_of(ledger)
    found: list[bytes] = []
    waiting, wait_beyond = trio.Event(), ledger.wait_beyond

    async def wait(seq: int) -> None:
        waiting.set()
        await wait_beyond(seq)

    monkeypatch.setattr(ledger, "wait_beyond", wait)
    with trio.fail_after(25):
        async with trio.open_nursery() as nursery:

            async def poll() -> None:
                found.extend(await node.entries(before, Seconds(29.0)))

            nursery.start_soon(poll)
            await waiting.wait()
            await ledger.append(new_consents(1))
    assert [unseal(sealed, (MAC_KEY,)).seq for sealed in found] == [before.seq + 1]


async def test_a_long_poll_ends_empty(ledger: SqlLedger, node: FeedClient) -> None:
    assert await node.entries(await head_of(ledger), Seconds(0.05)) == []


async def test_another_incarnation_is_a_conflict(node: FeedClient) -> None:
    with pytest.raises(WrongIncarnation):
        await node.entries(Position("f" * 16, 1), NO_WAIT)


async def test_a_position_above_the_head_is_never_answered_as_if_it_were_even(
    ledger: SqlLedger, node: FeedClient
) -> None:
    head = await head_of(ledger)
    with pytest.raises(FeedUnavailable):
        await node.entries(Position(head.incarnation, head.seq + 1), NO_WAIT)


async def test_a_check_tells_the_position_and_admits_the_instance(
    ledger: SqlLedger, service: RunningService, node: FeedClient
) -> None:
    head = await head_of(ledger)
    asked = question(incarnation=head.incarnation, applied=3)
    answer = await node.check(asked)
    assert (answer.nonce, answer.position) == (asked.nonce, head)
    member = (await service.register.view()).members[asked.instance]
    assert (member.node_id, member.state, member.applied) == ("node-1", "in", 3)


async def test_a_check_under_another_incarnation_learns_the_right_one(
    ledger: SqlLedger, service: RunningService, node: FeedClient
) -> None:
    """What was applied there counts for nothing here."""
    answer = await node.check(question(incarnation="f" * 16, applied=1_000))
    assert answer.position == await head_of(ledger)
    assert (await service.register.view()).members["a" * 16].applied == 0


async def test_a_node_that_is_ahead_of_the_ledger_is_not_answered(ledger: SqlLedger, node: FeedClient) -> None:
    head = await head_of(ledger)
    with pytest.raises(FeedUnavailable):
        await node.check(question(incarnation=head.incarnation, applied=head.seq + 1))


async def test_a_node_asks_for_itself_only(node: FeedClient, service: RunningService) -> None:
    with pytest.raises(FeedForbidden):
        await node.check(question("node-2"))
    await node.check(question())
    async with service.client("node-2") as other:
        with pytest.raises(FeedUnavailable):
            await other.check(question("node-2", instance="a" * 16))  # node-1's instance


@pytest.mark.parametrize("client_id", ["edp-1", "node-3", "edp-9"])
async def test_who_is_no_node_gets_nothing(service: RunningService, client_id: str) -> None:
    """An EDP, a suspended node, and somebody with a good certificate whom nobody has registered."""
    async with service.client(client_id) as client:
        calls = [
            lambda: snapshot_of(client),
            lambda: client.entries(Position("f" * 16, 0), NO_WAIT),
            lambda: client.check(question(client_id)),
            client.keys,
            lambda: client.report("k" * 8, b"[]"),
            lambda: client.claim(str(uuid.uuid4()), "edp-1", "share"),
        ]
        for call in calls:
            with pytest.raises(FeedForbidden):
                await call()


async def test_keys_are_handed_on_as_they_are(node: FeedClient) -> None:
    assert await node.keys() == KEYS


async def test_twenty_claims_at_once_have_one_holder(ledger: SqlLedger, node: FeedClient) -> None:
    consent_id = str(uuid.uuid4())
    await ledger.append([consent_event(consent_id, consent_record(access_mode=AccessMode.ONE_OFF))])
    held: dict[str, bool] = {}

    async def claim(share_id: str) -> None:
        held[share_id] = await node.claim(consent_id, "edp-1", share_id)

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(claim, f"share-{number}")
    assert sum(held.values()) == 1
    holder = next(share for share, won in held.items() if won)
    assert await node.claim(consent_id, "edp-1", holder)  # a repeat is fine
    assert await node.claim(consent_id, "edp-2", "share-of-another-edp")


@pytest.mark.parametrize(
    "record",
    [
        None,
        consent_record(),
        consent_record(access_mode=AccessMode.ONE_OFF, state=State.REVOKED),
        consent_record(access_mode=AccessMode.ONE_OFF, edps=(ClientId("edp-2"),)),
        consent_record(access_mode=AccessMode.ONE_OFF, expires_at=UnixTime(1_700_000_001)),
    ],
    ids=["unknown", "enduring", "revoked", "another-edp", "expired"],
)
async def test_what_cannot_be_claimed_is_not_held(ledger: SqlLedger, node: FeedClient, record: object) -> None:
    consent_id = str(uuid.uuid4())
    if record is not None:
        await ledger.append([consent_event(consent_id, record)])  # type: ignore[arg-type] - or None
    assert not await node.claim(consent_id, "edp-1", "share")


async def test_a_report_is_kept_once(node: FeedClient) -> None:
    await node.report("key-0001", b'[{"n":1}]')
    await node.report("key-0001", b'[{"n":1}]')
    with pytest.raises(WrongIncarnation):  # 409: the client has one class for conflicts
        await node.report("key-0001", b'[{"n":2}]')


async def test_a_recovering_ledger_takes_what_a_node_tells_and_lets_nothing_be_claimed(
    ledger: SqlLedger, node: FeedClient
) -> None:
    consent_id = str(uuid.uuid4())
    await ledger.append([consent_event(consent_id, consent_record(access_mode=AccessMode.ONE_OFF))])
    restored = await say_restored(ledger, gap_from=1_700_000_000, gap_to=1_700_000_060)
    with pytest.raises(FeedUnavailable):
        await node.claim(consent_id, "edp-1", "share")
    told = GapReport("node-1", "", 0, (await head_of(ledger)).incarnation)
    await node.report("key-0002", msgspec.json.encode([told]))
    await node.report("key-0002", msgspec.json.encode([told]))
    (event,) = await ledger.events(restored, 10)
    assert (event.tag, event.subject) == ("recovery.reported", "reported:node-1")
    with pytest.raises(WrongIncarnation):
        await node.report("key-0003", msgspec.json.encode([msgspec.structs.replace(told, missing_under="f" * 16)]))


@pytest.mark.parametrize(("key", "body"), [("short", b"[]"), ("key-0001", b"{}"), ("key-0001", b"nonsense")])
async def test_a_report_of_the_wrong_form_is_refused(node: FeedClient, key: str, body: bytes) -> None:
    with pytest.raises(FeedBroken):
        await node.report(key, body)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/entries", 400),
        ("/entries?incarnation=xyz&after=0", 400),
        ("/entries?incarnation=ff&after=-1", 400),
        ("/entries?incarnation=ff&after=1&wait=no", 400),
        ("/entries?incarnation=ff&after=1", 409),
    ],
)
async def test_refusals_are_problem_json(service: RunningService, path: str, status: int) -> None:
    async with httpx2.AsyncClient(verify=service.pki.client_context("node-1"), timeout=30) as client:
        response = await client.get(service.url + path)
    assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json")
    assert msgspec.json.decode(response.content)["status"] == status
