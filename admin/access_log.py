"""One line of log for each call: who called what, how it ended, how long it took. Nothing of what was said in it.

The route is the pattern, `/consents/<consent_id>`, never the path that was asked for, because anything may stand in
a path; bodies, queries and headers are left out altogether. Nodes ask many times a second when Redis is away, so
calls of the feed that went well are written at level debug only.
"""

from collections.abc import Mapping
from typing import Any, Final

import trio
from quart import Response, g, request

from engine.consent.records import ClientId
from engine.telemetry.logs import logger

UNKNOWN_ROUTE: Final = "-"
_CALLER: Final = "ccs_caller"
_QUIET: Final = "/feed/"

_log = logger("admin.access")


def note_caller(scope: Mapping[str, Any], client_id: ClientId) -> None:
    """Remember who makes the request of this ASGI scope, beside the certificate that said so."""
    scope["extensions"][_CALLER] = client_id


async def begin() -> None:
    """Before a request is handled."""
    g.began = trio.current_time()


def write_line(response: Response, request_id: str) -> None:
    """After a request is handled; a streamed body is still to be sent then, and its time is not counted."""
    route = UNKNOWN_ROUTE if request.url_rule is None else request.url_rule.rule
    quiet = route.startswith(_QUIET) and response.status_code < 400
    (_log.debug if quiet else _log.info)(
        "call",
        method=request.method if request.url_rule is not None else _known(request.method),
        route=route,
        status=response.status_code,
        milliseconds=round((trio.current_time() - g.get("began", trio.current_time())) * 1000, 1),
        client_id=request.scope.get("extensions", {}).get(_CALLER, ""),
        request_id=request_id,
    )


def _known(method: str) -> str:
    """A method of HTTP (RFC 9110 section 9, RFC 5789); what else a caller made up is not repeated."""
    known = {"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"}
    return method if method in known else UNKNOWN_ROUTE
