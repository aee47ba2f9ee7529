"""The endpoint on a real replica: each row of the sheet's section 8 that concerns plain answers, by its number."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlencode

import msgspec
import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from admin.pki.keys import TokenKey
from engine.clock import UnixTime
from engine.consent.records import (
    AccessMode,
    Answers,
    ClientId,
    ConsentRecord,
    OnSilence,
    PolicyRecord,
    Role,
    Thumbprint,
)
from engine.consent.states import State
from engine.feed.entries import Entry, EntryKind
from engine.listener.http1 import Headers, Response
from engine.listener.introspection import STEPS_TIMEOUT, Outcome
from engine.listener.security import SecurityEvent, SecurityEventKind
from engine.listener.tls import Peer
from engine.tokens.grants import consent_key
from engine.tokens.verify import revocation_key
from tests.support.bad_tokens import BAD_TOKENS, Forge
from tests.support.endpoint import FORM, KEY, Node
from tests.support.pki import (
    CONSENT_ID,
    DAY,
    METER_POINT,
    NOW,
    MakeToken,
    Pki,
    consent_record,
    granted_consent,
)
from tests.support.replicas import INCARNATION, participant_entry, policy_entry

INACTIVE = Response(200, b'{"active":false}')
WINDOW = {
    "ccs_dataset_id": "hh-electricity-import",
    "ccs_mpxn": METER_POINT,
    "ccs_from": "2026-10-01T00:00:00Z",
    "ccs_to": "2026-11-01T00:00:00Z",
}

OPAQUE = {
    "256 bits in base64url": b"kZ7fUuWq0d3yJb8cQh2xT1vPnM6sRgLe4aXoIiYwKtE",
    "256 bits in hexadecimal": hashlib.sha256(b"x").hexdigest().encode(),
    "a UUID": b"0f8fad5b-d9cb-469f-a165-70867728950e",
    "two parts": b"rt1.kZ7fUuWq0d3yJb8cQh2xT1vPnM6sRgLe4aXoIiYwKtE",
}


@pytest.fixture
def bare(tmp_path: Path, pki: Pki, published: bytes) -> Iterator[Node]:
    """A node without a replica."""
    node = Node(tmp_path / "replica", pki, published)
    yield node
    node.store.close()


@pytest.fixture
def node(bare: Node) -> Node:
    """A current node that knows edp-1, atp-1 and the consent of the good token."""
    bare.open()
    bare.register("edp-1", Role.EDP)
    bare.register("atp-1", Role.ATP)
    bare.grant()
    return bare


def refused(status: int, error: bytes, headers: Mapping[bytes, bytes] | None = None) -> Response:
    return Response(status, b'{"error":"%b"}' % error, headers=tuple((headers or {}).items()))


INVALID = refused(400, b"invalid_request")
LATER = b"temporarily_unavailable"


def is_unavailable(response: Response) -> bool:
    return (response.status, response.body) == (503, b'{"error":"temporarily_unavailable"}') and any(
        name == b"Retry-After" and int(value) >= 1 for name, value in response.headers
    )


def one_off(node: Node, make_token: MakeToken) -> bytes:
    fields = {"access_mode": AccessMode.ONE_OFF, "expires_at": UnixTime(NOW + DAY), "data_to": NOW}
    node.grant(consent_record(**fields))
    return make_token(consents=(granted_consent(**fields),)).token


class TestYes:
    async def test_a_good_token_is_active_with_what_it_stands_for(self, node: Node, good: bytes) -> None:
        response = await node.ask(good)
        answer = json.loads(response.body)
        assert (response.status, response.content_type) == (200, b"application/json")
        assert answer["active"] is True
        assert (answer["aud"], answer["client_id"], answer["ccs_freshness"]) == ("edp-1", "atp-1", "current")
        assert answer["ccs_as_of"] == NOW
        assert answer["authorization_details"][0]["consent_id"] == CONSENT_ID
        assert node.counted == {Outcome.ACTIVE: 1}

    async def test_a_repeat_is_decided_anew_on_what_the_replica_says_by_then(self, node: Node, good: bytes) -> None:
        assert json.loads((await node.ask(good)).body)["active"] is True
        node.grant(consent_record(state=State.REVOKED, consent_version=2))
        assert await node.ask(good) == INACTIVE

    async def test_a_renewed_certificate_speaks_for_the_same_client(self, node: Node, good: bytes) -> None:
        old = node.register("edp-1", Role.EDP)
        new = node.pki.client("edp-1-renewed").certificate
        both = (*old.certificates, msgspec.structs.replace(new, not_after=UnixTime(NOW + DAY)))
        node.apply(participant_entry(0, msgspec.structs.replace(old, certificates=both)))
        answer = await node.ask(good, "edp-1-renewed")
        assert json.loads(answer.body)["active"] is True


class TestMessage:
    @pytest.mark.parametrize("method", [b"GET", b"PUT", b"HEAD", b"DELETE", b"OPTIONS", b"PATCH"])
    async def test_row_10_other_methods(self, node: Node, good: bytes, method: bytes) -> None:
        assert await node.ask(good, method=method) == refused(405, b"invalid_request", {b"Allow": b"POST"})

    @pytest.mark.parametrize("query", [b"?token=abc", b"?", b"?x=1"])
    async def test_row_9_a_query_string(self, node: Node, good: bytes, query: bytes) -> None:
        assert await node.ask(good, target=b"/introspect" + query) == INVALID

    @pytest.mark.parametrize("headers", [(), ((b"content-type", b"application/json"),), (FORM, FORM)])
    async def test_row_11_another_content_type(self, node: Node, good: bytes, headers: Headers) -> None:
        expected = refused(415, b"invalid_request", {b"Accept": b"application/x-www-form-urlencoded"})
        assert await node.ask(good, headers=headers) == expected

    async def test_row_12_a_body_over_the_cap(self, node: Node) -> None:
        response = await node.ask(None, body=b"token=" + b"a" * 16_379)
        assert (response.status, response.body, response.close) == (413, b'{"error":"invalid_request"}', True)
        assert await node.ask(None, body=b"token=" + b"a" * 16_378) == INACTIVE

    @pytest.mark.parametrize("body", [b"", b"token=", b"token", b"token_type_hint=access_token"])
    async def test_row_7_no_token(self, node: Node, body: bytes) -> None:
        assert await node.ask(None, body=body) == INVALID

    @pytest.mark.parametrize("again", ["token", "client_id", "ccs_from"])
    async def test_row_8_a_repeated_parameter(self, node: Node, good: bytes, again: str) -> None:
        value = urlencode([("token", good.decode()), (again, "a"), (again, "a")]).encode()
        assert await node.ask(None, body=value) == INVALID

    @pytest.mark.parametrize("tail", [b"%", b"%zz", b"%00", b"\0", b"\xc3\xa9", b"%C3%A9"])
    async def test_row_14_broken_bytes(self, node: Node, good: bytes, tail: bytes) -> None:
        assert await node.ask(None, body=b"token=" + good + tail) == INVALID

    async def test_row_16_an_unknown_hint_changes_nothing(self, node: Node, good: bytes) -> None:
        plain = await node.ask(good)
        for hint in ("refresh_token", "access_token", "nonsense"):
            assert await node.ask(good, token_type_hint=hint) == plain

    async def test_unknown_parameters_are_ignored(self, node: Node, good: bytes) -> None:
        assert await node.ask(good, shoe_size="44") == await node.ask(good)

    @pytest.mark.parametrize(
        "change",
        [
            {"ccs_from": None},
            {"ccs_to": None},
            {"ccs_mpxn": None},
            {"ccs_dataset_id": None},
            {"ccs_from": "2026-11-01T00:00:00Z"},
            {"ccs_from": "2026-12-01T00:00:00Z"},
            {"ccs_from": "2026-10-01T00:00:00"},
            {"ccs_from": "2026-10-01T00:00:00+00:00"},
            {"ccs_from": "2026-10-01"},
            {"ccs_from": "2026-02-30T00:00:00Z"},
            {"ccs_from": "2026-10-01T00:00:00Z\n"},
            {"ccs_mpxn": "1000000000012"},
            {"ccs_mpxn": "mpan:12"},
            {"ccs_mpxn": "mpan:100000000001x"},
            {"ccs_dataset_id": "No Such Form"},
            {"ccs_purpose_code": "Two Words"},
            {"ccs_share_id": "two words"},
            {"ccs_share_id": "x" * 129},
        ],
    )
    async def test_row_17_context_that_is_incomplete_or_unreadable(
        self, node: Node, good: bytes, change: dict[str, str | None]
    ) -> None:
        context = {name: value for name, value in (WINDOW | change).items() if value is not None}
        assert await node.ask(good, **context) == INVALID

    async def test_row_17_a_purpose_code_without_the_four(self, node: Node, good: bytes) -> None:
        assert await node.ask(good, ccs_purpose_code="switching") == INVALID


class TestCaller:
    async def test_row_2_no_certificate(self, node: Node, good: bytes) -> None:
        nobody = Peer(Thumbprint(b""), UnixTime(2**62))
        assert await node.ask(good, peer=nobody) == refused(400, b"invalid_client")

    async def test_row_3_an_unknown_certificate(self, node: Node, good: bytes) -> None:
        assert await node.ask(good, "stranger") == refused(401, b"invalid_client")

    async def test_row_3_the_client_id_of_another(self, node: Node, good: bytes) -> None:
        node.register("edp-2", Role.EDP)
        assert await node.ask(good, client_id="edp-2") == refused(401, b"invalid_client")
        assert node.security.events == [SecurityEvent(SecurityEventKind.WRONG_CLIENT, ClientId("edp-1"))]

    async def test_the_own_client_id_is_welcome(self, node: Node, good: bytes) -> None:
        assert await node.ask(good, client_id="edp-1") == await node.ask(good)

    async def test_row_3_a_suspended_edp_on_an_open_connection(self, node: Node, good: bytes) -> None:
        assert (await node.ask(good)).status == 200
        node.register("edp-1", Role.EDP, suspended=True)
        assert await node.ask(good) == refused(401, b"invalid_client")

    async def test_row_3_a_certificate_no_longer_registered(self, node: Node, good: bytes) -> None:
        node.register("edp-1", Role.EDP, certificates=())
        assert await node.ask(good) == refused(401, b"invalid_client")

    async def test_row_3_a_certificate_that_ran_out_on_an_open_connection(self, node: Node, good: bytes) -> None:
        assert await node.ask(good, peer=node.peer("edp-1", not_after=NOW)) == refused(401, b"invalid_client")
        node.clock.pass_seconds(30 * DAY)  # to the registered end
        node.apply()
        late = node.peer("edp-1", not_after=NOW + 99 * DAY)
        assert await node.ask(good, peer=late) == refused(401, b"invalid_client")

    async def test_row_3_basic_credentials(self, node: Node, good: bytes) -> None:
        response = await node.ask(good, headers=(FORM, (b"authorization", b"Basic ZWRwOjE=")))
        assert (response.status, response.body) == (401, b'{"error":"invalid_client"}')
        assert b"WWW-Authenticate" in dict(response.headers)

    async def test_row_4_a_bearer_token_as_credentials(self, node: Node, good: bytes) -> None:
        response = await node.ask(good, headers=(FORM, (b"authorization", b"Bearer " + good)))
        expected = {b"WWW-Authenticate": b'Bearer error="invalid_token"'}
        assert response == refused(401, b"invalid_token", expected)

    async def test_row_29_more_than_the_allowance(self, node: Node, good: bytes) -> None:
        node.register("edp-1", Role.EDP, max_requests_per_second=3)
        node.register("edp-2", Role.EDP)
        statuses = [(await node.ask(good)).status for _ in range(5)]
        assert statuses == [200, 200, 200, 429, 429]
        assert await node.ask(good) == refused(429, LATER, {b"Retry-After": b"1"})
        assert (await node.ask(good, "edp-2")).status == 200
        node.clock.pass_seconds(1)
        node.apply()
        assert (await node.ask(good)).status == 200

    async def test_row_29_steps_of_one_request_count_once(self, node: Node, make_token: MakeToken) -> None:
        node.register("edp-1", Role.EDP, max_requests_per_second=1)
        answer = await node.ask(one_off(node, make_token), ccs_share_id="share-1")
        assert json.loads(answer.body)["active"] is True

    @pytest.mark.parametrize("role", [Role.ATP, Role.NODE, Role.OPERATOR])
    async def test_row_5_a_caller_that_is_no_edp(self, node: Node, good: bytes, role: Role) -> None:
        node.register("prober", role)
        for token in (good, b"junk"):
            assert await node.ask(token, "prober") == INACTIVE
        assert [event.kind for event in node.security.events] == [SecurityEventKind.PROBE] * 2
        assert node.security.events[0].token_digest == hashlib.sha256(good).hexdigest()[:16]

    @pytest.mark.parametrize(
        "credentials",
        [
            {"client_assertion": "x"},
            {"client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
            {"client_secret": "x"},
        ],
    )
    async def test_row_6_credentials_in_the_body(self, node: Node, good: bytes, credentials: dict[str, str]) -> None:
        assert await node.ask(good, **credentials) == INVALID
        assert await node.ask(good, headers=(FORM, (b"authorization", b"Basic eA==")), **credentials) == INVALID

    async def test_row_6_two_authorization_fields(self, node: Node, good: bytes) -> None:
        twice = (FORM, (b"authorization", b"Basic eA=="), (b"authorization", b"Basic eA=="))
        assert await node.ask(good, headers=twice) == INVALID

    async def test_row_15_plain_answers_never_reach_an_edp_registered_for_signed_ones(
        self, node: Node, good: bytes
    ) -> None:
        node.register("edp-1", Role.EDP, answers=Answers.SIGNED)
        plain_only = (FORM, (b"accept", b"application/json"))
        assert await node.ask(good, headers=plain_only) == INVALID
        for headers in ((FORM,), (FORM, (b"accept", b"*/*")), (FORM, (b"accept", b"application/*"))):
            for token in (good, b"junk"):
                assert (await node.ask(token, headers=headers)).content_type == b"application/token-introspection+jwt"

    @pytest.mark.parametrize("accept", [b"text/html", b"application/json;q=0"])
    async def test_row_15a_no_answer_that_is_accepted(self, node: Node, good: bytes, accept: bytes) -> None:
        response = await node.ask(good, headers=(FORM, (b"accept", accept)))
        assert response == refused(406, b"invalid_request")


class TestToken:
    @pytest.mark.parametrize("token", [b"random", b"2YotnFZFEjr1zCsicMWpAA", b"a" * 8193, b"a.b.c", b"\n", b".."])
    async def test_rows_18_and_23_what_was_never_issued(self, node: Node, token: bytes) -> None:
        assert await node.ask(token) == INACTIVE
        assert node.security.events == []

    async def test_row_19_a_token_for_another_edp(self, node: Node, make_token: MakeToken) -> None:
        node.register("edp-2", Role.EDP)
        foreign = make_token(edp="edp-2").token
        assert await node.ask(foreign) == INACTIVE
        assert node.beyond.asked == []

    async def test_row_19_no_consent_is_looked_up_for_a_foreign_token(self, node: Node, make_token: MakeToken) -> None:
        unknown = "11111111-1111-4111-8111-111111111111"
        foreign = make_token(edp="edp-2", consents=(granted_consent(unknown, edps=(ClientId("edp-2"),)),)).token
        assert await node.ask(foreign) == INACTIVE
        assert node.beyond.asked == []

    async def test_row_20_an_expired_token_also_when_it_was_remembered(self, node: Node, good: bytes) -> None:
        assert json.loads((await node.ask(good)).body)["active"] is True
        node.clock.pass_seconds(600)
        node.apply()
        assert await node.ask(good) == INACTIVE

    @pytest.mark.parametrize("state", sorted(set(State) - {State.ACTIVE}))
    async def test_row_21_a_consent_that_is_not_active(self, node: Node, good: bytes, state: State) -> None:
        node.grant(consent_record(state=state, consent_version=2))
        assert await node.ask(good) == INACTIVE

    async def test_row_21_a_revoked_token(self, node: Node, make_token: MakeToken) -> None:
        minted = make_token()
        key = revocation_key(minted.claims.jti)
        node.apply(Entry(INCARNATION, 0, EntryKind.TOKEN_REVOCATION, key, msgspec.msgpack.encode([NOW + DAY])))
        assert await node.ask(minted.token) == INACTIVE

    async def test_row_21_a_suspended_atp(self, node: Node, good: bytes) -> None:
        node.register("atp-1", Role.ATP, suspended=True)
        assert await node.ask(good) == INACTIVE

    async def test_row_22_a_token_from_the_future(self, node: Node, make_token: MakeToken) -> None:
        assert await node.ask(make_token(now=UnixTime(NOW + 11)).token) == INACTIVE

    @pytest.mark.parametrize("name", sorted(BAD_TOKENS))
    async def test_rows_23_to_27_tokens_of_attackers(
        self, node: Node, make_token: MakeToken, token_keys: dict[str, TokenKey], name: str
    ) -> None:
        make, refusal = BAD_TOKENS[name]
        bad = make(Forge(make_token(), token_keys))
        response = await node.ask(None, body=urlencode({"token": bad}).encode())
        if not bad or not bad.isascii() or b"\0" in bad:  # rows 7 and 14: does not get so far
            assert response == INVALID
        elif len(bad) > 16_000:  # row 12
            assert response.status == 413
        else:
            assert response == INACTIVE
        kinds = [event.kind for event in node.security.events]
        assert kinds == ([SecurityEventKind.FORGED_TOKEN] if refusal.is_attack else [])

    @pytest.mark.parametrize("form", OPAQUE.values(), ids=OPAQUE.keys())
    async def test_row_28_what_is_no_jwt_is_as_inactive_as_an_unknown_token(self, node: Node, form: bytes) -> None:
        """Refresh tokens and codes will be opaque; none are issued yet, so nothing tells them from any other text."""
        assert await node.ask(form, token_type_hint="refresh_token") == INACTIVE
        assert await node.ask(form) == INACTIVE
        assert not node.security.events
        assert not node.beyond.asked

    async def test_a_security_event_shows_eight_bytes_of_the_digest(self, node: Node, good: bytes) -> None:
        forged = good[:-4] + (b"AAAA" if not good.endswith(b"AAAA") else b"BBBB")
        assert await node.ask(forged) == INACTIVE
        (event,) = node.security.events
        assert event.token_digest == hashlib.sha256(forged).hexdigest()[:16]


class TestShare:
    async def test_a_covered_share_is_active(self, node: Node, good: bytes) -> None:
        assert json.loads((await node.ask(good, **WINDOW)).body)["active"] is True

    @pytest.mark.parametrize(
        "change",
        [
            {"ccs_dataset_id": "hh-gas"},
            {"ccs_mpxn": "mpan:2000000000024"},
            {"ccs_from": "2020-01-01T00:00:00Z"},
            {"ccs_to": "2031-01-01T00:00:00Z"},
            {"ccs_purpose_code": "marketing"},
        ],
    )
    async def test_a_share_outside_the_consent_is_inactive(
        self, node: Node, good: bytes, change: dict[str, str]
    ) -> None:
        assert await node.ask(good, **(WINDOW | change)) == INACTIVE


class TestSilence:
    """Row 30: what a node says of itself."""

    async def test_row_30_no_replica(self, bare: Node, good: bytes) -> None:
        assert is_unavailable(await bare.ask(good))
        assert bare.counted == {Outcome.UNAVAILABLE: 1}

    async def test_row_30_never_current(self, bare: Node, good: bytes) -> None:
        bare.open()
        assert is_unavailable(await bare.ask(good))

    async def test_row_30_last_known_and_an_edp_that_does_not_handle_it(self, node: Node, good: bytes) -> None:
        node.clock.pass_seconds(3)
        assert is_unavailable(await node.ask(good))
        assert is_unavailable(await node.ask(b"junk"))

    async def test_row_30_last_known_and_the_policy_is_halt(self, node: Node, good: bytes) -> None:
        node.register("edp-1", Role.EDP, handles_last_known=True)
        node.apply(policy_entry(0, PolicyRecord(on_silence=OnSilence.HALT)))
        node.clock.pass_seconds(3)
        assert is_unavailable(await node.ask(good))

    async def test_row_30_silence_beyond_the_cap(self, node: Node, good: bytes) -> None:
        node.register("edp-1", Role.EDP, handles_last_known=True)
        node.clock.pass_seconds(DAY + 1)
        assert is_unavailable(await node.ask(good))

    async def test_row_30_a_caller_registered_since_the_silence_began(self, node: Node, good: bytes) -> None:
        node.clock.pass_seconds(3)
        assert is_unavailable(await node.ask(good, "stranger"))

    async def test_row_30_no_keys_to_verify_by(self, bare: Node, good: bytes) -> None:
        bare.open(keys=b"")
        bare.register("edp-1", Role.EDP)
        assert is_unavailable(await bare.ask(good))

    async def test_a_bad_key_set_leaves_the_one_before_in_use(self, node: Node, good: bytes) -> None:
        before = await node.ask(good)
        node.store.put_keys(b'{"issuer":"https://elsewhere.example","jwks":{"keys":[]}}')
        assert await node.ask(good) == before

    async def test_row_30a_last_known_says_so_with_its_true_age(self, node: Node, good: bytes) -> None:
        node.register("edp-1", Role.EDP, handles_last_known=True)
        node.clock.pass_seconds(60)
        answer = json.loads((await node.ask(good)).body)
        assert (answer["active"], answer["ccs_freshness"], answer["ccs_as_of"]) == (True, "last_known", NOW)
        assert json.loads((await node.ask(b"garbage")).body) == {"active": False}
        assert node.endpoint.last_known.total == 2

    async def test_a_current_answer_is_not_counted_as_last_known(self, node: Node, good: bytes) -> None:
        for _ in range(3):
            assert json.loads((await node.ask(good)).body)["ccs_freshness"] == "current"
        assert node.endpoint.last_known.total == 0

    async def test_row_30a_a_token_younger_than_the_view_with_an_unseen_consent(
        self, node: Node, make_token: MakeToken
    ) -> None:
        node.register("edp-1", Role.EDP, handles_last_known=True)
        unseen = "11111111-1111-4111-8111-111111111111"
        node.clock.pass_seconds(60)
        token = make_token(consents=(granted_consent(unseen),), now=UnixTime(NOW + 30)).token
        assert is_unavailable(await node.ask(token))

    async def test_row_30a_a_key_that_the_issuer_may_have_taken_since(
        self, node: Node, make_token: MakeToken, token_keys: dict[str, TokenKey]
    ) -> None:
        node.register("edp-1", Role.EDP, handles_last_known=True)
        turned = Forge(make_token(), token_keys).headed(kid="turned-to-meanwhile")
        assert await node.ask(turned) == INACTIVE
        node.clock.pass_seconds(60)
        assert is_unavailable(await node.ask(turned))
        assert await node.ask(b"junk") == INACTIVE

    async def test_a_replica_that_cannot_be_read_is_no_answer(self, node: Node, good: bytes) -> None:
        environment = node.store.environment
        assert environment is not None
        with environment.lmdb.begin(write=True) as txn:
            txn.put(KEY, b"\0\0\0\0\0\x01not a record", db=environment.consents)
        assert is_unavailable(await node.ask(good))


class TestLookingFurther:
    """A consent that the replica does not have (yet)."""

    UNSEEN = "11111111-1111-4111-8111-111111111111"

    def beyond(self, seq: int, record: ConsentRecord | None = None, incarnation: str = INCARNATION) -> Entry:
        stored = msgspec.msgpack.encode(record or consent_record(self.UNSEEN))
        return Entry(incarnation, seq, EntryKind.CONSENT, consent_key(self.UNSEEN), stored)

    def hold(self, node: Node, entry: Entry) -> None:
        node.beyond.held[entry.key] = entry

    @pytest.fixture
    def fresh(self, make_token: MakeToken) -> bytes:
        return make_token(consents=(granted_consent(self.UNSEEN),)).token

    async def test_a_newer_record_in_redis_is_used_and_not_kept(self, node: Node, fresh: bytes) -> None:
        self.hold(node, self.beyond(node.seq + 1))
        assert json.loads((await node.ask(fresh)).body)["active"] is True
        assert json.loads((await node.ask(fresh)).body)["active"] is True
        assert node.beyond.asked == [consent_key(self.UNSEEN)] * 2

    async def test_a_record_not_above_the_view_is_not_used(self, node: Node, fresh: bytes) -> None:
        self.hold(node, self.beyond(node.seq))
        assert is_unavailable(await node.ask(fresh))

    async def test_a_record_of_another_incarnation_is_not_used(self, node: Node, fresh: bytes) -> None:
        self.hold(node, self.beyond(node.seq + 1, incarnation="00000000000000b2"))
        assert is_unavailable(await node.ask(fresh))

    async def test_a_newer_end_in_redis_is_an_end(self, node: Node, fresh: bytes) -> None:
        self.hold(node, self.beyond(node.seq + 1, consent_record(self.UNSEEN, state=State.REVOKED)))
        assert await node.ask(fresh) == INACTIVE

    async def test_a_settled_miss_is_inactive_and_a_young_one_is_not(self, node: Node, fresh: bytes) -> None:
        assert is_unavailable(await node.ask(fresh))
        node.clock.pass_seconds(10)
        node.apply()
        assert await node.ask(fresh) == INACTIVE

    async def test_without_redis_the_same_rule_holds(self, node: Node, fresh: bytes) -> None:
        node.beyond.broken = True
        assert is_unavailable(await node.ask(fresh))
        node.clock.pass_seconds(10)
        node.apply()
        assert await node.ask(fresh) == INACTIVE

    async def test_a_silent_redis_is_not_waited_for(
        self,
        node: Node,
        fresh: bytes,
        autojump_clock: trio.testing.MockClock,  # noqa: ARG002 - installed by being asked for
    ) -> None:
        node.beyond.silent = True
        started = trio.current_time()
        assert is_unavailable(await node.ask(fresh))
        assert trio.current_time() - started < 1

    async def test_what_came_to_the_replica_meanwhile_is_what_counts(self, node: Node, fresh: bytes) -> None:
        self.hold(node, self.beyond(node.seq + 1))
        revoked = consent_record(self.UNSEEN, state=State.REVOKED, consent_version=2)
        node.beyond.meanwhile = lambda: node.grant(revoked, consent_key(self.UNSEEN))
        assert await node.ask(fresh) == INACTIVE

    async def test_a_node_that_fell_silent_meanwhile_does_not_answer_current(self, node: Node, fresh: bytes) -> None:
        self.hold(node, self.beyond(node.seq + 1))
        node.beyond.meanwhile = lambda: node.clock.pass_seconds(3)
        assert is_unavailable(await node.ask(fresh))


class TestOneOff:
    async def test_the_first_share_holds_it_and_may_repeat(self, node: Node, make_token: MakeToken) -> None:
        token = one_off(node, make_token)
        for _ in range(2):
            answer = json.loads((await node.ask(token, ccs_share_id="share-1")).body)
            assert answer["active"] is True
        assert node.claims.held == {(CONSENT_ID, "edp-1"): "share-1"}

    async def test_another_share_is_inactive(self, node: Node, make_token: MakeToken) -> None:
        token = one_off(node, make_token)
        await node.ask(token, ccs_share_id="share-1")
        assert await node.ask(token, ccs_share_id="share-2") == INACTIVE

    async def test_without_a_share_id_the_token_itself_is_the_share(self, node: Node, make_token: MakeToken) -> None:
        token = one_off(node, make_token)
        assert json.loads((await node.ask(token)).body)["active"] is True
        assert await node.ask(token, ccs_share_id="share-1") == INACTIVE

    async def test_an_unreachable_ledger_is_no_answer(self, node: Node, make_token: MakeToken) -> None:
        token = one_off(node, make_token)
        node.claims.reachable = False
        assert is_unavailable(await node.ask(token, ccs_share_id="share-1"))

    async def test_claims_that_never_end_are_not_waited_for(
        self, node: Node, make_token: MakeToken, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
    ) -> None:
        token = one_off(node, make_token)

        async def never(*_: object) -> None:
            await trio.sleep_forever()

        monkeypatch.setattr(node.claims, "claim", never)
        began = autojump_clock.current_time()
        assert is_unavailable(await node.ask(token, ccs_share_id="share-1"))
        assert autojump_clock.current_time() - began == pytest.approx(STEPS_TIMEOUT)


async def test_a_forged_caller_costs_no_look_at_the_token(node: Node, good: bytes) -> None:
    """Section 8: nothing about the token is looked at before the caller is known."""
    await node.ask(good, "stranger")
    assert node.endpoint._memo.statistics().misses == 0


HEADER_NAMES = st.sampled_from([b"content-type", b"accept", b"authorization", b"x-request-id", b"host", b"cookie"])
HEADER_VALUES = st.one_of(
    st.sampled_from([FORM[1], b"application/json", b"*/*;q=0", b"Bearer x", b"id-1"]), st.binary(max_size=30)
)
FIELDS = st.lists(
    st.tuples(
        st.sampled_from([*WINDOW, "token", "client_id", "ccs_share_id", "token_type_hint", "other"]),
        st.one_of(st.sampled_from([*WINDOW.values(), "edp-1", "a.b.c"]), st.text(max_size=12)),
    ),
    max_size=8,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    method=st.sampled_from([b"POST", b"POST", b"POST", b"GET", b"HEAD"]),
    target=st.sampled_from([b"/introspect", b"/introspect?token=a"]),
    headers=st.lists(st.tuples(HEADER_NAMES, HEADER_VALUES), max_size=5),
    body=st.one_of(st.binary(max_size=200), FIELDS.map(lambda fields: urlencode(fields).encode())),
    is_form=st.booleans(),
)
def test_no_request_ends_in_anything_but_an_answer_of_the_sheet(
    node: Node, method: bytes, target: bytes, headers: list[tuple[bytes, bytes]], body: bytes, is_form: bool
) -> None:
    node.clock.pass_seconds(1)  # a new second's allowance; nothing here is a token, so the node's state is no matter
    node.apply()
    sent = tuple(headers) + ((FORM,) if is_form else ())

    async def ask() -> Response:
        return await node.ask(None, method=method, target=target, headers=sent, body=body)

    response = trio.run(ask)
    assert response.status in {200, 400, 401, 405, 406, 415}
    assert response.body == b'{"active":false}' if response.status == 200 else b'"error"' in response.body
    assert all(b"\r" not in value and b"\n" not in value for _, value in response.headers)
