"""Answers of a service as a guard receives them: made by the service's own code, or broken on purpose."""

import json
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec

from engine.clock import UnixTime
from engine.consent.records import ClientId, Thumbprint
from engine.listener.signed_answers import signed_body
from engine.tokens.answer_keys import PemAnswerSigner
from engine.tokens.jws import encode_part
from engine.tokens.keys import KeySet
from engine.tokens.verify import token_digest
from tests.support.guard_words import BOUND, DAY, NOW, entry

ISSUER: Final = "https://ccs.example"
EDP: Final = ClientId("edp-7")
TOKEN: Final = "2YotnFZFEjr1zCsicMWpAA"
SIGNER: Final = PemAnswerSigner(ec.generate_private_key(ec.SECP256R1()))


def x5t(thumbprint: Thumbprint = BOUND) -> str:
    return encode_part(thumbprint).decode()


def members(*entries: bytes, now: UnixTime = NOW, **changes: Any) -> dict[str, Any]:
    """A yes. None takes a member away."""
    values: dict[str, Any] = {
        "active": True, "iss": ISSUER, "aud": EDP, "client_id": "atp-1", "token_type": "Bearer", "iat": now - 60,
        "exp": now + 300, "sub": "s", "jti": "j", "cnf": {"x5t#S256": x5t()},
        "authorization_details": [json.loads(raw) for raw in entries or (entry(),)], "ccs_consent_version": 3,
        "ccs_freshness": "current", "ccs_as_of": now - 1, "ccs_last_known_until": now + DAY,
    } | changes  # fmt: skip
    return {name: value for name, value in values.items() if value is not None}


def plain(*entries: bytes, now: UnixTime = NOW, **changes: Any) -> bytes:
    return json.dumps(members(*entries, now=now, **changes), separators=(",", ":")).encode()


def signed(body: bytes, token: str = TOKEN, now: UnixTime = NOW, signer: PemAnswerSigner = SIGNER) -> bytes:
    return signed_body(signer, ISSUER, EDP, now, token_digest(token.encode()), body)


def jwt(claims: bytes, signer: PemAnswerSigner = SIGNER, **header: Any) -> bytes:
    """Any claims under any header, rightly signed."""
    head: dict[str, Any] = {"typ": "token-introspection+jwt", "alg": "ES256", "kid": signer.kid} | header
    first = encode_part(json.dumps({name: value for name, value in head.items() if value is not None}).encode())
    genuine = signer.sign("token-introspection+jwt", claims).split(b".")
    if header:
        signature = _signature_over(first + b"." + genuine[1], signer)
        return b".".join((first, genuine[1], signature))
    return b".".join(genuine)


def _signature_over(signing_input: bytes, signer: PemAnswerSigner) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
    from cryptography.hazmat.primitives.hashes import SHA256

    r, s = decode_dss_signature(signer._sign(signing_input, ec.ECDSA(SHA256())))
    return encode_part(r.to_bytes(32) + s.to_bytes(32))


def jwks(*signers: PemAnswerSigner) -> bytes:
    import msgspec

    return msgspec.json.encode({"keys": [signer.public for signer in signers or (SIGNER,)]})


def key_set(*signers: PemAnswerSigner) -> KeySet:
    return KeySet.from_jwks(jwks(*signers), ISSUER)
