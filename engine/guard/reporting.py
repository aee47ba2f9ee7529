"""Tells the service, once an outage is over, what was shared in it (CMS-18); again and again until it has it all.

Retries by the column "Other API calls" of the retry strategy (NFR-07): four attempts, 0.5, 1 and 2 s with full jitter,
then a minute's rest; after ten such runs in vain a quarter of an hour. What was not acknowledged stays unreported, and
nothing of it is ever thrown away. Runs on trio and on asyncio.
"""

import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from http import HTTPStatus
from typing import Any, Final, Protocol

import anyio
import httpx2
import msgspec
from anyio.abc import TaskStatus

from engine.clock import Seconds
from engine.errors import Fault, Kind
from engine.guard.evidence import EvidenceLog
from engine.guard.evidence_chain import BrokenChain, Link
from engine.guard.fallback_report import MAX_SHARES, Report, report_of
from engine.guard.https_client import HttpsClient, is_tls_failure
from engine.guard.memory import MemoryFull
from engine.guard.retry import LONGEST_RETRY_AFTER, NOT_SAID, read_retry_after
from engine.telemetry.logs import logger

PATH: Final = "/shares/fallback"
CONNECT: Final = Seconds(2.0)
READ: Final = Seconds(8.0)  # ten seconds for all of a call
WAITS: Final = (Seconds(0.5), Seconds(1.0), Seconds(2.0))  # before the second, third and fourth attempt, at most
RETRIED: Final = frozenset({429, 502, 503, 504})
LOOK_EVERY: Final = Seconds(10.0)
REST: Final = Seconds(60.0)
LONG_REST: Final = Seconds(900.0)
RUNS_BEFORE_LONG_REST: Final = 10
_REFUSED_AS_A_WHOLE: Final = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, 422})
_MAX_ANSWER: Final = 1 << 20

_log = logger("guard.reporting")


class NotReported(Fault):
    """The service did not take it (yet). wait: seconds it asked for."""

    kind = Kind.UNAVAILABLE

    def __init__(self, text: str, *, detail: str = "", retry_after: Seconds = NOT_SAID, again: bool = True) -> None:
        super().__init__(text, detail=detail)
        self.wait = retry_after
        self.again = again  # whether another attempt can help


class RefusedReport(Fault):
    """The service cannot read the report: sending it again as it is does not help."""

    kind = Kind.INVALID


class Taken(msgspec.Struct, frozen=True):
    """The service's answer, as far as we use it."""

    taken: int
    after_end: int


class Post(Protocol):
    """Brings one report. Raises NotReported, RefusedReport."""

    async def __call__(self, report: Report) -> Taken: ...


class HttpsPost:
    """Over mutual TLS to the service's machine listener; see `Post`."""

    def __init__(self, machine_url: str, tls: ssl.SSLContext) -> None:
        """machine_url: its origin. tls: with our certificate and the service's authority."""
        self._url = machine_url.rstrip("/") + PATH
        self._client = HttpsClient(_client_with, tls)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def renew(self, tls: ssl.SSLContext) -> None:
        """Another certificate or authority, for calls to come."""
        self._client.renew(tls)

    async def __call__(self, report: Report) -> Taken:
        """See `Post`."""
        # No content coding: what is small on the way and huge when unpacked is not asked for.
        headers = {
            "Content-Type": "application/json", "Idempotency-Key": report.key, "Accept-Encoding": "identity",
        }  # fmt: skip
        try:
            async with self._client.stream("POST", self._url, report.body, headers) as response:
                body = await _read(response)
        except httpx2.HTTPError as error:
            again = isinstance(error, httpx2.TransportError) and not is_tls_failure(error)
            raise NotReported("the service does not answer", detail=repr(error), again=again) from error
        if response.is_success:
            return _decode(body)
        raise _refusal(response.status_code, response.headers.get("Retry-After", ""), body)


