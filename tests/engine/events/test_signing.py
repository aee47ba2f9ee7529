"""What an event key signs, and that neither kind of key can stand for the other."""

import json

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from joserfc import jws
from joserfc.jwk import ECKey

from engine.events.facts import Change
from engine.events.signing import (
    STATEMENT_TYPE,
    BadEventKey,
    PemEventSigner,
    new_event_key,
    read_event_key_statement,
)
from engine.tokens.answer_key_statements import BadStatement, make_statement, read_statement
from engine.tokens.answer_keys import PemAnswerSigner, new_answer_key
from tests.support.events import ATP, EDP, ISSUER, NOW, claims_of, consent_fact, members_of, signer


def oracle() -> ECKey:
    return ECKey.import_key(json.loads(msgspec.json.encode(signer().public)))


@pytest.mark.parametrize("change", Change)
@pytest.mark.parametrize("receiver", [ATP, EDP])
def test_another_implementation_reads_what_was_signed(change: Change, receiver: str) -> None:
    claims = claims_of(consent_fact(change), receiver=ATP if receiver == ATP else EDP)
    read = jws.deserialize_compact(signer().sign_event(claims).decode(), oracle(), algorithms=["ES256"])
    assert read.headers() == {"typ": "secevent+jwt", "alg": "ES256", "kid": oracle().thumbprint()}
    assert json.loads(read.payload or b"") == members_of(claims)


def test_a_third_implementation_agrees() -> None:
    compact = signer().sign_event(claims_of(consent_fact())).decode()
    key = jwt.PyJWK.from_dict(json.loads(msgspec.json.encode(signer().public)))
    read = jwt.decode(compact, key.key, algorithms=["ES256"], audience=EDP, issuer=ISSUER)
    assert read == members_of(claims_of(consent_fact()))


def test_short_numbers_keep_their_leading_zeros() -> None:
    claims = claims_of(consent_fact())
    assert {len(signer().sign_event(claims).rpartition(b".")[2]) for _ in range(600)} == {86}


def test_a_statement_about_the_key_holds() -> None:
    statement = read_event_key_statement(
        signer().sign_key_statement("pusher-1", ISSUER, NOW), pusher_id="pusher-1", issuer=ISSUER, now=NOW
    )
    assert statement.key.jwk() == signer().public


@pytest.mark.parametrize(
    ("pusher", "issuer", "later"), [("p2", ISSUER, 0), ("p1", "https://b", 0), ("p1", ISSUER, 301)]
)
def test_a_statement_is_worth_nothing_elsewhere(pusher: str, issuer: str, later: int) -> None:
    raw = signer().sign_key_statement("p1", ISSUER, NOW)
    with pytest.raises(BadStatement):
        read_event_key_statement(raw, pusher_id=pusher, issuer=issuer, now=type(NOW)(NOW + later))


def test_neither_kind_of_key_can_be_stated_as_the_other() -> None:
    answers = PemAnswerSigner.from_pem(new_answer_key())
    with pytest.raises(BadStatement, match="header"):
        read_event_key_statement(make_statement(answers, "p1", ISSUER, NOW), pusher_id="p1", issuer=ISSUER, now=NOW)
    with pytest.raises(BadStatement, match="header"):
        read_statement(signer().sign_key_statement("p1", ISSUER, NOW), node_id="p1", issuer=ISSUER, now=NOW)
    for typ in (STATEMENT_TYPE, "secevent+jwt"):
        with pytest.raises(ValueError, match="not signed as"):
            answers.sign(typ, b"{}")


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
def test_other_files_are_no_event_keys(content: bytes) -> None:
    with pytest.raises(BadEventKey):
        PemEventSigner.from_pem(content)


def test_a_new_key_is_one() -> None:
    assert PemEventSigner.from_pem(new_event_key()).public != signer().public
