"""What an answer key signs, under which headers, and what it can never sign."""

import json

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jws
from joserfc.errors import BadSignatureError
from joserfc.jwk import ECKey

from engine.tokens.answer_keys import FOREIGN_TYPES, BadAnswerKey, PemAnswerSigner, new_answer_key
from engine.tokens.jws import HeaderFault, read_header

TYPE = "token-introspection+jwt"
SIGNER = PemAnswerSigner.from_pem(new_answer_key())


def oracle(signer: PemAnswerSigner) -> ECKey:
    return ECKey.import_key(json.loads(msgspec.json.encode(signer.public)))


@given(claims=st.binary(min_size=1, max_size=300))
def test_another_implementation_reads_what_was_signed(claims: bytes) -> None:
    signed = SIGNER.sign(TYPE, claims)
    read = jws.deserialize_compact(signed.decode(), oracle(SIGNER), algorithms=["ES256"])
    assert read.payload == claims
    assert read.headers() == {"typ": TYPE, "alg": "ES256", "kid": oracle(SIGNER).thumbprint()}
    assert b"=" not in signed


def test_short_numbers_keep_their_leading_zeros() -> None:
    lengths = {len(SIGNER.sign(TYPE, b"{}").rpartition(b".")[2]) for _ in range(600)}
    assert lengths == {86}  # one of 128 signatures has a number of 31 bytes


def test_each_key_verifies_its_own_answers_only() -> None:
    other = PemAnswerSigner.from_pem(new_answer_key())
    with pytest.raises(BadSignatureError):
        jws.deserialize_compact(SIGNER.sign(TYPE, b"{}").decode(), oracle(other), algorithms=["ES256"])
    assert other.kid != SIGNER.kid


def test_two_types_have_two_headers() -> None:
    heads = [SIGNER.sign(typ, b"{}").partition(b".")[0] for typ in (TYPE, "evaluation+jwt", TYPE)]
    assert heads[0] == heads[2] != heads[1]


@pytest.mark.parametrize("typ", [*sorted(FOREIGN_TYPES), "AT+JWT", "application/at+jwt", "", "json", 'x"+jwt', "+jwt"])
def test_types_of_others_are_never_signed(typ: str) -> None:
    with pytest.raises(ValueError, match="not signed as"):
        SIGNER.sign(typ, b"{}")


def test_an_answers_header_is_not_an_access_tokens() -> None:
    assert read_header(SIGNER.sign(TYPE, b"{}").partition(b".")[0]) is HeaderFault.TYPE


def pem(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey, password: bytes | None = None) -> bytes:
    lock = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no key",
        pem(ec.generate_private_key(ec.SECP384R1())),
        pem(ed25519.Ed25519PrivateKey.generate()),
        pem(ec.generate_private_key(ec.SECP256R1()), b"locked"),
    ],
    ids=["empty", "text", "another curve", "another kind", "locked"],
)
def test_other_files_are_no_answer_keys(content: bytes) -> None:
    with pytest.raises(BadAnswerKey):
        PemAnswerSigner.from_pem(content)
