"""Ports that are drawn for processes that take them later: free, different, and nobody's by the system's choice."""

import socket
from contextlib import ExitStack

import pytest

from admin.cli import free_ports as module
from admin.cli.free_ports import bound_to, bound_to_any, free_ports

LOOPBACK = "127.0.0.1"


def test_they_are_free_and_different_and_lie_where_the_system_gives_none() -> None:
    drawn = free_ports(LOOPBACK, 400)
    assert len(set(drawn)) == 400
    assert set(drawn) <= set(module.PORTS)
    with ExitStack() as held:
        for port in drawn:
            held.enter_context(bound_to(LOOPBACK, port))


def test_one_that_is_taken_is_not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = free_ports(LOOPBACK, 2)
    monkeypatch.setattr(module, "PORTS", (first, second))
    monkeypatch.setattr(module, "TRIES", 2)
    with listening(first), bound_to_any(LOOPBACK) as drawn:
        assert drawn.getsockname()[1] == second


def test_where_all_are_taken_the_system_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    (only,) = free_ports(LOOPBACK, 1)
    monkeypatch.setattr(module, "PORTS", (only,))
    monkeypatch.setattr(module, "TRIES", 1)
    with listening(only), bound_to_any(LOOPBACK) as drawn:
        assert drawn.getsockname()[1] not in (0, only)


def test_a_port_that_is_named_and_taken_is_refused() -> None:
    (port,) = free_ports(LOOPBACK, 1)
    with listening(port), pytest.raises(OSError, match="in use"):
        bound_to(LOOPBACK, port)


def listening(port: int) -> socket.socket:
    taken = bound_to(LOOPBACK, port)
    taken.listen()
    return taken
