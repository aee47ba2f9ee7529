"""From a request's target to the handler of its path."""

from collections.abc import Awaitable, Mapping
from typing import Final

from engine.listener.http1 import Request, Response
from engine.listener.serve import Handler
from engine.listener.tls import Peer

_NOT_FOUND: Final = Response(404, b'{"error":"not_found"}')


def not_found(_request: Request, _peer: Peer) -> Response:
    """The handler of paths that are nobody's."""
    return _NOT_FOUND


def by_path(handlers: Mapping[bytes, Handler]) -> Handler:
    """A handler that passes requests on by path, which must match exactly; queries are the handlers' business."""
    find = dict(handlers).get

    def handle(request: Request, peer: Peer) -> Response | Awaitable[Response]:
        handler = find(request.target) or find(path_of(request.target), not_found)
        return handler(request, peer)

    return handle


def path_of(target: bytes) -> bytes:
    """The path of a target in origin, absolute or asterisk form (RFC 9112 section 3.2)."""
    path = target.partition(b"?")[0]
    if path.startswith(b"/") or path == b"*":
        return path
    return b"/" + path.partition(b"://")[2].partition(b"/")[2]
