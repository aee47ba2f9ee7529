"""The evaluation endpoints on a real replica: each row of the sheet's section 6.5 by its number, then the rules."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from admin.authorization.minting import Minted
from engine.clock import UnixTime
from engine.consent.records import AccessMode, Answers, OnSilence, PolicyRecord, Role, Thumbprint
from engine.consent.states import State
from engine.decision.evaluations import NOT_ACTIVE, Outcome
from engine.feed.entries import Entry, EntryKind
from engine.listener.evaluation_answers import metadata
from engine.listener.evaluation_body import MAX_BODY
from engine.listener.evaluation_judging import CHUNK
from engine.listener.evaluations import BATCH_TIMEOUT, LOOK_TIMEOUT, Rules
from engine.listener.http1 import Headers, Request, Response
from engine.listener.security import SecurityEventKind
from engine.listener.tls import Peer
from engine.tokens.answer_keys import PemAnswerSigner, new_answer_key
from engine.tokens.grants import consent_key
from engine.tokens.jws import decode_part
from tests.support.evaluations import ACTION, HEAD, IDENTIFIER, RESOURCE, SHARE, EvaluationNode, id_of, subject
from tests.support.pki import CONSENT_ID, DAY, METER_POINT, NOW, MakeToken, Pki, consent_record, granted_consent
from tests.support.replicas import INCARNATION, policy_entry

OTHER_POINT = "mpan:2000000000024"
BAD_REQUESTS: list[bytes] = [
    b"",
    b"null",
    b"[]",
    b'"x"',
    b"{",
    b'{"subject":{"type":"a","id":"b"},"subject":{"type":"a","id":"b"}}',
    b'{"x":{"a":1,"a":2}}',
    b'\xef\xbb\xbf{"x":1}',
    b'{"x":"\xff"}',
    b'{"x":NaN}',
    b'{"x":"\\ud800"}',
    b'{"subject":{"type\\ud800":"a","it":"b"}}',
    '{"x":1}'.encode("utf-16"),
]


@pytest.fixture
def bare(tmp_path: Path, pki: Pki, published: bytes) -> Iterator[EvaluationNode]:
    node = EvaluationNode(tmp_path / "replica", pki, published)
    yield node
    node.store.close()


@pytest.fixture
def node(bare: EvaluationNode) -> EvaluationNode:
    """A current node that knows edp-1, atp-1 and the consent of the good token."""
    bare.open()
    bare.register("edp-1", Role.EDP, max_requests_per_second=10_000)
    bare.register("atp-1", Role.ATP)
    bare.grant()
    return bare


@pytest.fixture
def token(node: EvaluationNode, make_token: MakeToken) -> Minted:
    """A token that the worker has verified before."""
    minted = make_token()
    node.warm(minted)
    return minted


def ask(token: Minted | bytes | str, *items: dict[str, object], **more: object) -> dict[str, object]:
    """A batch about one token; without items, one that is all defaults."""
    return (
        {"subject": subject(token), "action": ACTION, "resource": RESOURCE} | more | {"evaluations": [*items] or [{}]}
    )


def one(token: Minted | bytes | str, **more: object) -> dict[str, object]:
    return {"subject": subject(token), "action": ACTION, "resource": RESOURCE} | more


def action(**changes: object) -> dict[str, object]:
    return {"name": "share", "properties": {k: v for k, v in (SHARE | changes).items() if v is not None}}


def malformed(item: dict[str, Any]) -> bool:
    return item == {"decision": False, "code": "request_malformed"}


def text_of(response: Response) -> str:
    """The error body: a JSON string."""
    found = json.loads(response.body)
    assert isinstance(found, str)
    assert response.content_type == b"application/json"
    return found


# Sections 3 and 4: shapes.


async def test_permit_names_the_consent_and_how_long_it_may_be_relied_on(node: EvaluationNode, token: Minted) -> None:
    answer = await node.decide(ask(token))
    assert answer == {
        "evaluations": [
            {
                "decision": True,
                "context": {
                    "consent_id": CONSENT_ID,
                    "ccs_consent_version": 1,
                    "ccs_last_known_until": NOW + DAY,
                },
            }
        ],
        "context": {"decision_id": "d_0001", "evaluated_at": NOW, "ccs_freshness": "current", "ccs_as_of": NOW},
    }
    assert node.items[Outcome.PERMITTED] == 1


async def test_single_answer_carries_everything_in_its_one_context(node: EvaluationNode, token: Minted) -> None:
    answer = await node.decide(one(token), single=True)
    assert answer.keys() == {"decision", "context"}
    assert answer["decision"] is True
    assert answer["context"]["consent_id"] == CONSENT_ID
    assert answer["context"]["ccs_freshness"] == "current"
    assert answer["context"]["ccs_as_of"] == answer["context"]["evaluated_at"] == NOW


async def test_batch_sent_to_the_single_endpoint_is_judged_on_its_defaults(node: EvaluationNode, token: Minted) -> None:
    assert (await node.decide(ask(token, {}, {}, {}), single=True))["decision"] is True
    assert (await node.post({"evaluations": [one(token)]}, single=True)).status == 400


async def test_defaults_serve_items_that_lack_them_and_are_replaced_whole(node: EvaluationNode, token: Minted) -> None:
    items = [
        {},
        {"subject": subject(b"u" * 32)},
        {"action": action(dataset_id="hh-gas")},
        {"action": {"name": "share"}},
        {"action": {"name": "share", "properties": {"dataset_id": "hh-gas"}}},
        {"resource": {"type": "meter_point", "id": OTHER_POINT}},
        {"context": {"share_id": "s p a c e s"}},
    ]
    answers = await node.contexts(ask(token, *items, context={"share_id": "s-1"}))
    assert [item["decision"] for item in answers] == [True, *[False] * 6]
    assert answers[1]["code"] == "token_not_active"
    assert answers[2]["code"] == "dataset_not_consented"
    assert malformed(answers[3])
    assert malformed(answers[4])
    assert answers[5]["code"] == "mpxn_not_consented"
    assert malformed(answers[6])


@pytest.mark.parametrize("count", [1, 2, CHUNK, CHUNK + 1, 500])
async def test_answer_is_as_long_as_the_request_and_in_its_order(
    node: EvaluationNode, token: Minted, count: int
) -> None:
    items = [{"resource": RESOURCE if i % 3 else {"type": "meter_point", "id": OTHER_POINT}} for i in range(count)]
    answers = await node.contexts(ask(token, *items))
    assert [item["decision"] for item in answers] == [bool(i % 3) for i in range(count)]
    assert node.items.total() == count


@pytest.mark.parametrize("where", [0, 1, 60, 119])
@pytest.mark.parametrize("first_decides", [True, False])
async def test_short_circuit_ends_with_the_deciding_item(
    node: EvaluationNode, token: Minted, where: int, first_decides: bool
) -> None:
    node.evaluations = node.make_evaluations(Rules(permits_first_permit=True))
    yes, no = {}, {"action": {"name": "share"}}
    odd, rest, semantic = (no, yes, "deny_on_first_deny") if first_decides else (yes, no, "permit_on_first_permit")
    items = [odd if i == where else rest for i in range(120)]
    answers = await node.contexts(ask(token, *items, options={"evaluations_semantic": semantic}))
    assert [item["decision"] for item in answers] == [first_decides] * where + [not first_decides]
    everything = await node.contexts(ask(token, *[rest] * 120, options={"evaluations_semantic": semantic}))
    assert len(everything) == 120


async def test_same_request_has_the_same_answer(node: EvaluationNode, token: Minted) -> None:
    body = ask(token, {}, {"subject": subject(b"u" * 32)}, {"action": {"name": "x"}}, {"resource": {"type": "x"}})
    first, second = await node.decide(body), await node.decide(body)
    assert first["evaluations"] == second["evaluations"]
    assert first["context"]["decision_id"] != second["context"]["decision_id"]


# Section 6.5, by row. Row 1 is the TLS listener's.


async def test_row_2_unknown_or_wrong_caller(node: EvaluationNode, token: Minted) -> None:
    for peer in (Peer(Thumbprint(b""), UnixTime(NOW + DAY)), Peer(Thumbprint(b"?" * 32), UnixTime(NOW + DAY))):
        refused = await node.post(ask(token), peer=peer)
        assert (refused.status, text_of(refused)) == (401, "caller not known")
    with_bearer = await node.post(ask(token), headers=(*HEAD, (b"authorization", b"Bearer x")))
    assert with_bearer.status == 401
    assert with_bearer.headers == ((b"WWW-Authenticate", b'Bearer error="invalid_token"'),)


async def test_row_3_only_an_edp_may_ask(node: EvaluationNode, token: Minted) -> None:
    refused = await node.post(ask(token), "atp-1")
    assert (refused.status, text_of(refused)) == (403, "caller not allowed")
    assert [event.kind for event in node.security.events] == [SecurityEventKind.PROBE]
    node.register("edp-9", Role.EDP, suspended=True)
    assert (await node.post(ask(token), "edp-9")).status == 401


@pytest.mark.parametrize("single", [True, False])
@pytest.mark.parametrize("method", [b"GET", b"PUT", b"DELETE"])
async def test_row_4_only_post(node: EvaluationNode, method: bytes, single: bool) -> None:
    refused = await node.post(b"", method=method, single=single)
    assert (refused.status, refused.headers) == (405, ((b"Allow", b"POST"),))


@pytest.mark.parametrize(
    "headers",
    [
        (),
        ((b"content-type", b"text/plain"),),
        ((b"content-type", b"application/x-www-form-urlencoded"),),
        ((b"content-type", b"application/json"), (b"content-type", b"application/json")),
    ],
)
async def test_row_5_other_content_types_are_400(node: EvaluationNode, token: Minted, headers: Headers) -> None:
    assert (await node.post(ask(token), headers=headers)).status == 400
    named = ((b"content-type", b"Application/JSON; charset=utf-8"),)
    assert (await node.post(ask(token), headers=named)).status == 200


@pytest.mark.parametrize("single", [True, False])
@pytest.mark.parametrize("body", BAD_REQUESTS)
async def test_row_6_what_is_no_json_object_of_one_meaning(node: EvaluationNode, body: bytes, single: bool) -> None:
    refused = await node.post(body, single=single)
    assert refused.status == 400
    assert text_of(refused)


async def test_row_6_repeated_names_anywhere_in_a_good_request(node: EvaluationNode, token: Minted) -> None:
    good = json.dumps(ask(token, one(token)), separators=(",", ":")).encode()
    assert (await node.post(good)).status == 200
    for name in (b"subject", b"type", b"id", b"action", b"properties", b"from", b"resource"):
        for start in [i for i in range(len(good)) if good.startswith(b'"' + name + b'":', i)]:
            twice = good[:start] + b'"' + name + b'":null,' + good[start:]
            assert (await node.post(twice)).status == 400
            again = good[:start] + b'"' + name + b'":"",' + good[start:]
            assert (await node.post(again)).status == 400


async def test_row_7_sizes(node: EvaluationNode, token: Minted) -> None:
    filler = json.dumps(ask(token, {})).encode()
    assert (await node.post(filler + b" " * (MAX_BODY - len(filler)))).status == 200
    too_large = await node.post(filler + b" " * (MAX_BODY - len(filler) + 1))
    assert (too_large.status, too_large.close) == (413, True)
    assert (await node.post(ask(token, *[{}] * 500))).status == 200
    assert (await node.post(ask(token, *[{}] * 501))).status == 400
    deep = json.loads("[" * 7 + "]" * 7)
    assert (await node.post(ask(token, free=deep))).status == 200
    assert (await node.post(ask(token, free=[deep]))).status == 400
    assert (await node.post(b'{"x":' + b"[" * 100_000)).status == 400
    assert (await node.post(ask(token, {"free": "s" * 65_000}, {"free": "s" * 65_000}))).status == 200
    assert (await node.post(ask(token, {"free": "s" * 65_536}))).status == 400
    assert (await node.post(ask(token, {}, free="s" * 65_536))).status == 400


@pytest.mark.parametrize("listed", [{}, "x", 1, None, [1], ["x"], [None], [[]]])
async def test_row_8_evaluations_that_are_no_array_of_objects(
    node: EvaluationNode, token: Minted, listed: object
) -> None:
    assert (await node.post(one(token) | {"evaluations": listed})).status == 400


async def test_row_9_without_evaluations_it_is_a_single_one(node: EvaluationNode, token: Minted) -> None:
    for body in (one(token), one(token, evaluations=[])):
        answer = await node.decide(body)
        assert answer["decision"] is True
        assert "evaluations" not in answer


@pytest.mark.parametrize("missing", ["subject", "action", "resource"])
async def test_row_10_single_that_lacks_something(node: EvaluationNode, token: Minted, missing: str) -> None:
    body = {name: value for name, value in one(token).items() if name != missing}
    for single in (True, False):
        refused = await node.post(body, single=single)
        assert (refused.status, text_of(refused)) == (400, f"missing {missing}")
    assert (await node.post(body | {"evaluations": []})).status == 400


@pytest.mark.parametrize(
    "broken",
    [
        {"subject": "x"},
        {"subject": {"type": "access_token"}},
        {"subject": {"type": 1, "id": "x"}},
        {"subject": None},
        {"action": {}},
        {"action": {"name": 5}},
        {"action": {"name": "share", "properties": "x"}},
        {"resource": {"type": "meter_point"}},
        {"resource": RESOURCE | {"properties": []}},
        {"context": "x"},
    ],
)
async def test_wrong_member_types_are_400_in_a_single_one_and_malformed_in_an_item(
    node: EvaluationNode, token: Minted, broken: dict[str, object]
) -> None:
    assert (await node.post(one(token) | broken, single=True)).status == 400
    assert (await node.post(one(token) | broken)).status == 400
    answers = await node.contexts(ask(token, broken, {}))
    assert malformed(answers[0])
    assert answers[1]["decision"] is True


@pytest.mark.parametrize("semantic", ["all", "", 1, None, ["execute_all"], "permit_on_first_permit"])
async def test_row_11_unknown_semantic(node: EvaluationNode, token: Minted, semantic: object) -> None:
    assert (await node.post(ask(token, options={"evaluations_semantic": semantic}))).status == 400


@pytest.mark.parametrize("missing", ["subject", "action", "resource"])
async def test_row_12_item_that_lacks_something(node: EvaluationNode, token: Minted, missing: str) -> None:
    whole = one(token)
    lacking = {name: value for name, value in whole.items() if name != missing}
    answers = await node.contexts({"evaluations": [lacking, whole]})
    assert answers[0]["error"]["status"] == 400
    assert [item["decision"] for item in answers] == [False, True]


async def test_row_13_item_that_overrides_the_action_without_properties(node: EvaluationNode, token: Minted) -> None:
    assert malformed((await node.contexts(ask(token, {"action": {"name": "share"}})))[0])


@pytest.mark.parametrize("name", ["", "Share", "can_read"])
async def test_row_14_other_actions(node: EvaluationNode, token: Minted, name: str) -> None:
    other = {"name": name, "properties": SHARE}
    assert malformed((await node.contexts(ask(token, {"action": other})))[0])
    assert malformed((answer := await node.decide(one(token, action=other), single=True))["context"] | answer) is False
    assert answer["decision"] is False
    assert answer["context"]["code"] == "request_malformed"


@pytest.mark.parametrize(
    "window",
    [
        {"from": SHARE["to"], "to": SHARE["from"]},
        {"to": SHARE["from"]},
        {"to": "2026-11-01T00:00:00"},
        {"to": "2026-11-01T00:00:00+00:00"},
        {"to": "2027-02-30T00:00:00Z"},
        {"to": None},
        {"from": None},
        {"dataset_id": None},
        {"dataset_id": "NOT A DATASET"},
        {"purpose_code": ""},
    ],
)
async def test_row_15_windows_that_are_none(node: EvaluationNode, token: Minted, window: dict[str, object]) -> None:
    assert malformed((await node.contexts(ask(token, {"action": action(**window)})))[0])


@pytest.mark.parametrize(
    "resource",
    [
        {"type": "meter", "id": METER_POINT},
        {"type": "meter_point", "id": METER_POINT[5:]},
        {"type": "meter_point", "id": METER_POINT[:-1] + "3"},
        {"type": "meter_point", "id": "esi:1000000000012"},
        {"type": "meter_point", "id": "mprn:12345"},
    ],
)
async def test_row_16_unknown_resources(node: EvaluationNode, token: Minted, resource: dict[str, str]) -> None:
    assert malformed((await node.contexts(ask(token, {"resource": resource})))[0])


async def test_row_17_tokens_that_are_not_good_look_alike(
    node: EvaluationNode, token: Minted, make_token: MakeToken
) -> None:
    node.register("edp-2", Role.EDP)
    foreign = make_token(edp="edp-2")
    expired = make_token(now=UnixTime(NOW - 590))
    no_consent = make_token(consents=(granted_consent("00000000-0000-4000-8000-000000000000"),), now=UnixTime(NOW - 60))
    other_key = make_token()
    node.warm(foreign, expired, no_consent)
    node.record(other_key)
    record = msgspec.structs.replace(node.lookups.records[other_key.digest], key_thumbprint=b"?" * 32)
    node.lookups.records[other_key.digest] = record
    node.clock.pass_seconds(30)
    node.apply()
    items = [{"subject": subject(which)} for which in (foreign, expired, b"u" * 32, no_consent, other_key)]
    wrong = [{"subject": subject(token, x5t_s256=id_of(b"t" * 32))}]
    raw = (await node.post(ask(token, *items, *wrong))).body
    assert raw.count(NOT_ACTIVE.text.encode()) == 6
    assert node.beyond.asked == [consent_key("00000000-0000-4000-8000-000000000000")]  # and none of the foreign token


async def test_row_17_the_certificate_the_token_is_bound_to_is_fine(node: EvaluationNode, token: Minted) -> None:
    bound = token.claims.cnf.x5t_s256
    assert bound is not None
    assert (await node.contexts(ask(token, {"subject": subject(token, x5t_s256=bound)})))[0]["decision"] is True
    assert malformed((await node.contexts(ask(token, {"subject": subject(token, x5t_s256="x")})))[0])


async def test_row_18_raw_token_is_malformed_and_in_no_log(
    node: EvaluationNode, token: Minted, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    raw = token.token.decode()
    for named in (raw, id_of(token) + "=", id_of(token)[:-1], id_of(token)[:-1] + "B", ""):
        response = await node.post(ask(token, {"subject": subject(named)}))
        assert malformed(json.loads(response.body)["evaluations"][0]["context"] | {"decision": False})
        assert not named or named.encode() not in response.body
    assert raw not in "".join(capfd.readouterr()) + caplog.text
    assert raw not in repr(node.security.events)


async def test_row_19_allowance_is_counted_in_items(node: EvaluationNode, token: Minted) -> None:
    node.register("edp-1", Role.EDP, max_requests_per_second=10)
    assert (await node.post(ask(token, *[{}] * 8))).status == 200
    refused = await node.post(ask(token, *[{}] * 3))
    assert (refused.status, refused.headers) == (429, ((b"Retry-After", b"1"),))
    assert text_of(refused) == "too many evaluations"
    assert (await node.post(one(token), single=True)).status == 200
    assert (await node.post(one(token), single=True)).status == 200
    assert (await node.post(one(token), single=True)).status == 429


async def test_row_20_node_that_may_not_answer(bare: EvaluationNode, make_token: MakeToken) -> None:
    refused = await bare.post(ask(make_token()))
    assert (refused.status, refused.headers) == (503, ((b"Retry-After", b"5"),))
    bare.open()
    bare.register("edp-1", Role.EDP)
    bare.clock.pass_seconds(60)
    assert (await bare.post(ask(make_token()))).status == 503


async def test_row_20a_last_known_goes_to_those_who_handle_it(node: EvaluationNode, token: Minted) -> None:
    node.register("edp-1", Role.EDP, handles_last_known=True)
    node.clock.pass_seconds(60)
    answer = await node.decide(ask(token))
    assert answer["context"]["ccs_freshness"] == "last_known"
    assert answer["context"]["ccs_as_of"] == NOW
    assert answer["evaluations"][0]["decision"] is True
    assert node.evaluations.last_known.total == 1
    node.apply(
        policy_entry(0, PolicyRecord(OnSilence.HALT)),
        bound=msgspec.structs.replace(node.bound(), fresh_until=0.0, as_of=NOW),
    )
    assert (await node.post(ask(token))).status == 503


@pytest.mark.parametrize("how", ["unreachable", "silent", "rebuilt", "forged"])
async def test_row_20b_digest_that_cannot_be_resolved_is_asked_again_with_its_token(
    node: EvaluationNode, token: Minted, make_token: MakeToken, how: str, autojump_clock: trio.testing.MockClock
) -> None:
    unseen, started = make_token(), autojump_clock.current_time()
    node.lookups.broken, node.lookups.silent = how == "unreachable", how == "silent"
    node.lookups.whole = how == "forged"
    node.lookups.in_doubt = frozenset((unseen.digest,)) if how == "forged" else frozenset()
    answers = await node.contexts(ask(token, {}, {"subject": subject(unseen)}))
    assert [item["decision"] for item in answers] == [True, False]
    assert answers[1]["error"]["status"] == 503
    assert "code" not in answers[1]
    assert autojump_clock.current_time() - started <= LOOK_TIMEOUT


async def test_row_21_unknown_members_are_ignored(node: EvaluationNode, token: Minted) -> None:
    extra: dict[str, object] = {"free": {"null": None, "list": [1.5, {"x": True}]}}
    body = {
        "subject": subject(token) | extra | {"properties": extra},
        "action": {"name": "share", "properties": SHARE | extra} | extra,
        "resource": RESOURCE | extra | {"properties": extra},
        "context": extra,
        "options": extra,
    } | extra
    assert (await node.decide(body))["decision"] is True
    assert (await node.contexts(body | {"evaluations": [extra]}))[0]["decision"] is True
    assert (await node.post(json.dumps(body, indent=2).encode())).status == 200


# Section 6.1: the rules in their order.


async def test_refusals_come_in_the_order_of_the_rules(node: EvaluationNode, token: Minted) -> None:
    node.grant(consent_record(consent_version=2, data_from=UnixTime(NOW - DAY), purpose_code="advice"))
    all_wrong = {"dataset_id": "hh-gas", "purpose_code": "other", "from": "2025-01-01T00:00:00Z"}
    elsewhere = {"type": "meter_point", "id": OTHER_POINT}
    recent = {"from": "2026-11-21T12:00:00Z", "to": "2026-11-22T00:00:00Z"}
    answers = await node.contexts(
        ask(
            token,
            {"subject": subject(b"u" * 32), "action": action(**all_wrong), "resource": elsewhere},
            {"action": action(**all_wrong), "resource": elsewhere},
            {"action": action(**all_wrong | {"dataset_id": SHARE["dataset_id"]}), "resource": elsewhere},
            {"action": action(**all_wrong | {"dataset_id": SHARE["dataset_id"]})},
            {"action": action(**recent, purpose_code="other")},
            {"action": action(**recent, purpose_code="advice")},
        )
    )
    assert [item.get("code") for item in answers] == [
        "token_not_active",
        "dataset_not_consented",
        "mpxn_not_consented",
        "window_outside_consent",
        "purpose_not_consented",
        None,
    ]
    assert [item.get("ccs_consent_version") for item in answers] == [None, 2, 2, 2, 2, 2]


async def test_allowed_part_of_a_window_is_granted_when_asked_for(node: EvaluationNode, token: Minted) -> None:
    node.grant(consent_record(data_from=UnixTime(NOW - DAY)))
    (refused,) = await node.contexts(
        ask(token, action=action(**{"from": "2026-11-01T00:00:00Z", "to": "2026-11-22T00:00:00Z"}))
    )
    assert refused["code"] == "window_outside_consent"
    assert refused["allowed"] == {"from": "2026-11-21T10:00:00Z", "to": "2026-11-22T00:00:00Z"}
    (again,) = await node.contexts(ask(token, action=action(**refused["allowed"])))
    assert again["decision"] is True
    (outside,) = await node.contexts(ask(token, action=action(to="2026-10-02T00:00:00Z")))
    assert outside["code"] == "window_outside_consent"
    assert "allowed" not in outside


async def test_switch_reduces_what_a_no_says(node: EvaluationNode, token: Minted) -> None:
    node.evaluations = node.make_evaluations(Rules(explains=False))
    answers = await node.contexts(
        ask(token, {"action": action(dataset_id="hh-gas")}, {"resource": {"type": "meter_point", "id": OTHER_POINT}})
    )
    assert answers == [{"decision": False, "code": "not_covered"}] * 2


# Tokens by their records.


async def test_token_known_by_its_record_alone_has_the_same_answers(
    node: EvaluationNode, make_token: MakeToken
) -> None:
    consents = (granted_consent(meter_points=(METER_POINT, OTHER_POINT)),)
    node.grant(consents[0].record)
    seen, unseen = make_token(consents=consents), make_token(consents=consents)
    node.warm(seen)
    node.record(unseen)
    items: list[dict[str, object]] = [
        {},
        {"resource": {"type": "meter_point", "id": OTHER_POINT}},
        {"resource": {"type": "meter_point", "id": "mpan:1012345678903"}},
        {"action": action(dataset_id="hh-gas")},
        {"action": action(**{"from": "2020-01-01T00:00:00Z"})},
    ]
    known, read = await node.contexts(ask(seen, *items)), await node.contexts(ask(unseen, *items))
    assert known == read
    assert [item["decision"] for item in read] == [True, True, False, False, False]
    assert node.lookups.asked == [(unseen.digest,)]
    assert await node.contexts(ask(unseen, *items)) == read
    assert len(node.lookups.asked) == 1  # remembered


async def test_all_tokens_that_are_not_known_are_looked_up_at_once(node: EvaluationNode, make_token: MakeToken) -> None:
    tokens = [make_token() for _ in range(5)]
    node.record(*tokens[:3])
    node.warm(tokens[3])
    items = [{"subject": subject(which)} for which in (*tokens, *tokens)]
    answers = await node.contexts(ask(tokens[0], *items))
    assert [item["decision"] for item in answers] == [True, True, True, True, False] * 2
    assert node.lookups.asked == [tuple(which.digest for which in (*tokens[:3], tokens[4]))]


async def test_record_that_does_not_say_what_binds_the_token_resolves_nothing(
    node: EvaluationNode, make_token: MakeToken
) -> None:
    unseen = make_token()
    node.record(unseen)
    earlier = msgspec.structs.replace(node.lookups.records[unseen.digest], x5t_s256=None)
    node.lookups.records[unseen.digest] = earlier
    assert (await node.contexts(ask(unseen)))[0]["error"]["status"] == 503


async def test_key_that_a_node_in_last_known_does_not_know_resolves_nothing(
    node: EvaluationNode, make_token: MakeToken
) -> None:
    node.register("edp-1", Role.EDP, handles_last_known=True)
    unseen = make_token()
    node.record(unseen)
    record = msgspec.structs.replace(node.lookups.records[unseen.digest], key_thumbprint=b"?" * 32)
    node.lookups.records[unseen.digest] = record
    node.clock.pass_seconds(60)
    assert (await node.contexts(ask(unseen)))[0]["error"]["status"] == 503


# Snapshots, chunks, time.


async def test_a_batch_takes_one_transaction(node: EvaluationNode, token: Minted) -> None:
    before = node.counted_replica.transactions
    await node.contexts(ask(token, *[{}] * 200))
    assert node.counted_replica.transactions == before + 1


async def test_change_of_a_consent_shows_in_the_next_batch(node: EvaluationNode, token: Minted) -> None:
    assert (await node.contexts(ask(token)))[0]["decision"] is True
    node.grant(consent_record(state=State.REVOKED, consent_version=2))
    assert (await node.contexts(ask(token)))[0]["code"] == "token_not_active"
    node.grant(consent_record(consent_version=3))
    assert (await node.contexts(ask(token)))[0]["ccs_consent_version"] == 3
    node.register("atp-1", Role.ATP, suspended=True)
    assert (await node.contexts(ask(token)))[0]["code"] == "token_not_active"


async def test_revocation_that_comes_during_a_batch_leaves_it_whole(node: EvaluationNode, token: Minted) -> None:
    """All items are of one snapshot, whichever it is."""
    async with trio.open_nursery() as nursery:

        async def revoke() -> None:
            await trio.lowlevel.checkpoint()
            node.grant(consent_record(state=State.REVOKED, consent_version=2))

        nursery.start_soon(revoke)
        answers = await node.contexts(ask(token, *[{}] * 400))
    assert len({item["decision"] for item in answers}) == 1


async def test_revocation_that_comes_while_redis_is_asked_counts_for_all(node: EvaluationNode, token: Minted) -> None:
    node.lookups.meanwhile = lambda: node.grant(consent_record(state=State.REVOKED, consent_version=2))
    answers = await node.contexts(ask(token, {}, {"subject": subject(b"u" * 32)}, {}))
    assert [item["code"] for item in answers] == ["token_not_active"] * 3


async def test_others_have_their_turn_after_each_chunk(node: EvaluationNode, token: Minted) -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(others)
        await trio.lowlevel.checkpoint()
        for count in (CHUNK, 5 * CHUNK, 500):
            before = turns
            await node.contexts(ask(token, *[{}] * count))
            assert turns - before >= (count - 1) // CHUNK - 1  # trio draws lots within a round: one may slip by
        nursery.cancel_scope.cancel()


class SlowTurns(trio.abc.Instrument):
    """Each turn of a task takes a while."""

    def __init__(self, clock: trio.testing.MockClock, seconds: float) -> None:
        self.clock, self.seconds = clock, seconds

    def after_task_step(self, _task: trio.lowlevel.Task) -> None:
        self.clock.jump(self.seconds)


@pytest.mark.parametrize(("semantic", "length"), [("execute_all", 500), ("deny_on_first_deny", 3 * CHUNK + 1)])
async def test_items_that_time_does_not_suffice_for_are_asked_again(
    node: EvaluationNode, token: Minted, mock_clock: trio.testing.MockClock, semantic: str, length: int
) -> None:
    body = ask(token, *[{}] * 500, options={"evaluations_semantic": semantic})
    slow = SlowTurns(mock_clock, BATCH_TIMEOUT * 0.4)
    trio.lowlevel.add_instrument(slow)
    answers = await node.contexts(body)
    trio.lowlevel.remove_instrument(slow)
    assert [item["decision"] for item in answers] == [True] * 3 * CHUNK + [False] * (length - 3 * CHUNK)
    assert all(item["error"]["status"] == 503 for item in answers[3 * CHUNK :])


async def test_answer_is_not_given_in_a_state_that_has_passed(node: EvaluationNode, token: Minted) -> None:
    node.lookups.meanwhile = lambda: None

    async def age() -> None:
        await trio.lowlevel.checkpoint()
        node.clock.pass_seconds(60)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(age)
        assert (await node.post(ask(token, *[{}] * 500))).status == 503


# Beyond the replica: consents and claims.


async def test_consent_that_the_replica_lacks_is_read_through(node: EvaluationNode, make_token: MakeToken) -> None:
    other = "c0ffee00-1111-4222-8333-444455556666"
    newer = make_token(consents=(granted_consent(other),))
    node.warm(newer)
    record = msgspec.msgpack.encode(consent_record(other))
    node.beyond.held[consent_key(other)] = Entry(INCARNATION, 99, EntryKind.CONSENT, consent_key(other), record)
    assert (await node.contexts(ask(newer, {}, {})))[1]["decision"] is True
    assert node.beyond.asked == [consent_key(other)]
    node.beyond.broken = True
    assert (await node.contexts(ask(newer)))[0]["error"]["status"] == 503


@pytest.fixture
def one_off(node: EvaluationNode, make_token: MakeToken) -> Minted:
    granted = granted_consent(access_mode=AccessMode.ONE_OFF)
    node.grant(granted.record)
    minted = make_token(consents=(granted,))
    node.warm(minted)
    return minted


async def test_one_off_is_claimed_once_for_its_share(node: EvaluationNode, one_off: Minted) -> None:
    first = await node.contexts(ask(one_off, {}, {}, context={"share_id": "s-1"}))
    assert [item["decision"] for item in first] == [True, True]
    assert node.claims.held == {(CONSENT_ID, "edp-1"): "s-1"}
    second = await node.contexts(ask(one_off, context={"share_id": "s-2"}))
    assert second == [{"decision": False, "code": "token_not_active"}]
    assert (await node.contexts(ask(one_off, context={"share_id": "s-1"})))[0]["decision"] is True


async def test_one_off_without_a_share_id_is_not_claimed(node: EvaluationNode, one_off: Minted) -> None:
    assert (await node.contexts(ask(one_off)))[0]["error"]["status"] == 400
    assert node.claims.held == {}


async def test_claim_that_cannot_be_made_is_asked_again(node: EvaluationNode, one_off: Minted) -> None:
    node.claims.reachable = False
    assert (await node.contexts(ask(one_off, context={"share_id": "s-1"})))[0]["error"]["status"] == 503


async def test_claims_end_with_the_batch_s_time(
    node: EvaluationNode, one_off: Minted, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(node.claims, "claim", never)
    started = autojump_clock.current_time()
    assert (await node.contexts(ask(one_off, context={"share_id": "s-1"})))[0]["error"]["status"] == 503
    assert autojump_clock.current_time() - started == pytest.approx(BATCH_TIMEOUT)


async def test_items_after_the_deciding_one_claim_nothing(node: EvaluationNode, one_off: Minted) -> None:
    items = [{"context": {"share_id": "s-1"}}, {"context": {"share_id": "s-2"}}, {"action": {"name": "x"}}]
    body = ask(one_off, *items, options={"evaluations_semantic": "deny_on_first_deny"})
    answers = await node.contexts(body)
    assert [item["decision"] for item in answers] == [True, False]
    assert answers[1]["code"] == "token_not_active"
    unclaimed = ask(one_off, items[2], items[1], options={"evaluations_semantic": "deny_on_first_deny"})
    node.claims.held.clear()
    await node.contexts(unclaimed)
    assert node.claims.held == {}


# Forms of the answer; metadata.


@pytest.fixture(scope="session")
def signer() -> PemAnswerSigner:
    return PemAnswerSigner.from_pem(new_answer_key())


def accepting(value: bytes) -> Headers:
    return ((b"content-type", b"application/json"), (b"accept", value))


SIGNED = b"application/ccs-decision+jwt"


async def test_signed_answer_covers_request_and_result(
    node: EvaluationNode, token: Minted, signer: PemAnswerSigner
) -> None:
    node.evaluations = node.make_evaluations(signer=signer)
    body = json.dumps(ask(token)).encode()
    response = await node.post(body, headers=accepting(SIGNED))
    assert (response.status, response.content_type) == (200, SIGNED)
    head, payload, _ = response.body.split(b".")
    assert json.loads(decode_part(head) or b"")["typ"] == "ccs-decision+jwt"
    claims = json.loads(decode_part(payload) or b"")
    assert (claims["iss"], claims["aud"], claims["iat"]) == (IDENTIFIER, "edp-1", NOW)
    assert claims["req"] == id_of(hashlib.sha256(body).digest())
    assert claims["result"]["evaluations"][0]["decision"] is True
    assert (await node.post(body, headers=accepting(b"*/*"))).content_type == b"application/json"


async def test_edp_registered_for_signed_answers_never_gets_a_plain_one(
    node: EvaluationNode, token: Minted, signer: PemAnswerSigner
) -> None:
    node.register("edp-1", Role.EDP, answers=Answers.SIGNED)
    assert (await node.post(ask(token), headers=accepting(b"*/*"))).status == 406
    node.evaluations = node.make_evaluations(signer=signer)
    assert (await node.post(ask(token), headers=accepting(b"*/*"))).content_type == SIGNED
    assert (await node.post(ask(token), headers=accepting(b"application/json"))).status == 400
    node.key_is_published = False
    assert (await node.post(ask(token), headers=accepting(b"*/*"))).status == 503


async def test_answer_in_no_form_that_is_accepted(node: EvaluationNode, token: Minted) -> None:
    assert (await node.post(ask(token), headers=accepting(b"text/html"))).status == 406
    assert (await node.post(ask(token), headers=accepting(SIGNED))).status == 406


def test_metadata_names_the_endpoints() -> None:
    handle = metadata(IDENTIFIER)
    peer = Peer(Thumbprint(b""), UnixTime(0))
    answer = handle(Request(b"GET", b"/.well-known/authzen-configuration", (), b"", keep_alive=True), peer)
    assert json.loads(answer.body) == {
        "policy_decision_point": IDENTIFIER,
        "access_evaluation_endpoint": f"{IDENTIFIER}/access/v1/evaluation",
        "access_evaluations_endpoint": f"{IDENTIFIER}/access/v1/evaluations",
    }
    refused = handle(Request(b"POST", b"/.well-known/authzen-configuration", (), b"", keep_alive=True), peer)
    assert (refused.status, refused.headers) == (405, ((b"Allow", b"GET, HEAD"),))
