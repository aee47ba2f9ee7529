"""The consents' API over real mutual TLS and a real ledger: the whole life of a consent, and every refusal."""

from pathlib import Path
from typing import Any, get_args

import httpx2
import pytest
import sqlalchemy as sa

from admin.consents.forms import InvalidReason
from admin.ledger.barrier import How
from admin.ledger.events import ConsentGranted, ConsentRenewed, ConsentRevoked, Initiator, Route, event_of
from admin.ledger.schema import ledger_meta
from admin.ledger.store import StoredEvent
from admin.pki.keys import FileTokenSigner
from engine.clock import UnixTime, format_utc, parse_utc
from engine.consent.meter_points import meter_digest
from engine.consent.records import ConsentId, consent_key
from engine.feed.entries import EntryKind
from engine.telemetry.host import SystemClock
from tests.support.admin_service import Site, grant_form, machine_site
from tests.support.pki import METER_KEY, Pki

REVOKE = {"reason": "withdrawn"}
GUIDE = (Path(__file__).parents[3] / "docs/atp.md").read_text()
NOBODYS = "7f3c1b1e-5a0e-4a55-9a53-0d6c2f7c9b10"


def renewal(**members: Any) -> dict[str, Any]:
    later = format_utc(type(SystemClock().now())(SystemClock().now() + 364 * 86_400))
    return {
        "consent_expires_at": later,
        "address_confirmed": True,
        "wording": "renew-1",
        "evidence": "case-7",
        **members,
    }


def invalid(**members: Any) -> dict[str, Any]:
    return {"reason": "moved_out", "effective_from": "2026-11-01T00:00:00Z", "evidence": "case-9", **members}


async def newest(site: Site) -> StoredEvent:
    return (await site.ledger.events((await site.ledger.head()).position.seq - 1, 1))[0]


async def test_a_consent_is_granted_read_renewed_and_revoked(site: Site) -> None:
    status, granted = await site.call("atp-1", "POST", "/consents", grant_form())
    assert (status, granted["state"], granted["consent_version"]) == (201, "active", 1)
    path = f"/consents/{granted['consent_id']}"

    status, shown = await site.call("atp-1", "GET", path)
    assert (status, shown["state"], shown["edps"], shown["client_id"]) == (200, "active", ["edp-1"], "atp-1")
    assert shown["consent"]["meter_points"] == grant_form()["authorization_details"]["meter_points"]
    assert shown["position"] == granted["position"]

    form = renewal()
    status, renewed = await site.call("atp-1", "POST", f"{path}/renew", form)
    assert (status, renewed["consent_version"], renewed["consent_expires_at"]) == (200, 2, form["consent_expires_at"])

    status, revoked = await site.call("atp-1", "POST", f"{path}/revoke", REVOKE)
    assert (status, revoked["state"], revoked["how"]) == (200, "recorded", "pending")
    (node,) = revoked["nodes"]
    assert (node["node_id"], node["acknowledged"], node["last_heard"]) == ("node-1", False, "2026-11-22T10:00:00Z")
    assert revoked["position"]["seq"] == renewed["position"]["seq"] + 1
    status, shown = await site.call("atp-1", "GET", path)
    assert (shown["state"], shown["consent_version"]) == ("revoked", 3)


async def test_the_location_of_a_new_consent_is_told(site: Site) -> None:
    async with site.client("atp-1") as http:
        response = await http.post("/consents", json=grant_form(), headers={"Idempotency-Key": "key-00001"})
        shown = await http.get(response.headers["Location"])
    assert (response.status_code, shown.status_code) == (201, 200)


async def test_an_end_reaches_the_feed_without_person_or_meter_point(site: Site) -> None:
    consent_id = await site.granted()
    await site.call("atp-1", "POST", f"/consents/{consent_id}/revoke", REVOKE)
    event = await newest(site)
    assert event.feed is not None
    assert (event.feed.kind, event.feed.key) == (EntryKind.CONSENT, consent_key(ConsentId(consent_id)))
    form = grant_form()
    (point,) = form["authorization_details"]["meter_points"]
    digest = meter_digest(METER_KEY, event.feed.key, point)
    assert digest in event.feed.record
    for secret in (form["person"]["name"], form["person"]["address"], point[5:]):
        assert secret.encode() not in event.feed.record + event.body


