"""How a guard stands, for its health pages, `ccs guard status` and metrics: one frozen record, and what each page says.

Pure. The process puts the record together from its parts; nothing here names a consent, a token or a meter point.
Times: seconds since 1970, None = never or not so.
"""

from typing import Final

import msgspec

from engine.clock import UnixTime, format_utc

CIRCUITS: Final = ("closed", "buffering", "probing", "suspended", "ramping")
_CLOSED: Final = CIRCUITS[0]

Said = tuple[int, bytes]  # HTTP status, JSON body


class AddressHealth(msgspec.Struct, frozen=True):
    """One engine node as the guard met it last.

    contact: how the newest one went: `current` or `last_known` as the node said, `answered` where it did not say (a no
    does not), else how it failed; "" = there was none yet. freshness: of the newest answer that said it.
    """

    address: str
    freshness: str = ""
    as_of: float | None = None  # what that answer rested on
    answered_at: float | None = None
    failed_at: float | None = None
    failure: str = ""  # of the newest attempt that failed
    contact: str = ""
    contact_at: float | None = None


class MemoryHealth(msgspec.Struct, frozen=True):
    """What is known. ends: of consents and tokens, what must never be forgotten. full: it takes no more."""

    tokens: int = 0
    ends: int = 0
    bytes_used: int = 0
    bytes_allowed: int = 0
    full: bool = False


class EventsHealth(msgspec.Struct, frozen=True):
    """What was told. ahead: events that wait for others that are missing.

    missing_since: what was known then or before serves in no outage.
    """

    last_seq: int = 0
    last_push_at: float | None = None
    last_heartbeat_at: float | None = None
    last_poll_at: float | None = None
    ahead: int = 0
    push_status: str = ""  # `enabled`, `paused`, as the service said; "" = by poll alone
    missing_since: float | None = None
    refused: int = 0  # pushes that were no events for us
    anew: int = 0  # since the start, files of events that could not be trusted: each was moved aside


class EvidenceHealth(msgspec.Struct, frozen=True):
    """Shares judged in outages, and what of that the service does not have yet.

    full: the newest one found no room, so that none is made.
    """

    allowed: int = 0
    refused: int = 0
    unreported: int = 0
    last_report_at: float | None = None
    full: bool = False


class PartHealth(msgspec.Struct, frozen=True):
    """One supervised part of the process. life: as its supervision names it."""

    name: str
    life: str
    restarts: int = 0
    last_fault: str = ""


class GuardHealth(msgspec.Struct, frozen=True):
    """A guard at one moment."""

    client_id: str
    circuit: str
    addresses: tuple[AddressHealth, ...]
    memory: MemoryHealth = MemoryHealth()
    events: EventsHealth = EventsHealth()
    evidence: EvidenceHealth = EvidenceHealth()
    parts: tuple[PartHealth, ...] = ()
    draining: bool = False
    outage_since: float | None = None
    outage_ends_at: float | None = None  # the cap: from then on nothing is shared
    next_probe_at: float | None = None
    halts: bool = False  # by its policy it shares nothing in an outage

    @property
    def ready(self) -> bool:
        """Whether questions may be sent here. An outage of the service does not count: that is what a guard is for."""
        return not self.draining and not self.memory.full

    @property
    def falls_back(self) -> bool:
        """Whether a share could be made now although nobody can be asked."""
        return self.ready and self.events.missing_since is None and not self.evidence.full and not self.halts


def healthz(health: GuardHealth) -> Said:
    """Whether the process lives."""
    return 200, msgspec.json.encode({"client_id": health.client_id})


def readyz(health: GuardHealth) -> Said:
    """Whether questions may be sent here."""
    told = {"circuit": health.circuit, "draining": health.draining, "falls_back": health.falls_back}
    return 200 if health.ready else 503, msgspec.json.encode(told)


def statusz(health: GuardHealth) -> Said:
    """Everything, for people and for `ccs guard status`; instants as RFC 3339 text."""
    told = msgspec.to_builtins(health)
    return 200, msgspec.json.encode(_with_instants({"ready": health.ready, "falls_back": health.falls_back} | told))


_INSTANTS: Final = ("_at", "_since", "as_of")


def _with_instants(value: object) -> object:
    if isinstance(value, dict):
        return {name: _instant(name, inner) for name, inner in value.items()}
    return [_with_instants(item) for item in value] if isinstance(value, list | tuple) else value


def _instant(name: str, value: object) -> object:
    if name.endswith(_INSTANTS) and isinstance(value, int | float):
        return format_utc(UnixTime(int(value)))
    return _with_instants(value)
