"""How a write meets others: it is tried again on the newer subject, a bounded number of times, and never done twice."""

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import trio

from admin.directory.participants import NoChange, register, standing_after, suspend, update
from admin.ledger.events import Act, Initiator, Organisation, ParticipantEvent, Route, append_of, event_of
from admin.ledger.sql import SqlLedger, open_ledger
from admin.ledger.store import Append, Idempotency, Receipt, SubjectState, VersionConflict
from admin.writing import ATTEMPTS, LostWrite, MissingIdempotencyKey, idempotency, write
from engine.clock import UnixTime
from engine.consent.records import Certificate, ClientId, ParticipantRecord, Role, Thumbprint
from engine.feed.entries import Position
from engine.telemetry.host import SystemClock
from tests.support.admin_service import ledger_config

NOW = UnixTime(1_800_000_000)
ACT = Act(Initiator.OPERATOR, "ops", Route.API, NOW)
SUBJECT = "participant:atp-1"
ATP = ParticipantRecord(
    ClientId("atp-1"),
    Role.ATP,
    suspended=False,
    certificates=(Certificate(Thumbprint(b"\x01" * 32), UnixTime(NOW + 1)),),
)


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[SqlLedger]:
    async with open_ledger(ledger_config(tmp_path), SystemClock()) as opened:
        await opened.append([append_of(register(ATP, Organisation("ATP"), None, {}, ACT), 0)])
        yield opened


def raise_limit(state: SubjectState | None) -> Append:
    assert state is not None
    event = event_of(state.event)
    assert isinstance(event, ParticipantEvent)
    now = event.participant.max_connections
    values = msgspec.structs.replace(ATP, max_connections=now + 1)
    return append_of(update(values, event.organisation, standing_after(event), ACT), state.version)


def suspended(state: SubjectState | None) -> Append:
    assert state is not None
    event = event_of(state.event)
    assert isinstance(event, ParticipantEvent)
    return append_of(suspend(standing_after(event), ACT), state.version)


async def test_ten_that_meet_are_all_done_in_some_order(ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("admin.writing.ATTEMPTS", 20)

    async def one(number: int) -> None:
        await write(ledger, SUBJECT, raise_limit, idempotency(ClientId("ops"), f"key-{number:05}", "PUT", "/", b""))

    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(one, number)
    state = await ledger.subject(SUBJECT)
    assert state is not None
    event = event_of(state.event)
    assert isinstance(event, ParticipantEvent)
    assert event.participant.max_connections == ATP.max_connections + 10


async def test_who_always_loses_is_told_so(ledger: SqlLedger) -> None:
    tried: list[int] = []

    def too_late(state: SubjectState | None) -> Append:
        tried.append(1)
        append = raise_limit(state)
        return msgspec.structs.replace(append, expected_version=append.expected_version - 1)

    with pytest.raises(VersionConflict):
        await write(ledger, SUBJECT, too_late, idempotency(ClientId("ops"), "key-00001", "PUT", "/", b""))
    assert len(tried) == ATTEMPTS


async def test_the_same_call_many_times_at_once_is_done_once(ledger: SqlLedger) -> None:
    key = idempotency(ClientId("ops"), "key-00001", "POST", "/", b"")
    before = (await ledger.head()).position.seq
    seen: set[int] = set()

    async def one() -> None:
        seen.add((await write(ledger, SUBJECT, suspended, key)).receipt.position.seq)

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(one)
    assert seen == {before + 1}


async def test_a_twin_that_sees_the_firsts_effect_gets_its_answer(
    ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = idempotency(ClientId("ops"), "key-00001", "POST", "/", b"")
    first = await write(ledger, SUBJECT, suspended, key)
    replayed, looks = ledger.replayed, [0]

    async def late(used: Idempotency) -> Receipt | None:
        """Not there yet at the first look, as when both calls come at once."""
        looks[0] += 1
        return None if looks[0] == 1 else await replayed(used)

    monkeypatch.setattr(ledger, "replayed", late)
    assert (await write(ledger, SUBJECT, suspended, key)).receipt.position == first.receipt.position
    with pytest.raises(NoChange):
        await write(ledger, SUBJECT, suspended, idempotency(ClientId("ops"), "key-00002", "POST", "/", b""))


async def test_an_acknowledged_write_that_is_gone_is_no_answer(ledger: SqlLedger) -> None:
    key = idempotency(ClientId("ops"), "key-00001", "PUT", "/", b"")

    class Forgetful:
        async def replayed(self, _: object) -> Receipt:
            return Receipt(Position("0" * 16, 99), 1, 0.0, replayed=True)

        events = ledger.events

    with pytest.raises(LostWrite):
        await write(Forgetful(), SUBJECT, raise_limit, key)  # type: ignore[arg-type] - as much of a ledger as is used


def test_method_path_and_body_make_a_call() -> None:
    calls = [("POST", "/a", b"x"), ("PUT", "/a", b"x"), ("POST", "/b", b"x"), ("POST", "/a", b"y")]
    digests = {idempotency(ClientId("ops"), "key-00001", *call).body_digest for call in calls}
    assert len(digests) == len(calls)


@pytest.mark.parametrize("key", [None, "", "seven77", "x" * 65, "with space", "with\nline", "ключ-ключ"])
def test_a_key_has_a_form(key: str | None) -> None:
    with pytest.raises(MissingIdempotencyKey):
        idempotency(ClientId("ops"), key, "POST", "/", b"")
