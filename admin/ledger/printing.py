"""Events as people and other programs read them: one line each, or one JSON object each. Nothing is decrypted.

The JSON form is complete: whoever has it can compute every hash again (`admin.ledger.chain`). Bytes are base64.
"""

from typing import Any

import msgspec

from admin.ledger.events import UnreadableEvent, event_of
from admin.ledger.store import StoredEvent
from engine.clock import format_utc

_encode = msgspec.json.Encoder().encode


def line(event: StoredEvent) -> str:
    """One line for the eye."""
    at = format_utc(event.recorded_at)
    return f"{event.position.seq:>10}  {at}  {event.tag:<32}  {event.subject}  v{event.version}"


def json_line(event: StoredEvent) -> bytes:
    """One JSON object without line breaks. `event`: the body with its fields named; null when it cannot be read."""
    feed = event.feed
    return _encode(
        {
            "seq": event.position.seq,
            "incarnation": event.position.incarnation,
            "recorded_at": event.recorded_at,
            "tag": event.tag,
            "subject": event.subject,
            "version": event.version,
            "event": _event(event),
            "body": event.body,
            "person_id": event.person_id,
            "ciphertext": event.ciphertext,
            "feed": None if feed is None else {"kind": int(feed.kind), "key": feed.key, "record": feed.record},
            "previous_hash": event.previous_hash.hex(),
            "hash": event.hash.hex(),
        }
    )


def _event(event: StoredEvent) -> object:
    try:
        return _named(event_of(event))
    except UnreadableEvent:
        return None


def _named(value: Any) -> object:  # noqa: ANN401 - walks any struct
    """Structs are stored as arrays; here their fields are named."""
    if isinstance(value, msgspec.Struct):
        return {name: _named(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, tuple):
        return [_named(item) for item in value]
    return value
