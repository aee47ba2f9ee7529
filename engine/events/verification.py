"""What a receiver checks of a Security Event Token before it takes it, in this order, stopping at the first failure.

Size; three parts, canonical base64url, JSON with one meaning; `typ`; `alg`; `kid`; signature; `iss`; `aud`; no `sub`
and no `exp`; `iat`; exactly one event; `sub_id`; the payload's types. Members that are not known are ignored, an event
of an unknown type is taken (it counts in `ccs_seq`). How old an event is does not matter: it may have been sent again
for days, and repeats are known by `jti`.
"""

import enum
import math
import re
from collections.abc import Callable
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta

from engine.clock import UnixTime
from engine.consent.reading import InvalidText, strict_json
from engine.consent.records import ClientId, ConsentId, consent_key
from engine.consent.states import State
from engine.errors import Fault, Kind
from engine.events.facts import Change
from engine.events.sets import (
    CONSENT_TYPE,
    PARTY_RESTORED,
    PARTY_SUSPENDED,
    STREAM_UPDATED,
    VERIFICATION,
    CheckpointMember,
    ConsentPayload,
    PartyPayload,
    Payload,
    Position,
    StreamPayload,
    SubjectId,
    VerificationPayload,
    Version,
    Word,
    wire_state,
)
from engine.events.signing import EVENT_TYPE
from engine.tokens import jws
from engine.tokens.answer_keys import ALGORITHM
from engine.tokens.claims import Identifier, Instant
from engine.tokens.keys import KeySet, VerificationKey

MAX_EVENT_BYTES: Final = 65_536
CLOCK_AHEAD: Final = 60  # seconds that the transmitter's clock may be before ours
_MAX_DEPTH: Final = 16  # ours have 6; members that we do not know may be deeper

_HALF_CHARACTER: Final = re.compile("[\ud800-\udfff]")
_CHANGE_OF: Final = {uri: change for change, uri in CONSENT_TYPE.items()}
_STATES: Final[dict[Change, frozenset[State]]] = {
    Change.GRANTED: frozenset({State.ACTIVE}),
    Change.RENEWED: frozenset({State.ACTIVE}),
    Change.AMENDED: frozenset({State.ACTIVE}),
    Change.REVOKED: frozenset({State.REVOKED, State.SUPERSEDED}),
    Change.DISPUTED: frozenset({State.TERMINATED_BY_DISPUTE}),
    Change.EXPIRED: frozenset({State.EXPIRED}),
    Change.CONSUMED: frozenset({State.CONSUMED}),
}
T = TypeVar("T")


class ErrorCode(enum.StrEnum):
    """`err` of RFC 8935 section 2.4, and `invalid_state` of SSF 1.0 section 8.1.4.1."""

    INVALID_REQUEST = "invalid_request"
    INVALID_KEY = "invalid_key"
    INVALID_ISSUER = "invalid_issuer"
    INVALID_AUDIENCE = "invalid_audience"
    AUTHENTICATION_FAILED = "authentication_failed"
    ACCESS_DENIED = "access_denied"
    INVALID_STATE = "invalid_state"


class RefusedEvent(Fault):
    """The SET is not taken. text: `description` of RFC 8935. is_security: somebody must look at it."""

    kind = Kind.INVALID

    def __init__(self, err: ErrorCode, text: str, *, is_security: bool = False) -> None:
        super().__init__(text)
        self.err = err
        self.is_security = is_security


class UnknownKey(RefusedEvent):
    """No event key has this `kid`: fetch the key set again, then look once more."""

    def __init__(self, kid: str) -> None:
        super().__init__(ErrorCode.INVALID_KEY, "no event key has this kid")
        self.kid = kid


class Expected(msgspec.Struct, frozen=True):
    """Whose events we take, and as whom. states: words that we asked to have echoed, kept for as long as they may."""

    issuer: str
    audience: ClientId
    states: frozenset[str] = frozenset()


