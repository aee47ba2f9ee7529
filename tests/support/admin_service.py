"""The machine API on a real mTLS listener over a real SQLite ledger, with registered participants to call it."""

import secrets
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import httpx2
import msgspec
import pytest
import trio

from admin.app import machine_app
from admin.authorization.minting import Minter
from admin.authorization.sandbox import Sandbox
from admin.authorization.views import sandbox_views
from admin.callers import Callers
from admin.client_certificates import serve
from admin.config import Ledger as LedgerConfig
from admin.consents.end_all import EndAll, end_all_views
from admin.consents.listing import Listings
from admin.consents.listing_views import listing_views
from admin.consents.made_people import made_grant
from admin.consents.parties import Parties
from admin.consents.service import Consents
from admin.consents.views import consent_views
from admin.directory.policy import policy_views
from admin.directory.poll_views import Polls, poll_views
from admin.directory.pushing_views import pushing_views
from admin.directory.receiver_views import receiver_views
from admin.directory.service import Directory
from admin.directory.stream_forms import Face
from admin.directory.stream_service import Streams
from admin.directory.stream_views import Receivers, stream_views
from admin.directory.views import directory_views
from admin.ledger.atp_consents import AtpConsents
from admin.ledger.barrier import Barrier, Effect, How, NodeEffect, Standing
from admin.ledger.claims import Claims
from admin.ledger.events import Act, Initiator, Organisation, ParticipantRegistered, Route, append_of
from admin.ledger.fallback_reports import FallbackReports
from admin.ledger.instances import Member, read_view
from admin.ledger.outbox_service import Outbox
from admin.ledger.pace import Pace
from admin.ledger.receiver_standing import Standing as ReceiverStanding
from admin.ledger.receiver_standing import read_standings
from admin.ledger.sequencer import Sequencer
from admin.ledger.signal import Signal
from admin.ledger.sql import SqlLedger, open_ledger
from admin.ledger.store import Receipt
from admin.listeners import listen, port_of, tls_context
from admin.pki.key_files import generate_secret
from admin.pki.keys import FileTokenSigner, generate_p256_key
from admin.recovery.reading import RecoveryReader
from admin.recovery.service import RecoveryService
from admin.recovery.views import recovery_views
from admin.reports.fallback import Fallback
from admin.reports.views import report_views
from admin.sandbox_only import LedgerKind
from engine.clock import Seconds, UnixTime
from engine.config import Tls
from engine.consent.records import Role
from engine.feed.entries import Position
from engine.telemetry.host import SystemClock
from tests.support.pki import METER_KEY, Pki

DATASET = "hh-electricity-import"
ISSUER, MACHINE_URL = "https://localhost:8450", "https://localhost:8451"
ROLES = {
    "operator-1": Role.OPERATOR,
    "node-1": Role.NODE,
    "atp-1": Role.ATP,
    "atp-2": Role.ATP,
    "edp-1": Role.EDP,
    "edp-2": Role.EDP,
}
Reply = tuple[int, dict[str, Any]]


class ToldBarrier:
    """Concludes what a test told it to; the real one has tests of its own, and takes part in the whole service."""

    def __init__(self) -> None:
        self.how: How | None = None
        self.asked: list[tuple[Position, Seconds]] = []

    async def wait_effective(self, receipt: Receipt, timeout: Seconds) -> Effect:  # noqa: ASYNC109 - the real one's
        self.asked.append((receipt.position, timeout))
        state = Standing.RECORDED if self.how is None else Standing.EFFECTIVE
        node = NodeEffect("node-1", "i-1", acknowledged=self.how is How.ACKNOWLEDGED, last_heard=1_795_341_600.5)
        return Effect(state, self.how, receipt.position, (node,), 12)


PATIENCE = 30.0  # seconds: against hanging only


class Site:
    """A running machine API and clients for it."""

    def __init__(self, pki: Pki, ledger: SqlLedger, port: int, barrier: ToldBarrier, outbox: Outbox) -> None:
        self.pki, self.ledger, self.port, self.barrier, self.outbox = pki, ledger, port, barrier, outbox

    def client(self, client_id: str | None, **settings: Any) -> httpx2.AsyncClient:
        settings.setdefault("timeout", PATIENCE)
        return httpx2.AsyncClient(
            base_url=f"https://localhost:{self.port}", verify=self.pki.client_context(client_id), **settings
        )

    async def call(
        self, client_id: str | None, method: str, path: str, body: Any = None, key: str | None = None, **settings: Any
    ) -> Reply:
        """One call: status and decoded body. key: of idempotency; drawn for writes where none is given."""
        async with self.client(client_id) as http:
            headers = dict(settings.pop("headers", {}))
            if method != "GET":
                headers.setdefault("Idempotency-Key", key or str(uuid.uuid4()))
            if body is not None:
                settings["json"] = body
            response = await http.request(method, path, headers=headers, **settings)
        return response.status_code, msgspec.json.decode(response.content) if response.content else {}

    async def granted(self, number: int = 1, atp: str = "atp-1", edp: str = "edp-1") -> str:
        """The id of a new consent."""
        status, body = await self.call("operator-1", "POST", "/consents", grant_form(number, atp, edp))
        assert status == 201, body
        consent_id: str = body["consent_id"]
        return consent_id


