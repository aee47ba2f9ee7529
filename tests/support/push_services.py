"""The pusher's calls for real: a house's outbox behind our own listener, over mTLS on loopback."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from quart import Request

from admin.callers import Callers
from admin.client_certificates import serve
from admin.edge import edge_app
from admin.ledger.pusher_calls import pusher_blueprint
from engine.consent.records import ParticipantRecord
from engine.telemetry.host import SystemClock
from tests.support.outboxes import House
from tests.support.pki import Pki


@asynccontextmanager
async def served(house: House, pki: Pki) -> AsyncIterator[str]:
    """The address of a feed that has the pusher's calls alone."""
    callers = Callers(house.ledger, SystemClock().now)

    async def authenticate(asked: Request) -> ParticipantRecord:
        return (await callers.authenticate(asked.scope)).participant

    app = edge_app()
    app.register_blueprint(pusher_blueprint(house.outbox, house.keys, authenticate))
    listeners, stop = await trio.open_tcp_listeners(0, host="127.0.0.1"), trio.Event()

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        await serve(app, listeners, pki.server_context(), stop=stop, task_status=task_status)

    async with trio.open_nursery() as nursery:
        await nursery.start(run)
        yield f"https://localhost:{listeners[0].socket.getsockname()[1]}/feed"
        stop.set()
