"""The endpoint's rows in signed form: what an EDP verifies, and that a no tells nothing but that."""

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

import jwt
import msgspec
import pytest
from joserfc import jws
from joserfc.jwk import ECKey

from admin.pki.keys import TokenKey
from engine.clock import UnixTime
from engine.consent.records import Answers, Role
from engine.consent.states import State
from engine.listener.http1 import Response
from engine.listener.introspection import Outcome
from engine.tokens.jws import encode_part
from tests.support.bad_tokens import BAD_TOKENS, Forge
from tests.support.endpoint import FORM, Node
from tests.support.pki import ISSUER, METER_POINT, NOW, MakeToken, Pki, consent_record

JWT = b"application/token-introspection+jwt"
ASKS_FOR_JWT = (FORM, (b"accept", JWT))
SHARE = {
    "ccs_dataset_id": "hh-electricity-import",
    "ccs_mpxn": METER_POINT,
    "ccs_from": "2026-10-01T00:00:00Z",
    "ccs_to": "2026-11-01T00:00:00Z",
}


@pytest.fixture
def node(tmp_path: Path, pki: Pki, published: bytes) -> Iterator[Node]:
    """edp-1 is registered for signed answers, edp-2 for plain ones."""
    node = Node(tmp_path / "replica", pki, published)
    node.open()
    node.register("edp-1", Role.EDP, answers=Answers.SIGNED, max_requests_per_second=10_000)
    node.register("edp-2", Role.EDP)
    node.register("atp-1", Role.ATP)
    node.grant()
    yield node
    node.store.close()


def opened(node: Node, response: Response, token: bytes, audience: str = "edp-1") -> dict[str, Any]:
    """The claims, checked as the sheet's section 4 says, with another implementation."""
    assert (response.status, response.content_type, response.headers) == (200, JWT, ())
    assert node.answer_key.held is not None
    key = ECKey.import_key(json.loads(msgspec.json.encode(node.answer_key.held.public)))
    read = jws.deserialize_compact(response.body.decode(), key, algorithms=["ES256"])
    assert read.headers() == {"typ": "token-introspection+jwt", "alg": "ES256", "kid": key.thumbprint()}
    claims: dict[str, Any] = json.loads(read.payload)
    ath = encode_part(hashlib.sha256(token).digest()).decode()
    assert {name: claims[name] for name in ("iss", "aud", "iat", "ath")} == {
        "iss": ISSUER,
        "aud": audience,
        "iat": node.clock.at,
        "ath": ath,
    }
    return claims


def is_bare_no(claims: dict[str, Any]) -> bool:
    return set(claims) == {"iss", "aud", "iat", "ath", "token_introspection"} and claims["token_introspection"] == {
        "active": False
    }


async def test_a_yes_holds_what_the_plain_answer_holds_on_both_ways(node: Node, good: bytes) -> None:
    """The third answer comes from what the worker knows already."""
    signed = [opened(node, await node.ask(good), good)["token_introspection"] for _ in range(4)]
    node.register("edp-1", Role.EDP, answers=Answers.PLAIN)
    plain = await node.ask(good)
    assert plain.content_type == b"application/json"
    assert signed == [json.loads(plain.body)] * 4
    assert node.counted == {Outcome.ACTIVE: 5}


async def test_a_plain_edp_gets_the_jwt_when_it_asks_for_it(node: Node, make_token: MakeToken) -> None:
    token = make_token(edp="edp-2").token
    assert opened(node, await node.ask(token, "edp-2", headers=ASKS_FOR_JWT), token, "edp-2")
    assert (await node.ask(token, "edp-2")).content_type == b"application/json"


@pytest.mark.parametrize("token", [b"random", b"a" * 8193, b"a.b.c", b".."])
async def test_rows_18_and_23_what_was_never_issued(node: Node, token: bytes) -> None:
    assert is_bare_no(opened(node, await node.ask(token), token))


async def test_row_19_a_token_of_another_edp(node: Node, make_token: MakeToken) -> None:
    foreign = make_token(edp="edp-2").token
    assert is_bare_no(opened(node, await node.ask(foreign), foreign))


async def test_row_20_an_expired_token(node: Node, good: bytes) -> None:
    node.clock.pass_seconds(600)
    node.apply()
    assert is_bare_no(opened(node, await node.ask(good), good))


