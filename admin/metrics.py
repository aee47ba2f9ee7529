"""Every metric of the admin application, by name, with its help. One process, so values live in it.

Labels are small closed sets; no client, consent or token is ever a label. They stand in a registry of their own,
because an engine's metrics are never this process's.
"""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

REGISTRY: Final = CollectorRegistry()
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_APPENDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_BARRIERS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 2.5, 5.0, 10.0, 30.0)  # 2.0x: waited out

ProcessCollector(registry=REGISTRY)

LEDGER_UP: Final = Gauge("ccs_ledger_up", "1 while the ledger's database answers.", registry=REGISTRY)
LEDGER_HEAD: Final = Gauge("ccs_ledger_head_position", "Position of the ledger's last event.", registry=REGISTRY)
APPENDED: Final = Counter("ccs_ledger_events_appended", "Events appended by this process.", registry=REGISTRY)
APPEND_SECONDS: Final = Histogram(
    "ccs_ledger_append_seconds", "Seconds from asking for an append to its commit.", buckets=_APPENDS, registry=REGISTRY
)
APPENDS_REFUSED: Final = Counter(
    "ccs_ledger_appends_refused", "Appends that the ledger refused, by code.", ["code"], registry=REGISTRY
)
CALLS_REFUSED: Final = Counter(
    "ccs_calls_refused", "Calls refused, by whether they read or write, and code.", ["kind", "code"], registry=REGISTRY
)

PROJECTOR_STATE: Final = Gauge(
    "ccs_projector_state", "1 for the state that the projector is in.", ["state"], registry=REGISTRY
)
PROJECTOR_POSITION: Final = Gauge(
    "ccs_projector_position", "Position up to which Redis was brought; 0 = not known now.", registry=REGISTRY
)
PROJECTED: Final = Counter("ccs_projector_entries", "Entries written to Redis.", registry=REGISTRY)
PROJECTOR_RESTARTS: Final = Counter(
    "ccs_projector_restarts", "Times the stream in Redis was begun anew.", registry=REGISTRY
)
PROJECTOR_FILLS: Final = Counter("ccs_projector_fills", "Times all records were written anew.", registry=REGISTRY)
REDIS_UP: Final = Gauge("ccs_redis_up", "1 while a link to Redis stands.", ["link"], registry=REGISTRY)
REDIS_LOSSES: Final = Counter("ccs_redis_losses", "Links to Redis that were up and broke.", ["link"], registry=REGISTRY)

RECOVERING: Final = Gauge(
    "ccs_ledger_recovering", "1 while the ledger is recovering from a restore.", registry=REGISTRY
)
RECOVERY_MISSING: Final = Gauge(
    "ccs_recovery_reports_missing", "Parties that have not reported what a restored ledger lost.", registry=REGISTRY
)
RECOVERY_DOUBTS: Final = Gauge(
    "ccs_recovery_consents_in_doubt", "Consents touched in the gap, without a newer word.", registry=REGISTRY
)

BACKUP_RECORD_UP: Final = Gauge(
    "ccs_backup_record_up", "1 while the record of backups can be read; 0 also where none is set.", registry=REGISTRY
)
BACKUP_NEWEST: Final = Gauge(
    "ccs_backup_newest_timestamp_seconds", "The moment up to which backups reach; 0 = none.", registry=REGISTRY
)
BACKUP_POSITION: Final = Gauge("ccs_backup_position", "Position up to which backups reach.", registry=REGISTRY)
BACKUP_FULL: Final = Gauge(
    "ccs_backup_full_timestamp_seconds", "When the newest full backup was begun; 0 = never.", registry=REGISTRY
)
REHEARSED: Final = Gauge(
    "ccs_backup_rehearsal_timestamp_seconds", "When the last rehearsal ended; 0 = never.", registry=REGISTRY
)
REHEARSAL_RIGHT: Final = Gauge(
    "ccs_backup_rehearsal_right", "1 where the last rehearsal found everything right.", registry=REGISTRY
)
REHEARSAL_SECONDS: Final = Gauge("ccs_backup_rehearsal_seconds", "How long the last rehearsal took.", registry=REGISTRY)

