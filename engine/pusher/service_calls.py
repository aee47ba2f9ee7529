"""The bodies of the pusher's calls to the feed service, shared by both ends: `POST /feed/pusher/{name}`, MessagePack.

Pure. Answers are the structs of `engine.pusher.service` or arrays of them; `Nothing` where there is nothing to say.
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from engine.clock import UnixTime
from engine.consent.records import ClientId
from engine.pusher.service import Lane, Outcome, Roster, Signed

MESSAGEPACK: Final = "application/vnd.msgpack"
MAX_AT_ONCE: Final = 1_000  # items in one call
MAX_COMPACT: Final = 65_536  # bytes of a SET: what receivers take
MAX_STATEMENT: Final = 2_048  # bytes

Count = Annotated[int, Meta(ge=1, le=MAX_AT_ONCE)]
Number = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Wait = Annotated[float, Meta(ge=0, le=3600)]
Client = Annotated[ClientId, Meta(pattern="^[a-z0-9-]{1,40}$")]


def holder_named(pusher_id: str, drawn: bytes) -> str:
    """How a pusher calls itself when it asks for the lease. drawn: eight bytes, anew at each start."""
    return f"{pusher_id}/{drawn.hex()}"


def pusher_named(holder: str) -> str:
    """The pusher that a holder says it is; "" = it does not say."""
    return holder.rpartition("/")[0]


class LeaseCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """epoch: None = take it."""

    holder: Annotated[str, Meta(pattern=r"^[\x21-\x7e]{1,64}$")]
    epoch: Number | None = None


class ReleaseCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """See PushService.release."""

    epoch: Number


class RosterCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """wait: seconds."""

    after: Number
    wait: Wait = 0.0


class FreshCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """See PushService.fresh."""

    lane: Lane
    after: Number
    limit: Count
    wait: Wait = 0.0


class BacklogCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """See PushService.backlog."""

    client_id: Client
    lane: Lane
    after: Number
    limit: Count


class UnsignedCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """See PushService.unsigned."""

    after: Number
    limit: Count
    wait: Wait = 0.0
    bulk: bool = False


class KeepCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """See PushService.keep."""

    epoch: Number
    signed: Annotated[tuple[Signed, ...], Meta(max_length=MAX_AT_ONCE)]


class TellCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """See PushService.tell."""

    epoch: Number
    outcomes: Annotated[tuple[Outcome, ...], Meta(max_length=MAX_AT_ONCE)]
    batch: Number


class UnparkCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """See PushService.unpark."""

    epoch: Number
    client_id: Client
    at: UnixTime


class EventKeyCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A pusher's statement about its event key, a compact JWS (`engine.events.signing`)."""

    statement: Annotated[bytes, Meta(max_length=MAX_STATEMENT)]


class Nothing(msgspec.Struct, frozen=True):
    """Done."""


class RosterAnswer(msgspec.Struct, frozen=True):
    """roster: None = nothing has changed."""

    roster: Roster | None = None


class Counted(msgspec.Struct, frozen=True):
    """How many."""

    count: int


class RegisteredKey(msgspec.Struct, frozen=True):
    """published_until: seconds since 1970."""

    kid: str
    published_until: int
