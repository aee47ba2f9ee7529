"""Security events of a worker go to its log and its counts; a flood of them is counted, not written."""

from collections.abc import Callable

from engine.listener.security import SecurityEvent, SecurityEventKind
from engine.telemetry import logs
from engine.telemetry.floods import Floods
from engine.telemetry.tally import Tally

_log = logs.logger("security")


class SecurityLog:
    """`engine.listener.security.SecurityEvents`. now: any clock in seconds. counts: for the metrics."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._floods = Floods()
        self.counts = {kind: Tally() for kind in SecurityEventKind}

    def record(self, event: SecurityEvent) -> None:
        """Count it; write it unless this second has seen enough. Raises nothing."""
        self.counts[event.kind]()
        left_out = self._floods.admit(event.kind, self._now())
        if left_out is None:
            return
        _log.warning(
            "security_event",
            kind=event.kind.value,
            caller=event.caller,
            digest=event.token_digest,
            detail=event.detail,
            left_out=left_out,
        )
