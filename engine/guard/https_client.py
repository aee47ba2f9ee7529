"""An httpx2 client whose certificate and authority may change: calls under way end on their connections.

Later calls get a new client. The old one is closed by the first call that finds nobody on it. Runs on trio and on
asyncio.
"""

import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final

import anyio
import httpx2

from engine.clock import Seconds

CLOSING: Final = Seconds(2.0)


class _Lease:
    """A client with the number of calls under way on it."""

    __slots__ = ("calls", "client")

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self.client = client
        self.calls = 0


class HttpsClient:
    """make: a client with this TLS; closing it is done here."""

    def __init__(self, make: Callable[[ssl.SSLContext], httpx2.AsyncClient], tls: ssl.SSLContext) -> None:
        self._make = make
        self._lease = _Lease(make(tls))
        self._retired: list[_Lease] = []

    def renew(self, tls: ssl.SSLContext) -> None:
        """Another certificate or authority, for calls to come."""
        self._retired.append(self._lease)
        self._lease = _Lease(self._make(tls))

    async def aclose(self) -> None:
        """Close the connections; calls under way are their callers' to end."""
        while self._retired:
            await _close(self._retired.pop())
        await self._lease.client.aclose()

    @asynccontextmanager
    async def stream(
        self, method: str, url: str, content: bytes | None, headers: Mapping[str, str]
    ) -> AsyncIterator[httpx2.Response]:
        """A response whose body is still to be read. Raises what httpx2 raises."""
        await self._close_left()
        lease = self._lease
        lease.calls += 1
        try:
            async with lease.client.stream(method, url, content=content, headers=headers) as response:
                yield response
        finally:
            lease.calls -= 1

    async def _close_left(self) -> None:
        """Others may do so at the same time."""
        while (left := next((lease for lease in self._retired if not lease.calls), None)) is not None:
            self._retired.remove(left)
            await _close(left)


def is_tls_failure(error: BaseException) -> bool:
    """A certificate that does not hold, an alert, or what is no TLS at all: somebody was there, and it is no outage.

    Not a connection that ended in the middle: so does whoever stands before a service that is away.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError) and not _is_end(cause):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _is_end(error: ssl.SSLError) -> bool:
    return isinstance(error, ssl.SSLEOFError) or error.reason == "UNEXPECTED_EOF_WHILE_READING"


async def _close(lease: _Lease) -> None:
    with anyio.move_on_after(CLOSING, shield=True):
        await lease.client.aclose()
