"""Who calls is read from the ledger, never from a copy older than a moment."""

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from trio.testing import MockClock

from admin.callers import REFRESH_AFTER, Caller, Callers, SuspendedCaller, UnknownCaller, WrongRole
from admin.directory.participants import Standing, suspend
from admin.ledger.events import Act, Initiator, Organisation, ParticipantRegistered, Route, append_of
from admin.ledger.sql import SqlLedger, open_ledger
from admin.ledger.store import LedgerUnavailable
from engine.clock import UnixTime
from engine.consent.records import Certificate, ClientId, ParticipantRecord, Role, Thumbprint
from engine.telemetry.host import SystemClock
from tests.support.admin_service import ledger_config

NOW = UnixTime(1_800_000_000)
ACT = Act(Initiator.OPERATOR, "ops", Route.API, NOW)
THUMBPRINT = Thumbprint(b"\x01" * 32)
ATP = ParticipantRecord(
    ClientId("atp-1"), Role.ATP, suspended=False, certificates=(Certificate(THUMBPRINT, UnixTime(NOW + 100)),)
)


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[SqlLedger]:
    async with open_ledger(ledger_config(tmp_path), SystemClock()) as opened:
        await opened.append([append_of(ParticipantRegistered(ATP, Organisation("ATP"), ACT), 0)])
        yield opened


async def suspend_atp(ledger: SqlLedger) -> None:
    await ledger.append([append_of(suspend(Standing(ATP, Organisation("ATP")), ACT), 1)])


async def test_a_registered_certificate_names_its_participant(ledger: SqlLedger) -> None:
    caller = await Callers(ledger, lambda: NOW).authenticate_thumbprint(THUMBPRINT)
    assert caller == Caller(ATP, THUMBPRINT)
    assert caller.require(Role.OPERATOR, Role.ATP) is caller
    with pytest.raises(WrongRole):
        caller.require(Role.EDP)


async def test_an_unknown_certificate_is_nobody(ledger: SqlLedger) -> None:
    with pytest.raises(UnknownCaller):
        await Callers(ledger, lambda: NOW).authenticate_thumbprint(Thumbprint(b"\x02" * 32))


async def test_a_request_without_a_certificate_is_nobodys(ledger: SqlLedger) -> None:
    with pytest.raises(UnknownCaller):
        await Callers(ledger, lambda: NOW).authenticate({"extensions": {}})


async def test_a_certificate_that_ran_out_on_an_open_connection_is_refused(ledger: SqlLedger) -> None:
    with pytest.raises(UnknownCaller):
        await Callers(ledger, lambda: UnixTime(NOW + 100)).authenticate_thumbprint(THUMBPRINT)


async def test_a_suspension_by_another_process_bites_within_the_refresh(
    ledger: SqlLedger, mock_clock: MockClock
) -> None:
    callers = Callers(ledger, lambda: NOW)
    await callers.authenticate_thumbprint(THUMBPRINT)
    await suspend_atp(ledger)
    mock_clock.jump(REFRESH_AFTER + 0.001)
    with pytest.raises(SuspendedCaller):
        await callers.authenticate_thumbprint(THUMBPRINT)


async def test_a_suspension_by_this_process_bites_at_once(ledger: SqlLedger, mock_clock: MockClock) -> None:
    assert mock_clock.rate == 0.0  # time stands still: no refresh is due
    callers = Callers(ledger, lambda: NOW)
    await callers.authenticate_thumbprint(THUMBPRINT)
    await suspend_atp(ledger)
    callers.forget()
    with pytest.raises(SuspendedCaller):
        await callers.authenticate_thumbprint(THUMBPRINT)


async def test_the_ledger_is_read_once_for_many_calls(ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    callers = Callers(ledger, lambda: NOW)
    reads: list[int] = []
    head = ledger.head

    async def counted() -> object:
        reads.append(1)
        return await head()

    monkeypatch.setattr(ledger, "head", counted)
    for _ in range(10):
        await callers.authenticate_thumbprint(THUMBPRINT)
    assert len(reads) == 1


async def test_when_the_ledger_is_away_nobody_gets_in(
    ledger: SqlLedger, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    callers = Callers(ledger, lambda: NOW)
    await callers.authenticate_thumbprint(THUMBPRINT)

    async def away() -> object:
        raise LedgerUnavailable("away")

    monkeypatch.setattr(ledger, "head", away)
    mock_clock.jump(REFRESH_AFTER + 0.001)
    with pytest.raises(LedgerUnavailable):
        await callers.authenticate_thumbprint(THUMBPRINT)


async def test_many_participants_are_read_in_pages(ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("admin.callers.PAGE", 3)
    appends = []
    for number in range(10, 20):
        certificate = Certificate(Thumbprint(bytes([number]) * 32), UnixTime(NOW + 1))
        record = msgspec.structs.replace(ATP, client_id=ClientId(f"atp-{number}"), certificates=(certificate,))
        appends.append(append_of(ParticipantRegistered(record, Organisation("ATP"), ACT), 0))
    await ledger.append(appends)
    owners = await Callers(ledger, lambda: NOW).owners()
    assert sorted(owners.values()) == sorted(["atp-1", *(f"atp-{number}" for number in range(10, 20))])
