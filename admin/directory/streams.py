"""What may be done to a receiver's streams (SSF 1.0 section 8.1): each command takes the stream as it stands and
returns it as it is afterwards. Pure: time and drawn words are passed in.

A receiver has at most one push and one poll stream, both fed from one outbox. It keeps at least one that works: the
last one can be neither disabled nor deleted nor moved by its receiver, only paused, and that for a quarter of an hour.
"""

import hashlib
import hmac
import re
import uuid
from collections.abc import Iterable
from typing import Final

import msgspec

from admin.directory.push_urls import push_url_problem
from engine.clock import Seconds, UnixTime
from engine.consent.reading import InvalidFields, Problem
from engine.consent.records import ClientId, Role
from engine.errors import Fault, Kind
from engine.events.sets import SUPPORTED
from engine.pusher.streams import DeliveryMethod, StreamRecord, StreamStatus

LONGEST_PAUSE: Final = Seconds(900.0)  # revocation-push, section 4: while paused, an EDP has no outage fallback
CHALLENGE_LIFE: Final = Seconds(3_600.0)  # a receiver may be a person who looks for it in a log
CHALLENGE_TRIES: Final = 5
VERIFICATION_INTERVAL: Final = Seconds(60.0)  # `min_verification_interval`: heartbeats come as often
_STREAM_ID: Final = re.compile("[0-9a-f-]{36}")
UNCONFIRMED: Final = "the address is not confirmed yet"
MISSING_TYPES: Final = "must name every event type that is supported, or be left out"


class UnknownStream(Fault):
    """There is no such stream, or it is somebody else's: nobody learns which."""

    kind = Kind.NOT_FOUND


class StreamExists(Fault):
    """A receiver has one stream of each kind."""

    kind = Kind.CONFLICT


class StreamHeld(Fault):
    """An operator has paused it, and ends that."""

    kind = Kind.FORBIDDEN


class MandatoryStream(Fault):
    """It is the last one by which this receiver can hear of a revocation."""

    kind = Kind.FORBIDDEN


class AddressNotConfirmed(Fault):
    """Nothing is sent to an address whose owner has not shown that it is its own."""

    kind = Kind.FORBIDDEN


class NothingToConfirm(Fault):
    """The stream's address is confirmed, or it has none."""

    kind = Kind.CONFLICT


class ChallengeSpent(Fault):
    """Too late, or too many wrong tries: a verification brings a new challenge."""

    kind = Kind.CONFLICT


class TooSoon(Fault):
    """A verification was asked for, or such a stream made, less than `min_verification_interval` ago."""

    kind = Kind.TOO_MANY

    def __init__(self, retry_after: Seconds) -> None:
        super().__init__(f"ask for one verification or stream of a kind in {VERIFICATION_INTERVAL:.0f} seconds")
        self.retry_after = retry_after


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a receiver supplies. endpoint_url: of a push stream. events_requested: empty = whatever is supported."""

    delivery: DeliveryMethod = DeliveryMethod.POLL
    endpoint_url: str = ""
    events_requested: tuple[str, ...] = ()
    description: str = ""


class Before(msgspec.Struct, frozen=True):
    """A receiver's streams of one kind so far. count: deleted ones too. last: the newest of them."""

    count: int = 0
    last: StreamRecord | None = None


def create(
    wanted: Wanted, client_id: ClientId, role: Role, before: Before, challenge: str, now: UnixTime,
    *, private_allowed: bool,
) -> StreamRecord:  # fmt: skip
    """A new stream: poll works at once, push once the challenge that is sent to its address comes back.

    before: of the wanted kind. Raises StreamExists, InvalidFields; TooSoon where one of this kind came or was
    challenged less than a minute ago: who deletes it gets no other challenge sent by that.
    """
    last = before.last
    if last is not None and not last.deleted:
        raise StreamExists("you have a stream of this kind already")
    _check(wanted, private_allowed=private_allowed)
    if last is not None:
        _refuse_too_soon(max(last.created_at, last.challenged_at), now)
    poll = wanted.delivery is DeliveryMethod.POLL
    return StreamRecord(
        stream_id=stream_id_of(client_id, wanted.delivery, before.count),
        client_id=client_id,
        role=role,
        delivery=wanted.delivery,
        status=StreamStatus.ENABLED if poll else StreamStatus.PAUSED,
        endpoint_url=wanted.endpoint_url,
        events_requested=wanted.events_requested,
        description=wanted.description,
        reason="" if poll else UNCONFIRMED,
        challenge="" if poll else challenge,
        created_at=now,
        challenged_at=UnixTime(0) if poll else now,
    )


