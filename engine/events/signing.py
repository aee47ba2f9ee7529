"""Signing security events: the port of an event key, and the same held in memory.

An event key signs events (ES256, `typ: secevent+jwt`) and the statement by which it is registered, and nothing else:
it writes both headers itself. P-256 as for answers, because each event is signed once for each receiver.
"""

from typing import Final, Protocol

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from engine.clock import UnixTime
from engine.errors import Fault, Kind
from engine.events.sets import EventClaims
from engine.tokens.answer_key_statements import Statement, encode_statement, read_statement
from engine.tokens.answer_keys import ALGORITHM, new_answer_key, public_jwk
from engine.tokens.jws import encode_part
from engine.tokens.keys import Jwk

EVENT_TYPE: Final = "secevent+jwt"  # RFC 8417 section 2.3, without `application/`
STATEMENT_TYPE: Final = "ccs-event-key+jwt"  # `ccs-answer-key+jwt` is another key's: neither stands for the other
_ECDSA: Final = ec.ECDSA(SHA256())


class BadEventKey(Fault):
    """What is there is no P-256 private key in unencrypted PEM."""

    kind = Kind.INVALID


class EventSigner(Protocol):
    """A key that signs security events. May be a hardware module or a key service."""

    @property
    def public(self) -> Jwk:
        """The public half as it stands in the event key set; its `kid` is its RFC 7638 thumbprint."""

    def sign_event(self, claims: EventClaims) -> bytes:
        """The compact SET, ASCII. Two signatures over the same claims differ: keep the bytes."""

    def sign_key_statement(self, pusher_id: str, issuer: str, now: UnixTime) -> bytes:
        """What asks the issuer to publish this key; see `read_event_key_statement`."""


class PemEventSigner:
    """A P-256 key held in memory."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        if not isinstance(key.curve, ec.SECP256R1):
            raise BadEventKey("event keys are on P-256")
        self._key = key
        self.public = public_jwk(key.public_key())

    @classmethod
    def from_pem(cls, pem: bytes) -> "PemEventSigner":
        """Read PKCS #8 PEM, as `engine.config.read_private` brings it. Raises BadEventKey."""
        try:
            key = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: the key is encrypted
            raise BadEventKey("this is no unencrypted PEM private key") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise BadEventKey("event keys are on P-256")
        return cls(key)

    def sign_event(self, claims: EventClaims) -> bytes:
        """See EventSigner."""
        return self._sign(EVENT_TYPE, msgspec.json.encode(claims))

    def sign_key_statement(self, pusher_id: str, issuer: str, now: UnixTime) -> bytes:
        """See EventSigner."""
        return self._sign(STATEMENT_TYPE, encode_statement(self.public, pusher_id, issuer, now))

    def _sign(self, typ: str, payload: bytes) -> bytes:
        header = msgspec.json.encode({"typ": typ, "alg": ALGORITHM, "kid": self.public.kid})
        signed = encode_part(header) + b"." + encode_part(payload)
        r, s = decode_dss_signature(self._key.sign(signed, _ECDSA))
        return signed + b"." + encode_part(r.to_bytes(32) + s.to_bytes(32))  # RFC 7518 section 3.4


def new_event_key() -> bytes:
    """A fresh key as PKCS #8 PEM, unencrypted: the file's mode protects it."""
    return new_answer_key()


def read_event_key_statement(raw: bytes, *, pusher_id: str, issuer: str, now: UnixTime) -> Statement:
    """What a pusher states about its event key, checked to the end. pusher_id: as its certificate says.

    Raises BadStatement, also for a statement about an answer key.
    """
    return read_statement(raw, node_id=pusher_id, issuer=issuer, now=now, typ=STATEMENT_TYPE)
