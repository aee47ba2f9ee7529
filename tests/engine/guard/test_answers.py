"""What counts as an answer: each step of the introspection sheet's section 4, failed alone; `cnf`; and any bytes."""

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import example, given
from hypothesis import strategies as st

from engine.clock import UnixTime
from engine.consent.records import Thumbprint
from engine.guard.answers import (
    PLAIN,
    SIGNED,
    Active,
    Asked,
    Confirmation,
    Doubt,
    Inactive,
    NoAnswer,
    Outcome,
    Unfit,
    is_bound_to,
    read_plain,
    read_signed,
    thumbprint_of,
)
from engine.tokens.answer_keys import PemAnswerSigner
from engine.tokens.jws import encode_part
from engine.tokens.verify import token_digest
from tests.support.guard_answers import EDP, ISSUER, SIGNER, TOKEN, jwks, jwt, key_set, members, plain, signed, x5t
from tests.support.guard_words import BOUND, NOW

ASKED = Asked(ISSUER, EDP, token_digest(TOKEN.encode()))
INACTIVE = b'{"active":false}'


def in_signed(body: bytes, media_type: bytes = SIGNED, now: UnixTime = NOW) -> Outcome:
    return read_signed(media_type, body, ASKED, key_set(), now)


def in_plain(body: bytes, media_type: bytes = PLAIN) -> Outcome:
    return read_plain(media_type, body, ASKED, NOW)


def envelope(**changes: Any) -> bytes:
    values: dict[str, Any] = {
        "iss": ISSUER, "aud": EDP, "iat": NOW, "ath": encode_part(ASKED.digest).decode(),
        "token_introspection": members(),
    } | changes  # fmt: skip
    return json.dumps({name: value for name, value in values.items() if value is not None}).encode()


def test_the_services_own_answers_are_answers() -> None:
    for outcome in (in_plain(plain()), in_signed(signed(plain()))):
        assert isinstance(outcome, Active)
        assert outcome.members.client_id == "atp-1"
        assert outcome.is_current
        assert outcome.answered_at == NOW
    assert in_plain(INACTIVE) == in_signed(signed(INACTIVE)) == Inactive(NOW)


def test_a_signed_answer_is_kept_as_it_came() -> None:
    raw = signed(plain())
    outcome = in_signed(raw)
    assert isinstance(outcome, Active)
    assert outcome.raw == raw


def test_the_part_of_the_share_that_is_not_consented_is_told_beside_a_no() -> None:
    claims = envelope(token_introspection={"active": False}, ccs_decision={"code": "window_outside_consent"})
    assert in_signed(jwt(claims)) == Inactive(NOW, "window_outside_consent")


