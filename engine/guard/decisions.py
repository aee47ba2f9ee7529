"""What came back for a batch (AuthZEN Authorization API 1.0), plain or signed, read as strictly as an answer. Pure.

An answer of another shape or length than the question is none. A yes whose context names something that must be
understood, and is not, is a no.
"""

import contextlib
import hashlib
import hmac
from collections.abc import Collection
from typing import Final

import msgspec

from engine.clock import UnixTime
from engine.consent.reading import InvalidText, strict_json
from engine.events.sets import Version
from engine.guard.answers import AHEAD, ALGORITHM, OLDEST, PLAIN, Doubt, NoAnswer
from engine.tokens import jws
from engine.tokens.claims import Instant
from engine.tokens.keys import KeyFault, KeySet

MAX_DECISIONS: Final = 1_048_576  # bytes: 500 decisions take 100,000
SIGNED: Final = b"application/ccs-decision+jwt"
TYPE: Final = "ccs-decision+jwt"
CURRENT: Final = "current"
NOT_ACTIVE: Final = "token_not_active"
MALFORMED: Final = "request_malformed"

_UNDERSTOOD: Final = frozenset(
    {"consent_id", "code", "ccs_consent_version", "ccs_last_known_until", "allowed", "error", "must_understand"}
)


class ItemError(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Why an item could not be judged; `status` as HTTP has it."""

    status: int
    message: str = ""


class ItemContext(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What stands beside a decision."""

    consent_id: str | None = None
    code: str | None = None
    ccs_consent_version: Version | None = None
    ccs_last_known_until: Instant | None = None
    allowed: dict[str, str] | None = None
    error: ItemError | None = None
    must_understand: tuple[str, ...] = ()


class Decision(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One item's."""

    decision: bool
    context: ItemContext = ItemContext()

    @property
    def permits(self) -> bool:
        """Whether this is a yes that is wholly understood."""
        return self.decision and self.context.error is None and _UNDERSTOOD.issuperset(self.context.must_understand)


class Evaluated(msgspec.Struct, frozen=True, omit_defaults=True):
    """What holds for all items of a batch: judged at one moment."""

    decision_id: str
    evaluated_at: Instant
    ccs_freshness: str
    ccs_as_of: Instant

    @property
    def is_current(self) -> bool:
        """Whether the node knew all that was true two seconds before."""
        return self.ccs_freshness == CURRENT


class Decisions(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer to a batch, in the order of its items."""

    evaluations: list[Decision]
    context: Evaluated


class Question(msgspec.Struct, frozen=True):
    """What signed decisions are held against. issuers: decision points that may have judged. body: as it was sent."""

    issuers: Collection[str]
    audience: str
    body: bytes
    count: int


class _Envelope(msgspec.Struct, frozen=True):
    iss: str
    aud: str
    iat: Instant
    req: str
    result: msgspec.Raw


_decode = msgspec.json.Decoder(Decisions).decode
_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_encode = msgspec.json.Encoder().encode


def read_plain(media_type: bytes, body: bytes, count: int, now: UnixTime) -> Decisions | NoAnswer:
    """A 200 where plain answers are registered. count: items asked about. now: whole seconds."""
    if media_type != PLAIN:
        return NoAnswer(Doubt.MEDIA_TYPE)
    return _read(body, count, now)


def read_signed(  # noqa: PLR0911 - each step ends it
    media_type: bytes, body: bytes, question: Question, keys: KeySet, now: UnixTime
) -> Decisions | NoAnswer:
    """A 200 where signed answers are registered."""
    if media_type != SIGNED:
        return NoAnswer(Doubt.MEDIA_TYPE)
    parts = body.split(b".", 3) if len(body) <= 2 * MAX_DECISIONS else []
    if len(parts) != 3 or not all(parts):
        return NoAnswer(Doubt.SHAPE)
    payload, signature, header = jws.decode_part(parts[1]), jws.decode_part(parts[2]), jws.decode_part(parts[0])
    members = None if header is None else jws.strict_object(header)
    if payload is None or signature is None or members is None or not _has_one_meaning(payload):
        return NoAnswer(Doubt.SHAPE)
    if members.get("alg") != ALGORITHM:
        return NoAnswer(Doubt.ALGORITHM)
    typ, kid = members.get("typ"), members.get("kid")
    if not isinstance(typ, str) or typ.lower().removeprefix("application/") != TYPE or "crit" in members:
        return NoAnswer(Doubt.TYPE)
    key = keys.find(jws.Header(ALGORITHM, kid)) if isinstance(kid, str) else KeyFault(wrong_algorithm=False)
    if isinstance(key, KeyFault):
        return NoAnswer(Doubt.KEY)
    if not key.verifies(signature, body[: len(parts[0]) + 1 + len(parts[1])]):
        return NoAnswer(Doubt.SIGNATURE)
    return _open(payload, question, now)


def _open(payload: bytes, question: Question, now: UnixTime) -> Decisions | NoAnswer:
    try:
        envelope = _decode_envelope(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return NoAnswer(Doubt.CONTENT)
    if envelope.iss not in question.issuers:
        return NoAnswer(Doubt.ISSUER)
    if envelope.aud != question.audience:
        return NoAnswer(Doubt.AUDIENCE)
    if not now - OLDEST <= envelope.iat <= now + AHEAD:
        return NoAnswer(Doubt.TIME)
    if not hmac.compare_digest(envelope.req.encode(), jws.encode_part(hashlib.sha256(question.body).digest())):
        return NoAnswer(Doubt.QUESTION)
    return _read(bytes(envelope.result), question.count, now)


def _read(body: bytes, count: int, now: UnixTime) -> Decisions | NoAnswer:
    if len(body) > MAX_DECISIONS:
        return NoAnswer(Doubt.SHAPE)
    try:
        found = _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return NoAnswer(Doubt.CONTENT)
    # Our service writes what our encoder writes, and that names no member twice.
    if _encode(found) != body and not _has_one_meaning(body):
        return NoAnswer(Doubt.SHAPE)
    if len(found.evaluations) != count:
        return NoAnswer(Doubt.CONTENT)
    if not now - OLDEST <= found.context.evaluated_at <= now + AHEAD:
        return NoAnswer(Doubt.TIME)
    return found


def _has_one_meaning(body: bytes) -> bool:
    with contextlib.suppress(InvalidText):
        return isinstance(strict_json(body, max_bytes=2 * MAX_DECISIONS), dict)
    return False
