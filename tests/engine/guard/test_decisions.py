"""What counts as the answer to a batch, plain and signed."""

import hashlib
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engine.guard.answers import PLAIN, Doubt, NoAnswer
from engine.guard.decisions import SIGNED, Decisions, Question, read_plain, read_signed
from engine.tokens.jws import encode_part
from tests.support.guard_answers import EDP, SIGNER, jwt, key_set
from tests.support.guard_words import NOW

POINT = "https://localhost:8440"
ASKED = b'{"evaluations":[]}'
QUESTION = Question((POINT,), EDP, ASKED, 2)
YES = {"decision": True, "context": {"consent_id": "c", "ccs_consent_version": 4, "ccs_last_known_until": NOW + 9}}
NO = {"decision": False, "context": {"code": "token_not_active"}}


def answer(*items: object, **context: Any) -> dict[str, Any]:
    values = {
        "decision_id": "d_1", "evaluated_at": NOW, "ccs_freshness": "current", "ccs_as_of": NOW - 1,
    } | context  # fmt: skip
    return {"evaluations": list(items or (YES, NO)), "context": values}


def plain(value: object, media_type: bytes = PLAIN) -> Decisions | NoAnswer:
    return read_plain(media_type, json.dumps(value).encode(), 2, NOW)


def claims(**changes: Any) -> bytes:
    values = {
        "iss": POINT, "aud": EDP, "iat": NOW, "req": encode_part(hashlib.sha256(ASKED).digest()).decode(),
        "result": answer(),
    } | changes  # fmt: skip
    return json.dumps(values).encode()


def signed(body: bytes, media_type: bytes = SIGNED) -> Decisions | NoAnswer:
    return read_signed(media_type, body, QUESTION, key_set(), NOW)


def test_decisions_are_read_in_their_order() -> None:
    for found in (plain(answer()), signed(jwt(claims(), typ="ccs-decision+jwt"))):
        assert isinstance(found, Decisions)
        assert [item.permits for item in found.evaluations] == [True, False]
        assert found.context.is_current


def test_a_yes_that_is_not_wholly_understood_is_a_no() -> None:
    odd = YES | {"context": {"must_understand": ["only_on_sundays"]}}
    known = YES | {"context": {"must_understand": ["consent_id"]}}
    wrong = YES | {"context": {"error": {"status": 503}}}
    for item, permits in ((odd, False), (known, True), (wrong, False)):
        found = plain(answer(item, NO))
        assert isinstance(found, Decisions)
        assert found.evaluations[0].permits is permits


@pytest.mark.parametrize(
    ("value", "doubt"),
    [
        (answer(YES), Doubt.CONTENT),  # shorter than the question
        (answer(YES, YES, YES), Doubt.CONTENT),
        ({"decision": True}, Doubt.CONTENT),  # the shape of a single evaluation
        (answer({"decision": "true"}, NO), Doubt.CONTENT),
        (answer({"decision": 1}, NO), Doubt.CONTENT),
        (answer({}, NO), Doubt.CONTENT),
        ([], Doubt.CONTENT),
        (answer(YES, {"decision": True, "context": {"ccs_consent_version": 2**63}}), Doubt.CONTENT),
        (answer(evaluated_at=NOW - 61), Doubt.TIME),
        (answer(evaluated_at=NOW + 11), Doubt.TIME),
    ],
)
def test_what_is_no_answer_to_a_batch(value: object, doubt: Doubt) -> None:
    assert plain(value) == NoAnswer(doubt)


def test_a_member_named_twice_is_no_answer() -> None:
    body = json.dumps(answer()).encode().replace(b'"decision": false', b'"decision": false, "decision": true')
    assert read_plain(PLAIN, body, 2, NOW) == NoAnswer(Doubt.SHAPE)
    assert plain(answer(), b"text/html") == NoAnswer(Doubt.MEDIA_TYPE)


@pytest.mark.parametrize(
    ("body", "doubt"),
    [
        (jwt(claims(iss="https://other"), typ="ccs-decision+jwt"), Doubt.ISSUER),
        (jwt(claims(aud="edp-1"), typ="ccs-decision+jwt"), Doubt.AUDIENCE),
        (jwt(claims(iat=NOW - 61), typ="ccs-decision+jwt"), Doubt.TIME),
        (jwt(claims(req=encode_part(bytes(32)).decode()), typ="ccs-decision+jwt"), Doubt.QUESTION),
        (jwt(claims(result=answer(YES)), typ="ccs-decision+jwt"), Doubt.CONTENT),
        (jwt(claims(result=None), typ="ccs-decision+jwt"), Doubt.CONTENT),
        (jwt(claims()), Doubt.TYPE),  # an introspection answer's
        (jwt(claims(), typ="ccs-decision+jwt", alg="none"), Doubt.ALGORITHM),
        (jwt(claims(), typ="ccs-decision+jwt", kid="x"), Doubt.KEY),
        (jwt(claims(), typ="ccs-decision+jwt", crit=["x"]), Doubt.TYPE),
        (jwt(claims(), typ="ccs-decision+jwt")[:-4] + b"AAAA", Doubt.SIGNATURE),
        (b"a.b.c", Doubt.SHAPE),
        (b"", Doubt.SHAPE),
    ],
)
def test_each_step_of_signed_decisions(body: bytes, doubt: Doubt) -> None:
    assert SIGNER.kid
    assert signed(body) == NoAnswer(doubt)


@given(st.binary(max_size=100))
@example(b"[" * 60_000)
def test_no_bytes_do_more_than_fail(body: bytes) -> None:
    assert isinstance(read_plain(PLAIN, body, 0, NOW), NoAnswer)
    assert isinstance(signed(body), NoAnswer)
