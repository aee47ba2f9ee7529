"""The feed service for real: a ledger in a file, our own server over mTLS on loopback, and nodes that call it."""

import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import trio
from quart import Request

from admin.callers import Callers
from admin.client_certificates import serve
from admin.edge import edge_app
from admin.ledger.answer_keys import AnswerKeys
from admin.ledger.claims import Claims
from admin.ledger.feed_service import FeedService, feed_blueprint
from admin.ledger.nodes import KnownNodes
from admin.ledger.register import Register
from admin.ledger.reports import Reports
from admin.ledger.sql import SqlLedger
from admin.recovery.reading import RecoveryReader
from admin.recovery.service import RecoveryService
from engine.consent.records import ParticipantRecord, Role
from engine.feed.https import FeedClient
from engine.feed.questions import Question
from engine.telemetry.host import SystemClock
from tests.support.pki import ISSUER, Pki
from tests.support.projection import SEALER, participant_record_event

KEYS = b'{"issuer":"https://localhost:8450","jwks":{"keys":[]}}'


class RunningService:
    """A feed service that listens. `stop` closes the listener and its connections."""

    def __init__(self, ledger: SqlLedger, register: Register, pki: Pki, port: int, stop: trio.Event) -> None:
        self.ledger = ledger
        self.register = register
        self.pki = pki
        self.port = port
        self.stop = stop

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}/feed"

    @asynccontextmanager
    async def client(self, client_id: str = "node-1") -> AsyncIterator[FeedClient]:
        client = FeedClient(self.url, self.pki.client_context(client_id))
        try:
            yield client
        finally:
            await client.aclose()


async def keys() -> bytes:
    return KEYS


@asynccontextmanager
async def feed_service(ledger: SqlLedger, pki: Pki, *, port: int = 0) -> AsyncIterator[RunningService]:
    """node-1 and node-2 are nodes, node-3 is suspended, edp-1 is an EDP; edp-9 is nobody."""
    if await ledger.subject("participant:node-1") is None:
        await ledger.append([participant_record_event(record) for record in participants(pki)])
    register = Register(ledger.database, time.time)
    callers = Callers(ledger, SystemClock().now)

    async def authenticate(request: Request) -> ParticipantRecord:
        return (await callers.authenticate(request.scope)).participant

    reader = RecoveryReader(ledger)
    recovery = RecoveryService(ledger, reader, SystemClock().now)
    service = FeedService(
        ledger,
        register,
        Claims(ledger.database, time.time),
        Reports(ledger.database, time.time),
        SEALER,
        keys,
        AnswerKeys(ledger.database, KnownNodes(ledger), ISSUER, frozenset(), time.time),
        recovery.take_from_nodes,
        reader.refuse_claims,
    )
    app = edge_app()
    app.register_blueprint(feed_blueprint(service, authenticate))
    listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
    stop = trio.Event()

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        await serve(app, listeners, pki.server_context(), stop=stop, task_status=task_status)

    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        await nursery.start(run)
        yield RunningService(ledger, register, pki, listeners[0].socket.getsockname()[1], stop)
        stop.set()
        nursery.cancel_scope.deadline = trio.current_time() + 5


def participants(pki: Pki) -> list[ParticipantRecord]:
    return [
        pki.participant("node-1", Role.NODE),
        pki.participant("node-2", Role.NODE),
        pki.participant("node-3", Role.NODE, suspended=True),
        pki.participant("edp-1", Role.EDP),
    ]


def question(node_id: str = "node-1", *, instance: str = "a" * 16, incarnation: str = "", applied: int = 0) -> Question:
    """A question with a nonce of its own."""
    return Question(node_id, instance, uuid.uuid4().hex, incarnation, applied)
