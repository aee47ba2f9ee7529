"""What programs may ask the sidecar: one share, a batch; every fault by its field, and no value in any of them."""

import base64
import hashlib
import json
import ssl
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.clock import UnixTime
from engine.consent.reading import InvalidFields, InvalidText, Problem
from engine.consent.records import Thumbprint
from engine.guard.requests import (
    MAX_CHECK,
    MAX_PROBLEMS,
    MAX_SHARES,
    TooLarge,
    problems_json,
    read_check,
    read_checks,
    verdict_json,
)
from engine.guard.shares import Reason, Share, Verdict

DER = b"\x30\x82\x00\x04abcd" + b""
PEM = ssl.DER_cert_to_PEM_cert(DER)
DIGEST = hashlib.sha256(DER).digest()
ASKED: dict[str, Any] = {
    "token": "eyJ.a-token.x",
    "x5t_s256": base64.urlsafe_b64encode(DIGEST).rstrip(b"=").decode(),
    "dataset_id": "hh-electricity-import",
    "mpxn": "mpan:1000000000012",
    "from": "2026-01-01T00:00:00Z",
    "to": "2026-01-02T00:00:00Z",
}
SHARE = Share(
    token="eyJ.a-token.x",
    thumbprint=Thumbprint(DIGEST),
    dataset_id="hh-electricity-import",
    mpxn="mpan:1000000000012",
    data_from=UnixTime(1767225600),
    data_to=UnixTime(1767312000),
)


def body(**changes: object) -> bytes:
    members = {name: value for name, value in (ASKED | changes).items() if value is not ...}
    return json.dumps(members).encode()


def problems(raw: bytes) -> set[str]:
    with pytest.raises(InvalidFields) as caught:
        read_check(raw)
    return {problem.field for problem in caught.value.problems}


def test_a_whole_question_is_a_share() -> None:
    assert read_check(body()) == SHARE
    assert read_check(body(purpose_code="comparison", share_id="s-1")).purpose_code == "comparison"
    assert read_check(body(share_id="s-1")).share_id == "s-1"


@pytest.mark.parametrize("pem", [PEM, "\n" + PEM, PEM.strip(), PEM + PEM, PEM.replace("\n", "\r\n")])
def test_a_certificate_stands_for_its_digest(pem: str) -> None:
    assert read_check(body(x5t_s256=..., certificate=pem)) == SHARE


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"token": ...}, "token"),
        ({"token": ""}, "token"),
        ({"token": "a b"}, "token"),
        ({"token": "x" * 8193}, "token"),
        ({"token": None}, "token"),
        ({"token": 7}, "token"),
        ({"dataset_id": "NO"}, "dataset_id"),
        ({"mpxn": "1000000000012"}, "mpxn"),
        ({"mpxn": "mpan:1000000000013"}, "mpxn"),
        ({"from": "2026-01-01"}, "from"),
        ({"from": "2026-02-30T00:00:00Z"}, "from"),
        ({"to": "2026-01-01T00:00:00Z"}, "to"),
        ({"to": "2026-01-01T00:00:00+00:00"}, "to"),
        ({"purpose_code": "Not this"}, "purpose_code"),
        ({"share_id": "a\nb"}, "share_id"),
        ({"share_id": ""}, "share_id"),
        ({"x5t_s256": "short"}, "x5t_s256"),
        ({"x5t_s256": ...}, "certificate"),
        ({"certificate": PEM}, "certificate"),
        ({"x5t_s256": ..., "certificate": "PEM"}, "certificate"),
        ({"x5t_s256": ..., "certificate": 7}, "certificate"),
        ({"x5t_s256": ..., "certificate": PEM.replace("MII", "MI")}, "certificate"),
        ({"x5t_s256": ..., "certificate": ssl.DER_cert_to_PEM_cert(DER + b"x")}, "certificate"),
        ({"x5t_s256": ..., "certificate": ssl.DER_cert_to_PEM_cert(b"\x04\x02ab")}, "certificate"),
        ({"data_from": "2026-01-01T00:00:00Z"}, "data_from"),
        ({"extra": 1}, "extra"),
    ],
)
def test_a_fault_is_told_by_its_field(changes: dict[str, object], field: str) -> None:
    assert problems(body(**changes)) == {field}


