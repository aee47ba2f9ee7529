"""Signed answers of our own making: right ones verify, wrong ones are told, early ones wait for their key."""

import base64
import hashlib
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.chaos.signed import SignedAnswers

ISSUER, KEY, OTHER = "https://issuer", ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
DIGEST = base64.urlsafe_b64encode(hashlib.sha256(b"t").digest()).rstrip(b"=").decode()
CLAIMS = {"iss": ISSUER, "aud": "edp-3", "ath": DIGEST, "token_introspection": {"active": True}}


def key_set() -> dict[str, Any]:
    return {"keys": [{**jwt.algorithms.ECAlgorithm.to_jwk(KEY.public_key(), as_dict=True), "kid": "k"}, {"kty": "RSA"}]}


def signed(key: ec.EllipticCurvePrivateKey = KEY, **claims: str) -> str:
    return jwt.encode({**CLAIMS, **claims}, key, "ES256", headers={"kid": "k"})


def test_a_right_one_is_opened_and_verified() -> None:
    answers = SignedAnswers(ISSUER)
    answers.learn(key_set())
    assert answers.open(signed(), "edp-3", "t") == {"active": True}
    assert (answers.verified, answers.unverified, answers.faults) == (1, 0, [])


def test_one_whose_key_is_not_known_yet_waits_for_it() -> None:
    answers = SignedAnswers(ISSUER)
    answers.open(signed(), "edp-3", "t")
    answers.open(signed(OTHER), "edp-3", "t")
    assert (answers.verified, answers.unverified) == (0, 2)
    answers.learn(key_set())
    assert (answers.verified, answers.unverified, len(answers.faults)) == (1, 0, 1)


@pytest.mark.parametrize(
    "raw", [signed(OTHER), signed(iss="https://other"), signed(aud="edp-1"), signed(ath="x"), signed()[:-4] + "AAAA"]
)
def test_a_wrong_one_is_told(raw: str) -> None:
    answers = SignedAnswers(ISSUER)
    answers.learn(key_set())
    answers.open(raw, "edp-3", "t")
    assert (answers.verified, len(answers.faults)) == (0, 1)
