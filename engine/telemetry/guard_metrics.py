"""A guard's metrics: counts of what it was asked, and figures made from its health when somebody scrapes.

One process, so that values live in memory. Labels are small closed sets.
"""

from collections.abc import Iterable
from typing import Final

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from engine.telemetry.guard_health import CIRCUITS, GuardHealth

_LATENCIES: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

CHECKS: Final = Counter("ccs_guard_checks", "Shares judged, by reason.", ["reason"])
CHECK_SECONDS: Final = Histogram("ccs_guard_check_seconds", "Seconds that a question took.", buckets=_LATENCIES)
REFUSED: Final = Counter(
    "ccs_guard_callers_refused", "Requests to the sidecar that were refused, by status.", ["status"]
)


def exposition(health: GuardHealth) -> bytes:
    """All of it, and the process's own figures: Prometheus text format 0.0.4."""
    figures = CollectorRegistry()
    figures.register(_Families(health))
    return generate_latest(REGISTRY) + generate_latest(figures)


class _Families:
    """The health's families as a collector."""

    def __init__(self, health: GuardHealth) -> None:
        self._health = health

    def collect(self) -> Iterable[Metric]:
        return guard_families(self._health)


def guard_families(health: GuardHealth) -> list[Metric]:
    """Circuit, outage, memory, events and evidence as they stand."""
    circuit = GaugeMetricFamily("ccs_guard_circuit", "1 for the state that the circuit is in.", labels=["state"])
    for state in CIRCUITS:
        circuit.add_metric([state], float(state == health.circuit))
    up = GaugeMetricFamily("ccs_guard_part_up", "1 while a part of the guard runs and is ready.", labels=["part"])
    for part in health.parts:
        up.add_metric([part.name], float(part.life == "running"))
    return [circuit, up, *(GaugeMetricFamily(name, text, value=value) for name, text, value in _figures(health))]


def _figures(health: GuardHealth) -> list[tuple[str, str, float]]:
    memory, events, evidence = health.memory, health.events, health.evidence
    return [
        ("ccs_guard_outage_since_timestamp_seconds", "When the outage began; 0 = none.", health.outage_since or 0.0),
        ("ccs_guard_falls_back", "1 while a share could be made although nobody answers.", float(health.falls_back)),
        ("ccs_guard_tokens_known", "Tokens in the guard's memory.", float(memory.tokens)),
        ("ccs_guard_memory_bytes", "Bytes that the memory takes on disk.", float(memory.bytes_used)),
        ("ccs_guard_memory_full", "1 while the disk takes no more.", float(memory.full)),
        (
            "ccs_guard_events_missing_since_timestamp_seconds",
            "Since when pushed events are known to be missing; 0 = none are.",
            events.missing_since or 0.0,
        ),
        ("ccs_guard_events_ahead", "Events that wait for others that are missing.", float(events.ahead)),
        ("ccs_guard_events_anew", "Files of events that could not be trusted, since the start.", float(events.anew)),
        (
            "ccs_guard_last_heartbeat_timestamp_seconds",
            "When the last heartbeat of events came; 0 = never.",
            events.last_heartbeat_at or 0.0,
        ),
        ("ccs_guard_fallback_shares", "Shares made in outages on what was known.", float(evidence.allowed)),
        (
            "ccs_guard_evidence_unreported",
            "Entries that the service has not been told yet.",
            float(evidence.unreported),
        ),
    ]
