"""A certificate stands for one client, also when many claim it at once that know nothing of each other."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio

from admin.callers import Callers
from admin.config import Ledger as LedgerConfig
from admin.directory.ownership import Ownership, ownerships, transfer
from admin.directory.participants import CertificateTaken
from admin.directory.service import Directory
from admin.ledger.events import (
    Act,
    CertificateBound,
    CertificateReleased,
    Initiator,
    Organisation,
    ParticipantRegistered,
    Route,
    append_of,
    event_of,
)
from admin.ledger.sql import SqlLedger, open_ledger
from admin.ledger.store import VersionConflict
from admin.writing import Written, idempotency
from engine.clock import UnixTime
from engine.consent.records import Certificate, ClientId, ParticipantRecord, Role, Thumbprint
from engine.errors import Fault
from tests.support.ledger import HandClock, ledger_config

CLOCK = HandClock()
ACT = Act(Initiator.OPERATOR, "ops", Route.API, CLOCK.now())
MEETING = 10


def certificate(number: int) -> Certificate:
    return Certificate(Thumbprint(bytes([number]) * 32), UnixTime(CLOCK.now() + 86_400))


def client(name: str, *numbers: int) -> ParticipantRecord:
    certificates = tuple(certificate(number) for number in numbers)
    return ParticipantRecord(ClientId(name), Role.ATP, suspended=False, certificates=certificates)


def directory(ledger: SqlLedger) -> Directory:
    return Directory(ledger, Callers(ledger, CLOCK.now))


async def registered(service: Directory, asked: ParticipantRecord) -> Written:
    key = idempotency(ClientId("ops"), f"register-{asked.client_id}", "POST", "/participants", b"")
    return await service.register(asked, Organisation(asked.client_id), ACT, key)


async def replaced(service: Directory, name: str, *numbers: int, key: str = "replace-0") -> Written:
    used = idempotency(ClientId("ops"), f"{key}-{name}", "POST", "/certificates", b"")
    return await service.replace_certificates(ClientId(name), client(name, *numbers).certificates, ACT, used)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> LedgerConfig:
    on_postgres = request.param == "postgres"
    url = request.getfixturevalue("postgres_url") if on_postgres else f"sqlite:///{tmp_path}/ledger.db"
    return ledger_config(tmp_path, url)


@pytest.fixture
async def ledger(settings: LedgerConfig) -> AsyncIterator[SqlLedger]:
    async with open_ledger(settings, CLOCK) as opened:
        yield opened


async def test_of_ten_that_claim_one_certificate_at_once_one_gets_it(settings: LedgerConfig) -> None:
    won: list[str] = []
    refused: list[Fault] = []

    async def claim(service: Directory, name: str) -> None:
        try:
            await registered(service, client(name, 1))
            won.append(name)
        except Fault as fault:
            refused.append(fault)

    async with AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(open_ledger(settings, CLOCK)) for _ in range(MEETING)]
        known = [Callers(ledger, CLOCK.now) for ledger in opened]
        for callers in known:  # each has read, before anybody writes, that nobody has the certificate
            assert await callers.owners() == {}
        services = [Directory(ledger, callers) for ledger, callers in zip(opened, known, strict=True)]
        async with trio.open_nursery() as nursery:
            for number, service in enumerate(services):
                nursery.start_soon(claim, service, f"atp-{number}")
        events = [event_of(stored) for stored in await opened[0].events(0, 100)]
    assert len(won) == 1
    assert [type(fault) for fault in refused] == [CertificateTaken] * (MEETING - 1)
    assert [e.participant.client_id for e in events if isinstance(e, ParticipantRegistered)] == won
    assert [e.client_id for e in events if isinstance(e, CertificateBound)] == won


async def test_the_ledger_itself_refuses_the_second_whatever_was_read_before(ledger: SqlLedger) -> None:
    seen = await ownerships(ledger, [certificate(1)])  # by both, before either writes
    one, two = (
        [
            *transfer(ClientId(name), (), (certificate(1),), seen, ACT),
            append_of(ParticipantRegistered(client(name, 1), Organisation(name), ACT), 0),
        ]
        for name in ("atp-1", "atp-2")
    )
    await ledger.append(one)
    with pytest.raises(VersionConflict):
        await ledger.append(two)
    assert await ledger.subject("participant:atp-2") is None


async def test_replacing_meets_registering_too(ledger: SqlLedger) -> None:
    service = directory(ledger)
    await registered(service, client("atp-1", 1))
    await registered(service, client("atp-2", 2))
    with pytest.raises(CertificateTaken):
        await replaced(service, "atp-1", 1, 2)
    written = await replaced(service, "atp-1", 1, 3)
    assert (await ledger.head()).position == written.receipt.position
    with pytest.raises(CertificateTaken):
        await registered(service, client("atp-3", 3))


async def test_a_certificate_that_was_given_up_may_be_anothers(ledger: SqlLedger) -> None:
    service = directory(ledger)
    await registered(service, client("atp-1", 1, 2))
    await replaced(service, "atp-1", 2)
    await registered(service, client("atp-2", 1))
    standing = await ownerships(ledger, [certificate(1), certificate(2)])
    assert standing == {
        certificate(1).thumbprint: Ownership(3, ClientId("atp-2")),
        certificate(2).thumbprint: Ownership(1, ClientId("atp-1")),
    }
    with pytest.raises(CertificateTaken):
        await replaced(service, "atp-1", 1, 2, key="replace-1")


async def test_one_registered_before_certificates_were_subjects_is_taken_and_bound_later(ledger: SqlLedger) -> None:
    await ledger.append([append_of(ParticipantRegistered(client("atp-1", 1), Organisation("atp-1"), ACT), 0)])
    service = directory(ledger)
    with pytest.raises(CertificateTaken):
        await registered(service, client("atp-2", 1))
    await replaced(service, "atp-1", 1, 2)
    assert set((await ownerships(ledger, [certificate(1), certificate(2)])).values()) == {
        Ownership(1, ClientId("atp-1"))
    }


async def test_a_repeated_registration_gets_the_first_answer(ledger: SqlLedger) -> None:
    service = directory(ledger)
    first = await registered(service, client("atp-1", 1, 2))
    again = await registered(service, client("atp-1", 1, 2))
    assert again.receipt.position == first.receipt.position
    assert isinstance(again.event, ParticipantRegistered)


def test_only_what_changes_hands_is_written() -> None:
    mine, theirs = ClientId("atp-1"), ClientId("atp-2")
    standing = {
        certificate(1).thumbprint: Ownership(1, mine),
        certificate(2).thumbprint: Ownership(4),
        certificate(3).thumbprint: Ownership(7, mine),
        certificate(4).thumbprint: Ownership(2, theirs),
    }
    before, after = (certificate(1), certificate(3)), (certificate(1), certificate(2))
    assert transfer(mine, before, after, standing, ACT) == [
        append_of(CertificateBound(certificate(2).thumbprint, mine, ACT), 4),
        append_of(CertificateReleased(certificate(3).thumbprint, mine, ACT), 7),
    ]
    with pytest.raises(CertificateTaken):
        transfer(mine, before, (certificate(4),), standing, ACT)
