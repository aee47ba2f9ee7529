"""What an event, or a line of a listing, does to the guard's memory. Each may be done often, and in any order.

Which of two words about a consent counts is the memory's to know: it keeps the version of each, and an end always wins.
"""

import json
from typing import Any, Final

from engine.clock import UnixTime
from engine.events.facts import Change
from engine.events.sets import ConsentPayload, PartyPayload
from engine.events.verification import VerifiedEvent
from engine.guard.memory import Memory

_NOT_ENDING: Final = frozenset({Change.GRANTED, Change.RENEWED, Change.AMENDED})
# One consent has one entry. Where there is none, or several, nobody can tell what is left of what an answer of before
# showed: no entry lies within this one.
_UNTOLD: Final = b""
_MAY_WAIT: Final = frozenset({Change.GRANTED, Change.RENEWED})


def may_go_before_others(event: VerifiedEvent) -> bool:
    """Whether it is applied although events before it are missing: what ends, cuts or stops must not wait."""
    if isinstance(event.payload, PartyPayload):
        return event.suspends
    return event.change is not None and event.change not in _MAY_WAIT


def apply_event(event: VerifiedEvent, memory: Memory) -> None:
    """Framework events and unknown ones do nothing. Raises MemoryFull."""
    match event.payload:
        case ConsentPayload() as payload if event.change in _NOT_ENDING:
            change_consent(
                memory, event.subject, payload.consent_version, payload.authorization_details, payload.expires_at
            )
        case ConsentPayload() as payload:
            memory.end(event.subject, payload.consent_version, UnixTime(payload.effective_at))
        case PartyPayload() as payload:
            memory.suspend(payload.client_id, payload.party_version, suspended=event.suspends)
        case _:
            pass


def change_consent(
    memory: Memory, consent_id: str, version: int, details: tuple[dict[str, Any], ...], expires_at: int | None
) -> None:
    """A consent that is active, at this version. Raises MemoryFull."""
    entry = json.dumps(details[0], separators=(",", ":")).encode() if len(details) == 1 else _UNTOLD
    memory.change(consent_id, version, entry, None if expires_at is None else UnixTime(expires_at))
