"""Consents and tokens by the number, over real mutual TLS: real tokens, real consents, and every refusal."""

import json
from typing import Any

import pytest
import trio

from admin.ledger.events import ConsentGranted, event_of
from admin.pki.keys import FileTokenSigner
from engine.clock import parse_utc
from engine.telemetry.host import SystemClock
from engine.tokens.claims import VerifiedToken
from engine.tokens.verify import verify
from tests.support.admin_service import Site
from tests.support.pki import ISSUER, METER_KEY, key_set_of

TOKENS = {"count": 3, "edp": "edp-1", "atp": "atp-1"}
PEOPLE = {"first": 0, "count": 6, "edps": ["edp-1", "edp-2"], "atps": ["atp-1", "atp-2"]}


async def minted(site: Site, **members: Any) -> list[dict[str, str]]:
    async with site.client("operator-1", timeout=60) as http:
        response = await http.post("/sandbox/tokens", json={**TOKENS, **members})
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.text.splitlines()]


async def test_tokens_verify_and_name_their_consent(site: Site, token_signer: FileTokenSigner) -> None:
    lines = await minted(site)
    assert len({line["consent_id"] for line in lines}) == 3
    for line in lines:
        now = SystemClock().now()
        token = verify(line["token"].encode(), key_set_of(token_signer, issuer=ISSUER), METER_KEY, now)
        assert isinstance(token, VerifiedToken)
        assert (token.claims.aud, token.claims.client_id) == (line["edp"], line["atp"]) == ("edp-1", "atp-1")
        assert [grant.detail.consent_id for grant in token.grants] == [line["consent_id"]]
        assert token.claims.exp == parse_utc(line["expires_at"])
        state = await site.ledger.subject(f"consent:{line['consent_id']}")
        assert state is not None
        event = event_of(state.event)
        assert isinstance(event, ConsentGranted)
        assert event.consent.meter_digests == token.grants[0].meter_digests


async def test_tokens_share_consents_where_fewer_are_asked_for(site: Site) -> None:
    lines = await minted(site, count=7, consents=3)
    ids = [line["consent_id"] for line in lines]
    assert sorted(ids.count(consent_id) for consent_id in set(ids)) == [2, 2, 3]
    assert len({line["token"] for line in lines}) == 7


async def test_many_tokens_come_in_batches(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("admin.authorization.sandbox.MAX_BATCH", 20)
    monkeypatch.setattr("admin.authorization.sandbox.FIRST_LINES", 5)
    lines = await minted(site, count=66)
    assert len({line["consent_id"] for line in lines}) == len(lines) == 66


async def test_whoever_leaves_stops_the_minting(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("admin.authorization.sandbox.FIRST_LINES", 1)
    monkeypatch.setattr("admin.authorization.sandbox.MAX_BATCH", 1)
    before = (await site.ledger.head()).position.seq
    body = {**TOKENS, "count": 5_000}
    async with site.client("operator-1") as http, http.stream("POST", "/sandbox/tokens", json=body) as response:
        assert response.status_code == 200
    granted = 0
    while granted != (now := (await site.ledger.head()).position.seq - before):
        granted = now
        await trio.sleep(0.5)
    assert 0 < granted < 5_000


@pytest.mark.parametrize(
    ("members", "pointer"),
    [
        ({"count": 0}, "#/count"),
        ({"count": 1_000_001}, "#/count"),
        ({"count": "3"}, "#/count"),
        ({"consents": 4}, "#/consents"),
        ({"edp": "nobody"}, "#/edp"),
        ({"edp": "atp-1"}, "#/edp"),
        ({"atp": "edp-1"}, "#/client_id"),
        ({"colour": "red"}, "#/colour"),
    ],
)
async def test_a_bad_request_is_refused_before_a_line_is_sent(
    site: Site, members: dict[str, Any], pointer: str
) -> None:
    before = await site.ledger.head()
    status, problem = await site.call("operator-1", "POST", "/sandbox/tokens", {**TOKENS, **members})
    assert (status, problem["errors"][0]["pointer"]) == (400, pointer)
    assert await site.ledger.head() == before


@pytest.mark.parametrize("client_id", ["atp-1", "edp-1", "node-1"])
async def test_only_operators_may(site: Site, client_id: str) -> None:
    for path, body in (("/sandbox/tokens", TOKENS), ("/sandbox/consents", PEOPLE)):
        status, problem = await site.call(client_id, "POST", path, body)
        assert (status, problem["code"]) == (403, "wrong_role")


async def test_people_are_dealt_out_and_written_once(site: Site) -> None:
    before = (await site.ledger.head()).position.seq
    first = await site.call("operator-1", "POST", "/sandbox/consents", PEOPLE, key="seed-consents-0")
    assert (first[0], first[1]["consents"]) == (201, 6)
    events = [event_of(stored) for stored in await site.ledger.events(before, 100)]
    pairs = [(e.consent.atp, e.consent.edps) for e in events if isinstance(e, ConsentGranted)]
    assert pairs == [("atp-1", ("edp-1",)), ("atp-2", ("edp-2",))] * 3
    assert await site.call("operator-1", "POST", "/sandbox/consents", PEOPLE, key="seed-consents-0") == first
    assert (await site.ledger.head()).position.seq == before + 6


async def test_a_batch_with_a_bad_party_grants_nothing(site: Site) -> None:
    before = await site.ledger.head()
    body = {**PEOPLE, "atps": ["atp-1", "nobody"]}
    status, _ = await site.call("operator-1", "POST", "/sandbox/consents", body)
    assert (status, await site.ledger.head()) == (400, before)


async def test_the_clock_of_a_token_is_now(site: Site) -> None:
    (line,) = await minted(site, count=1)
    lifetime = parse_utc(line["expires_at"]) - SystemClock().now()
    assert 590 <= lifetime <= 600
