"""Who receives what by which way: the streams of SSF 1.0 as the ledger keeps them. Pure.

A receiver is a participant: an ATP or an EDP, named by its `client_id`, which is the `aud` of its events. It has at
most one push and one poll stream, fed from one outbox. Stored as arrays in ledger events: fields are never reordered
or removed, a new one goes to the end and has a default.
"""

import enum

import msgspec

from engine.clock import UnixTime
from engine.consent.records import ClientId, Role


class DeliveryMethod(enum.IntEnum):
    """Stored as its number: never renumber."""

    PUSH = 1  # urn:ietf:rfc:8935
    POLL = 2  # urn:ietf:rfc:8936


class StreamStatus(enum.StrEnum):
    """SSF 1.0 section 8.1.2. Paused: events are held. Disabled: none are made."""

    ENABLED = "enabled"
    PAUSED = "paused"
    DISABLED = "disabled"


class StreamRecord(msgspec.Struct, frozen=True, array_like=True):
    """One stream after its newest change; key of its feed record (kind RECEIVER) = UTF-8 of `stream_id`."""

    stream_id: str  # UUIDv4 text
    client_id: ClientId
    role: Role
    delivery: DeliveryMethod
    status: StreamStatus
    endpoint_url: str = ""  # of a push stream: https, no user, no fragment
    events_requested: tuple[str, ...] = ()  # event type URIs; empty: all that we support
    description: str = ""
    reason: str = ""  # of the status
    paused_until: UnixTime | None = None  # a receiver may pause for fifteen minutes
    challenge: str = ""  # not confirmed yet: nothing but the challenge goes to `endpoint_url`
    deleted: bool = False
    created_at: UnixTime = UnixTime(0)
    held: bool = False  # paused by an operator: its receiver cannot end that
    challenged_at: UnixTime = UnixTime(0)  # when `challenge` was drawn
    tries: int = 0  # wrong confirmations of `challenge` so far

    @property
    def is_usable(self) -> bool:
        """Whether the address has been shown to be its owner's."""
        return not self.deleted and not self.challenge
