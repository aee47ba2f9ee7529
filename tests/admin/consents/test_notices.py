"""What consumers are to be told of ATPs' acts: operators read it from the ledger, in order, and nobody else does."""

from typing import Any

import pytest

from engine.clock import UnixTime, format_utc
from engine.telemetry.host import SystemClock
from tests.support.admin_service import Site, grant_form


def renewal(days: int = 300) -> dict[str, Any]:
    later = format_utc(UnixTime(SystemClock().now() + days * 86_400))
    return {"consent_expires_at": later, "address_confirmed": True, "wording": "renew-1", "evidence": "case-7"}


async def test_what_an_atp_did_is_listed_in_order_and_what_others_did_is_not(site: Site) -> None:
    consent_id, other = await site.granted(), await site.granted(2)
    path, form = f"/consents/{consent_id}", renewal()
    before = (await site.call("operator-1", "GET", "/notices"))[1]
    assert before["notices"] == []
    await site.call("atp-1", "POST", f"{path}/renew", form)
    await site.call("operator-1", "POST", f"{path}/renew", renewal(310))
    await site.call("operator-1", "POST", f"/consents/{other}/revoke", {"reason": "security"})
    end = {"reason": "no_longer_customer", "effective_from": "2026-11-01T00:00:00Z", "evidence": "case-9"}
    ended = (await site.call("atp-1", "POST", f"{path}/invalid", end))[1]
    status, told = await site.call("operator-1", "GET", f"/notices?after={before['next']}")
    first, second = told["notices"]
    assert (status, told["more"], told["next"]) == (200, False, ended["position"]["seq"])
    assert (first["what"], first["consent_expires_at"]) == ("renewed", form["consent_expires_at"])
    assert (first["evidence"], first["client_id"]) == ("case-7", "atp-1")
    assert (second["what"], second["reason"], second["effective_from"]) == ("ended", *list(end.values())[:2])
    assert second["position"] == ended["position"]
    for notice in (first, second):
        assert (notice["consent_id"], notice["person_id"]) == (consent_id, grant_form()["person"]["person_id"])
    assert (await site.call("operator-1", "GET", f"/notices?after={told['next']}"))[1]["notices"] == []


async def test_a_long_ledger_is_read_in_pages(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("admin.consents.notices.PAGE", 3)
    for number in (1, 2, 3):
        await site.call("atp-1", "POST", f"/consents/{await site.granted(number)}/revoke", {"reason": "withdrawn"})
    found, after, more = [], 0, True
    while more:
        page = (await site.call("operator-1", "GET", f"/notices?after={after}"))[1]
        found += page["notices"]
        assert page["next"] > after or not page["more"]
        after, more = page["next"], page["more"]
    assert [notice["what"] for notice in found] == ["ended"] * 3
    assert after == (await site.ledger.head()).position.seq


async def test_only_operators_read_them_and_only_behind_a_position(site: Site) -> None:
    for client_id in ("atp-1", "edp-1", "node-1"):
        status, problem = await site.call(client_id, "GET", "/notices")
        assert (status, problem["code"]) == (403, "wrong_role")
    for after in ("-1", "x", "", "1&after=2", "٣", "1" * 17):
        status, problem = await site.call("operator-1", "GET", f"/notices?after={after}")
        assert (status, problem["errors"][0]["pointer"]) == (400, "#/after")
