"""The admin application's sockets and TLS: loopback in both families, TLS 1.2 by FAPI's ciphers or 1.3.

Which listener asks for a client certificate is settled by the context it is given, never by the application.
"""

import errno
import ssl
from collections.abc import Iterable
from typing import Final

import trio

from engine.config import Tls
from engine.errors import Fault, Kind

BACKLOG: Final = 1_024
# FAPI 2.0 Security Profile section 5.2.2: these and no others for TLS 1.2; 1.3 brings its own.
_CIPHERS: Final = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"
_STRONGER: Final = "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384"


class CannotListen(Fault):
    """The address cannot be listened on, or the certificate files cannot be used; one sentence says why."""

    kind = Kind.INVALID


async def listen(host: str, port: int) -> list[trio.SocketListener]:
    """Listeners on one port; 127.0.0.1 brings ::1 along where the machine has it. port: 0 = any free one.

    Raises CannotListen.
    """
    try:
        listeners = await trio.open_tcp_listeners(port, host=host, backlog=BACKLOG)
    except OSError as error:
        raise CannotListen(f"cannot listen on {host} port {port}: {_reason(error)}") from error
    if host == "127.0.0.1":
        listeners += await _listen_if_free("::1", port_of(listeners))
    return listeners


def port_of(listeners: list[trio.SocketListener]) -> int:
    """The port that they listen on."""
    port: int = listeners[0].socket.getsockname()[1]
    return port


def tls_context(tls: Tls, *, client_certificates: bool) -> ssl.SSLContext:
    """A server's context. client_certificates: required, from the authorities of `tls`. Raises CannotListen."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS + _STRONGER)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["h2", "http/1.1"])
    try:
        context.load_cert_chain(tls.certificate_file, tls.key_file)
        if client_certificates:
            _require_client_certificates(context, tls)
    except (OSError, ssl.SSLError) as error:
        raise CannotListen(f"{tls.certificate_file} and its key cannot be used: {error}") from error
    return context


def renew_certificate(contexts: Iterable[ssl.SSLContext], tls: Tls) -> None:
    """Take the certificate and its key as the files are now, for connections to come.

    Raises CannotListen: then all have what they had.
    """
    files = tls.certificate_file, tls.key_file
    try:
        # One that is not in use first: a certificate whose key does not fit would take the key from a context.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*files)
        for context in contexts:
            context.load_cert_chain(*files)
    except (OSError, ssl.SSLError) as error:
        raise CannotListen(f"{tls.certificate_file} and its key cannot be used: {error}") from error


def _require_client_certificates(context: ssl.SSLContext, tls: Tls) -> None:
    context.load_verify_locations(tls.client_ca_file)
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.options |= ssl.OP_NO_TICKET  # no resumption: each connection shows its certificate
    context.num_tickets = 0


async def _listen_if_free(host: str, port: int) -> list[trio.SocketListener]:
    try:
        return await trio.open_tcp_listeners(port, host=host, backlog=BACKLOG)
    except OSError:
        return []  # no IPv6 here, or somebody else's port: `localhost` falls back to IPv4


def _reason(error: OSError) -> str:
    return "it is in use" if error.errno == errno.EADDRINUSE else str(error.strerror or error)
