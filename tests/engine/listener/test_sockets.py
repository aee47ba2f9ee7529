"""Listening sockets: loopback in both families, refusals in one sentence."""

import socket

import pytest

from engine.listener.sockets import CannotListen, is_loopback, listen, port_of


def close(sockets: list[socket.socket]) -> None:
    for bound in sockets:
        bound.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_loopback_host_listens_in_both_families_on_one_port(host: str) -> None:
    sockets = listen(host, 0)
    try:
        assert sockets[0].getsockname()[0] == "127.0.0.1"
        assert {bound.getsockname()[1] for bound in sockets} == {port_of(sockets)}
        assert {bound.family for bound in sockets} <= {socket.AF_INET, socket.AF_INET6}
        assert not any(bound.getblocking() for bound in sockets)
    finally:
        close(sockets)


def test_port_in_use_is_one_sentence() -> None:
    sockets = listen("127.0.0.1", 0)
    try:
        with pytest.raises(CannotListen, match=r"^port \d+ on 127\.0\.0\.1 is in use by another program$"):
            listen("127.0.0.1", port_of(sockets))
    finally:
        close(sockets)


def test_foreign_address_is_one_sentence() -> None:
    with pytest.raises(CannotListen, match=r"^192\.0\.2\.1 is not an address of this machine$"):
        listen("192.0.2.1", 0)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),  # noqa: S104 - a text to be judged
        ("::", False),
        ("192.0.2.1", False),
        ("example.org", False),
    ],
)
def test_loopback_is_known(host: str, *, loopback: bool) -> None:
    assert is_loopback(host) is loopback
