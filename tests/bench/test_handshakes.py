"""A crowd of newcomers, against scripted servers."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench import handshakes
from bench.handshakes import Crowd
from bench.target import Door, ending_of
from tests.support.mutual_tls import Authority
from tests.support.scripted_server import Script, Scripted

YES = b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"active":true}'
NO = b"HTTP/1.1 503 Later\r\nContent-Length: 0\r\n\r\n"
ENDINGS = [ending_of(b"one")]
Serve = Callable[..., Scripted]


@pytest.fixture
def scripted() -> Iterator[Serve]:
    servers: list[Scripted] = []

    def serve(script: Script, authority: Authority | None = None) -> Scripted:
        servers.append(Scripted(script, authority))
        return servers[-1]

    yield serve
    for server in servers:
        server.close()


def test_everybody_comes_in_over_mutual_tls(scripted: Serve, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("edp")
    server = scripted(lambda _n, _r: YES, authority)
    door = Door(server.port, str(authority.file), str(certificate), str(key))
    arrivals = Crowd(door, ENDINGS, 30, 4, stay=False).come()
    assert (len(arrivals.waits), arrivals.failures, len(server.requests)) == (30, 0, 30)
    assert arrivals.began <= arrivals.ended


def test_who_is_connected_at_the_first_step_asks_too(scripted: Serve) -> None:
    """Without TLS nothing is left to shake; with it, a quick server may have answered before the first step ends."""
    server = scripted(lambda _n, _r: YES)
    arrivals = Crowd(Door(server.port), ENDINGS, 10, 10, stay=True).come()
    assert (len(arrivals.waits), arrivals.failures) == (10, 0)


def test_who_is_refused_or_cut_off_has_failed(scripted: Serve) -> None:
    said = [YES, NO, None]
    server = scripted(lambda number, _r: said[number % 3])
    arrivals = Crowd(Door(server.port), ENDINGS, 30, 3, stay=False).come()
    assert (len(arrivals.waits), arrivals.failures) == (10, 20)


def test_who_is_not_in_when_time_is_over_has_failed(scripted: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handshakes, "LONGEST", 0.3)
    server = scripted(lambda number, _r: YES if number <= 2 else b"")
    arrivals = Crowd(Door(server.port), ENDINGS, 10, 1, stay=False).come()
    assert (len(arrivals.waits), arrivals.failures) == (2, 8)
