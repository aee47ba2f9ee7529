"""The listings over real mutual TLS: who may ask, what, and what is refused."""

import trio

from tests.admin.directory.test_stream_views import created, refused
from tests.support.admin_service import PATIENCE, Reply, Site


async def changes(site: Site, client_id: str, after: int, lines: int) -> dict[str, object]:
    """The changes after a position, once there are so many."""
    with trio.fail_after(PATIENCE):
        while True:
            status, view = await site.call(client_id, "GET", f"/consents/changes?after_seq={after}")
            assert status == 200, view
            if len(view["consents"]) >= lines:
                return view
            await trio.sleep(0.02)


async def test_a_receiver_heals_by_snapshot_and_changes(site: Site) -> None:
    for client_id in ("edp-1", "atp-1"):
        await created(site, {}, client_id)
    consent_id = await site.granted(1)
    await site.granted(2, atp="atp-2", edp="edp-2")
    for client_id in ("edp-1", "atp-1"):
        status, page = await site.call(client_id, "GET", "/consents/snapshot")
        assert (status, [line["consent_id"] for line in page["consents"]]) == (200, [consent_id])
        assert "cursor" not in page
        (entry,) = page["consents"][0]["authorization_details"]
        assert entry["consent_id"] == consent_id
        assert not {"meter_points", "purpose", "atp_reference"} & entry.keys()
    as_of = page["as_of_seq"]
    reply = await site.call("atp-1", "POST", f"/consents/{consent_id}/revoke", {"reason": "no_longer_needed"})
    assert reply[0] == 200
    for client_id in ("edp-1", "atp-1"):
        view = await changes(site, client_id, as_of, 1)
        (line,) = view["consents"]  # type: ignore[misc]  # a list
        assert (line["consent_id"], line["state"], line["consent_version"]) == (consent_id, "revoked", 2)
        assert line["prev"] <= as_of < line["seq"]
        assert "no_longer_needed" not in str(view)


async def test_only_receivers_list(site: Site) -> None:
    for client_id in ("operator-1", "node-1", "nobody"):
        expected = (401, "unknown_caller") if client_id == "nobody" else (403, "wrong_role")
        for path in ("/consents/changes?after_seq=0", "/consents/snapshot"):
            assert refused(await site.call(client_id, "GET", path)) == expected


async def test_a_query_that_cannot_be_is_refused(site: Site) -> None:
    for query, pointer in (
        ("changes", "#/after_seq"),
        ("changes?after_seq=", "#/after_seq"),
        ("changes?after_seq=-1", "#/after_seq"),
        ("changes?after_seq=1&after_seq=2", "#/after_seq"),
        ("changes?after_seq=9999999999999999", "#/after_seq"),
        ("changes?after_seq=1&limit=0", "#/limit"),
        ("changes?after_seq=1&limit=1001", "#/limit"),
        ("changes?after_seq=1&incarnation=x", "#/incarnation"),
        ("snapshot?cursor=", "#/cursor"),
        ("snapshot?cursor=a!", "#/cursor"),
        ("snapshot?cursor=AAAA", "#/cursor"),
        ("snapshot?cursor=AAAA&cursor=AAAA", "#/cursor"),
    ):
        status, problem = await site.call("edp-1", "GET", f"/consents/{query}")
        assert (status, [error["pointer"] for error in problem["errors"]]) == (400, [pointer]), query


async def test_what_is_too_old_is_gone(site: Site) -> None:
    await site.granted(1)  # no stream, so there is no line for it
    replies: list[Reply] = []
    with trio.fail_after(PATIENCE):
        while not replies or replies[-1][0] != 410:
            replies.append(await site.call("edp-1", "GET", "/consents/changes?after_seq=0"))
    assert replies[-1][1]["code"] == "too_old"
    for query in ("after_seq=9007199254740991", f"after_seq=0&incarnation={'f' * 16}"):
        assert refused(await site.call("edp-1", "GET", f"/consents/changes?{query}")) == (410, "too_old")
