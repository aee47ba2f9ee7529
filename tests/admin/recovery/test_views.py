"""The recovery's calls: who may see and tell what, refusals with their reasons, and going live."""

from typing import Any

import pytest

from admin.recovery.tellings import MAX_ITEMS
from tests.support.admin_service import Site
from tests.support.restored import say_restored

NOW = 1_795_000_000
SINCE = "2026-11-01T00:00:00Z"
AT = "2026-11-20T00:00:00Z"
UNKNOWN = "c0ffee00-1111-4222-8333-444455556666"


def item(consent_id: str, change: str = "revoked", **members: Any) -> dict[str, Any]:
    return {"consent_id": consent_id, "change": change, "at": AT, "evidence": "set-1", **members}


def form(*items: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {"since": SINCE, "complete": True, "items": list(items), **members}


@pytest.fixture
async def restored(site: Site) -> Site:
    await say_restored(site.ledger, gap_from=NOW, gap_to=NOW + 60, lost=0)
    return site


async def tell(site: Site, client: str, *items: dict[str, Any], **members: Any) -> tuple[int, dict[str, Any]]:
    return await site.call(client, "POST", "/recovery/reports", form(*items, **members))


def faults(body: dict[str, Any]) -> set[str]:
    return {error["pointer"] for error in body["errors"]}


async def test_a_ledger_that_was_never_restored_says_so_to_everybody(site: Site) -> None:
    for client in ("operator-1", "atp-1", "edp-1", "node-1"):
        assert await site.call(client, "GET", "/recovery") == (200, {"state": "live", "restored": False})
    status, body = await tell(site, "edp-1")
    assert (status, body["code"]) == (409, "not_restored")
    status, body = await site.call("operator-1", "POST", "/recovery/go-live", {})
    assert (status, body["code"]) == (409, "not_restored")


async def test_an_operator_sees_everybody_and_others_themselves(restored: Site) -> None:
    consent_id = await restored.granted()
    await restored.granted(2, atp="atp-2", edp="edp-2")
    await tell(restored, "atp-1", item(UNKNOWN, "granted"))
    status, body = await restored.call("operator-1", "GET", "/recovery")
    assert status == 200
    assert {party["client_id"] for party in body["parties"]} == {"node-1", "atp-1", "atp-2", "edp-1", "edp-2"}
    assert set(body["obstacles"]) == {"node-1", "atp-2", "edp-1", "edp-2"}
    assert body["in_doubt"] == [
        {
            "consent_id": UNKNOWN, "change": "granted", "told_by": "atp-1", "known": False, "parties": ["atp-1"],
            "evidence": "set-1",
        }
    ]  # fmt: skip
    status, own = await restored.call("atp-1", "GET", "/recovery")
    assert [party["client_id"] for party in own["parties"]] == ["atp-1"]
    assert [doubt["consent_id"] for doubt in own["in_doubt"]] == [UNKNOWN]
    status, other = await restored.call("atp-2", "GET", "/recovery")
    assert ("in_doubt" in other, other["obstacles"]) == (False, ["atp-2"])
    assert consent_id not in str(other)


@pytest.mark.parametrize("client", ["operator-1", "node-1"])
async def test_only_atps_and_edps_report(restored: Site, client: str) -> None:
    status, body = await tell(restored, client)
    assert (status, body["code"]) == (403, "wrong_role")


@pytest.mark.parametrize("client", ["atp-1", "edp-1", "node-1"])
async def test_only_operators_go_live(restored: Site, client: str) -> None:
    status, body = await restored.call(client, "POST", "/recovery/go-live", {})
    assert (status, body["code"]) == (403, "wrong_role")


async def test_each_item_gets_its_own_result_and_foreign_ones_look_unknown(restored: Site) -> None:
    mine = await restored.granted()
    theirs = await restored.granted(2, atp="atp-2", edp="edp-2")
    status, body = await tell(restored, "edp-1", item(mine), item(theirs), item(UNKNOWN))
    assert status == 200, body
    assert [one["result"] for one in body["results"]] == ["ended", "unknown_consent", "unknown_consent"]
    status, shown = await restored.call("operator-1", "GET", f"/consents/{theirs}")
    assert shown["state"] == "active"
    status, shown = await restored.call("operator-1", "GET", f"/consents/{mine}")
    assert shown["state"] == "revoked"


@pytest.mark.parametrize(
    ("members", "pointer"),
    [
        ({"since": "yesterday"}, "#/since"),
        ({"since": "2026-02-31T00:00:00Z"}, "#/since"),
        ({"since": "2026-12-31T00:00:00Z"}, "#/since"),  # after the gap began
        ({"complete": "yes"}, "#/complete"),
        ({"more": 1}, "#/more"),
        ({"items": {}}, "#/items"),
        ({"items": [item(UNKNOWN)] * (MAX_ITEMS + 1)}, "#/items"),
        ({"items": ["x"]}, "#/items/0"),
        ({"items": [item("no-uuid")]}, "#/items/0/consent_id"),
        ({"items": [item(UNKNOWN), item(UNKNOWN, "forgotten")]}, "#/items/1/change"),
        ({"items": [item(UNKNOWN, at="2099-01-01T00:00:00Z")]}, "#/items/0/at"),
        ({"items": [item(UNKNOWN, evidence="a word about Ann")]}, "#/items/0/evidence"),
        ({"items": [item(UNKNOWN, "consumed")]}, "#/items/0/change"),
        ({"items": [item(UNKNOWN, name="Ann")]}, "#/items/0/name"),
    ],
)
async def test_a_malformed_report_is_refused_as_a_whole(restored: Site, members: dict[str, Any], pointer: str) -> None:
    mine = await restored.granted()
    head = await restored.ledger.head()
    body = form(item(mine)) | members
    status, answer = await restored.call("edp-1", "POST", "/recovery/reports", body)
    assert (status, answer["code"]) == (400, "invalid_fields") or status == 413
    assert status == 413 or pointer in faults(answer)
    assert await restored.ledger.head() == head


async def test_a_report_needs_a_key_that_stands_for_it_alone(restored: Site) -> None:
    headers = {"Idempotency-Key": "short"}
    status, body = await restored.call("edp-1", "POST", "/recovery/reports", form(), headers=headers)
    assert (status, body["code"]) == (400, "missing_idempotency_key")
    assert (await restored.call("edp-1", "POST", "/recovery/reports", form(), "key-12345"))[0] == 200
    mine = await restored.granted()
    head = await restored.ledger.head()
    status, body = await restored.call("edp-1", "POST", "/recovery/reports", form(item(mine)), "key-12345")
    assert (status, body["code"]) == (409, "idempotency_mismatch")
    assert await restored.ledger.head() == head


async def test_an_incomplete_report_does_not_count_as_having_reported(restored: Site) -> None:
    await tell(restored, "edp-1", complete=False)
    _, body = await restored.call("edp-1", "GET", "/recovery")
    assert body["obstacles"] == ["edp-1"]
    await tell(restored, "edp-1")
    _, body = await restored.call("edp-1", "GET", "/recovery")
    assert "obstacles" not in body


async def test_going_live_is_refused_until_whoever_is_missing_is_named_with_a_reason(restored: Site) -> None:
    status, body = await restored.call("operator-1", "POST", "/recovery/go-live", {})
    assert (status, body["code"]) == (409, "not_reconciled")
    assert "edp-2" in body["detail"]
    names = ["node-1", "atp-1", "atp-2", "edp-1", "edp-2"]
    status, body = await restored.call("operator-1", "POST", "/recovery/go-live", {"without": names})
    assert (status, faults(body)) == (400, {"#/reason"})
    status, body = await restored.call(
        "operator-1", "POST", "/recovery/go-live", {"without": [*names, "edp-9"], "reason": "drill"}
    )
    assert (status, faults(body)) == (400, {"#/without"})
    status, body = await restored.call("operator-1", "POST", "/recovery/go-live", {"without": names, "reason": "drill"})
    assert (status, body["state"], sorted(body["without"])) == (200, "live", sorted(names))
    status, body = await restored.call("operator-1", "GET", "/recovery")
    assert (body["state"], body["restored"]) == ("live", True)
    status, body = await restored.call("operator-1", "POST", "/recovery/go-live", {})
    assert (status, body["code"]) == (409, "not_recovering")


async def test_an_enduring_consent_is_not_consumed(restored: Site) -> None:
    mine = await restored.granted()
    _, body = await tell(restored, "edp-1", item(mine, "consumed", share_id="share-1"))
    assert [one["result"] for one in body["results"]] == ["not_a_one_off"]
