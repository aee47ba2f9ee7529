"""Security events of a worker go to its log and its counts; a flood of them is counted, not written."""

from collections.abc import Callable
from typing import Final

from engine.listener.security import SecurityEvent, SecurityEventKind
from engine.telemetry import logs
from engine.telemetry.tally import Tally

WRITTEN_A_SECOND: Final = 20

_log = logs.logger("security")


class SecurityLog:
    """`engine.listener.security.SecurityEvents`. now: any clock in seconds. counts: for the metrics."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._second = 0
        self._written = self._left_out = 0
        self.counts = {kind: Tally() for kind in SecurityEventKind}

    def record(self, event: SecurityEvent) -> None:
        """Count it; write it unless this second has seen enough. Raises nothing."""
        self.counts[event.kind]()
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
