"""How an open guard stands: its parts' own words, put together into the one record that pages and metrics show."""

from collections.abc import Sequence

from engine.guard.config import GuardConfig, OnOutage
from engine.guard.contacts import Contact
from engine.guard.events import EventsStatus
from engine.guard.evidence import EvidenceLog
from engine.guard.evidence_words import Entry, ShareEvidence
from engine.guard.guard import GuardStatus
from engine.guard.store import StoreStatistics
from engine.telemetry.guard_health import (
    AddressHealth,
    EventsHealth,
    EvidenceHealth,
    GuardHealth,
    MemoryHealth,
    PartHealth,
)


class CountedEvidence:
    """`engine.guard.evidence_words.Evidence` that counts what goes into it."""

    def __init__(self, log: EvidenceLog) -> None:
        self.log = log
        self.allowed = self.refused = 0

    def record(self, entry: Entry) -> str:
        """See `Evidence.record`."""
        return self.record_all([entry])[0]

    def record_all(self, entries: Sequence[Entry]) -> list[str]:
        """See `Evidence.record_all`."""
        ids = self.log.record_all(entries)
        for entry in entries:
            if isinstance(entry, ShareEvidence):
                self.allowed += entry.allowed
                self.refused += not entry.allowed
        return ids

    def open_outage(self) -> float | None:
        """See `Evidence.open_outage`."""
        return self.log.open_outage()

    def outage_noted(self) -> float:
        """See `Evidence.outage_noted`."""
        return self.log.outage_noted()

    def note_outage(self, at: float) -> None:
        """See `Evidence.note_outage`."""
        self.log.note_outage(at)


def health_of(
    config: GuardConfig,
    guard: GuardStatus,
    store: StoreStatistics,
    events: EventsStatus,
    evidence: CountedEvidence,
    reported_at: float | None,
    parts: tuple[PartHealth, ...],
    *,
    draining: bool,
) -> GuardHealth:
    """The record of now."""
    kept = evidence.log.statistics()
    return GuardHealth(
        client_id=config.client_id,
        circuit=guard.circuit,
        addresses=tuple(_address(contact) for contact in guard.contacts),
        memory=MemoryHealth(
            tokens=store.active,
            ends=store.guarding,
            bytes_used=max(0, config.store.max_bytes - store.free_bytes),
            bytes_allowed=config.store.max_bytes,
            full=store.full or store.free_bytes <= 0,
        ),
        events=EventsHealth(
            last_seq=events.last_seq,
            last_push_at=events.last_push_at,
            last_heartbeat_at=events.last_heartbeat_at,
            last_poll_at=events.last_poll_at,
            ahead=events.ahead,
            push_status=events.push_status,
            missing_since=events.missing_since,
            refused=sum(events.refused.values()),
            anew=events.anew,
        ),
        evidence=EvidenceHealth(
            allowed=evidence.allowed,
            refused=evidence.refused,
            unreported=kept.unreported,
            last_report_at=reported_at,
            full=kept.full,
        ),
        parts=parts,
        draining=draining,
        outage_since=guard.outage_since,
        outage_ends_at=guard.outage_ends_at,
        next_probe_at=guard.next_probe_at,
        halts=config.policy.on_outage is OnOutage.HALT or config.policy.outage_cap <= 0,
    )


def _address(contact: Contact) -> AddressHealth:
    return AddressHealth(
        address=contact.address,
        freshness=contact.freshness,
        as_of=contact.as_of,
        answered_at=contact.answered_at,
        failed_at=contact.failed_at,
        failure=contact.failure,
        contact=contact.how,
        contact_at=contact.at,
    )
