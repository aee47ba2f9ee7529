"""A node's word that an answer key is its own: a statement that the key itself signs, sent over the node's mTLS.

The statement says everything it rests on — node, issuer, key, time — so that it proves possession without a
challenge, and is worth nothing to another node, at another issuer, or later.
"""

from typing import Annotated, Final, Literal, TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature
from msgspec import Meta

from engine.clock import UnixTime
from engine.errors import Fault, Kind
from engine.tokens import jws
from engine.tokens.answer_keys import ALGORITHM, PemAnswerSigner
from engine.tokens.keys import Jwk, p256_check

TYPE: Final = "ccs-answer-key+jwt"
MAX_STATEMENT: Final = 2_048  # bytes; ours have about 800
LIFE: Final = 30 * 86_400  # seconds that a key stays published after its newest statement
CLOCKS_DIFFER: Final = 300  # seconds between the node's clock and the issuer's
T = TypeVar("T")
Coordinate = Annotated[str, Meta(pattern="^[A-Za-z0-9_-]{43}$")]


class BadStatement(Fault):
    """Not a statement about an answer key, or one that does not hold; the text says what is wrong."""

    kind = Kind.INVALID


class AnswerKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The one kind of JWK that an answer key is: P-256, ES256, for signatures, named by its thumbprint."""

    kty: Literal["EC"]
    crv: Literal["P-256"]
    x: Coordinate
    y: Coordinate
    use: Literal["sig"]
    alg: Literal["ES256"]
    kid: Coordinate

    def jwk(self) -> Jwk:
        """As it is published."""
        return Jwk(kty=self.kty, kid=self.kid, use=self.use, alg=self.alg, crv=self.crv, x=self.x, y=self.y)


class Statement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """iss: the node. aud: the issuer that shall publish the key. exp: until when, seconds since 1970."""

    iss: str
    aud: str
    iat: UnixTime
    exp: UnixTime
    key: AnswerKey


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    typ: str
    alg: str
    kid: str


def make_statement(signer: PemAnswerSigner, node_id: str, issuer: str, now: UnixTime) -> bytes:
    """A compact JWS by which the node asks for its key to be published from now on."""
    return signer.sign(TYPE, encode_statement(signer.public, node_id, issuer, now))


def encode_statement(public: Jwk, owner: str, issuer: str, now: UnixTime) -> bytes:
    """The payload of a statement about a key, to be signed by that key under a type of its own."""
    key = msgspec.convert(msgspec.to_builtins(public), AnswerKey)
    return msgspec.json.encode(Statement(owner, issuer, now, UnixTime(now + LIFE), key))


def read_statement(raw: bytes, *, node_id: str, issuer: str, now: UnixTime, typ: str = TYPE) -> Statement:
    """What a caller states, checked to the end. node_id: the caller, as its certificate says. Raises BadStatement.

    typ: of the kind of key. Statements of two kinds are alike but for it, and neither stands for the other.
    """
    statement, header, compact = _parse(raw)
    if header != _Header(typ, ALGORITHM, statement.key.kid):
        raise BadStatement("the header is not that of a statement about this key")
    jwk = statement.key.jwk()
    if jws.encode_part(jwk.thumbprint()).decode() != jwk.kid:
        raise BadStatement("the kid is not the key's thumbprint")
    try:
        p256_check(jwk)(compact.signature, compact.signing_input)
    except (ValueError, InvalidSignature) as error:
        raise BadStatement("the key has not signed this statement") from error
    if statement.iss != node_id or statement.aud != issuer:
        raise BadStatement("the statement is another node's, or for another issuer")
    if abs(statement.iat - now) > CLOCKS_DIFFER or not statement.iat < statement.exp <= statement.iat + LIFE:
        raise BadStatement("the statement is not of now, or asks for too long a time")
    return statement


def _parse(raw: bytes) -> tuple[Statement, _Header, jws.Compact]:
    compact = jws.split(raw) if len(raw) <= MAX_STATEMENT else None
    if compact is None:
        raise BadStatement("this is no compact JWS of at most 2048 bytes")
    return _decode(compact.payload, Statement), _decode(compact.header, _Header), compact


def _decode(part: bytes, kind: type[T]) -> T:
    members = None if (text := jws.decode_part(part)) is None else jws.strict_object(text)
    try:
        return msgspec.convert(members, kind)
    except msgspec.ValidationError as error:
        raise BadStatement("this is no statement about an answer key", detail=str(error)) from error