@pytest.mark.parametrize("state", [state for state in State if state is not State.ACTIVE])
async def test_row_21_a_consent_that_is_not_active(node: Node, good: bytes, state: State) -> None:
    node.grant(consent_record(state=state, consent_version=2))
    assert is_bare_no(opened(node, await node.ask(good), good))


async def test_row_21_a_suspended_atp(node: Node, good: bytes) -> None:
    node.register("atp-1", Role.ATP, suspended=True)
    assert is_bare_no(opened(node, await node.ask(good), good))


@pytest.mark.parametrize("name", sorted(BAD_TOKENS))
async def test_rows_22_to_27_tokens_of_attackers(
    node: Node, make_token: MakeToken, token_keys: dict[str, TokenKey], name: str
) -> None:
    make, _ = BAD_TOKENS[name]
    bad = make(Forge(make_token(), token_keys))
    response = await node.ask(None, body=urlencode({"token": bad}).encode())
    if not bad or not bad.isascii() or b"\0" in bad or len(bad) > 16_000:  # does not get so far, and is not signed
        assert (response.status in {400, 413}, response.content_type) == (True, b"application/json")
    else:
        assert is_bare_no(opened(node, response, bad))


async def test_row_25_our_own_answer_is_no_token(node: Node, good: bytes) -> None:
    answer = (await node.ask(good)).body
    assert is_bare_no(opened(node, await node.ask(answer), answer))


async def test_two_nos_differ_in_time_digest_and_signature_only(node: Node, good: bytes, make_token: MakeToken) -> None:
    foreign = make_token(edp="edp-2").token
    node.grant(consent_record(state=State.REVOKED, consent_version=2))
    answers = [opened(node, await node.ask(token), token) for token in (good, foreign, b"random")]
    without = [{name: value for name, value in claims.items() if name != "ath"} for claims in answers]
    assert without[0] == without[1] == without[2]


async def test_row_5_whoever_is_no_edp_gets_a_plain_no(node: Node, good: bytes) -> None:
    node.register("atp-1", Role.ATP, answers=Answers.SIGNED)
    both = (FORM, (b"accept", JWT + b", application/json;q=0.5"))
    for headers in ((FORM,), both):
        assert await node.ask(good, "atp-1", headers=headers) == Response(200, b'{"active":false}')


@pytest.mark.parametrize(
    ("accept", "status"), [(b"application/json", 400), (b"text/html", 406), (JWT + b";q=0, */*", 400)]
)
async def test_rows_15_and_15a_no_form_that_may_be_sent(node: Node, good: bytes, accept: bytes, status: int) -> None:
    response = await node.ask(good, headers=(FORM, (b"accept", accept)))
    assert (response.status, response.body) == (status, b'{"error":"invalid_request"}')