def stream_id_of(client_id: ClientId, delivery: DeliveryMethod, earlier: int) -> str:
    """The id of a receiver's next stream of a kind; earlier: how many of that kind it has deleted.

    Computed and not drawn, so that two calls that make the same stream at once meet on one subject of the ledger,
    where only the first one is taken; and so that a receiver's streams are found without reading all there ever were.
    Written as a UUIDv4.
    """
    name = f"ccs-stream-v1\n{client_id}\n{int(delivery)}\n{earlier}"
    return str(uuid.UUID(bytes=hashlib.sha256(name.encode()).digest()[:16], version=4))


def is_stream_id(text: str) -> bool:
    """Whether a stream may be named so. Ask before the ledger is asked: a path can hold what no database takes."""
    return _STREAM_ID.fullmatch(text) is not None


def change(
    wanted: Wanted, stream: StreamRecord, owned: Iterable[StreamRecord], challenge: str, now: UnixTime,
    *, private_allowed: bool,
) -> StreamRecord:  # fmt: skip
    """Other receiver's values. Another address has to be confirmed before it is used; until then another stream works.

    Raises InvalidFields, also where the kind of delivery would change: that is another stream; MandatoryStream,
    TooSoon.
    """
    if wanted.delivery is not stream.delivery:
        raise InvalidFields([Problem("delivery.method", "of a stream cannot change: create one of the other kind")])
    _check(wanted, private_allowed=private_allowed)
    after = msgspec.structs.replace(stream, events_requested=wanted.events_requested, description=wanted.description)
    if wanted.endpoint_url == stream.endpoint_url:
        return after
    if _is_counted_on(stream):
        other_that_works(stream, owned)
    return challenged(msgspec.structs.replace(after, endpoint_url=wanted.endpoint_url), challenge, now)


def challenged(stream: StreamRecord, challenge: str, now: UnixTime) -> StreamRecord:
    """The stream with its address to be confirmed, by a new challenge. Raises TooSoon: each is a call to somebody."""
    _refuse_too_soon(stream.challenged_at, now)
    return msgspec.structs.replace(
        stream,
        status=StreamStatus.PAUSED,
        reason=stream.reason if stream.held else UNCONFIRMED,
        paused_until=None,
        challenge=challenge,
        challenged_at=now,
        tries=0,
    )


def confirm(stream: StreamRecord, offered: str, now: UnixTime) -> StreamRecord:
    """The stream after a challenge came back: enabled, or with one try less where it is the wrong one.

    Raises NothingToConfirm, ChallengeSpent.
    """
    if not stream.challenge:
        raise NothingToConfirm("the stream's address needs no confirmation")
    if stream.tries >= CHALLENGE_TRIES or now >= stream.challenged_at + CHALLENGE_LIFE:
        raise ChallengeSpent("the challenge is spent: ask for a verification, and a new one comes")
    if not hmac.compare_digest(stream.challenge.encode(), offered.encode()):
        return msgspec.structs.replace(stream, tries=stream.tries + 1)
    confirmed = msgspec.structs.replace(stream, challenge="", challenged_at=UnixTime(0), tries=0)
    return confirmed if stream.held else _enabled(confirmed)


def set_status(
    stream: StreamRecord, wanted: StreamStatus, reason: str, owned: Iterable[StreamRecord], now: UnixTime
) -> StreamRecord:
    """The receiver's own wish. A pause ends by itself; asked for again it does not last longer.

    Raises StreamHeld, AddressNotConfirmed, MandatoryStream.
    """
    if stream.held:
        raise StreamHeld("an operator has paused this stream")
    if wanted is stream.status:
        return stream
    if wanted is StreamStatus.DISABLED:
        other_that_works(stream, owned)
        return msgspec.structs.replace(stream, status=wanted, reason=reason, paused_until=None)
    if stream.challenge:
        raise AddressNotConfirmed(UNCONFIRMED)
    if wanted is StreamStatus.ENABLED:
        return msgspec.structs.replace(_enabled(stream), reason=reason)
    until = UnixTime(now + int(LONGEST_PAUSE))
    return msgspec.structs.replace(stream, status=wanted, reason=reason, paused_until=until)


