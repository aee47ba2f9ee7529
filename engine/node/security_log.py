"""Security events of a worker go to its log and its metrics; a flood of them is counted, not written."""

from collections.abc import Callable
from typing import Final

from engine.listener.security import SecurityEvent, SecurityEventKind
from engine.telemetry import logs, metrics

WRITTEN_A_SECOND: Final = 20

_log = logs.logger("security")


class SecurityLog:
    """`engine.listener.security.SecurityEvents`. now: any clock in seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._second = 0
        self._written = self._left_out = 0
        self._counts = {kind: metrics.SECURITY_EVENTS.labels(kind.value) for kind in SecurityEventKind}

    def record(self, event: SecurityEvent) -> None:
        """Count it; write it unless this second has seen enough. Raises nothing."""
        self._counts[event.kind].inc()
        if (second := int(self._now())) != self._second:
            self._second, self._written = second, 0
        if self._written >= WRITTEN_A_SECOND:
            self._left_out += 1
            return
        self._written += 1
        _log.warning(
            "security_event",
            kind=event.kind.value,
            caller=event.caller,
            digest=event.token_digest,
            detail=event.detail,
            left_out=self._left_out,
        )
        self._left_out = 0
