"""The pusher's own addresses for balancers, people and Prometheus: plain HTTP, on loopback only.

Alive is not ready: a pusher is ready when it works, or waits for another that does. Nothing about consents is told.
"""

import ipaddress
import socket
from collections.abc import Callable
from typing import Final

import msgspec

from engine.clock import Seconds
from engine.config import BadConfig
from engine.config import Status as StatusConfig
from engine.listener.http1 import Request, Response
from engine.listener.limits import Limits
from engine.listener.tls import Peer
from engine.pusher.outbox import LaneStatus
from engine.pusher.service import Lane
from engine.pusher.work import PusherState, PusherStatus
from engine.telemetry import pusher_metrics

LIMITS: Final = Limits(max_connections=100, idle_timeout=Seconds(30.0), drain_timeout=Seconds(1.0))
_NOT_FOUND: Final = Response(404, b'{"error":"not_found"}')
_NOT_ALLOWED: Final = Response(405, b'{"error":"method_not_allowed"}', headers=((b"Allow", b"GET, HEAD"),))
_READY: Final = (PusherState.WORKING, PusherState.STANDBY)


class StatusPages:
    """A `Handler`. read: the pusher's status at this moment. wall: seconds since 1970."""

    def __init__(self, pusher_id: str, read: Callable[[], PusherStatus], wall: Callable[[], float]) -> None:
        self._pusher_id = pusher_id
        self._read = read
        self._wall = wall

    def __call__(self, request: Request, _peer: Peer) -> Response:
        """Answer one request."""
        if request.method not in (b"GET", b"HEAD"):
            return _NOT_ALLOWED
        target = request.target.partition(b"?")[0]
        if target == b"/healthz":
            return _json(200, {"pusher_id": self._pusher_id})
        status = self._read()
        if target == b"/metrics":
            observe(status, self._wall())
            return Response(200, pusher_metrics.exposition(), content_type=pusher_metrics.CONTENT_TYPE)
        if target == b"/readyz":
            return _json(200 if status.state in _READY else 503, {"state": status.state})
        if target == b"/statusz":
            return _json(200, {"pusher_id": self._pusher_id, **msgspec.to_builtins(status)})
        return _NOT_FOUND


def listen(config: StatusConfig) -> socket.socket:
    """Raises BadConfig: these addresses ask for no certificate, so nobody else may reach them."""
    try:
        is_loopback = config.host == "localhost" or ipaddress.ip_address(config.host).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise BadConfig(f"status.host must be a loopback address, not {config.host}")
    try:
        return socket.create_server((config.host, config.port))
    except OSError as error:
        raise BadConfig(f"status: cannot listen on {config.host} port {config.port}: {error.strerror}") from error


def observe(status: PusherStatus, now: float) -> None:
    """Bring the gauges up to date."""
    pusher_metrics.WORKING.set(status.state is PusherState.WORKING)
    pusher_metrics.UNTOLD.set(status.untold)
    pusher_metrics.OPEN_CIRCUITS.set(sum(one.circuit_open for one in status.receivers))
    pusher_metrics.BEHIND.set(sum(any(lane.behind for lane in one.lanes.values()) for one in status.receivers))
    for word in ("enabled", "paused", "disabled", "unconfirmed"):
        pusher_metrics.RECEIVERS.labels(word).set(sum(one.stream == word for one in status.receivers))
    for lane in Lane:
        name = lane.name.lower()
        lanes = [one.lanes[name] for one in status.receivers]
        pusher_metrics.HELD.labels(name).set(sum(each.held for each in lanes))
        pusher_metrics.OLDEST.labels(name).set(max((_age(each, now) for each in lanes), default=0.0))


def _age(lane: LaneStatus, now: float) -> float:
    return max(0.0, now - lane.oldest) if lane.oldest else 0.0


def _json(status: int, content: object) -> Response:
    return Response(status, msgspec.json.encode(content))