SEQUENCER_STATE: Final = Gauge(
    "ccs_sequencer_state", "1 for the state that the sequencer is in.", ["state"], registry=REGISTRY
)
SEQUENCER_POSITION: Final = Gauge(
    "ccs_sequencer_position", "Position up to which deliveries were made.", registry=REGISTRY
)
DELIVERIES: Final = Counter("ccs_outbox_deliveries", "Deliveries made by this process.", registry=REGISTRY)
OUTBOX_PENDING: Final = Gauge("ccs_outbox_pending", "Deliveries still to be pushed.", ["lane"], registry=REGISTRY)
OUTBOX_OLDEST: Final = Gauge(
    "ccs_outbox_oldest_seconds", "Age of the oldest delivery still to be pushed.", ["lane"], registry=REGISTRY
)
OUTBOX_PARKED: Final = Gauge("ccs_outbox_parked", "Deliveries that are pushed no more.", registry=REGISTRY)
OUTBOX_UNSIGNED: Final = Gauge("ccs_outbox_unsigned", "Deliveries without signed bytes.", registry=REGISTRY)
OUTBOX_UNFETCHED: Final = Gauge("ccs_outbox_unfetched", "Deliveries not acknowledged by poll.", registry=REGISTRY)
OUTBOX_OVERDUE: Final = Gauge(
    "ccs_outbox_overdue_seconds", "Seconds by which the oldest payload is too old.", registry=REGISTRY
)
PUSHER_LEASED: Final = Gauge("ccs_pusher_leased", "1 while a pusher has the lease.", registry=REGISTRY)

FALLBACK_SHARES: Final = Counter(
    "ccs_fallback_shares_reported",
    "Shares that EDPs made in outages and reported, by result.",
    ["result"],
    registry=REGISTRY,
)
FALLBACK_OUTAGES: Final = Counter(
    "ccs_fallback_outages_reported",
    "Outages that EDPs claimed, by whether our record shows them.",
    ["record"],
    registry=REGISTRY,
)
FALLBACK_FLAGS: Final = Counter(
    "ccs_fallback_shares_flagged",
    "Reported fallback shares that should not have been made, by flag.",
    ["flag"],
    registry=REGISTRY,
)

BARRIERS: Final = Counter(
    "ccs_barriers", "Waits for a write to be effective, by outcome.", ["outcome"], registry=REGISTRY
)
BARRIER_SECONDS: Final = Histogram(
    "ccs_barrier_seconds",
    "Seconds from asking whether a write is effective to the answer that it is.",
    buckets=_BARRIERS,
    registry=REGISTRY,
)
RECEIVERS_BEHIND: Final = Gauge(
    "ccs_receivers_behind",
    "Receivers whose oldest event that has not come to them is older.",
    ["beyond"],
    registry=REGISTRY,
)
RECEIVERS_PARKED: Final = Gauge(
    "ccs_receivers_with_parked_events", "Receivers with events that are pushed no more.", registry=REGISTRY
)
FALLBACK_SUSPENDED: Final = Gauge(
    "ccs_receivers_without_fallback", "EDPs whose right to fall back is suspended: a day behind.", registry=REGISTRY
)
FALLBACK_RIGHTS: Final = Counter(
    "ccs_fallback_rights", "Rights to fall back suspended and restored by this process.", ["step"], registry=REGISTRY
)
FEED_CALLS: Final = Counter("ccs_feed_calls", "Calls of the feed over HTTPS, by kind.", ["call"], registry=REGISTRY)


class Taken:
    """A count that somebody else keeps, given to a counter by what is new of it."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._seen = 0

    def reach(self, total: int) -> None:
        """The count stands at `total`; it never falls."""
        self._counter.inc(total - self._seen)
        self._seen = total


def exposition() -> bytes:
    """All of them as Prometheus text, format 0.0.4. About a millisecond."""
    return generate_latest(REGISTRY)