async def test_a_revocation_waits_as_long_as_asked_and_tells_how_it_was_concluded(site: Site) -> None:
    consent_id = await site.granted()
    site.barrier.how = How.ACKNOWLEDGED
    status, revoked = await site.call("atp-1", "POST", f"/consents/{consent_id}/revoke?wait=2.5", REVOKE)
    assert (status, revoked["state"], revoked["how"], revoked["milliseconds"]) == (200, "effective", "acknowledged", 12)
    assert [within for _, within in site.barrier.asked] == [2.5]
    status, later = await site.call("atp-1", "GET", f"/consents/{consent_id}/revocation")
    assert (status, later) == (200, revoked)


@pytest.mark.parametrize("wait", ["-1", "31", "x", "1e1", "nan", "", "1&wait=2", "٣"])
async def test_a_wait_that_is_no_number_of_seconds_is_refused_before_anything_is_done(site: Site, wait: str) -> None:
    consent_id = await site.granted()
    status, problem = await site.call("atp-1", "POST", f"/consents/{consent_id}/revoke?wait={wait}", REVOKE)
    assert (status, problem["code"], problem["errors"][0]["pointer"]) == (400, "invalid_fields", "#/wait")
    assert (await site.call("atp-1", "GET", f"/consents/{consent_id}"))[1]["state"] == "active"


async def test_a_revocation_of_before_a_restore_is_looked_up_in_the_ledger_as_it_is(site: Site) -> None:
    """Positions of an incarnation that is over mean nothing: what is found now is of the present one."""
    consent_id = await site.granted()
    path = f"/consents/{consent_id}/revoke"
    revoked = (await site.call("atp-1", "POST", path, REVOKE, key="revoke-key"))[1]
    await site.ledger.database.run(lambda c: c.execute(sa.update(ledger_meta).values(incarnation="f" * 16)))
    for reply in (
        await site.call("atp-1", "GET", f"/consents/{consent_id}/revocation"),
        await site.call("atp-1", "POST", path, REVOKE, key="revoke-key"),
    ):
        assert (reply[0], reply[1]["position"]) == (200, {"incarnation": "f" * 16, "seq": revoked["position"]["seq"]})


async def test_a_consent_that_stands_has_no_revocation(site: Site) -> None:
    consent_id = await site.granted()
    status, problem = await site.call("atp-1", "GET", f"/consents/{consent_id}/revocation")
    assert (status, problem["code"]) == (404, "not_revoked")


async def test_the_same_key_and_body_get_the_same_answer(site: Site) -> None:
    form = grant_form()
    first = await site.call("atp-1", "POST", "/consents", form, key="the-same-key")
    head = (await site.ledger.head()).position
    assert await site.call("atp-1", "POST", "/consents", form, key="the-same-key") == first
    path = f"/consents/{first[1]['consent_id']}"
    revoked = await site.call("atp-1", "POST", f"{path}/revoke", REVOKE, key="revoke-key")
    assert await site.call("atp-1", "POST", f"{path}/revoke", REVOKE, key="revoke-key") == revoked
    assert await site.call("atp-1", "POST", "/consents", form, key="the-same-key") == first  # though it has ended
    assert (await site.ledger.head()).position.seq == head.seq + 1


async def test_another_body_under_a_used_key_is_refused(site: Site) -> None:
    await site.call("atp-1", "POST", "/consents", grant_form(1), key="the-same-key")
    status, problem = await site.call("atp-1", "POST", "/consents", grant_form(2), key="the-same-key")
    assert (status, problem["code"]) == (409, "idempotency_mismatch")


async def test_keys_are_each_callers_own(site: Site) -> None:
    one = await site.call("atp-1", "POST", "/consents", grant_form(1, "atp-1"), key="the-same-key")
    two = await site.call("atp-2", "POST", "/consents", grant_form(1, "atp-2"), key="the-same-key")
    assert (one[0], two[0]) == (201, 201)
    assert one[1]["consent_id"] != two[1]["consent_id"]