def test_all_faults_are_told_at_once_and_no_value() -> None:
    raw = body(token="se cret", mpxn="secret", x5t_s256=..., **{"from": "secret"})
    assert problems(raw) == {"token", "mpxn", "from", "certificate"}
    with pytest.raises(InvalidFields) as caught:
        read_check(raw)
    assert b"secret" not in problems_json(caught.value.problems)
    assert b"se cret" not in problems_json(caught.value.problems)


@pytest.mark.parametrize("raw", [b"", b"{", b"[]x", b'{"token":"a","token":"b"}', b"\xff"])
def test_no_json_with_one_meaning_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidText):
        read_check(raw)


def test_what_is_no_object_is_refused() -> None:
    assert problems(b"[]") == {"", "certificate"}


def test_a_question_has_an_end() -> None:
    with pytest.raises(TooLarge):
        read_check(b'"' + b"x" * MAX_CHECK + b'"')


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(raw: bytes) -> None:
    for read in (read_check, read_checks):
        with pytest.raises((InvalidText, InvalidFields)):
            read(raw)


values = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), st.lists, max_leaves=8)


@given(st.dictionaries(st.sampled_from([*ASKED, "certificate", "share_id"]), values))
def test_no_members_raise_anything_else(members: dict[str, Any]) -> None:
    with pytest.raises((InvalidText, InvalidFields)) as caught:
        read_check(json.dumps(members).encode())
    assert str(caught.value)


def test_a_batch_keeps_its_order() -> None:
    raw = json.dumps({"shares": [ASKED | {"share_id": str(n)} for n in range(MAX_SHARES)]}).encode()
    assert [share.share_id for share in read_checks(raw)] == [str(n) for n in range(MAX_SHARES)]


@pytest.mark.parametrize(
    "content", [{}, [], {"shares": []}, {"shares": {}}, {"shares": [ASKED] * 501}, {"shares": [ASKED], "x": 1}]
)
def test_a_batch_has_one_form(content: object) -> None:
    with pytest.raises(InvalidFields) as caught:
        read_checks(json.dumps(content).encode())
    assert [problem.field for problem in caught.value.problems] == ["shares"]


def test_the_faults_of_a_batch_name_their_share() -> None:
    raw = json.dumps({"shares": [ASKED, ASKED | {"mpxn": "x"}, 7]}).encode()
    with pytest.raises(InvalidFields) as caught:
        read_checks(raw)
    assert [problem.field for problem in caught.value.problems] == ["shares.1.mpxn", "shares.2", "shares.2.certificate"]


def test_a_verdict_always_has_the_same_members() -> None:
    verdict = Verdict(allowed=False, reason=Reason.NOT_ACTIVE, evidence_id="e-1")
    assert json.loads(verdict_json(verdict)) == {
        "allowed": False, "reason": "not_active", "freshness": None, "as_of": None, "consent_id": None,
        "consent_version": None, "evidence_id": "e-1",
    }  # fmt: skip


def test_a_full_verdict_is_told_whole() -> None:
    verdict = Verdict(
        allowed=True, reason=Reason.LAST_KNOWN, evidence_id="e-2", freshness="last_known", as_of=UnixTime(1767225600),
        consent_id="c-1", consent_version=4, retry_after=12.5,
    )  # fmt: skip
    assert json.loads(verdict_json(verdict)) == {
        "allowed": True, "reason": "last_known", "freshness": "last_known", "as_of": "2026-01-01T00:00:00Z",
        "consent_id": "c-1", "consent_version": 4, "evidence_id": "e-2", "retry_after": 12.5,
    }  # fmt: skip


def test_a_mistake_in_a_loop_is_told_often_but_not_endlessly() -> None:
    told = json.loads(problems_json([Problem("shares.1.mpxn", "x")] * 500))
    assert (told["error"], len(told["problems"])) == ("invalid_request", MAX_PROBLEMS)