def grant_form(number: int = 1, atp: str = "atp-1", edp: str = "edp-1", **members: Any) -> dict[str, Any]:
    """The form of a direct grant by a made person."""
    now = SystemClock().now()
    form: dict[str, Any] = msgspec.json.decode(made_grant(number, atp=atp, edp=edp, dataset_id=DATASET, now=now))
    return {**form, **members}


def ledger_config(directory: Path, kind: LedgerKind = "sandbox") -> LedgerConfig:
    """A SQLite ledger and its keys, in a directory of its own."""
    generate_secret(directory / "person.key")
    generate_p256_key(directory / "checkpoint.pem")
    return LedgerConfig(
        url=f"sqlite:///{directory / 'ledger.db'}",
        kind=kind,
        person_key_file=directory / "person.key",
        checkpoint_key_file=directory / "checkpoint.pem",
    )


def tls_of(pki: Pki) -> Tls:
    """The session's server certificate and authority as settings."""
    return Tls(certificate_file=pki.server_certificate_file, key_file=pki.server_key_file, client_ca_file=pki.ca_file)


async def register_all(ledger: SqlLedger, pki: Pki) -> None:
    """Everybody in ROLES."""
    act = Act(Initiator.SYSTEM, "test", Route.SYSTEM, UnixTime(int(time.time())))
    appends = []
    for client_id, role in ROLES.items():
        record = pki.participant(client_id, role, datasets=(DATASET,) if role is Role.EDP else ())
        locations = (f"https://api.{client_id}.example/hh",) if role is Role.EDP else ()
        appends.append(append_of(ParticipantRegistered(record, Organisation(client_id, locations), act), 0))
    await ledger.append(appends)


@asynccontextmanager
async def machine_site(
    pki: Pki, signer: FileTokenSigner, directory: Path, kind: LedgerKind = "sandbox"
) -> AsyncIterator[Site]:
    """Everything of the machine listener that needs no Redis."""
    clock, barrier, stop = SystemClock(), ToldBarrier(), trio.Event()
    async with open_ledger(ledger_config(directory, kind), clock) as ledger:
        await register_all(ledger, pki)
        callers, reader = Callers(ledger, clock.now), RecoveryReader(ledger)
        outbox = Outbox(ledger.database, Signal(), time.time)
        streams = Streams(ledger, outbox, clock.now, lambda: secrets.token_urlsafe(32), private_allowed=True)
        receivers = Receivers(callers, clock.now)

        async def standings() -> Sequence[ReceiverStanding]:
            return await ledger.database.read(read_standings)

        kept, claims = FallbackReports(ledger.database, time.time), Claims(ledger.database, time.time)

        async def members() -> list[Member]:
            return list((await ledger.database.read(read_view)).members.values())

        sequencer = Sequencer(ledger, ISSUER, outbox.news, wall=time.time, jitter=lambda: 0.5)
        consents = Consents(ledger, METER_KEY, clock.now)
        sandbox = Sandbox(consents, Minter(ISSUER, signer, Seconds(600.0)), None, clock.now)
        app = machine_app(
            directory_views(Directory(ledger, callers), callers, clock.now),
            policy_views(ledger, callers, clock.now),
            consent_views(consents, callers, cast("Barrier", barrier), kind, clock.now),
            sandbox_views(sandbox, callers, kind, clock.now),
            recovery_views(RecoveryService(ledger, reader, clock.now), reader, callers, clock.now),
            stream_views(streams, receivers, Face(ISSUER, MACHINE_URL)),
            poll_views(streams, receivers, Polls(outbox, lambda: secrets.token_hex(16))),
            receiver_views(ledger, standings, callers, clock.now),
            pushing_views(outbox.figures, standings, callers, clock.now),
            listing_views(Listings(ledger, ledger.database, reader), callers),
            end_all_views(
                EndAll(ledger, AtpConsents(ledger.database, clock.now).active, Pace(ledger.database, outbox.news)),
                Parties(callers, clock.now),
            ),
            report_views(Fallback(ledger, kept, claims, members), kept, callers, clock.now),
        )
        listeners = await listen("127.0.0.1", 0)
        context = tls_context(tls_of(pki), client_certificates=True)
        async with trio.open_nursery() as behind:
            await behind.start(sequencer.run)
            async with trio.open_nursery() as nursery:
                await nursery.start(partial(serve, app, listeners, context, stop=stop))
                yield Site(pki, ledger, port_of(listeners), barrier, outbox)
                stop.set()
            behind.cancel_scope.cancel()


@pytest.fixture
async def site(pki: Pki, token_signer: FileTokenSigner, tmp_path: Path) -> AsyncIterator[Site]:
    """A sandbox's machine API."""
    async with machine_site(pki, token_signer, tmp_path) as running:
        yield running