@pytest.mark.parametrize("key", ["", "short", "x" * 65, "spaces in it", "näh-näh-näh"])
async def test_a_write_without_a_good_key_is_refused(site: Site, key: str) -> None:
    headers = {"Idempotency-Key": key.encode()}
    async with site.client("atp-1") as http:
        response = await http.post("/consents", json=grant_form(), headers=headers)  # type: ignore[arg-type] - bytes pass too
    assert (response.status_code, response.json()["code"]) == (400, "missing_idempotency_key")


async def test_a_write_without_any_key_is_refused(site: Site) -> None:
    async with site.client("atp-1") as http:
        response = await http.post("/consents", json=grant_form())
    assert (response.status_code, response.json()["code"]) == (400, "missing_idempotency_key")


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"colour": "red"}, "#/colour"),
        ({"wording": 5}, "#/wording"),
        ({"wording": None}, "#/wording"),
        ({"edps": []}, "#/edps"),
        ({"edps": ["nobody"]}, "#/edps/0"),
        ({"edps": ["atp-1"]}, "#/edps/0"),
        ({"address_confirmed": False}, "#/address_confirmed"),
        ({"readings": [1.5, 2.5]}, "#/readings"),
    ],
)
async def test_a_bad_member_is_named(site: Site, change: dict[str, Any], pointer: str) -> None:
    status, problem = await site.call("atp-1", "POST", "/consents", grant_form(**change))
    assert status == 400
    assert pointer in [error["pointer"] for error in problem["errors"]]


async def test_all_bad_members_are_named_at_once(site: Site) -> None:
    form = grant_form(colour="red", wording=5)
    form["person"] = {"name": "Ada Yeo"}
    _, problem = await site.call("atp-1", "POST", "/consents", form)
    assert {"#/colour", "#/wording", "#/person/person_id", "#/person/address"} <= {
        error["pointer"] for error in problem["errors"]
    }


