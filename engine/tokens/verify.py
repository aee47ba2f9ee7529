"""Is this a token that our issuer signed, for somebody, and not yet over?

Cheap refusals come first: size, shape, header, key, issuer and times are judged before any signature is checked,
so that garbage never reaches the costly step. Nothing here says whether the token is *good*: consent, client and
certificate are looked at on every request, in `engine.decision`. Which refusal it was is for our security events
only; callers see one and the same `{"active": false}` (RFC 7662 section 2.2).
"""

import enum
import hashlib
import sys
from typing import Final

import msgspec

from engine.clock import UnixTime
from engine.consent.records import ClientId
from engine.tokens import jws
from engine.tokens.claims import AccessToken, Grant, PresentedClaims, VerifiedToken
from engine.tokens.grants import KnownDetails, parse_grants
from engine.tokens.keys import KeyFault, KeySet, VerificationKey

CLOCK_SKEW: Final = (
    10  # seconds that `nbf` and `iat` may lie ahead (FAPI 2.0 Security Profile 5.3.2.1-13); `exp` has none
)
REVOCATION_KEY_BYTES: Final = 16

_decode_claims = msgspec.json.Decoder(AccessToken).decode
_decode_presented = msgspec.json.Decoder(PresentedClaims).decode
_encode_claims = msgspec.json.Encoder().encode


class TokenRefusal(enum.Enum):
    """Why a text is no token of ours that could be good. Never told to callers."""

    SHAPE = "shape"  # over 8 KiB, not three parts, not canonical base64url, header no JSON object
    HEADER = "header"  # `crit`, `jku`, `jwk`, `x5u`, `x5c` or any member but the three of ours
    TYPE = "type"  # another kind of JWT
    ALGORITHM = "algorithm"  # `none`, a MAC, one we do not use, or not the one of the key named
    UNKNOWN_KEY = "unknown_key"
    CLAIMS = "claims"  # not the claims of an access token of ours
    FOREIGN_ISSUER = "foreign_issuer"
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    SIGNATURE = "signature"

    @property
    def is_attack(self) -> bool:
        """Whether an honest party has no way to come by such a token: a security event (introspection, rows 24, 27)."""
        return self in _ATTACKS


_ATTACKS: Final = frozenset({TokenRefusal.ALGORITHM, TokenRefusal.HEADER, TokenRefusal.SIGNATURE})
_HEADER_FAULTS: Final = {
    jws.HeaderFault.MALFORMED: TokenRefusal.SHAPE,
    jws.HeaderFault.MEMBERS: TokenRefusal.HEADER,
    jws.HeaderFault.TYPE: TokenRefusal.TYPE,
    jws.HeaderFault.ALGORITHM: TokenRefusal.ALGORITHM,
}


def token_digest(token: bytes) -> bytes:
    """SHA-256 over the token's ASCII: its name in the memo, in Redis and in logs (first 8 bytes)."""
    return hashlib.sha256(token).digest()


def revocation_key(jti: str) -> bytes:
    """The key of a token's revocation record: first 16 bytes of SHA-256 over its `jti`."""
    return hashlib.sha256(jti.encode()).digest()[:REVOCATION_KEY_BYTES]


def verify(  # noqa: PLR0911 - each refusal ends it, in the order of what they cost
    token: bytes,
    keys: KeySet,
    meter_key: bytes,
    now: UnixTime,
    digest: bytes | None = None,
    known: KnownDetails | None = None,
) -> VerifiedToken | TokenRefusal:
    """Judge a presented token (RFC 9068 section 4, RFC 8725). now: whole seconds. Raises nothing.

    meter_key: 32 bytes, for the digests of the meter points it names. digest: of the token, if it is at hand.
    known: details read before, with the same meter key.
    """
    parts = jws.split(token)
    if parts is None:
        return TokenRefusal.SHAPE
    key = keys.for_header(parts.header) or _key_of(parts.header, keys)
    if isinstance(key, TokenRefusal):
        return key
    raw = jws.decode_part(parts.payload)
    claims = None if raw is None else _claims(raw)
    if raw is None or claims is None:
        return TokenRefusal.CLAIMS
    refusal = _before_signature(claims, keys.issuer, now)
    if refusal is not None:
        return refusal
    if not key.verifies(parts.signature, parts.signing_input):
        return TokenRefusal.SIGNATURE
    keys.remember(parts.header, key)
    grants = _grants(raw, claims, meter_key, known)
    if grants is None:
        return TokenRefusal.CLAIMS
    digest, ends = digest or token_digest(token), revocation_key(claims.jti)
    return VerifiedToken(_sharing_words(claims, grants), key.kid, digest, ends, grants, key.thumbprint)


def _key_of(part: bytes, keys: KeySet) -> VerificationKey | TokenRefusal:
    header = jws.read_header(part)
    if isinstance(header, jws.HeaderFault):
        return _HEADER_FAULTS[header]
    found = keys.find(header)
    if isinstance(found, KeyFault):
        return TokenRefusal.ALGORITHM if found.wrong_algorithm else TokenRefusal.UNKNOWN_KEY
    return found


def _claims(raw: bytes) -> PresentedClaims | None:
    try:
        return _decode_presented(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _before_signature(claims: PresentedClaims, issuer: str, now: UnixTime) -> TokenRefusal | None:
    if claims.iss != issuer:
        return TokenRefusal.FOREIGN_ISSUER
    if claims.exp <= now:
        return TokenRefusal.EXPIRED
    if max(claims.iat, claims.nbf or 0) > now + CLOCK_SKEW:
        return TokenRefusal.NOT_YET_VALID
    return None


def _grants(
    raw: bytes, claims: PresentedClaims, meter_key: bytes, known: KnownDetails | None
) -> tuple[Grant, ...] | None:
    """What a signed token stands for; None: something is wrong that only our own issuer could still get wrong."""
    if claims.exp <= claims.iat or not _is_bound(claims):
        return None
    written = bytes(claims.authorization_details)
    grants = None if known is None else known.grants(written)
    if grants is not None:
        return grants if _has_one_meaning(raw, claims) else None
    grants = _read_grants(raw, meter_key)
    if known is not None and grants is not None:
        known.keep(written, grants)
    return grants


def _read_grants(raw: bytes, meter_key: bytes) -> tuple[Grant, ...] | None:
    try:
        claims = _decode_claims(raw)
        return parse_grants(claims.authorization_details, meter_key) if _has_one_meaning(raw, claims) else None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError):
        return None


def _sharing_words(claims: PresentedClaims, grants: tuple[Grant, ...]) -> AccessToken:
    """The same claims, with words that most tokens repeat kept once: it saves the memo a fifth of its memory."""
    return AccessToken(
        sys.intern(claims.iss),
        ClientId(sys.intern(claims.aud)),
        ClientId(sys.intern(claims.client_id)),
        claims.sub,
        claims.jti,
        claims.iat,
        claims.exp,
        claims.cnf,
        tuple([grant.detail for grant in grants]),
        claims.nbf,
        claims.grant_id,
    )


def _is_bound(claims: PresentedClaims) -> bool:
    """Tokens are sender-constrained (FAPI 2.0 Security Profile 5.3.2.1-4); unknown members of `cnf` do not count."""
    return claims.cnf.x5t_s256 is not None or claims.cnf.jkt is not None


def _has_one_meaning(raw: bytes, claims: AccessToken | PresentedClaims) -> bool:
    """Whether no member is named twice. Our issuer writes what our encoder writes, and that repeats nothing."""
    return _encode_claims(claims) == raw or jws.strict_object(raw) is not None