class VerifiedEvent(msgspec.Struct, frozen=True):
    """An event of the transmitter for us. Nothing is said yet of whether it came before.

    payload None: of a type that we do not know. seq 0: the event has no place in the feed.
    """

    jti: str
    type: str
    subject: str
    issued_at: UnixTime
    payload: Payload | None
    change: Change | None = None  # of a consent
    seq: int = 0
    prev: int = 0
    txn: str | None = None
    last_seq: int | None = None  # a heartbeat: position of our newest event, 0 if there is none
    checkpoint: CheckpointMember | None = None
    challenge: str | None = None  # to be confirmed over mutual TLS

    @property
    def suspends(self) -> bool:
        """Whether an ATP is stopped as a whole."""
        return self.type == PARTY_SUSPENDED


class _Claims(msgspec.Struct, frozen=True):
    """What is looked at once issuer, audience and forbidden members are done. Unknown members are ignored."""

    iat: Instant
    jti: Identifier
    sub_id: SubjectId
    events: Annotated[dict[str, dict[str, Any]], Meta(min_length=1, max_length=1)]
    txn: Identifier | None = None
    ccs_seq: Version | None = None
    ccs_prev: Position | None = None
    ccs_last_seq: Position | None = None
    ccs_checkpoint: CheckpointMember | None = None
    ccs_challenge: Word | None = None


def verify_event(raw: bytes, keys: KeySet, expected: Expected, now: UnixTime) -> VerifiedEvent:
    """Read one compact SET to the end. keys: event keys only. Raises RefusedEvent (UnknownKey is one)."""
    compact, header, members = _parse(raw)
    _check_signature(compact, _find_key(header, keys))
    _check_parties(members, expected)
    claims = _convert(members, _Claims, "a claim is missing or has another form than is agreed")
    if claims.iat > now + CLOCK_AHEAD:
        raise _bad_request("the event is of a time to come")
    return _read_event(claims, expected)


def read_kept_event(raw: bytes) -> VerifiedEvent:
    """An event that `verify_event` has taken and we have kept. Nothing is verified again: its key may be gone.

    Raises RefusedEvent for bytes that it never took.
    """
    _, _, members = _parse(raw)
    return _read_event(_convert(members, _Claims, "these are no claims of an event"), None)


def _parse(raw: bytes) -> tuple[jws.Compact, dict[str, object], dict[str, object]]:
    compact = jws.split(raw, MAX_EVENT_BYTES)
    if compact is None:
        raise _bad_request("this is no compact JWS of at most 64 KiB")
    header, members = _object(compact.header), _object(compact.payload)
    return compact, header, members


def _object(part: bytes) -> dict[str, object]:
    text = jws.decode_part(part)
    try:
        value = None if text is None else strict_json(text, max_bytes=MAX_EVENT_BYTES, max_depth=_MAX_DEPTH)
    except InvalidText as fault:
        raise _bad_request("header or claims: " + fault.text) from fault
    if not isinstance(value, dict) or not _can_be_kept(value):
        raise _bad_request("header and claims must be JSON objects in base64url without padding")
    return value


def _can_be_kept(value: object) -> bool:
    """Whether it can be written down again as it is: JSON also spells half characters and endless numbers."""
    match value:
        case str():
            return not _HALF_CHARACTER.search(value)
        case int():
            return abs(value) < 2**63
        case float():
            return math.isfinite(value)
        case list():
            return all(map(_can_be_kept, value))
        case dict():
            return all(map(_can_be_kept, (*value.keys(), *value.values())))
        case _:
            return True


def _find_key(header: dict[str, object], keys: KeySet) -> VerificationKey:
    typ, alg, kid = header.get("typ"), header.get("alg"), header.get("kid")
    if not isinstance(typ, str) or typ.lower() != EVENT_TYPE:
        raise _bad_request("typ must be secevent+jwt")
    if alg != ALGORITHM:
        raise _forged("alg must be ES256")
    if not isinstance(kid, str) or len(header) != 3:  # nothing in a header may bring a key, or change what it means
        raise _bad_request("a header holds typ, alg and kid, and nothing else")
    key = keys.find(jws.Header(ALGORITHM, kid))
    if not isinstance(key, VerificationKey):
        raise UnknownKey(kid)
    return key


def _check_signature(compact: jws.Compact, key: VerificationKey) -> None:
    if not key.verifies(compact.signature, compact.signing_input):
        raise _forged("the signature did not verify")