@pytest.mark.parametrize(
    ("content", "headers", "status", "code"),
    [
        (b"{", {}, 400, "invalid_text"),
        (b'{"wording": "a", "wording": "b"}', {}, 400, "invalid_text"),
        (b"[]", {}, 400, "invalid_fields"),
        (b" " * 20_000, {}, 413, "request_entity_too_large"),
        (b"{}", {"Content-Type": "text/plain"}, 415, "unsupported_media_type"),
        (b"{}", {"Content-Type": "application/x-www-form-urlencoded"}, 415, "unsupported_media_type"),
        (b"x", {"Content-Encoding": "gzip"}, 415, "unsupported_media_type"),
    ],
)
async def test_a_body_that_cannot_be_read_is_refused(
    site: Site, content: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    sent = {"Content-Type": "application/json", "Idempotency-Key": "key-00001", **headers}
    async with site.client("atp-1") as http:
        response = await http.post("/consents", content=content, headers=sent)
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert response.headers["Content-Type"] == "application/problem+json"


class Endless(httpx2.AsyncByteStream):
    """No generator: httpx2 would leave one that is not read to its end to the garbage collector."""

    def __init__(self) -> None:
        self._left = 2_000

    def __aiter__(self) -> "Endless":
        return self

    async def __anext__(self) -> bytes:
        if self._left == 0:
            raise StopAsyncIteration
        self._left -= 1
        return b" " * 1_000


async def test_a_body_without_a_length_is_bounded_too(site: Site) -> None:
    async with site.client("atp-1") as http:
        headers = {
            "Host": http.base_url.netloc.decode(),
            "Content-Type": "application/json",
            "Idempotency-Key": "key-00001",
            "Transfer-Encoding": "chunked",
        }
        request = httpx2.Request("POST", http.base_url.join("/consents"), headers=headers, stream=Endless())
        try:
            response = await http.send(request)
        except (httpx2.NetworkError, httpx2.RemoteProtocolError):
            return  # cut off while it was still sending: as good
    assert response.status_code == 413


async def test_another_atps_consent_looks_like_none(site: Site) -> None:
    consent_id = await site.granted(1, "atp-1")
    for method, path, body in (
        ("GET", f"/consents/{consent_id}", None),
        ("GET", f"/consents/{consent_id}/revocation", None),
        ("POST", f"/consents/{consent_id}/renew", renewal()),
        ("POST", f"/consents/{consent_id}/revoke", REVOKE),
        ("POST", f"/consents/{consent_id}/invalid", invalid()),
    ):
        theirs = await site.call("atp-2", method, path, body)
        nobodys = await site.call("atp-2", method, path.replace(consent_id, NOBODYS), body)
        assert theirs == nobodys
        assert theirs[0] == 404
    await site.call("atp-1", "POST", f"/consents/{consent_id}/revoke", REVOKE)
    assert (await site.call("atp-2", "POST", f"/consents/{consent_id}/revoke", REVOKE))[0] == 404


@pytest.mark.parametrize("consent_id", ["x", NOBODYS.upper(), "%00", f"{NOBODYS}%0a", "é"])
async def test_an_id_that_is_none_is_unknown(site: Site, consent_id: str) -> None:
    assert (await site.call("atp-1", "GET", f"/consents/{consent_id}"))[0] == 404


async def test_an_ended_consent_cannot_be_changed(site: Site) -> None:
    consent_id = await site.granted()
    await site.call("atp-1", "POST", f"/consents/{consent_id}/revoke", REVOKE)
    at = (await newest(site)).recorded_at
    for path, body in (("revoke", REVOKE), ("renew", renewal()), ("invalid", invalid())):
        status, problem = await site.call("atp-1", "POST", f"/consents/{consent_id}/{path}", body)
        assert (status, problem["code"]) == (409, "illegal_transition")
        assert "revoked" in problem["detail"]
        assert (problem["state"], problem["since"]) == ("revoked", format_utc(at))


async def test_what_is_no_longer_valid_ends_and_says_what_data_to_flag(site: Site) -> None:
    path = f"/consents/{await site.granted()}"
    granted = event_of(await newest(site))
    site.barrier.how = How.ACKNOWLEDGED
    form = invalid()
    status, told = await site.call("atp-1", "POST", f"{path}/invalid?wait=2", form, key="invalid-key")
    event = event_of(await newest(site))
    assert isinstance(granted, ConsentGranted)
    assert isinstance(event, ConsentRevoked)
    assert (event.act.initiator, event.act.actor, event.act.reason) == (Initiator.ATP, "atp-1", "moved_out")
    assert (event.effective_from, event.evidence) == (parse_utc(form["effective_from"]), "case-9")
    assert (status, told["state"], told["reason"]) == (200, "effective", "moved_out")
    assert told["effective_from"] == form["effective_from"]
    # The move was before the grant, so all that was ever taken is to be flagged; nothing of it may have been yet.
    span = {"taken_from": format_utc(granted.act.at), "taken_before": format_utc(event.act.at)}
    assert told["data_to_flag"] == (span if granted.act.at < event.act.at else None)
    assert await site.call("atp-1", "POST", f"{path}/invalid?wait=2", form, key="invalid-key") == (status, told)
    assert await site.call("atp-1", "GET", f"{path}/revocation") == (status, told)
    assert (await site.call("atp-1", "GET", path))[1]["state"] == "revoked"
    other = await site.call("atp-1", "POST", f"{path}/invalid", invalid(evidence="case-10"), key="invalid-key")
    assert (other[0], other[1]["code"]) == (409, "idempotency_mismatch")


async def test_each_published_reason_is_taken(site: Site) -> None:
    for number, reason in enumerate(get_args(InvalidReason)):
        path = f"/consents/{await site.granted(number)}/invalid"
        status, told = await site.call("atp-1", "POST", path, invalid(reason=reason))
        assert (status, told["reason"]) == (200, reason)
        assert f"| `{reason}` |" in GUIDE


async def test_what_is_wrong_with_a_no_longer_valid_is_named_and_nothing_ends(site: Site) -> None:
    path = f"/consents/{await site.granted()}"
    for name, value in (
        ("reason", "withdrawn"),
        ("reason", None),
        ("effective_from", None),
        ("effective_from", "2999-01-01T00:00:00Z"),
        ("effective_from", "2026-02-30T00:00:00Z"),
        ("evidence", None),
        ("evidence", ""),
        ("evidence", "Ann has moved to her sister's"),
        ("evidence", "x" * 65),
        ("readings", [1]),
    ):
        form = {known: given for known, given in invalid(**{name: value}).items() if given is not None}
        status, problem = await site.call("atp-1", "POST", f"{path}/invalid", form, key="once-more")
        assert (status, [error["pointer"] for error in problem["errors"]]) == (400, [f"#/{name}"]), (name, value)
    assert (await site.call("atp-1", "GET", path))[1]["state"] == "active"
    mended = await site.call("atp-1", "POST", f"{path}/invalid", invalid(), key="once-more")
    assert mended[0] == 200  # a refused write has not used up its key


async def test_a_renewal_through_an_atp_needs_evidence_and_an_operators_none(site: Site) -> None:
    path = f"/consents/{await site.granted()}/renew"
    form = {name: value for name, value in renewal().items() if name != "evidence"}
    status, problem = await site.call("atp-1", "POST", path, form)
    assert (status, [error["pointer"] for error in problem["errors"]]) == (400, ["#/evidence"])
    assert (await site.call("operator-1", "POST", path, form))[0] == 200


async def test_a_renewal_stays_within_the_occupancy(site: Site) -> None:
    moving = format_utc(UnixTime(SystemClock().now() + 300 * 86_400))
    form = grant_form()
    form["person"] = form["person"] | {"moved_out": moving}
    consent_id = (await site.call("atp-1", "POST", "/consents", form))[1]["consent_id"]
    beyond = await site.call("atp-1", "POST", f"/consents/{consent_id}/renew", renewal())
    assert (beyond[0], [error["pointer"] for error in beyond[1]["errors"]]) == (400, ["#/consent_expires_at"])
    assert moving not in str(beyond[1])  # the ATP does not learn when
    within = await site.call("atp-1", "POST", f"/consents/{consent_id}/renew", renewal(consent_expires_at=moving))
    assert (within[0], within[1]["consent_expires_at"]) == (200, moving)


async def test_nobody_renews_through_an_atp_for_a_person_who_was_erased(site: Site) -> None:
    consent_id = await site.granted()
    assert await site.ledger.erase_person(grant_form()["person"]["person_id"])
    status, problem = await site.call("atp-1", "POST", f"/consents/{consent_id}/renew", renewal())
    assert (status, problem["code"]) == (409, "person_erased")
    assert (await site.call("atp-1", "POST", f"/consents/{consent_id}/invalid", invalid()))[0] == 200


async def test_what_an_atp_does_is_kept_as_its_act(site: Site) -> None:
    consent_id = await site.granted()
    await site.call("atp-1", "POST", f"/consents/{consent_id}/renew", renewal())
    renewed = event_of(await newest(site))
    await site.call("atp-1", "POST", f"/consents/{consent_id}/revoke", {"reason": "moved_out", "evidence": "case-8"})
    revoked = event_of(await newest(site))
    assert isinstance(renewed, ConsentRenewed)
    assert isinstance(revoked, ConsentRevoked)
    for event in (renewed, revoked):
        assert (event.act.initiator, event.act.actor, event.act.route) == (Initiator.ATP, "atp-1", Route.API)
    assert renewed.act.wording == renewal()["wording"]
    assert revoked.act.reason == "moved_out"
    assert (renewed.evidence, revoked.evidence) == ("case-7", "case-8")


async def test_what_an_operator_does_is_not_put_down_to_the_atp(site: Site) -> None:
    consent_id = await site.granted()
    await site.call("operator-1", "POST", f"/consents/{consent_id}/revoke", {"reason": "security"})
    event = event_of(await newest(site))
    assert isinstance(event, ConsentRevoked)
    assert (event.act.initiator, event.act.actor) == (Initiator.OPERATOR, "operator-1")


async def test_a_renewal_repeated_under_its_key_gets_the_same_answer(site: Site) -> None:
    path, form = f"/consents/{await site.granted()}", renewal()
    first = await site.call("atp-1", "POST", f"{path}/renew", form, key="renewal-key")
    assert await site.call("atp-1", "POST", f"{path}/renew", form, key="renewal-key") == first
    await site.call("atp-1", "POST", f"{path}/revoke", REVOKE)
    assert await site.call("atp-1", "POST", f"{path}/renew", form, key="renewal-key") == first  # though it has ended
    assert (first[0], first[1]["consent_version"]) == (200, 2)


async def test_a_renewal_keeps_its_rules(site: Site) -> None:
    consent_id = await site.granted()
    earlier = format_utc(parse_utc("2020-01-01T00:00:00Z"))
    for form in (renewal(consent_expires_at=earlier), renewal(address_confirmed=False), renewal(purpose="other")):
        assert (await site.call("atp-1", "POST", f"/consents/{consent_id}/renew", form))[0] == 400


async def test_without_a_certificate_no_word_is_spoken(site: Site) -> None:
    with pytest.raises(httpx2.TransportError):
        await site.call(None, "GET", f"/consents/{NOBODYS}")


async def test_a_certificate_that_nobody_registered_is_refused(site: Site) -> None:
    status, problem = await site.call("stranger", "POST", "/consents", grant_form())
    assert (status, problem["code"]) == (401, "unknown_caller")


@pytest.mark.parametrize("client_id", ["edp-1", "node-1"])
async def test_other_roles_have_no_business_here(site: Site, client_id: str) -> None:
    consent_id = await site.granted()
    for method, path, body in (("POST", "/consents", grant_form()), ("GET", f"/consents/{consent_id}", None)):
        status, problem = await site.call(client_id, method, path, body)
        assert (status, problem["code"]) == (403, "wrong_role")


async def test_an_atp_grants_to_itself_only(site: Site) -> None:
    status, problem = await site.call("atp-2", "POST", "/consents", grant_form(1, "atp-1"))
    assert (status, problem["code"]) == (403, "wrong_role")


async def test_a_suspended_caller_is_refused_on_its_open_connection(site: Site) -> None:
    consent_id = await site.granted()
    async with site.client("atp-1") as http:
        assert (await http.get(f"/consents/{consent_id}")).status_code == 200
        assert (await site.call("operator-1", "POST", "/participants/atp-1/suspend"))[0] == 200
        response = await http.get(f"/consents/{consent_id}")
    assert (response.status_code, response.json()["code"]) == (403, "suspended_caller")


async def test_a_consent_with_a_suspended_party_is_not_granted(site: Site) -> None:
    await site.call("operator-1", "POST", "/participants/edp-1/suspend")
    status, problem = await site.call("atp-1", "POST", "/consents", grant_form())
    assert (status, problem["errors"][0]["pointer"]) == (400, "#/edps/0")


async def test_unknown_methods_and_paths_are_told_apart(site: Site) -> None:
    assert (await site.call("atp-1", "DELETE", f"/consents/{NOBODYS}"))[0] == 405
    assert (await site.call("atp-1", "GET", "/consent"))[0] == 404


async def test_an_erased_persons_consent_can_still_be_read_and_ended(site: Site) -> None:
    consent_id = await site.granted()
    assert await site.ledger.erase_person(grant_form()["person"]["person_id"])
    status, shown = await site.call("atp-1", "GET", f"/consents/{consent_id}")
    assert (status, shown["consent"]["meter_points"]) == (200, [])
    assert (await site.call("atp-1", "POST", f"/consents/{consent_id}/revoke", REVOKE))[0] == 200


async def test_production_has_no_direct_grants(pki: Pki, token_signer: FileTokenSigner, tmp_path: Any) -> None:
    async with machine_site(pki, token_signer, tmp_path, kind="production") as production:
        for path, body in (
            ("/consents", grant_form()),
            ("/sandbox/tokens", {"count": 1, "edp": "edp-1", "atp": "atp-1"}),
            ("/sandbox/consents", {"first": 0, "count": 1, "edps": ["edp-1"], "atps": ["atp-1"]}),
        ):
            status, problem = await production.call("operator-1", "POST", path, body)
            assert (status, problem["code"]) == (403, "sandbox_only")
