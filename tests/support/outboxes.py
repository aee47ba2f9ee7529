"""A ledger with receivers, streams and consents made by hand, and the outbox that follows from it."""

import itertools
import shutil
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
import trio

from admin.ledger.event_keys import EventKeys
from admin.ledger.events import (
    Act,
    ConsentEvent,
    ConsentGranted,
    ConsentRenewed,
    ConsentRevoked,
    Initiator,
    LedgerEvent,
    Organisation,
    ParticipantEvent,
    ParticipantRegistered,
    ParticipantReinstated,
    ParticipantSuspended,
    Route,
    StreamChanged,
    Terms,
    append_of,
    subject_of,
)
from admin.ledger.outbox_service import Outbox, PusherDoor
from admin.ledger.push_lease import database_time
from admin.ledger.schema import deliveries, outbox, receivers, streams
from admin.ledger.sequencer import Sequencer, begin
from admin.ledger.signal import Signal
from admin.ledger.sql import SqlLedger, open_ledger
from engine.clock import UnixTime
from engine.consent.records import (
    AccessMode,
    Certificate,
    ClientId,
    ConsentId,
    ConsentRecord,
    ParticipantRecord,
    Role,
    Thumbprint,
)
from engine.consent.states import State
from engine.pusher.streams import DeliveryMethod, StreamRecord, StreamStatus
from tests.support.ledger import HandClock, ledger_config

ISSUER = "https://ccs.example"
PUSHER = ClientId("pusher-1")
FAR = UnixTime(4_000_000_000)
ROWS = sa.select(
    deliveries.c.client_id, deliveries.c.seq, deliveries.c.prev, deliveries.c.jti, deliveries.c.txn, deliveries.c.lane,
    deliveries.c.fact, deliveries.c.push, deliveries.c.poll,
)  # fmt: skip
TERMS = Terms("https://ccs.example/rar/energy-consent/v1", "Compare your tariff", "atp-decl-1")


class Furnished(msgspec.Struct):
    """A house's ledger in a file that is closed, and what the house knew of it."""

    directory: Path
    versions: dict[str, int]
    participants: dict[str, ParticipantEvent]


def furnished(directory: Path, **pusher: Any) -> Furnished:
    """A furnished house, made once for many tests. pusher: fields of the pusher's record."""

    async def make() -> Furnished:
        async with house_in(directory) as house:
            await house.furnish(**pusher)
            return Furnished(directory, house._versions, house._participants)

    return trio.run(make)


@asynccontextmanager
async def house_like(made: Furnished, directory: Path) -> AsyncIterator["House"]:
    """A furnished house of one test's own."""
    for file in made.directory.iterdir():
        shutil.copy(file, directory / file.name)
    async with house_in(directory) as house:
        house._versions |= made.versions
        house._participants |= made.participants
        yield house


@asynccontextmanager
async def house_in(directory: Path, url: str = "") -> AsyncIterator["House"]:
    """A house on the ledger at the URL, else in the directory."""
    clock = HandClock()
    config = ledger_config(directory, url or f"sqlite:///{directory}/ledger.db")
    async with open_ledger(config, clock, wall=clock.wall) as ledger:
        yield House(ledger, clock)


def make_anew(connection: sa.Connection, since: int = 0) -> None:
    """Take the outbox's row and what is derived beside it, as an operator would; deliveries that are there stay."""
    numbered = connection.execute(sa.select(outbox.c.numbered)).scalar_one()
    for table in (outbox, receivers, streams):
        connection.execute(sa.delete(table))
    begin(connection, since)
    connection.execute(sa.update(outbox).values(numbered=numbered))


