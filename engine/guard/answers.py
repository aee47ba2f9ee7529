"""What came back, read as strictly as the introspection sheet asks (section 4): an answer, or none at all. Pure.

What is no answer is neither a yes nor a no: it is asked again, it is an alarm, and it never counts towards an outage,
because whoever sits on the line could otherwise force the fallback. `cnf` is compared in constant time.
"""

import contextlib
import enum
import hmac
from typing import Final

import msgspec
import pybase64

from engine.clock import UnixTime
from engine.consent.reading import InvalidText, strict_json
from engine.consent.records import Thumbprint
from engine.decision.answers import ActiveAnswer
from engine.events.sets import Version
from engine.tokens import jws
from engine.tokens.claims import Instant
from engine.tokens.keys import KeyFault, KeySet

MAX_ANSWER: Final = 65_536  # bytes, step 2
AHEAD: Final = 10  # seconds that `iat` and `nbf` may lie ahead (FAPI 2.0 Security Profile 5.3.2.1-13)
OLDEST: Final = 60  # seconds that a live answer may be old, step 8
PLAIN: Final = b"application/json"
SIGNED: Final = b"application/token-introspection+jwt"
TYPE: Final = "token-introspection+jwt"
ALGORITHM: Final = "ES256"  # what an EDP that has signed answers is registered for; never taken from a message

_INACTIVE: Final = b'{"active":false}'
_MAX_HEADER: Final = 8_192  # encoded: an embedded chain of certificates is ignored, not refused


class Doubt(enum.StrEnum):
    """Why what came is no answer; in the order of the steps, the first that fails."""

    MEDIA_TYPE = "media_type"  # 1: JSON where signed answers are registered, or the other way round
    SHAPE = "shape"  # 2: too large, not three parts, not JSON of one meaning
    ALGORITHM = "algorithm"  # 3
    TYPE = "type"  # 4: another kind of JWT, or `crit`
    KEY = "key"  # 5: no key of the issuer's; see `read_signed`
    SIGNATURE = "signature"  # 6
    ISSUER = "issuer"  # 7
    AUDIENCE = "audience"  # 7
    TIME = "time"  # 8
    QUESTION = "question"  # 9: the answer to another one
    CONTENT = "content"  # 10: `active` is no boolean, or a yes lacks what every yes has


class Confirmation(msgspec.Struct, frozen=True):
    """`cnf` as it came; any value, for a bad one is a refusal and not a broken answer."""

    x5t: object = msgspec.field(default=None, name="x5t#S256")
    jkt: object = None


class ActiveMembers(msgspec.Struct, frozen=True):
    """A yes (RFC 7662 section 2.2 and ours). Entries are left as they were written.

    Numbers are bounded: one that the store cannot hold would keep everything after it from being written.
    """

    active: bool
    client_id: str
    iat: Instant
    exp: Instant
    cnf: Confirmation
    authorization_details: tuple[msgspec.Raw, ...]
    ccs_consent_version: Version
    ccs_freshness: str
    ccs_as_of: Instant
    ccs_last_known_until: Instant
    iss: str | None = None
    aud: str | tuple[str, ...] | None = None
    nbf: Instant | None = None


class Active(msgspec.Struct, frozen=True):
    """A yes to this token at this EDP. raw: as it came, signed where it was signed. answered_at: `iat`, or now."""

    members: ActiveMembers
    raw: bytes
    answered_at: UnixTime

    @property
    def is_current(self) -> bool:
        """Whether the node knew all that was true two seconds before."""
        return self.members.ccs_freshness == "current"


class Inactive(msgspec.Struct, frozen=True):
    """A no. code: which part of the share is not consented, where the service tells."""

    answered_at: UnixTime
    code: str | None = None


class Unfit(msgspec.Struct, frozen=True):
    """A yes that is none here and now (step 11): over, not begun, or meant for another. Nothing follows from it."""


class NoAnswer(msgspec.Struct, frozen=True):
    """Neither yes nor no."""

    doubt: Doubt


Outcome = Active | Inactive | Unfit | NoAnswer


class Asked(msgspec.Struct, frozen=True):
    """What an answer is held against. digest: SHA-256 of the token that was sent."""

    issuer: str
    client_id: str
    digest: bytes


class _Introspection(msgspec.Struct, frozen=True):
    active: bool


class _Decision(msgspec.Struct, frozen=True):
    code: str


class _Envelope(msgspec.Struct, frozen=True, omit_defaults=True):
    iss: str
    aud: str | tuple[str, ...]
    iat: Instant
    ath: str
    token_introspection: msgspec.Raw
    ccs_decision: _Decision | None = None


_decode_active = msgspec.json.Decoder(ActiveMembers).decode
_decode_ours = msgspec.json.Decoder(ActiveAnswer).decode
_encode = msgspec.json.Encoder().encode
_decode_bare = msgspec.json.Decoder(_Introspection).decode
_decode_envelope = msgspec.json.Decoder(_Envelope).decode


def read_plain(media_type: bytes, body: bytes, asked: Asked, now: UnixTime) -> Outcome:
    """A 200 where plain answers are registered. now: whole seconds."""
    if media_type != PLAIN:
        return NoAnswer(Doubt.MEDIA_TYPE)
    if body == _INACTIVE:
        return Inactive(now)
    if len(body) > MAX_ANSWER or not _has_one_meaning(body):
        return NoAnswer(Doubt.SHAPE)
    return _read_members(body, body, asked, now, now)


