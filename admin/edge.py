"""The admin application's edge: one table from kinds of fault to statuses, and problem answers by RFC 9457.

A view raises a `Fault` and says no more; here it becomes `application/problem+json` with a stable `code`. What is
not a fault of ours is a bare 500 with nothing of the exception in it: the log has that, under the request's id.
"""

import re
import uuid
from http import HTTPStatus
from math import ceil
from typing import Any, Final, TypeVar

import msgspec
import trio
from quart import Response, g, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge, UnsupportedMediaType

from admin import access_log
from admin.metrics import CALLS_REFUSED
from engine.clock import UnixTime, format_utc
from engine.consent.reading import MAX_TEXT_BYTES, InvalidFields, read_struct, strict_json
from engine.consent.states import IllegalTransition
from engine.errors import Fault, Kind
from engine.telemetry.logs import logger

S = TypeVar("S", bound=msgspec.Struct)

PROBLEM_JSON: Final = "application/problem+json"
MAX_BODY: Final = 1_048_576  # bytes of any body; a node's report batch is the largest
RETRY_AFTER: Final = 1  # seconds; a ledger that fails over is back in a few

STATUSES: Final[dict[Kind, HTTPStatus]] = {
    Kind.INVALID: HTTPStatus.BAD_REQUEST,
    Kind.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
    Kind.FORBIDDEN: HTTPStatus.FORBIDDEN,
    Kind.NOT_FOUND: HTTPStatus.NOT_FOUND,
    Kind.GONE: HTTPStatus.GONE,
    Kind.CONFLICT: HTTPStatus.CONFLICT,
    Kind.TOO_LARGE: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    Kind.TOO_MANY: HTTPStatus.TOO_MANY_REQUESTS,
    Kind.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    Kind.BROKEN: HTTPStatus.INTERNAL_SERVER_ERROR,
}
_READS: Final = frozenset({"GET", "HEAD"})
_WAITS: Final = frozenset({Kind.TOO_MANY, Kind.UNAVAILABLE})
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_WORD: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")

_log = logger("admin.edge")


class FieldError(msgspec.Struct, frozen=True):
    """One fault of one member. pointer: a JSON Pointer as a URI fragment (RFC 6901 section 6), `#/meter_points`."""

    pointer: str
    detail: str


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """RFC 9457 section 3; the type is `about:blank`, so the title is the status's phrase. code: stable, ours.

    state, since: of a consent that a write does not fit: which state it is in, and since when if it has ended.
    """

    status: int
    title: str
    code: str
    detail: str = ""
    errors: tuple[FieldError, ...] = ()
    state: str = ""
    since: str = ""


class EdgeApp(QuartTrio):
    """Quart-Trio that loses no member of an exception group and never answers with an exception's text."""

    async def handle_user_exception(self, error: Any) -> Any:  # noqa: ANN401 - quart's own signature
        if isinstance(error, BaseExceptionGroup):
            cancelled, others = error.split(trio.Cancelled)
            if cancelled is not None or others is None:
                raise error
            _log.error("views_failed", exc_info=error, request_id=request_id())
            error = others.exceptions[0] if len(others.exceptions) == 1 else _Several()
        return await super().handle_user_exception(error)


class _Several(Exception):
    """More than one thing went wrong at once: which of them to tell is anybody's guess, so none is told."""


def code_of(fault: Fault) -> str:
    """The stable code: the fault's class in snake case, `version_conflict`. Renaming a class changes the API."""
    return _WORD.sub("_", type(fault).__name__).lower()


def problem_of(fault: Fault) -> Problem:
    """What a caller is told of a fault: of a broken one, nothing."""
    status = STATUSES[fault.kind]
    if fault.kind is Kind.BROKEN:
        return Problem(status, status.phrase, "internal")
    if isinstance(fault, InvalidFields):
        errors = tuple(FieldError(_pointer(p.field), p.text) for p in fault.problems)
        return Problem(status, status.phrase, code_of(fault), "members of the request break its rules", errors)
    told = Problem(status, status.phrase, code_of(fault), fault.text)
    return _with_state(told, fault) if isinstance(fault, IllegalTransition) else told


