"""Listening sockets: bound once by whoever starts the server, by a supervisor for its children too."""

import contextlib
import errno
import ipaddress
import socket
from typing import Final

from engine.errors import Fault, Kind

_BACKLOG: Final = 4096
_TRIES: Final = 20  # any free port must be free for IPv4 and IPv6 alike


class CannotListen(Fault):
    """The address is in use, not ours or not allowed; the text is one sentence for the operator."""

    kind = Kind.UNAVAILABLE


def listen(host: str, port: int) -> list[socket.socket]:
    """Bind and listen; on a loopback host also on ::1 at the same port, where this machine has it.

    port 0: any free one. Raises CannotListen.
    """
    for _ in range(_TRIES):
        first = _bind(host, port)
        try:
            return [first, *_companions(host, first.getsockname()[1])]
        except CannotListen:
            first.close()
            if port:
                raise
    raise CannotListen(f"no port is free on {host} for IPv4 and IPv6 alike")


def port_of(sockets: list[socket.socket]) -> int:
    """The port that all of them share."""
    port: int = sockets[0].getsockname()[1]
    return port


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _companions(host: str, port: int) -> list[socket.socket]:
    if not is_loopback(host) or host == "::1" or not socket.has_ipv6:
        return []
    try:
        return [_bind("::1", port)]
    except _NoSuchAddress:
        return []  # IPv6 is switched off here


class _NoSuchAddress(CannotListen):
    pass


def _bind(host: str, port: int) -> socket.socket:
    address = "127.0.0.1" if host == "localhost" else host
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with contextlib.ExitStack() as opened:
        try:
            bound = opened.enter_context(socket.socket(family, socket.SOCK_STREAM))
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            bound.bind((address, port))
            bound.listen(_BACKLOG)
        except OSError as error:
            raise _fault_of(error, host, port) from error
        bound.setblocking(False)  # noqa: FBT003 - the socket's own signature
        opened.pop_all()
        return bound


def _fault_of(error: OSError, host: str, port: int) -> CannotListen:
    if error.errno == errno.EADDRINUSE:
        return CannotListen(f"port {port} on {host} is in use by another program")
    if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
        return _NoSuchAddress(f"{host} is not an address of this machine")
    return CannotListen(f"cannot listen on {host} port {port}: {error.strerror or error}")
