"""Our introspection behind a usual framework: Quart-Trio on Hypercorn, plain HTTP, one process.

The endpoint, replica, memo and limits are the engine's own; only reading requests and writing answers is the
framework's. The caller's certificate is taken as given, which spares this rival TLS. No log of requests.

    python -m bench.rivals.quart_app DIRECTORY REPLICA PORT
"""

import inspect
import sys
import time
from pathlib import Path

import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from quart import Response, request
from quart_trio import QuartTrio

from bench.introspection import Nobody
from bench.stand import MAP_SIZE, SECRET
from engine.clock import UnixTime
from engine.consent.records import Thumbprint
from engine.listener.callers import Callers
from engine.listener.http1 import Request
from engine.listener.introspection import Introspection, Outcome
from engine.listener.issuer_keys import IssuerKeys
from engine.listener.read_through import NoReadThrough
from engine.listener.tls import Peer
from engine.replica.place import place_of
from engine.replica.reader import Replica
from engine.telemetry.host import SystemClock, boot_id
from engine.telemetry.tally import Tally
from engine.tokens.memo import VerifiedTokens
from tests.support.mutual_tls import thumbprint_of
from tests.support.pki import ISSUER


def endpoint_on(replica: Path) -> Introspection:
    """As `engine/node/worker.py` makes it."""
    return Introspection(
        replica=Replica(replica, map_size=MAP_SIZE),
        memo=VerifiedTokens(100_000),
        meter_key=SECRET,
        clock=SystemClock(),
        boot_id=place_of(replica, boot_id()),
        read_through=NoReadThrough(),
        claims=Nobody(),
        callers=Callers(Nobody()),
        keys=IssuerKeys(ISSUER),
        counts={outcome: Tally() for outcome in Outcome},
    )


def app_of(endpoint: Introspection, peer: Peer) -> QuartTrio:
    """One route."""
    app = QuartTrio(__name__)

    @app.post("/introspect")
    async def introspect() -> Response:
        body = await request.get_data()
        assert isinstance(body, bytes)
        headers = tuple((name.lower().encode(), value.encode()) for name, value in request.headers.items())
        asked = Request(b"POST", b"/introspect", headers, body, keep_alive=True)
        answer = endpoint(asked, peer)
        if inspect.isawaitable(answer):
            answer = await answer
        response = Response(answer.body, status=answer.status, content_type="application/json")
        response.headers["Cache-Control"] = "no-store"
        response.headers["X-Request-ID"] = request.headers.get("X-Request-ID", "")
        return response

    return app


def main() -> None:
    """Serve until killed."""
    directory, replica, port = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    peer = Peer(Thumbprint(thumbprint_of(directory / "edp-1.pem")), UnixTime(int(time.time()) + 86_400))
    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.accesslog = None
    config.keep_alive_max_requests = 10**9
    config.keep_alive_timeout = 3_600.0
    trio.run(serve, app_of(endpoint_on(replica), peer), config)


if __name__ == "__main__":
    main()
