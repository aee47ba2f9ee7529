"""The signed form of an answer: its claims byte by byte, what another implementation reads, and who gets which form."""

import hashlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jws, jwt
from joserfc.jwk import ECKey

from engine.clock import UnixTime
from engine.consent.records import Answers, ClientId, ParticipantRecord, Role
from engine.decision.answers import INACTIVE
from engine.decision.questions import Inactive, Reason
from engine.listener.introspection_request import AnswerForm, form_of_answer
from engine.listener.media import SIGNED, read_head
from engine.listener.refusals import INVALID_REQUEST, Refusal
from engine.listener.signed_answers import TYPE, shown_code, signed_body, signed_response
from engine.tokens.answer_keys import PemAnswerSigner, new_answer_key
from engine.tokens.keys import KeySet
from engine.tokens.verify import TokenRefusal, verify
from tests.support.pki import ISSUER, METER_KEY, NOW, MakeToken, Pki

EDP = ClientId("edp-1")
SIGNER = PemAnswerSigner.from_pem(new_answer_key())
PUBLISHED = ECKey.import_key(json.loads(msgspec.json.encode(SIGNER.public)))
TOKEN = b"2YotnFZFEjr1zCsicMWpAA"
DIGEST = hashlib.sha256(TOKEN).digest()
CODES = [reason for reason in Reason if reason is not Reason.TOKEN]


def body(plain: bytes = INACTIVE, code: Reason | None = None, audience: str = EDP, digest: bytes = DIGEST) -> bytes:
    return signed_body(SIGNER, ISSUER, ClientId(audience), NOW, digest, plain, code)


def read(signed: bytes, audience: str = EDP, ath: str = "bJYTDxMKsNbRWDl-JNK8wcml5zrggfbpg_HHtUXSSkw") -> jwt.Token:
    """As an EDP checks it, by another implementation (the sheet's section 4, points 3 to 9)."""
    answer = jwt.decode(signed.decode(), PUBLISHED, algorithms=["ES256"])
    assert answer.header["typ"] == TYPE
    demanded: Any = {
        "iss": {"essential": True, "value": ISSUER},
        "aud": {"essential": True, "value": audience},
        "ath": {"essential": True, "value": ath},
    }
    jwt.JWTClaimsRegistry(now=NOW, **demanded).validate(answer.claims)
    return answer


def test_a_no_carries_the_four_claims_the_digest_and_nothing_else() -> None:
    answer = read(body())
    assert answer.claims == {
        "iss": ISSUER,
        "aud": EDP,
        "iat": NOW,
        "ath": "bJYTDxMKsNbRWDl-JNK8wcml5zrggfbpg_HHtUXSSkw",  # the sheet's vector
        "token_introspection": {"active": False},
    }
    assert answer.header == {"typ": "token-introspection+jwt", "alg": "ES256", "kid": PUBLISHED.thumbprint()}


members = st.dictionaries(
    st.text(max_size=12),
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=8,
    ),
    max_size=8,
)


@given(members=members, issuer=st.text(max_size=20), audience=st.text(max_size=20))
def test_the_signed_members_are_those_of_the_plain_answer(
    members: dict[str, object], issuer: str, audience: str
) -> None:
    plain = msgspec.json.encode({"active": True} | members)
    signed = signed_body(SIGNER, issuer, ClientId(audience), UnixTime(NOW), DIGEST, plain)
    claims = jwt.decode(signed.decode(), PUBLISHED, algorithms=["ES256"]).claims
    assert claims["token_introspection"] == json.loads(plain)
    assert (claims["iss"], claims["aud"]) == (issuer, audience)
    assert set(claims) == {"iss", "aud", "iat", "ath", "token_introspection"}


def test_an_answer_for_one_edp_fails_at_another() -> None:
    with pytest.raises(Exception, match="aud"):
        read(body(audience="edp-1"), audience="edp-2")


def test_an_answer_about_one_token_fails_for_another() -> None:
    with pytest.raises(Exception, match="ath"):
        read(body(digest=hashlib.sha256(b"another token").digest()))


def test_an_answer_is_no_access_token(key_set: KeySet) -> None:
    assert verify(body(b'{"active":true}'), key_set, METER_KEY, NOW) is TokenRefusal.TYPE


