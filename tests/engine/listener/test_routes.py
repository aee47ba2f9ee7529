"""Requests reach the handler of their path, whatever the form of their target."""

import pytest

from engine.clock import UnixTime
from engine.consent.records import Thumbprint
from engine.listener.http1 import Request, Response
from engine.listener.routes import by_path, path_of
from engine.listener.tls import Peer

PEER = Peer(Thumbprint(b"\1" * 32), UnixTime(2_000_000_000))


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/introspect", b"/introspect"),
        (b"/introspect?token=a", b"/introspect"),
        (b"https://localhost:8440/introspect", b"/introspect"),
        (b"https://localhost:8440/introspect?a=/b", b"/introspect"),
        (b"https://localhost", b"/"),
        (b"*", b"*"),
        (b"/introspect/", b"/introspect/"),
    ],
)
def test_path_of_a_target(target: bytes, path: bytes) -> None:
    assert path_of(target) == path


def introspect(request: Request, _peer: Peer) -> Response:
    return Response(200, request.target)


@pytest.mark.parametrize("target", [b"/introspect", b"/introspect?a=b", b"https://x/introspect"])
def test_handler_of_the_path_is_asked(target: bytes) -> None:
    handle = by_path({b"/introspect": introspect})
    response = handle(Request(b"POST", target, (), b"", keep_alive=True), PEER)
    assert isinstance(response, Response)
    assert response.body == target


@pytest.mark.parametrize("target", [b"/", b"/introspect/", b"/Introspect", b"/introspect%2f", b"*", b"//introspect"])
def test_other_paths_are_not_found(target: bytes) -> None:
    handle = by_path({b"/introspect": introspect})
    response = handle(Request(b"POST", target, (), b"", keep_alive=True), PEER)
    assert isinstance(response, Response)
    assert response.status == 404
