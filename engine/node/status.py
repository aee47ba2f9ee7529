"""The node's own addresses for balancers, people and Prometheus: plain HTTP, on loopback only.

The supervisor serves them, so that they answer whatever its children do. Nothing about consents is told here.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from engine.clock import Clock, UnixTime
from engine.config import BadConfig
from engine.config import Status as StatusConfig
from engine.consent.records import PolicyRecord
from engine.consent.recovery import Recovery
from engine.decision.freshness import Bound, Freshness, freshness_of
from engine.errors import Fault
from engine.listener.http1 import Request, Response
from engine.listener.sockets import is_loopback
from engine.listener.tls import Peer
from engine.replica.reader import Replica
from engine.telemetry import health, metric_files
from engine.telemetry.health import ChildStatus, NodeStatus, Said

_TEXT_FORMAT: Final = b"text/plain; version=0.0.4; charset=utf-8"
_NOT_FOUND: Final = Response(404, b'{"error":"not_found"}')
_NOT_ALLOWED: Final = Response(405, b'{"error":"method_not_allowed"}', headers=((b"Allow", b"GET, HEAD"),))
_PAGES: Final[dict[bytes, Callable[[NodeStatus], Said]]] = {
    b"/healthz": health.healthz,
    b"/readyz": health.readyz,
    b"/readyz/current": health.readyz_current,
    b"/statusz": health.statusz,
}


def check_loopback(config: StatusConfig) -> None:
    """Raises BadConfig: these addresses ask for no certificate, so nobody else may reach them."""
    if not is_loopback(config.host):
        raise BadConfig(f"status.host must be a loopback address, not {config.host}")


class StatusPages:
    """A `Handler`. read: the node's status at this moment."""

    def __init__(self, read: Callable[[], NodeStatus], metric_directory: Path) -> None:
        self._read = read
        self._metric_directory = metric_directory

    async def __call__(self, request: Request, _peer: Peer) -> Response:
        """Answer one request."""
        if request.method not in (b"GET", b"HEAD"):
            return _NOT_ALLOWED
        target = request.target.partition(b"?")[0]
        if target == b"/metrics":
            from engine.telemetry.node_metrics import node_families  # noqa: PLC0415 - not before somebody asks

            text = metric_files.exposition(self._metric_directory, node_families(self._read()))
            return Response(200, text, content_type=_TEXT_FORMAT)
        page = _PAGES.get(target)
        if page is None:
            return _NOT_FOUND
        status, body = page(self._read())
        return Response(status, body)


class FreshnessReader:
    """Judges the replica's bound as workers do. place: where the replica stands now.

    recovery: of the ledger, as it was found when the bound was read last; None = it is live.
    """

    def __init__(self, replica: Replica, *, place: Callable[[], str], clock: Clock) -> None:
        self._replica = replica
        self._place = place
        self._clock = clock
        self.recovery: Recovery | None = None

    def read(self) -> tuple[Bound | None, Freshness, str]:
        """The bound, what it makes the node, and the fault that kept it from being read."""
        bound, policy, fault_text, place = None, PolicyRecord(), "", ""
        try:
            place = self._place()
            self._replica.refresh()
            with self._replica.transaction() as view:
                bound, policy, self.recovery = view.bound, view.policy(), view.moment.recovery
        except Fault as fault:
            fault_text = fault.text
        now, boot = self._clock.now(), self._clock.boot()
        return bound, freshness_of(bound, policy, boot_id=place, boot=boot, now=now), fault_text


def status_of(
    node_id: str,
    read: tuple[Bound | None, Freshness, str],
    children: tuple[ChildStatus, ...],
    *,
    draining: bool,
    ports: dict[str, int],
    head: int,
    recovery: Recovery | None = None,
) -> NodeStatus:
    """Put together what the pages need. head: the feeder's word; what is applied was certainly heard of."""
    bound, freshness, fault = read
    applied = bound.applied if bound else -1
    return NodeStatus(
        node_id=node_id,
        draining=draining,
        state=freshness.state,
        incarnation=bound.incarnation if bound else "",
        applied=applied,
        head=max(head, applied),
        as_of=bound.as_of if bound else UnixTime(0),
        last_known_until=freshness.last_known_until,
        children=children,
        ports=ports,
        replica_fault=fault,
        recovering_since=UnixTime(0) if recovery is None else recovery.gap_from,
    )