async def test_errors_are_never_signed(node: Node, good: bytes) -> None:
    for response in (await node.ask(None), await node.ask(good, ccs_dataset_id="half"), await node.ask(good, "edp-9")):
        assert (response.status // 100, response.content_type) == (4, b"application/json")


async def test_without_a_published_key_nobody_gets_a_plain_answer_instead(node: Node, good: bytes) -> None:
    """Before and after the worker knows the token; and a bad request is still told that it is bad."""
    key = node.answer_key.held
    for _ in range(2):
        node.answer_key.held = None
        for token in (good, b"random"):
            refusal = await node.ask(token)
            assert (refusal.status, refusal.body) == (503, b'{"error":"temporarily_unavailable"}')
            assert any(name == b"Retry-After" for name, _ in refusal.headers)
        assert (await node.ask(None)).status == 400
        node.answer_key.held = key
        for _ in range(3):
            assert opened(node, await node.ask(good), good)["token_introspection"]["active"] is True


async def test_without_a_published_key_plain_answers_go_on(node: Node, make_token: MakeToken) -> None:
    node.answer_key.held = None
    token = make_token(edp="edp-2").token
    assert (await node.ask(token, "edp-2")).status == 200
    assert (await node.ask(token, "edp-2", headers=ASKS_FOR_JWT)).status == 503


class Guide:
    """`open_answer` as the EDPs' guide gives it, with what its caller has: a reply, and the issuer's key set."""

    def __init__(self, node: Node) -> None:
        text = (Path(__file__).parents[3] / "docs" / "edp.md").read_text()
        code, self.names = text.partition("```python\n")[2].partition("```")[0], dict[str, Any]()
        exec(code, self.names)  # noqa: S102 - our own document, as a reader would run it
        assert node.answer_key.held is not None
        self.keys = jwt.PyJWKSet.from_dict({"keys": [json.loads(msgspec.json.encode(node.answer_key.held.public))]})

    def open(self, response: Response, token: str, client_id: str = "edp-1", issuer: str = ISSUER) -> Any:
        reply = SimpleNamespace(
            status_code=response.status,
            headers={"content-type": response.content_type.decode()},
            text=response.body.decode(),
        )
        jwks = SimpleNamespace(get_signing_key=self.keys.__getitem__)
        return self.names["open_answer"](reply, token, issuer, client_id, jwks)


async def test_the_guides_own_code_opens_an_answer_and_nothing_else(
    node: Node, good: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    guide, token, now = Guide(node), good.decode(), float(NOW)
    monkeypatch.setattr(time, "time", lambda: now)
    yes, no = await node.ask(good), await node.ask(b"random")
    assert guide.open(yes, token)["active"] is True
    assert guide.open(no, "random") == {"active": False}
    head, _, rest = yes.body.partition(b".")
    wrong: list[tuple[Response, dict[str, str]]] = [
        (yes, {"client_id": "edp-2"}),
        (yes, {"issuer": "https://elsewhere"}),
        (yes, {"token": "another"}),
        (msgspec.structs.replace(yes, content_type=b"application/json"), {}),
        (msgspec.structs.replace(yes, status=503), {}),
        (msgspec.structs.replace(yes, body=no.body.rpartition(b".")[0] + b"." + rest.rpartition(b".")[2]), {}),
        (msgspec.structs.replace(yes, body=head + b"." + rest[:-4] + b"AAAA"), {}),
    ]
    assert node.answer_key.held is not None
    other_type = node.answer_key.held.sign("other+jwt", json.dumps(opened(node, yes, good)).encode())
    wrong.append((msgspec.structs.replace(yes, body=other_type), {}))
    for response, asked in wrong:
        with pytest.raises((ValueError, jwt.PyJWTError)):
            guide.open(response, **({"token": token} | asked))
    for at in (NOW + 60.0, NOW - 10.0):
        now = at
        assert guide.open(yes, token)["active"] is True
    for at in (NOW + 61.0, NOW - 11.0):
        now = at
        with pytest.raises((ValueError, jwt.PyJWTError)):
            guide.open(yes, token)


NOT_COVERED = [
    ({"ccs_dataset_id": "hh-gas"}, "dataset_not_consented"),
    ({"ccs_mpxn": "mpan:2000000000024"}, "mpxn_not_consented"),
    ({"ccs_from": "1999-10-01T00:00:00Z"}, "window_outside_consent"),
]


@pytest.mark.parametrize(("change", "code"), NOT_COVERED)
async def test_a_no_to_the_content_says_why_only_where_switched_on(
    node: Node, good: bytes, change: dict[str, str], code: str
) -> None:
    assert is_bare_no(opened(node, await node.ask(good, **SHARE | change), good))
    node.endpoint = node.make_endpoint(shows_codes=True)
    for _ in range(3):
        claims = opened(node, await node.ask(good, **SHARE | change), good)
        assert claims["ccs_decision"] == {"code": code}
        assert claims["token_introspection"] == {"active": False}
    assert "ccs_decision" not in opened(node, await node.ask(good, **SHARE), good)


async def test_a_defect_of_the_token_never_has_a_code(node: Node, good: bytes) -> None:
    node.endpoint = node.make_endpoint(shows_codes=True)
    asked = SHARE | {"ccs_dataset_id": "hh-gas"}
    assert is_bare_no(opened(node, await node.ask(b"random", **asked), b"random"))
    node.grant(consent_record(state=State.REVOKED, consent_version=2))
    assert is_bare_no(opened(node, await node.ask(good, **asked), good))


async def test_the_time_is_that_of_the_answer(node: Node, good: bytes) -> None:
    first = opened(node, await node.ask(good), good)
    node.clock.pass_seconds(7)
    node.apply()
    assert (first["iat"], opened(node, await node.ask(good), good)["iat"]) == (NOW, UnixTime(NOW + 7))
