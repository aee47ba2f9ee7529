"""What a guard's calls come to, for its metrics: calls, retries, hedges, failures, and alarms about answers."""

from typing import Final

from prometheus_client import Counter, Gauge

CALLS: Final = Counter("ccs_guard_calls", "Questions asked of the service; a batch is one.")
RETRIES: Final = Counter("ccs_guard_retries", "Attempts after the first.")
HEDGES: Final = Counter("ccs_guard_hedges", "Questions asked of a second node because the first was slow.")
SECOND_OPINIONS: Final = Counter(
    "ccs_guard_second_opinions", "Questions asked of another node because the first said last_known."
)
ATTEMPTS_FAILED: Final = Counter("ccs_guard_attempts_failed", "Attempts that brought no answer.", ["failure"])
WAITING: Final = Gauge("ccs_guard_shares_waiting", "Shares that wait for what the retries of others find out.")
PROBES: Final = Counter("ccs_guard_probes", "Calls to see whether the service is there again.", ["result"])
ALARMS: Final = Counter("ccs_guard_alarms", "Replies that were no answers, by the step that failed.", ["doubt"])
