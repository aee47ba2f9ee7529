"""Hypercorn's trio server with the one thing it lacks: the client's certificate, handed to the application.

Each connection fills the ASGI TLS extension (asgi.readthedocs.io, "TLS Extension" 0.2) in the scope of its
requests, for HTTP/1.1 and HTTP/2 alike. Nothing of Hypercorn is patched: `serve` starts our own subclass. What it
leans on inside Hypercorn (`TCPServer`, `Lifespan`, `WorkerContext`) is held by tests on real sockets.
"""

import hashlib
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import trio
from cryptography import x509
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ASGIFramework, ConnectionState, Scope
from trio import TaskStatus

from admin.refused_bodies import reading_refused_bodies
from engine.clock import Seconds
from engine.consent.records import Thumbprint
from engine.telemetry.logs import logger

EXTENSION: Final = "tls"
LEAF_DER: Final = "ccs_client_cert_der"  # ours, beside the extension's members: spares decoding PEM on each request
WRITE_TIMEOUT: Final = Seconds(30.0)  # a peer that reads nothing for so long is cut off, also during shutdown
GRACE: Final = Seconds(5.0)  # what requests in flight get to finish once a stop was asked for
MAX_CONNECTIONS: Final = 2_000  # a listener; each costs some 100 KB of TLS and HTTP state
_TLS_VERSIONS: Final = {"TLSv1.2": 0x0303, "TLSv1.3": 0x0304}

_log = logger("admin.listener")


def client_certificate(scope: Mapping[str, Any]) -> bytes | None:
    """The DER of the leaf certificate that the TLS layer verified; None where none was asked for."""
    der: bytes | None = scope.get("extensions", {}).get(EXTENSION, {}).get(LEAF_DER)
    return der


def thumbprint_of(der: bytes) -> Thumbprint:
    """SHA-256 over the DER: `x5t#S256` before base64url (RFC 8705 section 3.1)."""
    return Thumbprint(hashlib.sha256(der).digest())


def describe(connection: "trio.SSLStream[trio.SocketStream]") -> dict[str, Any]:
    """The TLS extension's members for a connection whose handshake is done. The chain holds the leaf alone."""
    der = connection.getpeercert(binary_form=True)
    name = x509.load_der_x509_certificate(der).subject.rfc4514_string() if der else None
    suite, _, _ = connection.cipher() or ("", "", 0)
    return {
        "server_cert": None,
        "client_cert_chain": [ssl.DER_cert_to_PEM_cert(der)] if der else [],
        "client_cert_name": name,
        "client_cert_error": None,  # a bad certificate never gets past the handshake
        "tls_version": _TLS_VERSIONS.get(connection.version() or ""),
        "cipher_suite": _suite_number(connection.context, suite),
        LEAF_DER: der,
    }


def _suite_number(context: ssl.SSLContext, name: str) -> int | None:
    """The IANA number of a cipher suite; OpenSSL's id carries the protocol in its upper half."""
    return next((suite["id"] & 0xFFFF for suite in context.get_ciphers() if suite["name"] == name), None)


class _WithTls:
    """An application whose every scope on one connection carries that connection's TLS extension."""

    def __init__(self, app: AppWrapper, tls: dict[str, Any]) -> None:
        self._app = app
        self._tls = tls

    async def __call__(
        self,
        scope: Scope,
        receive: Callable[..., Awaitable[Any]],
        send: Callable[..., Awaitable[None]],
        sync_spawn: Callable[..., Any],
        call_soon: Callable[..., Any],
    ) -> None:
        if scope["type"] != "lifespan":
            scope["extensions"][EXTENSION] = self._tls
        await self._app(scope, receive, send, sync_spawn, call_soon)


class CertificateServer(TCPServer):
    """One connection. Whatever goes wrong on it ends it alone, never the listener."""

    async def run(self) -> None:
        try:
            with trio.fail_after(self.config.ssl_handshake_timeout):
                await self.stream.do_handshake()
        except (trio.BrokenResourceError, trio.TooSlowError):
            return  # no certificate, a foreign one, or not TLS at all; the caller closes the stream
        try:
            self.app = _WithTls(self.app, describe(self.stream))
            await super().run()
        except* Exception as errors:
            _log.exception("connection_failed", exc_info=errors)

    async def protocol_send(self, event: Event) -> None:
        """As upstream, with a deadline on the shielded write: a silent peer must not hold up a stop."""
        if not isinstance(event, RawData):
            await super().protocol_send(event)
            return
        async with self.send_lock:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + WRITE_TIMEOUT) as write:
                try:
                    await self.stream.send_all(event.data)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    write.cancel()
        if write.cancel_called:
            await self.protocol.handle(Closed())


def hypercorn_settings() -> Config:
    """What differs from Hypercorn's defaults, and why."""
    config = Config()
    config.errorlog = None  # our own structured log
    config.include_server_header = False
    config.keep_alive_timeout = 75.0  # longer than a balancer's 60 s, so that the balancer closes first
    config.keep_alive_max_requests = 2**31  # the default of 1,000 breaks HTTP/2 calls in flight when it is reached
    config.ssl_handshake_timeout = 10.0
    config.graceful_timeout = GRACE
    return config


async def serve(
    app: ASGIFramework,
    listeners: Sequence[trio.SocketListener],
    tls: ssl.SSLContext,
    *,
    stop: trio.Event,
    task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve an ASGI application over TLS until `stop` is set; started = accepting.

    Then no connection is taken any more and requests in flight get GRACE seconds. `tls` decides whether a client
    certificate is required. The listeners are closed when this returns.
    """
    config, state = hypercorn_settings(), ConnectionState({})
    wrapped = ASGIWrapper(reading_refused_bodies(app))
    lifespan, context = Lifespan(wrapped, config, state), WorkerContext(None)
    secure = [trio.SSLListener(listener, tls, https_compatible=True) for listener in listeners]
    opened = trio.CapacityLimiter(MAX_CONNECTIONS)

    async def connection(stream: "trio.SSLStream[trio.SocketStream]") -> None:
        if opened.available_tokens < 1:
            return  # closed at once, without a handshake: others keep what they have
        async with opened:
            await CertificateServer(wrapped, config, context, state, stream)

    async with trio.open_nursery() as lifespan_nursery:
        await lifespan_nursery.start(lifespan.handle_lifespan)
        await lifespan.wait_for_startup()
        async with trio.open_nursery() as connections, trio.open_nursery() as accepting:
            await accepting.start(partial(trio.serve_listeners, connection, secure, handler_nursery=connections))
            task_status.started()
            await stop.wait()
            accepting.cancel_scope.cancel()
            await context.terminated.set()
            connections.cancel_scope.deadline = trio.current_time() + GRACE
        await lifespan.wait_for_shutdown()
        lifespan_nursery.cancel_scope.cancel()
