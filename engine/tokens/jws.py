"""The compact form of a JWS (RFC 7515 section 7.1), read strictly: one spelling of every byte, nothing ignored.

Reading never raises: whatever is not exactly three parts of canonical base64url with a header of ours is None or
a `HeaderFault`. No header member can bring or point to a key, because none of those members is allowed at all.
"""

import enum
from typing import Final

import msgspec
import pybase64

from engine.consent.reading import InvalidText, strict_json
from engine.tokens.claims import MAX_PRESENTED_BYTES

TOKEN_TYPES: Final = frozenset({"at+jwt", "application/at+jwt"})  # RFC 9068 section 4; case does not matter
ALGORITHMS: Final = frozenset({"PS256", "ES256", "EdDSA"})  # FAPI 2.0 Security Profile section 5.4.1
MAX_HEADER_BYTES: Final = 1024  # as encoded; ours have 120, and an embedded RSA key must fit, to be named as what it is

# The last letter of a part holds bits that must be zero, else several texts would stand for the same bytes.
_LAST_LETTERS: Final = {2: frozenset(b"AQgw"), 3: frozenset(b"AEIMQUYcgkosw048")}
_PADDING: Final = {0: b"", 2: b"==", 3: b"="}


class Compact(msgspec.Struct, frozen=True, gc=False):
    """A token cut at its dots. header and payload are still base64url; signature is raw bytes."""

    header: bytes
    payload: bytes
    signature: bytes
    signing_input: bytes


class Header(msgspec.Struct, frozen=True, gc=False):
    """The whole protected header of a token of ours: `crit`, `jku`, `jwk`, `x5u`, `x5c` and the rest are refused."""

    alg: str
    kid: str


class HeaderFault(enum.Enum):
    """Why a header is not that of an access token of ours."""

    MALFORMED = "malformed"  # not canonical base64url of a flat JSON object of strings
    MEMBERS = "members"  # a member too many or too few
    TYPE = "type"  # another kind of JWT: ID token, introspection answer, security event
    ALGORITHM = "algorithm"  # `none`, a MAC, or whatever else we do not sign with


def split(token: bytes, max_bytes: int = MAX_PRESENTED_BYTES) -> Compact | None:
    """Cut a compact JWS. None: too long, not three parts (a JWE has five), one of them empty or badly encoded.

    The signature may be empty: that is how `alg: none` looks, and it should be named as such.
    """
    if len(token) > max_bytes:
        return None
    parts = token.split(b".", 3)
    if len(parts) != 3 or not parts[0] or not parts[1] or len(parts[0]) > MAX_HEADER_BYTES:
        return None
    signature = decode_part(parts[2])
    if signature is None:
        return None
    return Compact(parts[0], parts[1], signature, token[: len(parts[0]) + 1 + len(parts[1])])


def decode_part(part: bytes) -> bytes | None:
    """base64url without padding (RFC 7515 section 2) to bytes; None unless it is the one canonical spelling."""
    rest = len(part) % 4
    if rest == 1 or (rest and part[-1] not in _LAST_LETTERS[rest]):
        return None
    if b"=" in part or b"+" in part or b"/" in part:  # padding is added here; plain base64 would be another spelling
        return None
    try:
        return pybase64.b64decode(part + _PADDING[rest], b"-_", validate=True)
    except ValueError:  # binascii.Error is one
        return None


def read_header(part: bytes) -> Header | HeaderFault:
    """Read a protected header. The algorithm is judged first, so that `none` is named as such and not as a misfit."""
    raw = decode_part(part)
    members = None if raw is None else strict_object(raw)
    return HeaderFault.MALFORMED if members is None else _judge(members)


def strict_object(raw: bytes) -> dict[str, object] | None:
    """A JSON object that has one meaning only; None: anything else, a member named twice at any depth included."""
    try:
        value = strict_json(raw)
    except InvalidText:
        return None
    return value if isinstance(value, dict) else None


def _judge(members: dict[str, object]) -> Header | HeaderFault:
    alg, typ, kid = members.get("alg"), members.get("typ"), members.get("kid")
    if not isinstance(alg, str) or alg not in ALGORITHMS:
        return HeaderFault.ALGORITHM
    if not isinstance(typ, str) or typ.lower() not in TOKEN_TYPES:
        return HeaderFault.TYPE
    if not isinstance(kid, str) or len(members) != 3:
        return HeaderFault.MEMBERS
    return Header(alg, kid)


def encode_part(raw: bytes) -> bytes:
    """Bytes to base64url without padding (RFC 7515 section 2)."""
    return pybase64.b64encode(raw, b"-_").rstrip(b"=")
