"""The guard for programs in other languages: HTTP/1.1 on a unix socket or on loopback, JSON in and out.

A no is an answer: every verdict is 200. 400 names what is wrong with a question, 401 and 403 are for who asks. The
server, its limits and its drain are those of the engine's own listener.
"""

import re
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from time import perf_counter
from typing import Final, Protocol

import msgspec
import trio

from engine.clock import Seconds
from engine.consent.reading import InvalidFields
from engine.errors import Fault, Kind
from engine.guard.doorkeeper import Door, loopback_hosts
from engine.guard.requests import MAX_CHECKS, problems_json, read_check, read_checks, verdict_json, verdicts_json
from engine.guard.retry import LONGEST_RETRY_AFTER
from engine.guard.shares import Reason, Share, Verdict
from engine.listener.http1 import Headers, HeadLimits, Request, Response
from engine.listener.routes import path_of
from engine.listener.tls import Peer
from engine.telemetry import guard_health, guard_metrics, logs
from engine.telemetry.guard_health import GuardHealth, Said

STATUSES: Final = {
    Kind.INVALID: 400,
    Kind.NOT_FOUND: 404,
    Kind.TOO_LARGE: 413,
    Kind.TOO_MANY: 429,
    Kind.UNAVAILABLE: 503,
}
# Of a question: less than the 75 that the listener leaves a handler before it cuts the connection without a word. Only
# nodes that say 429, up to a minute each time, make one take so long.
PATIENCE: Final = Seconds(70.0)
UNANSWERED: Final = Verdict(
    allowed=False, reason=Reason.UNANSWERED, evidence_id="", retry_after=float(LONGEST_RETRY_AFTER)
)
_SERVER_ERROR: Final = Response(500, b'{"error":"server_error"}')
_NOT_FOUND: Final = Response(404, b'{"error":"not_found"}')
_NOT_JSON: Final = Response(415, b'{"error":"not_json"}', headers=((b"Accept", b"application/json"),))
_TEXT_FORMAT: Final = b"text/plain; version=0.0.4; charset=utf-8"
_STATUS_BODY: Final = 1_024  # bytes; nothing there takes any
_EVIDENCE: Final = b"/v1/evidence/"
_EVIDENCE_ID: Final = re.compile(r"[A-Za-z0-9._~-]{1,128}")

_log = logs.logger("guard")


class Judge(Protocol):
    """What the sidecar needs of the guard."""

    async def check(self, share: Share) -> Verdict:
        """One share."""

    async def check_many(self, shares: Sequence[Share]) -> list[Verdict]:
        """Many shares; verdicts in their order."""


class EvidenceReader(Protocol):
    """Finds what was recorded under an evidence id: JSON; None = nothing."""

    def __call__(self, evidence_id: str, /) -> bytes | None: ...


Answered = Response | Awaitable[Response]
Route = Callable[[Request], Answered]


class StatusPages:
    """A `Handler` for supervisors and Prometheus, on loopback: nothing that needs the secret, and no browsers.

    read: the guard's health at this moment. port: of loopback, as it stands in `Host`.
    """

    def __init__(self, read: Callable[[], GuardHealth], port: int) -> None:
        self._pages = _open_pages(read)
        self._door = Door(loopback_hosts(port))
        self.head_limits = HeadLimits(max_body=_STATUS_BODY)

    def __call__(self, request: Request, _peer: Peer) -> Answered:
        """Answer one request."""
        refused = self._door.strange(request.headers)
        if refused is not None:
            return _refuse(refused)
        methods = self._pages.get(path_of(request.target))
        return _NOT_FOUND if methods is None else _routed(methods, request)