class FallbackReporter:
    """Reports what stands unreported in the log. in_outage: whether one lasts; None = as the log has it.

    sleep, draw: for tests; draw gives numbers in [0, 1).
    """

    def __init__(
        self,
        log: EvidenceLog,
        post: Post,
        draw: Callable[[], float],
        sleep: Callable[[float], Awaitable[Any]] = anyio.sleep,
        *,
        in_outage: Callable[[], bool] | None = None,
    ) -> None:
        self._log = log
        self._post = post
        self._draw = draw
        self._sleep = sleep
        self._in_outage = in_outage or (lambda: log.open_outage() is not None)
        self._refused: set[str] = set()  # evidence ids that the service, or this release, could not read; kept
        self.reported = 0

    async def run(self, *, task_status: TaskStatus[Any] = anyio.TASK_STATUS_IGNORED) -> None:
        """For ever. While an outage lasts nothing is sent: there is nobody to take it, and there is more to come."""
        task_status.started()
        vain = 0
        while True:
            if self._in_outage():
                await self._sleep(LOOK_EVERY)
                continue
            try:
                await self.report_all()
            except (NotReported, MemoryFull) as fault:
                vain += 1
                _log.warning("fallback_not_reported", text=fault.text, detail=fault.detail, runs=vain)
                await self._sleep(REST if vain < RUNS_BEFORE_LONG_REST else LONG_REST)
            else:
                vain = 0
                await self._sleep(LOOK_EVERY)

    async def report_all(self) -> int:
        """Report until nothing is left; how many shares. Raises NotReported, MemoryFull: the rest stays unreported."""
        before = self.reported
        while links := self._next():
            await self._report(links)
        return self.reported - before

    def _next(self) -> list[Link]:
        """The oldest ones, past those that were refused."""
        found = self._log.unreported(MAX_SHARES + len(self._refused))
        return [link for link in found if link.evidence_id not in self._refused][:MAX_SHARES]

    async def _report(self, links: Sequence[Link]) -> None:
        """All of them; where the service, or this release, cannot read one, each half by itself, until it is found."""
        try:
            taken = await self._send(report_of(links))
        except (RefusedReport, BrokenChain) as fault:
            if len(links) > 1:
                await self._report(links[: len(links) // 2])
                await self._report(links[len(links) // 2 :])
                return
            self._pass_over(links[0], fault)
            return
        self._log.mark_reported(links)
        self.reported += len(links)
        _log.info("fallback_reported", shares=len(links), taken=taken.taken, after_end=taken.after_end)

    def _pass_over(self, link: Link, fault: RefusedReport | BrokenChain) -> None:
        """It stays as it is, unreported, and holds up no other. Told to people once in each life of the process."""
        self._refused.add(link.evidence_id)
        event = "fallback_share_unreadable" if isinstance(fault, BrokenChain) else "fallback_share_refused"
        _log.error(event, evidence_id=link.evidence_id, hash=link.hash.hex(), detail=fault.detail)

    async def _send(self, report: Report) -> Taken:
        for wait in WAITS:
            try:
                return await self._post(report)
            except NotReported as fault:
                if not fault.again:
                    raise
                await self._sleep(max(wait * self._draw(), min(fault.wait, LONGEST_RETRY_AFTER)))
        return await self._post(report)


def _client_with(tls: ssl.SSLContext) -> httpx2.AsyncClient:
    timeout = httpx2.Timeout(READ, connect=CONNECT)
    return httpx2.AsyncClient(verify=tls, trust_env=False, follow_redirects=False, timeout=timeout)


async def _read(response: httpx2.Response) -> bytes:
    pieces, size, deadline = list[bytes](), 0, anyio.current_time() + READ
    async with aclosing(response.aiter_raw()) as arriving:
        async for piece in arriving:
            pieces.append(piece)
            size += len(piece)
            if size > _MAX_ANSWER:
                raise NotReported("the service's answer is too long", again=False)
            if anyio.current_time() > deadline:  # each piece came in time, and all of them did not
                raise NotReported("the service's answer took too long")
    return b"".join(pieces)


def _decode(body: bytes) -> Taken:
    try:
        return msgspec.json.decode(body, type=Taken)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise NotReported("the service's answer could not be read", detail=str(error), again=False) from error


def _refusal(status: int, retry_after: str, body: bytes) -> Fault:
    detail = f"{status}: {body[:300]!r}"
    if status in _REFUSED_AS_A_WHOLE:
        return RefusedReport("the service cannot read the report", detail=detail)
    wait = read_retry_after(retry_after.encode()) if retry_after.isascii() else NOT_SAID
    return NotReported("the service does not take the report", detail=detail, retry_after=wait, again=status in RETRIED)
