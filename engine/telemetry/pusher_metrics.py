"""Every metric of the pusher, by name, with its help. One process, so values live in it.

Labels are small closed sets; no client, consent or event is ever a label.
"""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

REGISTRY: Final = CollectorRegistry()
CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"
# From a tenth of the target to what alarms: 10 minutes, an hour, a day.
_DELAYS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 600.0, 3_600.0, 86_400.0)

ProcessCollector(registry=REGISTRY)

FIRST_ATTEMPT: Final = Histogram(
    "ccs_push_first_attempt_seconds",
    "Seconds from an event's commit to the first attempt to push it, the wait for a connection included, by lane.",
    ["lane"],
    buckets=_DELAYS,
    registry=REGISTRY,
)
TAKEN: Final = Histogram(
    "ccs_push_taken_seconds",
    "Seconds from an event's commit to its receiver's 202, by lane.",
    ["lane"],
    buckets=_DELAYS,
    registry=REGISTRY,
)
ATTEMPTS: Final = Counter(
    "ccs_push_attempts", "Attempts to push an event, by lane and outcome.", ["lane", "outcome"], registry=REGISTRY
)
PARKED: Final = Counter("ccs_push_parked", "Deliveries parked, by lane.", ["lane"], registry=REGISTRY)
EXPIRED: Final = Counter("ccs_push_expired", "Deliveries that were too old to be pushed.", registry=REGISTRY)
UNPARKED: Final = Counter("ccs_push_unparked", "Deliveries freed again after a good verification.", registry=REGISTRY)
HEARTBEATS: Final = Counter("ccs_push_heartbeats", "Heartbeats, by outcome.", ["outcome"], registry=REGISTRY)
SECURITY_EVENTS: Final = Counter(
    "ccs_push_security_events", "Security events of the pusher by kind.", ["kind"], registry=REGISTRY
)
SIGNED: Final = Counter("ccs_push_signed", "Deliveries signed.", registry=REGISTRY)
WORKING: Final = Gauge("ccs_push_working", "1 while this pusher holds the lease.", registry=REGISTRY)
RECEIVERS: Final = Gauge(
    "ccs_push_receivers", "Receivers with a push stream, by its status.", ["status"], registry=REGISTRY
)
OPEN_CIRCUITS: Final = Gauge("ccs_push_open_circuits", "Receivers that are taken to be down.", registry=REGISTRY)
HELD: Final = Gauge("ccs_push_held", "Deliveries in memory, by lane.", ["lane"], registry=REGISTRY)
BEHIND: Final = Gauge(
    "ccs_push_receivers_behind", "Receivers of which the outbox has more than is in memory.", registry=REGISTRY
)
OLDEST: Final = Gauge(
    "ccs_push_oldest_unsent_seconds", "Age of the oldest delivery that is owed, by lane.", ["lane"], registry=REGISTRY
)
UNTOLD: Final = Gauge("ccs_push_untold", "Outcomes that the ledger's side has not been told.", registry=REGISTRY)
KEY_UNTIL: Final = Gauge(
    "ccs_event_key_published_until_timestamp_seconds",
    "Until when the issuer publishes the event key in use; 0 while it does not.",
    registry=REGISTRY,
)


def exposition() -> bytes:
    """All of them, Prometheus text format 0.0.4."""
    return generate_latest(REGISTRY)