class Sidecar:
    """A `Handler` for everything that comes through one door. read: the guard's health at this moment."""

    def __init__(self, judge: Judge, door: Door, read: Callable[[], GuardHealth], evidence: EvidenceReader) -> None:
        self._judge = judge
        self._door = door
        self._evidence = evidence
        self._open = _open_pages(read)
        self._guarded: dict[bytes, dict[bytes, Route]] = {
            b"/v1/check": {b"POST": self._check},
            b"/v1/check-many": {b"POST": self._check_many},
            b"/v1/status": _reading(_page(guard_health.statusz, read)),
        }
        # Who may not ask is refused by the head alone, or each of its connections could have us keep a batch.
        self.head_limits = HeadLimits(max_body=MAX_CHECKS, takes_body=self._takes_body)

    def change_secret(self, secret: bytes) -> None:
        """From the next request on; where none was asked for, none is."""
        if self._door.secret is not None:
            self._door = msgspec.structs.replace(self._door, secret=secret)

    def _takes_body(self, headers: Headers) -> bool:
        return self._door.refusal(headers) is None

    def __call__(self, request: Request, _peer: Peer) -> Answered:
        """Answer one request."""
        path = path_of(request.target)
        methods = self._open.get(path)
        headers = request.headers
        refused = self._door.refusal(headers) if methods is None else self._door.strange(headers)
        if refused is not None:
            return _refuse(refused)
        methods = methods or self._guarded.get(path) or self._of_evidence(path)
        if methods is None:
            return _NOT_FOUND
        return _routed(methods, request)

    # Questions.

    async def _check(self, request: Request) -> Response:
        if not _is_json(request):
            return _NOT_JSON
        try:
            share = read_check(request.body)
        except Fault as fault:
            return _faulty(fault)
        began = perf_counter()
        verdict = UNANSWERED
        with trio.move_on_after(PATIENCE):
            verdict = await self._judge.check(share)
        _count([verdict], perf_counter() - began)
        return Response(200, verdict_json(verdict))

    async def _check_many(self, request: Request) -> Response:
        if not _is_json(request):
            return _NOT_JSON
        try:
            shares = read_checks(request.body)
        except Fault as fault:
            return _faulty(fault)
        began = perf_counter()
        verdicts = [UNANSWERED] * len(shares)
        with trio.move_on_after(PATIENCE):
            verdicts = await self._judge.check_many(shares)
        _count(verdicts, perf_counter() - began)
        return Response(200, verdicts_json(verdicts))

    # Looking.

    def _of_evidence(self, path: bytes) -> dict[bytes, Route] | None:
        if not path.startswith(_EVIDENCE):
            return None
        evidence_id = path[len(_EVIDENCE) :].decode("ascii", "replace")
        if not _EVIDENCE_ID.fullmatch(evidence_id):
            return None
        return _reading(lambda _request: self._found(evidence_id))

    def _found(self, evidence_id: str) -> Response:
        try:
            found = self._evidence(evidence_id)
        except Fault as fault:
            return _faulty(fault)
        return _NOT_FOUND if found is None else Response(200, found)


def _open_pages(read: Callable[[], GuardHealth]) -> dict[bytes, dict[bytes, Route]]:
    """What needs no secret: nothing there names a consent or a token."""
    return {
        b"/healthz": _reading(_page(guard_health.healthz, read)),
        b"/readyz": _reading(_page(guard_health.readyz, read)),
        b"/metrics": _reading(partial(_metrics, read)),
    }


def _page(say: Callable[[GuardHealth], Said], read: Callable[[], GuardHealth]) -> Route:
    def answer(_request: Request) -> Response:
        status, body = say(read())
        return Response(status, body)

    return answer


def _metrics(read: Callable[[], GuardHealth], _request: Request) -> Response:
    return Response(200, guard_metrics.exposition(read()), content_type=_TEXT_FORMAT)


def _routed(methods: dict[bytes, Route], request: Request) -> Answered:
    route = methods.get(request.method)
    if route is not None:
        return route(request)
    return Response(405, b'{"error":"method_not_allowed"}', headers=((b"Allow", b", ".join(methods)),))


def _reading(route: Route) -> dict[bytes, Route]:
    return {b"GET": route, b"HEAD": route}


def _is_json(request: Request) -> bool:
    """Whether the body says that it is JSON: a page in a browser cannot make it say so without being asked first."""
    kinds = [value for name, value in request.headers if name == b"content-type"]
    return len(kinds) == 1 and kinds[0].partition(b";")[0].strip().lower() == b"application/json"


def _refuse(refused: Response) -> Response:
    guard_metrics.REFUSED.labels(str(refused.status)).inc()
    return refused


def _faulty(fault: Fault) -> Response:
    """The one table from faults to statuses."""
    status = STATUSES.get(fault.kind)
    if status is None:
        _log.error("sidecar_failed", text=fault.text, detail=fault.detail)
        return _SERVER_ERROR
    if isinstance(fault, InvalidFields):
        return Response(status, problems_json(fault.problems))
    return Response(status, msgspec.json.encode({"error": fault.kind.value, "text": fault.text}))


def _count(verdicts: Sequence[Verdict], seconds: float) -> None:
    guard_metrics.CHECK_SECONDS.observe(seconds)
    for verdict in verdicts:
        guard_metrics.CHECKS.labels(verdict.reason.value).inc()