@pytest.mark.parametrize(
    ("media_type", "body", "doubt"),
    [
        (PLAIN, plain(), Doubt.MEDIA_TYPE),  # JSON where signed answers are registered
        (SIGNED, b"a.b", Doubt.SHAPE),
        (SIGNED, b"a.b.c.d.e", Doubt.SHAPE),
        (SIGNED, b"..", Doubt.SHAPE),
        (SIGNED, signed(plain())[:-300], Doubt.SHAPE),
        (SIGNED, signed(plain()) + b"=", Doubt.SHAPE),
        (SIGNED, signed(plain(sub="s" * 65_536)), Doubt.SHAPE),
        (SIGNED, jwt(envelope().replace(b'"iss"', b'"iss":"x","iss"', 1)), Doubt.SHAPE),
        (SIGNED, jwt(envelope().replace(b'"active": true', b'"active":false,"active":true')), Doubt.SHAPE),
        (SIGNED, jwt(envelope(), alg="none"), Doubt.ALGORITHM),
        (SIGNED, jwt(envelope(), alg="HS256"), Doubt.ALGORITHM),
        (SIGNED, jwt(envelope(), alg="PS256"), Doubt.ALGORITHM),
        (SIGNED, jwt(envelope(), typ="at+jwt"), Doubt.TYPE),
        (SIGNED, jwt(envelope(), typ="JWT"), Doubt.TYPE),
        (SIGNED, jwt(envelope(), typ=None), Doubt.TYPE),
        (SIGNED, jwt(envelope(), crit=["exp"]), Doubt.TYPE),
        (SIGNED, jwt(envelope(), kid="nobody's"), Doubt.KEY),
        (SIGNED, jwt(envelope(), kid=None), Doubt.KEY),
        (SIGNED, jwt(envelope(iss="https://other.example")), Doubt.ISSUER),
        (SIGNED, jwt(envelope(aud="edp-1")), Doubt.AUDIENCE),
        (SIGNED, jwt(envelope(aud=["edp-1"])), Doubt.AUDIENCE),
        (SIGNED, jwt(envelope(iat=NOW + 11)), Doubt.TIME),
        (SIGNED, jwt(envelope(iat=NOW - 61)), Doubt.TIME),
        (SIGNED, jwt(envelope(ath=encode_part(bytes(32)).decode())), Doubt.QUESTION),
        (SIGNED, jwt(envelope(ath=None)), Doubt.CONTENT),
        (SIGNED, jwt(envelope(iat=None)), Doubt.CONTENT),
        (SIGNED, jwt(envelope(token_introspection=[])), Doubt.CONTENT),
        (SIGNED, jwt(envelope(token_introspection={})), Doubt.CONTENT),
        (SIGNED, jwt(envelope(token_introspection={"active": "true"})), Doubt.CONTENT),
        (SIGNED, jwt(envelope(token_introspection={"active": 1})), Doubt.CONTENT),
        (SIGNED, jwt(envelope(token_introspection={"active": None})), Doubt.CONTENT),
        (SIGNED, jwt(envelope(token_introspection=members(ccs_as_of=None))), Doubt.CONTENT),
    ],
)
def test_each_step_of_a_signed_answer(media_type: bytes, body: bytes, doubt: Doubt) -> None:
    assert in_signed(body, media_type) == NoAnswer(doubt)


def test_a_changed_byte_is_found() -> None:
    head, payload, signature = signed(plain()).split(b".")
    other = signed(INACTIVE).split(b".")
    assert in_signed(b".".join((head, other[1], signature))) == NoAnswer(Doubt.SIGNATURE)
    assert in_signed(b".".join((head, payload, other[2]))) == NoAnswer(Doubt.SIGNATURE)


def test_a_key_in_the_message_is_ignored() -> None:
    """An attacker's own key under the issuer's kid, brought along."""
    own = PemAnswerSigner(ec.generate_private_key(ec.SECP256R1()))
    jwk = json.loads(jwks(own))["keys"][0]
    forged = jwt(envelope(), own, kid=SIGNER.kid, jwk=jwk, jku="https://evil.example/jwks", x5c=["A" * 2000])
    assert in_signed(forged) == NoAnswer(Doubt.SIGNATURE)
    assert isinstance(in_signed(jwt(envelope(), jwk=jwk, x5u="https://evil.example")), Active)


@pytest.mark.parametrize(
    "typ", ["token-introspection+jwt", "Token-Introspection+JWT", "application/token-introspection+jwt"]
)
def test_the_type_compares_without_case_and_prefix(typ: str) -> None:
    assert isinstance(in_signed(jwt(envelope(), typ=typ)), Active)


def test_the_audience_may_be_an_array() -> None:
    assert isinstance(in_signed(jwt(envelope(aud=["edp-1", EDP]))), Active)
    assert isinstance(in_plain(plain(aud=["x", EDP])), Active)


def test_an_answer_has_64_kib_at_most() -> None:
    room = 65_536 - len(plain(sub=""))
    assert isinstance(in_plain(plain(sub="s" * room)), Active)
    assert in_plain(plain(sub="s" * (room + 1))) == NoAnswer(Doubt.SHAPE)


def test_times_of_an_answer_are_taken_up_to_their_bounds() -> None:
    assert isinstance(in_signed(jwt(envelope(iat=NOW + 10))), Active)
    assert isinstance(in_signed(jwt(envelope(iat=NOW - 60))), Active)


