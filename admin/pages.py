"""The two pages that exist so far: a landing page for browsers and a status page for operators.

Whoever reaches them sees them, for nobody signs in yet. So neither shows anything about a person, an ATP or an EDP,
runs a script or takes input; the consumer's portal and the operators' console take their places.
"""

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
from quart import Blueprint, Response, render_template

from admin.sandbox_only import LedgerKind
from admin.writing import Place
from engine.errors import Fault

# Nothing from anywhere; not to be framed, no base, no forms.
_POLICY: Final = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


class NodeRow(msgspec.Struct, frozen=True):
    """An instance of an engine node as operators see it. silent_for: seconds, one decimal."""

    node_id: str
    state: str
    applied: int
    behind: int
    silent_for: str


class Status(msgspec.Struct, frozen=True):
    """The service at a glance. work: name and state of each thing that runs in the background."""

    as_of: str
    kind: LedgerKind
    position: Place
    nodes: tuple[NodeRow, ...]
    work: tuple[tuple[str, str], ...]
    recovering: str = ""  # what a restored ledger still waits for, without names; "" = it is live


async def _live() -> None:
    return None


def landing_views(kind: LedgerKind, recovery: Callable[[], Awaitable[object | None]] = _live) -> Blueprint:
    """Blueprint with the landing page. recovery: None = the ledger is live."""
    views = Blueprint("landing", __name__)

    @views.get("/")
    async def landing() -> Response:
        try:
            recovering = await recovery() is not None
        except Fault:  # the page is for people who wonder what is wrong: it comes also without the ledger
            recovering = False
        return await _page("landing.html", kind=kind, recovering=recovering)

    return views


def status_views(status: Callable[[], Awaitable[Status]]) -> Blueprint:
    """Blueprint with the status page."""
    views = Blueprint("status", __name__)

    @views.get("/")
    async def show() -> Response:
        return await _page("status.html", status=await status())

    return views


async def _page(template: str, **context: object) -> Response:
    response = Response(await render_template(template, **context), content_type="text/html; charset=utf-8")
    response.headers["Content-Security-Policy"] = _POLICY
    response.headers["Referrer-Policy"] = "no-referrer"
    return response
