"""What a guard asks of the service about events: the port, and the words that go over it.

Polls (RFC 8936), the listings of one's own consents, the event keys, and streams (SSF 1.0 section 8.1). Numbers are
bounded as in events: one that no database holds is no answer.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Protocol

import msgspec
from msgspec import Meta

from engine.clock import Seconds, UnixTime
from engine.errors import Fault, Kind
from engine.events.sets import Position, Version
from engine.events.verification import RefusedEvent
from engine.guard.retry import NOT_SAID

Instant = Annotated[UnixTime, Meta(ge=0, le=253_402_300_799)]  # until the end of the year 9999


class Unreachable(Fault):
    """No connection, no answer in time, or 5xx: as in an outage."""

    kind = Kind.UNAVAILABLE


class NotTold(Fault):
    """The service was there and did not tell: a refusal, a TLS failure, or what cannot be read."""

    kind = Kind.BROKEN


class TooManyCalls(Fault):
    """429: the service was there, and wants to be asked later. wait: as it said, up to a minute; 0 = it did not say."""

    kind = Kind.TOO_MANY

    def __init__(self, text: str, *, detail: str = "", wait: Seconds = NOT_SAID) -> None:
        super().__init__(text, detail=detail)
        self.wait = wait


class TooOld(Fault):
    """The listing of changes does not go back so far: take the snapshot."""

    kind = Kind.NOT_FOUND


class NoSuchStream(Fault):
    """The service has no such stream of ours."""

    kind = Kind.NOT_FOUND


class Polled(msgspec.Struct, frozen=True, rename="camel"):
    """RFC 8936 section 2.3. sets: jti to compact SET, in no order."""

    sets: dict[str, str]
    more_available: bool = False


class ListedConsent(msgspec.Struct, frozen=True):
    """A consent as it stands. seq: of its newest change. Times: whole seconds since 1970. Unknown members are ignored.

    authorization_details: as in events; of an active one.
    """

    seq: Position
    consent_id: str
    consent_version: Version
    state: str
    client_id: str
    effective_at: Instant
    expires_at: Instant | None = None
    authorization_details: tuple[dict[str, Any], ...] = ()


class ListedParty(msgspec.Struct, frozen=True):
    """An ATP of one's consents that is stopped as a whole, or was. seq: of its newest change."""

    seq: Position
    client_id: str
    party_version: Version
    suspended: bool


class Changes(msgspec.Struct, frozen=True):
    """What has changed after a position, oldest first. as_of_seq: all that happened up to it is told, if not `more`.

    incarnation: of the ledger; positions of one mean nothing in another.
    """

    as_of_seq: Position
    incarnation: str
    consents: tuple[ListedConsent, ...] = ()
    parties: tuple[ListedParty, ...] = ()
    more: bool = False


class Page(msgspec.Struct, frozen=True):
    """A part of the snapshot. as_of_seq: the same on all pages. cursor: of the next page; None: this was the last."""

    as_of_seq: Position
    incarnation: str
    consents: tuple[ListedConsent, ...] = ()
    parties: tuple[ListedParty, ...] = ()
    cursor: str | None = None


class Stream(msgspec.Struct, frozen=True):
    """A stream's configuration, as far as a guard needs it. verification_interval: least time between two requests."""

    stream_id: str
    is_push: bool
    endpoint_url: str
    verification_interval: Seconds = Seconds(60.0)


class Transmitter(Protocol):
    """Every call may raise Unreachable, NotTold and TooManyCalls, and may be repeated."""

    async def event_keys(self) -> bytes:
        """The event key set, as it is published."""

    async def poll(
        self, poll_url: str, ack: Sequence[str], max_events: int, errors: Mapping[str, RefusedEvent]
    ) -> Polled:
        """Acknowledge and refuse, then fetch up to so many, without waiting. Raises NoSuchStream."""

    async def changes(self, after_seq: int, incarnation: str) -> Changes:
        """Changes of own consents after a position of that incarnation, "" = not known. Raises TooOld."""

    async def snapshot(self, cursor: str | None) -> Page:
        """Own consents, all of them, page by page; cursor None: from the beginning. Raises TooOld: begin anew."""

    async def streams(self) -> tuple[Stream, ...]:
        """Own streams."""

    async def create_stream(self, push_url: str | None) -> Stream:
        """A push stream to this address, or (None) a poll stream."""

    async def move_stream(self, stream_id: str, push_url: str) -> Stream:
        """Another address for a push stream. Raises NoSuchStream."""

    async def confirm(self, stream_id: str, challenge: str) -> None:
        """Say back what was sent to the address. Raises NoSuchStream; NotTold where it is not right any more."""

    async def status(self, stream_id: str) -> str:
        """`enabled`, `paused` or `disabled`. Raises NoSuchStream."""

    async def verify(self, stream_id: str, state: str | None) -> None:
        """Have a verification event sent. Raises NoSuchStream."""