def _check_parties(members: dict[str, object], expected: Expected) -> None:
    if members.get("iss") != expected.issuer:
        raise RefusedEvent(ErrorCode.INVALID_ISSUER, "this issuer's events are not taken here")
    if members.get("aud") not in (expected.audience, [expected.audience]):  # RFC 7519 section 4.1.3: one, or a list
        raise RefusedEvent(ErrorCode.INVALID_AUDIENCE, "the event is another receiver's", is_security=True)
    if "sub" in members or "exp" in members:
        raise _bad_request("an event has neither sub nor exp")


def _read_event(claims: _Claims, expected: Expected | None) -> VerifiedEvent:
    """expected None: whether a state was asked for does not matter any more."""
    ((uri, body),) = claims.events.items()
    read = _READERS.get(uri)
    payload = None if read is None else read(body)
    change = _CHANGE_OF.get(uri)
    _check_place(claims, payload)
    _check_meaning(claims.sub_id.id, change, payload, expected)
    framework = isinstance(payload, VerificationPayload | StreamPayload)  # such have no place in the feed
    return VerifiedEvent(
        jti=claims.jti,
        type=uri,
        subject=claims.sub_id.id,
        issued_at=UnixTime(claims.iat),
        payload=payload,
        change=change,
        seq=0 if framework else claims.ccs_seq or 0,
        prev=0 if framework else claims.ccs_prev or 0,
        txn=claims.txn,
        last_seq=claims.ccs_last_seq if uri == VERIFICATION else None,
        checkpoint=claims.ccs_checkpoint if uri == VERIFICATION else None,
        challenge=claims.ccs_challenge if uri == VERIFICATION else None,
    )


def _check_place(claims: _Claims, payload: Payload | None) -> None:
    """An event of ours has a place; one that we do not know has both numbers or none."""
    seq, prev = claims.ccs_seq, claims.ccs_prev
    if isinstance(payload, ConsentPayload | PartyPayload) and seq is None:
        raise _bad_request("ccs_seq is missing")
    if (seq is None) != (prev is None) or (seq is not None and prev is not None and prev >= seq):
        raise _bad_request("ccs_prev must be a position below ccs_seq")


def _check_meaning(subject: str, change: Change | None, payload: Payload | None, expected: Expected | None) -> None:
    match payload:
        case ConsentPayload() if change is not None:
            _check_consent(subject, change, payload)
        case PartyPayload() if payload.client_id != subject:
            raise _bad_request("sub_id must be the ATP")
        case VerificationPayload() if expected is not None and payload.state not in {None, *expected.states}:
            raise RefusedEvent(ErrorCode.INVALID_STATE, "this state was not asked for")
        case _:
            pass


def _check_consent(subject: str, change: Change, payload: ConsentPayload) -> None:
    try:
        consent_key(ConsentId(subject))
    except ValueError as error:
        raise _bad_request("sub_id must be a consent's UUIDv4 in small letters") from error
    if payload.state not in {wire_state(state) for state in _STATES[change]}:
        raise _bad_request("this type of event does not lead to this state")


def _reader(kind: type[Payload]) -> Callable[[dict[str, Any]], Payload]:
    return lambda body: _convert(body, kind, "a member of the event is missing or has another form than is agreed")


_READERS: Final[dict[str, Callable[[dict[str, Any]], Payload]]] = {
    **dict.fromkeys(_CHANGE_OF, _reader(ConsentPayload)),
    PARTY_SUSPENDED: _reader(PartyPayload),
    PARTY_RESTORED: _reader(PartyPayload),
    VERIFICATION: _reader(VerificationPayload),
    STREAM_UPDATED: _reader(StreamPayload),
}


def _convert(value: dict[str, Any], kind: type[T], text: str) -> T:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise _bad_request(text + _place(str(error))) from error


def _place(message: str) -> str:
    """Where msgspec found the fault, if it says so without quoting anything that was sent."""
    _, found, path = message.rpartition(" - at `$")
    return f" (at {path.strip('`.')})" if found and "[...]" not in path and len(path) < 80 else ""


def _bad_request(text: str) -> RefusedEvent:
    return RefusedEvent(ErrorCode.INVALID_REQUEST, text)


def _forged(text: str) -> RefusedEvent:
    return RefusedEvent(ErrorCode.AUTHENTICATION_FAILED, text, is_security=True)
