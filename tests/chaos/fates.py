"""What became of each write: P7 after the fact, by the ledger's own events.

An acknowledged write stands in the ledger exactly once, where its answer said. One that was never answered stands
there once or not at all. One that was refused does not. Pure.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from tests.chaos.judge import Violation

GRANTED, REVOKED, RENEWED = "consent.granted", "consent.revoked", "consent.renewed"


class Write(msgspec.Struct):
    """One write under one idempotency key. mark: the reference of a grant, the consent of a revocation.

    seq: as it was acknowledged; 0 = it never was. refusal: a final one. attempts: how often it was sent.
    """

    tag: str
    mark: str
    attempts: int = 0
    unanswered: int = 0
    seq: int = 0
    refusal: str = ""


class Event(msgspec.Struct, frozen=True):
    """A line of `ccs ledger export`, as far as it matters here."""

    seq: int
    tag: str
    mark: str


class Fates(msgspec.Struct, frozen=True):
    """Counts of writes. lost: acknowledged, and not in the ledger."""

    acknowledged: int
    repeated: int  # acknowledged after more than one attempt
    unknown_done: int
    unknown_not_done: int
    refused: int
    lost: int
    violations: tuple[Violation, ...]


def settle(writes: Iterable[Write], events: Sequence[Event]) -> Fates:
    """Hold every write against the ledger."""
    there = Counter((event.tag, event.mark) for event in events)
    places = {event.seq: (event.tag, event.mark) for event in events}
    writes = list(writes)
    lost = [write for write in writes if write.seq and places.get(write.seq) != (write.tag, write.mark)]
    doubled = [write for write in writes if there[write.tag, write.mark] > 1]
    undone = [write for write in writes if write.refusal and there[write.tag, write.mark]]
    unknown = [write for write in writes if not write.seq and not write.refusal]
    done = sum(bool(there[write.tag, write.mark]) for write in unknown)
    return Fates(
        acknowledged=sum(bool(write.seq) for write in writes),
        repeated=sum(bool(write.seq) and write.attempts > 1 for write in writes),
        unknown_done=done,
        unknown_not_done=len(unknown) - done,
        refused=sum(bool(write.refusal) for write in writes),
        lost=len(lost),
        violations=(
            *(Violation("P7 lost", 0.0, f"{_named(one)} acknowledged at {one.seq}, is not there") for one in lost),
            *(Violation("P7 doubled", 0.0, f"{_named(one)} stands there more than once") for one in doubled),
            *(Violation("P7 refused", 0.0, f"{_named(one)} was refused ({one.refusal}) and done") for one in undone),
            *_gaps(events),
        ),
    )


def _named(write: Write) -> str:
    return f"{write.tag} of {write.mark}"


def _gaps(events: Sequence[Event]) -> list[Violation]:
    """Positions run from one without a gap."""
    wrong = [(event.seq, index) for index, event in enumerate(events, 1) if event.seq != index]
    return [Violation("P7 gap", 0.0, f"event {seq} stands where {index} should") for seq, index in wrong[:1]]
