"""Ports drawn for processes that take them seconds later.

The system gives ports of its own choice from 32,768 on, to whoever connects anywhere: one that was free a moment ago
may be somebody's by the time that a process has started. So these lie below, where nothing is given unasked.
"""

import contextlib
import random
import socket
from typing import Final

PORTS: Final = range(20_000, 32_768)  # below the lowest of ip_local_port_range, as Linux has it
TRIES: Final = 100


def bound_to(host: str, port: int) -> socket.socket:
    """A socket that holds a port until it is closed, which is the caller's to do. Raises OSError.

    A port in TIME_WAIT is free, as it is for a listener. Two such sockets may hold the same one.
    """
    return _bound(host, port, reuse=True)


def bound_to_any(host: str) -> socket.socket:
    """The same with a port that nobody holds; one of the system's choice where there are hardly any. Raises OSError."""
    for port in random.SystemRandom().sample(PORTS, TRIES):
        with contextlib.suppress(OSError):
            return _bound(host, port, reuse=False)
    return _bound(host, 0, reuse=False)


def free_ports(host: str, count: int) -> list[int]:
    """Ports that are free now, all different. Raises OSError."""
    with contextlib.ExitStack() as held:
        return [held.enter_context(bound_to_any(host)).getsockname()[1] for _ in range(count)]


def free_port(host: str) -> int:
    """A port that is free now. Raises OSError."""
    return free_ports(host, 1)[0]


def _bound(host: str, port: int, *, reuse: bool) -> socket.socket:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
    try:
        bound.bind((host, port))
    except BaseException:
        bound.close()
        raise
    return bound