def read_signed(media_type: bytes, body: bytes, asked: Asked, keys: KeySet, now: UnixTime) -> Outcome:  # noqa: PLR0911 - each step ends it
    """A 200 where signed answers are registered: the eleven steps of the sheet, in their order.

    After `Doubt.KEY` the caller may fetch the issuer's keys anew, at most once a minute, and read it again.
    """
    if media_type != SIGNED:
        return NoAnswer(Doubt.MEDIA_TYPE)
    parts = body.split(b".", 3) if len(body) <= MAX_ANSWER else []
    if len(parts) != 3 or not all(parts) or len(parts[0]) > _MAX_HEADER:
        return NoAnswer(Doubt.SHAPE)
    payload, signature = jws.decode_part(parts[1]), jws.decode_part(parts[2])
    if payload is None or signature is None or not _is_whole(payload):
        return NoAnswer(Doubt.SHAPE)
    key = keys.for_header(parts[0])
    if key is None:
        header = _read_header(parts[0])
        if isinstance(header, Doubt):
            return NoAnswer(header)
        found = keys.find(header)
        if isinstance(found, KeyFault):
            return NoAnswer(Doubt.KEY)
        key = found
    if not key.verifies(signature, body[: len(parts[0]) + 1 + len(parts[1])]):
        return NoAnswer(Doubt.SIGNATURE)
    keys.remember(parts[0], key)
    return _read_envelope(payload, body, asked, now)


def is_bound_to(cnf: Confirmation, thumbprint: Thumbprint, jkt: str | None) -> bool:
    """Whether the token is bound to what the ATP showed the EDP (section 5): to nothing else, and to something.

    A token that is bound to a key by DPoP needs that key's thumbprint, of a proof that the EDP has checked itself.
    """
    if cnf.x5t is None and cnf.jkt is None:
        return False
    shown = pybase64.b64encode_as_string(thumbprint, b"-_").rstrip("=")
    is_right = cnf.x5t is None or _same(cnf.x5t, shown)
    return is_right and (cnf.jkt is None or (jkt is not None and _same(cnf.jkt, jkt)))


def thumbprint_of(cnf: Confirmation) -> Thumbprint | None:
    """The certificate that a token is bound to; None: to none, or to a DPoP key as well."""
    if not isinstance(cnf.x5t, str) or cnf.jkt is not None:
        return None
    raw = jws.decode_part(cnf.x5t.encode())
    return Thumbprint(raw) if raw is not None and len(raw) == 32 else None


def _same(bound: object, shown: str) -> bool:
    return isinstance(bound, str) and bound.isascii() and hmac.compare_digest(bound, shown)


def _read_header(part: bytes) -> jws.Header | Doubt:
    """Steps 2 to 5 as far as the header goes. Members that bring or point to a key are ignored."""
    raw = jws.decode_part(part)
    members = None if raw is None else jws.strict_object(raw)
    if members is None:
        return Doubt.SHAPE
    if members.get("alg") != ALGORITHM:
        return Doubt.ALGORITHM
    typ, kid = members.get("typ"), members.get("kid")
    if not isinstance(typ, str) or typ.lower().removeprefix("application/") != TYPE or "crit" in members:
        return Doubt.TYPE
    return jws.Header(ALGORITHM, kid) if isinstance(kid, str) else Doubt.KEY


def _read_envelope(payload: bytes, raw: bytes, asked: Asked, now: UnixTime) -> Outcome:
    """Steps 7 to 11."""
    try:
        envelope = _decode_envelope(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return NoAnswer(Doubt.CONTENT)
    if envelope.iss != asked.issuer:
        return NoAnswer(Doubt.ISSUER)
    if not _names(envelope.aud, asked.client_id):
        return NoAnswer(Doubt.AUDIENCE)
    if not now - OLDEST <= envelope.iat <= now + AHEAD:
        return NoAnswer(Doubt.TIME)
    if not hmac.compare_digest(envelope.ath.encode(), jws.encode_part(asked.digest)):
        return NoAnswer(Doubt.QUESTION)
    code = None if envelope.ccs_decision is None else envelope.ccs_decision.code
    return _read_members(bytes(envelope.token_introspection), raw, asked, UnixTime(envelope.iat), now, code)


def _read_members(
    body: bytes, raw: bytes, asked: Asked, answered_at: UnixTime, now: UnixTime, code: str | None = None
) -> Outcome:
    """Steps 10 and 11."""
    try:
        if body == _INACTIVE or not _decode_bare(body).active:
            return Inactive(answered_at, code)
        members = _decode_active(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return NoAnswer(Doubt.CONTENT)
    return Active(members, raw, answered_at) if _is_fit(members, asked, now) else Unfit()


def _is_fit(members: ActiveMembers, asked: Asked, now: UnixTime) -> bool:
    return (
        members.exp > now
        and max(members.iat, members.nbf or 0) <= now + AHEAD
        and members.iss in (None, asked.issuer)
        and (members.aud is None or _names(members.aud, asked.client_id))
    )


def _names(audience: str | tuple[str, ...], client_id: str) -> bool:
    return audience == client_id if isinstance(audience, str) else client_id in audience


def _is_whole(payload: bytes) -> bool:
    """The same of a signed answer's payload, which is a plain one with an envelope around it."""
    with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        envelope = _decode_envelope(payload)
        if _encode(envelope) == payload and envelope.ccs_decision is None:
            return _has_one_meaning(bytes(envelope.token_introspection))
    return _has_one_meaning(payload)


def _has_one_meaning(body: bytes) -> bool:
    """Whether this is a JSON object in which no member is named twice, at any depth.

    Our service writes what our encoder writes, and that repeats nothing: a fifteenth of the time for most answers.
    """
    with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        if _encode(_decode_ours(body)) == body:
            return True
    try:
        return isinstance(strict_json(body, max_bytes=MAX_ANSWER), dict)
    except InvalidText:
        return False