@pytest.mark.parametrize(
    "change",
    [{"exp": NOW}, {"exp": NOW - 1}, {"nbf": NOW + 11}, {"iat": NOW + 11}, {"aud": "edp-1"}, {"aud": []}, {"iss": "x"}],
)
def test_a_yes_that_is_over_or_meant_for_another_is_no_yes(change: dict[str, Any]) -> None:
    assert in_plain(plain(**change)) == in_signed(signed(plain(**change))) == Unfit()


@pytest.mark.parametrize(
    ("body", "media_type", "doubt"),
    [
        (signed(plain()), SIGNED, Doubt.MEDIA_TYPE),
        (plain(), b"text/html", Doubt.MEDIA_TYPE),
        (plain()[:-1], PLAIN, Doubt.SHAPE),
        (b"", PLAIN, Doubt.SHAPE),
        (b"[]", PLAIN, Doubt.SHAPE),
        (plain(sub="s" * 65_536), PLAIN, Doubt.SHAPE),
        (b'{"active":false,"active":true}', PLAIN, Doubt.SHAPE),
        (plain().replace(b'"cnf":{', b'"cnf":{"x5t#S256":"%b",' % x5t().encode()), PLAIN, Doubt.SHAPE),
        (b'{"active":"false"}', PLAIN, Doubt.CONTENT),
        (b"{}", PLAIN, Doubt.CONTENT),
        (plain(exp="1"), PLAIN, Doubt.CONTENT),
        (plain(client_id=None), PLAIN, Doubt.CONTENT),
        (plain(cnf=None), PLAIN, Doubt.CONTENT),
        (plain(exp=10**30), PLAIN, Doubt.CONTENT),  # JSON has no largest number, and a store has
        (plain(ccs_as_of=-1), PLAIN, Doubt.CONTENT),
        (plain(ccs_consent_version=2**63), PLAIN, Doubt.CONTENT),
        (plain(ccs_last_known_until=2**63), PLAIN, Doubt.CONTENT),
    ],
)
def test_what_is_no_plain_answer(body: bytes, media_type: bytes, doubt: Doubt) -> None:
    assert in_plain(body, media_type) == NoAnswer(doubt)


@given(st.binary(max_size=200))
@example(b"\xff\xfe")
@example(b"[" * 60_000)
@example(b'{"a":' * 20_000)
def test_no_bytes_do_more_than_fail(body: bytes) -> None:
    assert isinstance(in_plain(body), NoAnswer | Inactive)
    assert isinstance(in_signed(body), NoAnswer)
    assert isinstance(in_signed(b".".join((signed(plain()).split(b".")[0], encode_part(body), b"AAAA"))), NoAnswer)


OTHER = Thumbprint(b"y" * 32)


@pytest.mark.parametrize(
    ("cnf", "jkt", "bound"),
    [
        (Confirmation(x5t()), None, True),
        (Confirmation(x5t(OTHER)), None, False),
        (Confirmation(), None, False),
        (Confirmation(x5t() + "="), None, False),
        (Confirmation(BOUND.hex()), None, False),
        (Confirmation(5), None, False),
        (Confirmation("é" * 43), None, False),
        (Confirmation(jkt=x5t(OTHER)), None, False),
        (Confirmation(jkt=x5t(OTHER)), x5t(OTHER), True),
        (Confirmation(x5t(), x5t(OTHER)), None, False),
        (Confirmation(x5t(), x5t(OTHER)), x5t(OTHER), True),
        (Confirmation(x5t(OTHER), x5t(OTHER)), x5t(OTHER), False),
    ],
)
def test_a_token_is_bound_to_what_the_atp_showed(cnf: Confirmation, jkt: str | None, bound: bool) -> None:
    assert is_bound_to(cnf, BOUND, jkt) is bound


def test_the_thumbprint_of_a_confirmation() -> None:
    vector = "QXx3Y8TjIKa3R7PLDG0i-TdBspoytIWUuOtMFE_m1yk"  # of the sheet, section 5
    assert thumbprint_of(Confirmation(vector)) == Thumbprint(
        bytes.fromhex("417c7763c4e320a6b747b3cb0c6d22f93741b29a32b48594b8eb4c144fe6d729")
    )
    for cnf in (Confirmation(), Confirmation(vector, vector), Confirmation("short"), Confirmation(1)):
        assert thumbprint_of(cnf) is None
