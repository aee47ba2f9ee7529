"""What the status addresses say of a node. Pure: a `NodeStatus` goes in, status and body come out.

Alive is not ready, and ready is not current: a balancer takes any ready node and prefers a current one, since a
`last_known` node answers only some EDPs. A draining node is alive and no longer ready.
"""

from typing import Final

import msgspec

from engine.clock import UnixTime, format_utc


class ChildStatus(msgspec.Struct, frozen=True):
    """One child process. life: as its supervision names it. resident (bytes) and cpu_seconds: 0 = not known."""

    name: str
    life: str
    pid: int
    restarts: int
    failures: int
    resident: int
    last_fault: str = ""
    cpu_seconds: float = 0.0


class NodeStatus(msgspec.Struct, frozen=True):
    """What the supervisor knows at one moment. applied: the replica's feed position, -1 = there is none.

    head: the highest feed position that the feeder has heard of, at least applied; a fifth of a second old.
    """

    node_id: str
    draining: bool
    state: str  # `current`, `last_known` or `blind`, of engine.decision.freshness
    incarnation: str
    applied: int
    as_of: UnixTime  # 0 = never
    last_known_until: UnixTime
    children: tuple[ChildStatus, ...]
    ports: dict[str, int]
    replica_fault: str = ""
    head: int = -1
    recovering_since: UnixTime = UnixTime(0)  # the beginning of the gap in a ledger that is recovering; 0 = it is not


Said = tuple[int, bytes]  # HTTP status, JSON body

_RUNNING: Final = "running"
STATES: Final = ("current", "last_known", "blind")
_CURRENT, _, _BLIND = STATES


def healthz(status: NodeStatus) -> Said:
    """Whether the node is alive: 200 as long as the supervisor answers; a dead child is its own business."""
    return 200, _json({"node_id": status.node_id})


def readyz(status: NodeStatus) -> Said:
    """Whether EDPs may be sent here: a worker runs, the node is not draining and not blind."""
    return (200 if _is_ready(status) else 503), _json(_readiness(status))


def readyz_current(status: NodeStatus) -> Said:
    """Whether this node is to be preferred: ready, and `current`."""
    good = _is_ready(status) and status.state == _CURRENT
    return (200 if good else 503), _json(_readiness(status))


def statusz(status: NodeStatus) -> Said:
    """Everything, for people and for `ccs status`."""
    return 200, _json(
        {
            "node_id": status.node_id,
            "ready": _is_ready(status),
            "draining": status.draining,
            "state": status.state,
            "incarnation": status.incarnation,
            "applied": status.applied,
            "head": status.head,
            "as_of": format_utc(status.as_of) if status.as_of else None,
            "last_known_until": format_utc(status.last_known_until) if status.as_of else None,
            "recovering_since": format_utc(status.recovering_since) if status.recovering_since else None,
            "replica_fault": status.replica_fault,
            "ports": status.ports,
            "children": status.children,
        }
    )


def _readiness(status: NodeStatus) -> dict[str, object]:
    """recovering, where it stands: the ledger is, so that no node is current."""
    told: dict[str, object] = {"state": status.state, "draining": status.draining}
    return told | {"recovering": True} if status.recovering_since else told


def _is_ready(status: NodeStatus) -> bool:
    works = any(child.name.startswith("worker") and child.life == _RUNNING for child in status.children)
    return works and not status.draining and status.state != _BLIND


def _json(content: dict[str, object]) -> bytes:
    return msgspec.json.encode(content)