def _with_state(told: Problem, fault: IllegalTransition) -> Problem:
    state = "" if fault.state is None else fault.state.name.lower()
    since = "" if fault.since is None else format_utc(UnixTime(fault.since))
    return msgspec.structs.replace(told, state=state, since=since)


def _pointer(field: str) -> str:
    return "#/" + field.replace(".", "/") if field else "#"


def problem(answer: Problem) -> Response:
    """A problem as a response."""
    CALLS_REFUSED.labels("read" if request.method in _READS else "write", answer.code).inc()
    return Response(msgspec.json.encode(answer), status=answer.status, content_type=PROBLEM_JSON)


def answer(body: msgspec.Struct | tuple[msgspec.Struct, ...], status: HTTPStatus = HTTPStatus.OK) -> Response:
    """A struct, or several, as a JSON response."""
    return Response(msgspec.json.encode(body), status=status, content_type="application/json")


async def read_json(kind: type[S], max_bytes: int = MAX_TEXT_BYTES) -> S:
    """The request's body as a struct, read strictly.

    Raises InvalidText and InvalidFields, or HTTP's own refusals 413 and 415.
    """
    return read_struct(strict_json(await json_text(max_bytes), max_bytes=max_bytes), kind)


async def json_text(max_bytes: int = MAX_TEXT_BYTES) -> bytes:
    """The request's JSON text, bounded. Raises HTTP's own refusals 413 and 415."""
    if request.mimetype != "application/json" or request.headers.get("Content-Encoding", "identity") != "identity":
        raise UnsupportedMediaType("send application/json, uncompressed")
    if (request.content_length or 0) > max_bytes:
        raise RequestEntityTooLarge(f"send at most {max_bytes} bytes")
    raw = await request.get_data(cache=True, as_text=False, parse_form_data=False)
    if len(raw) > max_bytes:
        raise RequestEntityTooLarge(f"send at most {max_bytes} bytes")
    return raw


def request_id() -> str:
    """The request's id: the caller's `X-Request-ID` where it is well formed, else one drawn here."""
    if "request_id" not in g:
        offered = request.headers.get("X-Request-ID", "")
        g.request_id = offered if _REQUEST_ID.fullmatch(offered) else str(uuid.uuid4())
    drawn: str = g.request_id
    return drawn


def edge_app() -> EdgeApp:
    """An application with the edge in place, for the composition root to hang blueprints on."""
    app = EdgeApp("admin", static_folder=None)  # the package whose templates it renders
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False  # an unknown method is 405, OPTIONS included
    app.url_map.merge_slashes = False  # `//x` names nothing; a redirect would send the caller where it says
    app.register_error_handler(Fault, _fault)
    app.register_error_handler(HTTPException, _http_refusal)
    app.register_error_handler(Exception, _bare)
    app.before_request(access_log.begin)
    app.after_request(_finish)
    return app


async def _fault(fault: Fault) -> Response:
    if fault.detail or fault.kind in (Kind.BROKEN, Kind.UNAVAILABLE):
        _log.warning("refused", code=code_of(fault), text=fault.text, detail=fault.detail, request_id=request_id())
    response = problem(problem_of(fault))
    if fault.kind in _WAITS:
        response.headers["Retry-After"] = str(ceil(fault.retry_after or RETRY_AFTER))
    return response


async def _http_refusal(refusal: HTTPException) -> Response:
    """HTTP's own refusals (404, 405, 408, 413, 415 …) in the same form; their headers, such as Allow, stay."""
    status = HTTPStatus(refusal.code or 500)
    response = problem(Problem(status, status.phrase, status.name.lower(), refusal.description or ""))
    for name, value in refusal.get_headers():
        if name.lower() not in ("content-type", "content-length"):
            response.headers[name] = value
    return response


async def _bare(error: Exception) -> Response:
    _log.error("view_failed", exc_info=error, request_id=request_id())
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    return problem(Problem(status, status.phrase, "internal"))


async def _finish(response: Response) -> Response:
    response.headers["X-Request-ID"] = request_id()
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers["X-Content-Type-Options"] = "nosniff"
    access_log.write_line(response, request_id())
    return response