def delete(stream: StreamRecord, owned: Iterable[StreamRecord]) -> StreamRecord:
    """Raises StreamHeld, MandatoryStream."""
    if stream.held:
        raise StreamHeld("an operator has paused this stream")
    other_that_works(stream, owned)
    return msgspec.structs.replace(stream, deleted=True, status=StreamStatus.DISABLED, paused_until=None, challenge="")


def other_that_works(stream: StreamRecord, owned: Iterable[StreamRecord]) -> StreamRecord:
    """Another stream by which its receiver hears of ends, now or after a pause of its own. Raises MandatoryStream."""
    for other in owned:
        if _is_counted_on(other) and not other.held and other.stream_id != stream.stream_id:
            return other
    raise MandatoryStream("you have no other stream that works: make one first")


def stops(before: StreamRecord, after: StreamRecord) -> bool:
    """Whether this change of a stream is one that its receiver may make only while its other stream works."""
    disabled = after.status is StreamStatus.DISABLED and (after.deleted or before.status is not after.status)
    return disabled or (_is_counted_on(before) and bool(after.challenge))


def _is_counted_on(stream: StreamRecord) -> bool:
    """Whether its receiver hears of ends by it, now or after a pause, its own or an operator's."""
    return stream.is_usable and stream.status is not StreamStatus.DISABLED


def is_over(stream: StreamRecord, now: UnixTime) -> bool:
    """Whether a receiver's own pause has lasted long enough, or its end is where only a clock can be that was wrong."""
    if stream.deleted or stream.paused_until is None:
        return False
    return not now < stream.paused_until <= now + 2 * LONGEST_PAUSE


def resume(stream: StreamRecord) -> StreamRecord:
    """The end of a receiver's own pause."""
    return _enabled(stream)


def hold(stream: StreamRecord, reason: str) -> StreamRecord:
    """An operator pauses it until an operator ends that. reason: a code, shown to the receiver."""
    return msgspec.structs.replace(stream, status=StreamStatus.PAUSED, held=True, reason=reason, paused_until=None)


def let_go(stream: StreamRecord) -> StreamRecord:
    """An operator enables it; an address that is not confirmed still has to be."""
    free = msgspec.structs.replace(stream, held=False)
    return msgspec.structs.replace(free, reason=UNCONFIRMED) if stream.challenge else _enabled(free)


def _refuse_too_soon(last: UnixTime, now: UnixTime) -> None:
    """Raises TooSoon within the interval after `last`. What lies further ahead than that: the clock was set back."""
    wait = last + VERIFICATION_INTERVAL - now
    if 0 < wait <= 2 * VERIFICATION_INTERVAL:
        raise TooSoon(Seconds(wait))


def _enabled(stream: StreamRecord) -> StreamRecord:
    return msgspec.structs.replace(stream, status=StreamStatus.ENABLED, reason="", paused_until=None)


def _check(wanted: Wanted, *, private_allowed: bool) -> None:
    """Raises InvalidFields.

    A receiver tells from the chain of numbers whether it has heard of every end; a stream without some of the types
    would have holes in it that mean nothing. So a narrower request is refused, and not silently widened.
    """
    problems = []
    if wanted.events_requested and not set(SUPPORTED) <= set(wanted.events_requested):
        problems.append(Problem("events_requested", MISSING_TYPES))
    if wanted.delivery is DeliveryMethod.POLL:
        if wanted.endpoint_url:
            problems.append(Problem("delivery.endpoint_url", "of a poll stream is ours to give"))
    elif text := push_url_problem(wanted.endpoint_url, private_allowed=private_allowed):
        problems.append(Problem("delivery.endpoint_url", text))
    if problems:
        raise InvalidFields(problems)