def test_an_answer_key_signs_no_access_token(key_set: KeySet, make_token: MakeToken) -> None:
    """Not even in the hands of a thief: its kid is in no set of token keys, and under another kid it does not fit."""
    pem = new_answer_key()
    stolen, kid = ECKey.import_key(pem), PemAnswerSigner.from_pem(pem).kid
    claims = jwt_claims(make_token().token)
    for named, refusal in ((kid, TokenRefusal.UNKNOWN_KEY), (next(iter(key_set.kids)), TokenRefusal.ALGORITHM)):
        forged = jwt.encode({"typ": "at+jwt", "alg": "ES256", "kid": named}, claims, stolen, algorithms=["ES256"])
        assert verify(forged.encode(), key_set, METER_KEY, NOW) is refusal


def jwt_claims(token: bytes) -> dict[str, Any]:
    claims: dict[str, Any] = json.loads(jws.extract_compact(token).payload)
    return claims


@pytest.mark.parametrize("code", CODES)
def test_a_code_stands_beside_a_no_and_never_inside_it(code: Reason) -> None:
    claims = read(body(code=code)).claims
    assert claims["ccs_decision"] == {"code": code.value}
    assert claims["token_introspection"] == {"active": False}


@pytest.mark.parametrize(("plain", "code"), [(INACTIVE, Reason.TOKEN), (b'{"active":true}', Reason.WINDOW)])
def test_no_code_for_a_token_or_beside_a_yes(plain: bytes, code: Reason) -> None:
    with pytest.raises(ValueError, match="has a code"):
        body(plain, code)


def test_codes_are_shown_only_where_switched_on_and_never_of_a_token() -> None:
    assert [shown_code(Inactive(code), switched_on=True) for code in CODES] == CODES
    assert {shown_code(Inactive(code), switched_on=False) for code in Reason} == {None}
    assert shown_code(Inactive(Reason.TOKEN), switched_on=True) is None


def test_the_response_has_the_type_of_rfc_9701() -> None:
    response = signed_response(b"x")
    assert (response.status, response.content_type, response.body) == (200, SIGNED, b"x")


def form(pki: Pki, accept: bytes | None, answers: Answers, role: Role = Role.EDP) -> AnswerForm | int:
    caller: ParticipantRecord = msgspec.structs.replace(pki.participant(EDP, role), answers=answers)
    head = read_head(() if accept is None else ((b"accept", accept),))
    try:
        return form_of_answer(caller, head)
    except Refusal as refusal:
        return refusal.response.status if refusal.response.body == INVALID_REQUEST else 0


ONE, OTHER = AnswerForm.SIGNED, AnswerForm.PLAIN


@pytest.mark.parametrize(
    ("accept", "of_signed", "of_plain", "of_atp"),
    [
        (None, ONE, OTHER, OTHER),
        (b"", ONE, OTHER, OTHER),
        (b"*/*", ONE, OTHER, OTHER),
        (b"application/*", ONE, OTHER, OTHER),
        (b"application/json", 400, OTHER, OTHER),
        (b"*/*, application/token-introspection+jwt;q=0", 400, OTHER, OTHER),
        (b"application/token-introspection+jwt", ONE, ONE, 406),
        (b"application/token-introspection+jwt, application/json;q=0.9", ONE, ONE, OTHER),
        (b"application/token-introspection+jwt;q=0.5, application/json", ONE, OTHER, OTHER),
        (b"application/token-introspection+jwt, application/json", ONE, OTHER, OTHER),
        (b"*/*, application/json;q=0", ONE, ONE, 406),
        (b"text/html", 406, 406, 406),
        (b"application/json;q=0", 406, 406, 406),
        (b"*/*;q=0", 406, 406, 406),
    ],
)
def test_registration_decides_and_accept_can_ask_for_the_stronger_form_only(
    pki: Pki, accept: bytes | None, of_signed: object, of_plain: object, of_atp: object
) -> None:
    assert form(pki, accept, Answers.SIGNED) == of_signed
    assert form(pki, accept, Answers.PLAIN) == of_plain
    for answers in Answers:
        assert form(pki, accept, answers, Role.ATP) == of_atp