class House:
    """The ledger, a sequencer that steps when it is told to, and the service over both."""

    def __init__(self, ledger: SqlLedger, clock: HandClock) -> None:
        self.ledger = ledger
        self.clock = clock
        self.news = Signal()
        self.lease_offset = 0.0  # by which the database's clock is ahead, for leases
        self.outbox = Outbox(
            ledger.database,
            self.news,
            clock.wall,
            lease_time=lambda c: database_time(c) + self.lease_offset,
        )
        self.keys = EventKeys(ledger.database, ISSUER, frozenset(), clock.wall)
        self.door = PusherDoor(PUSHER, self.outbox, self.keys)
        self.sequencer = self.another_sequencer()
        self._versions: dict[str, int] = {}
        self._consents: dict[ConsentId, ConsentEvent] = {}
        self._participants: dict[str, ParticipantEvent] = {}
        self._numbers = itertools.count(1)

    def another_sequencer(self) -> Sequencer:
        return Sequencer(self.ledger, ISSUER, self.news, wall=self.clock.wall, jitter=lambda: 0.5)

    async def settle(self) -> None:
        """Bring the outbox even with the ledger."""
        while await self.sequencer.step():
            pass

    def versions(self) -> dict[str, int]:
        """Of every subject written so far."""
        return dict(self._versions)

    def remember(self, versions: dict[str, int]) -> None:
        """Go on behind what another house has written; its consents are not this one's."""
        self._versions |= versions
        self._numbers = itertools.count(10_000)

    def act(self, initiator: Initiator = Initiator.OPERATOR, actor: str = "operator-1") -> Act:
        return Act(initiator, actor, Route.API, self.clock.now())

    async def write(self, *events: LedgerEvent) -> int:
        """Append events, each the next version of its subject, in one write; the last one's position."""
        appends = []
        for event in events:
            subject = subject_of(event)
            version = self._versions.get(subject, 0)
            appends.append(append_of(event, version))
            self._versions[subject] = version + 1
        return (await self.ledger.append(appends)).position.seq

    async def register(self, client_id: str, role: Role, **fields: Any) -> int:
        certificate = Certificate(Thumbprint(client_id.encode().ljust(32, b".")), FAR)
        record = ParticipantRecord(ClientId(client_id), role, suspended=False, certificates=(certificate,))
        event = ParticipantRegistered(msgspec.structs.replace(record, **fields), Organisation(client_id), self.act())
        self._participants[client_id] = event
        return await self.write(event)

    async def suspend(self, client_id: str, *, suspended: bool = True) -> int:
        before = self._participants[client_id]
        kind = ParticipantSuspended if suspended else ParticipantReinstated
        record = msgspec.structs.replace(before.participant, suspended=suspended)
        event = self._participants[client_id] = kind(record, before.organisation, self.act())
        return await self.write(event)

    def stream(self, client_id: str, role: Role, method: DeliveryMethod, **fields: Any) -> StreamRecord:
        record = StreamRecord(
            str(uuid.uuid4()), ClientId(client_id), role, method, StreamStatus.ENABLED, "https://events.example/ccs"
        )
        return msgspec.structs.replace(record, **fields)

    async def change(self, stream: StreamRecord, actor: str = "", **fields: Any) -> StreamRecord:
        """Write a stream as it is afterwards. actor: else the receiver itself."""
        after = msgspec.structs.replace(stream, **fields)
        await self.write(StreamChanged(after, self.act(actor=actor or stream.client_id)))
        return after

    async def push_stream(self, client_id: str, role: Role, **fields: Any) -> StreamRecord:
        return await self.change(self.stream(client_id, role, DeliveryMethod.PUSH, **fields))

    async def poll_stream(self, client_id: str, role: Role, **fields: Any) -> StreamRecord:
        return await self.change(self.stream(client_id, role, DeliveryMethod.POLL, endpoint_url="", **fields))

    def granting(self, atp: str = "atp-1", edps: tuple[str, ...] = ("edp-1",)) -> ConsentGranted:
        """A new consent; the ids are the same in every run."""
        consent_id = ConsentId(str(uuid.UUID(int=next(self._numbers), version=4)))
        now = self.clock.now()
        record = ConsentRecord(
            State.ACTIVE,
            1,
            ClientId(atp),
            "hh-electricity-import",
            AccessMode.ENDURING,
            now,
            UnixTime(now + 1_000_000),
            UnixTime(now - 1_000_000),
            None,
            (b"d" * 16,),
            tuple(ClientId(edp) for edp in edps),
            "advice",
        )
        event = ConsentGranted(consent_id, record, TERMS, self.act(Initiator.CONSUMER, "account-1"))
        self._consents[consent_id] = event
        return event

    def revoking(self, consent_id: ConsentId) -> ConsentRevoked:
        before = self._consents[consent_id]
        version = before.consent.consent_version + 1
        record = msgspec.structs.replace(before.consent, state=State.REVOKED, consent_version=version)
        act = self.act(Initiator.CONSUMER, "account-1")
        event = self._consents[consent_id] = ConsentRevoked(consent_id, record, before.terms, act, self.clock.now())
        return event

    def renewing(self, consent_id: ConsentId) -> ConsentRenewed:
        before = self._consents[consent_id]
        version, expires = before.consent.consent_version + 1, UnixTime(before.consent.expires_at + 1_000)
        record = msgspec.structs.replace(before.consent, expires_at=expires, consent_version=version)
        act, now = self.act(Initiator.CONSUMER, "account-1"), self.clock.now()
        event = self._consents[consent_id] = ConsentRenewed(
            consent_id, record, before.terms, act, before.consent.expires_at, now
        )
        return event

    async def grant(self, atp: str = "atp-1", edps: tuple[str, ...] = ("edp-1",)) -> tuple[ConsentId, int]:
        event = self.granting(atp, edps)
        return event.consent_id, await self.write(event)

    async def revoke(self, consent_id: ConsentId) -> int:
        return await self.write(self.revoking(consent_id))

    async def furnish(self, **pusher: Any) -> None:
        """The pusher; atp-1 and edp-1 with both streams, edp-2 with poll alone, edp-3 with none."""
        await self.register(PUSHER, Role.PUSHER, **pusher)
        for client_id, role in (("atp-1", Role.ATP), ("edp-1", Role.EDP), ("edp-2", Role.EDP), ("edp-3", Role.EDP)):
            await self.register(client_id, role)
        for client_id, role in (("atp-1", Role.ATP), ("edp-1", Role.EDP)):
            await self.push_stream(client_id, role)
        for client_id, role in (("atp-1", Role.ATP), ("edp-1", Role.EDP), ("edp-2", Role.EDP)):
            await self.poll_stream(client_id, role)
        await self.settle()


async def rows(house: House) -> list[tuple[Any, ...]]:
    """What the outbox has made of the ledger, in order: the same however it came about."""
    found = await house.ledger.database.read(lambda connection: connection.execute(ROWS).all())
    return sorted(tuple(row) for row in found)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def house(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[House]:
    """A furnished one on each kind of database."""
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else ""
    async with house_in(tmp_path, url) as house:
        await house.furnish()
        yield house
