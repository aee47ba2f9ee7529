"""The directory's API over real mutual TLS: operators write, participants see themselves."""

from base64 import b64decode, b64encode
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from engine.consent.records import ParticipantRecord
from engine.feed.entries import EntryKind
from tests.support.admin_service import DATASET, ROLES, Site


def encoded(site: Site, client_id: str) -> str:
    pem = site.pki.client(client_id).certificate_file.read_bytes()
    return b64encode(x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)).decode()


def registration(site: Site, **members: Any) -> dict[str, Any]:
    return {
        "client_id": "edp-9",
        "role": "edp",
        "certificates": [encoded(site, "edp-9")],
        "organisation": {"name": "Harbour Data", "locations": ["https://api.harbour.example/hh"]},
        "datasets": [DATASET],
        "answers": "signed",
        "handles_last_known": True,
        "max_connections": 1_000,
        "max_requests_per_second": 100_000,
        **members,
    }


async def fed(site: Site) -> ParticipantRecord:
    """The participant that the newest event brings to engines."""
    (event,) = await site.ledger.events((await site.ledger.head()).position.seq - 1, 1)
    assert event.feed is not None
    assert event.feed.kind is EntryKind.PARTICIPANT
    return msgspec.msgpack.decode(event.feed.record, type=ParticipantRecord)


async def test_an_edp_is_registered_and_seen(site: Site) -> None:
    form = registration(site)
    status, made = await site.call("operator-1", "POST", "/participants", form)
    assert status == 201
    told = ("client_id", "role", "datasets", "answers", "handles_last_known", "organisation")
    assert {name: made[name] for name in told} == {name: form[name] for name in told}
    assert (made["max_connections"], made["max_requests_per_second"], made["suspended"]) == (1_000, 100_000, False)
    assert await site.call("operator-1", "GET", "/participants/edp-9") == (200, made)
    assert await site.call("edp-9", "GET", "/participants/edp-9") == (200, made)
    assert (await fed(site)).client_id == "edp-9"


async def listed(site: Site, client_id: str = "operator-1", query: str = "") -> tuple[list[str], str]:
    status, page = await site.call(client_id, "GET", f"/participants{query}")
    assert status == 200, page
    return [one["client_id"] for one in page["participants"]], page.get("next", "")


async def test_operators_list_all_in_the_order_of_their_ids(site: Site) -> None:
    everybody, after = await listed(site)
    assert (everybody, after) == (sorted(ROLES), "")
    _, page = await site.call("operator-1", "GET", "/participants")
    for one in page["participants"]:
        assert (await site.call("operator-1", "GET", f"/participants/{one['client_id']}")) == (200, one)


@pytest.mark.parametrize("limit", range(1, len(ROLES) + 2))
async def test_pages_of_any_size_hold_everybody_once(site: Site, limit: int) -> None:
    found: list[str] = []
    page, after = await listed(site, query=f"?limit={limit}")
    while after:
        assert len(page) == limit
        found += page
        page, after = await listed(site, query=f"?limit={limit}&after={after}")
    assert page
    assert found + page == sorted(ROLES)


async def test_pages_stay_in_order_while_somebody_registers(site: Site) -> None:
    first, after = await listed(site, query="?limit=3")
    await site.call("operator-1", "POST", "/participants", registration(site))
    rest, _ = await listed(site, query=f"?after={after}")
    assert first + rest == sorted([*ROLES, "edp-9"])


@pytest.mark.parametrize("client_id", ["atp-1", "edp-1", "node-1"])
async def test_everybody_else_lists_itself_alone(site: Site, client_id: str) -> None:
    assert await listed(site, client_id) == ([client_id], "")
    assert await listed(site, client_id, "?limit=1") == ([client_id], "")
    assert await listed(site, client_id, f"?after={client_id}") == ([], "")


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("limit=0", "#/limit"),
        ("limit=201", "#/limit"),
        ("limit=x", "#/limit"),
        ("limit=", "#/limit"),
        ("limit=1&limit=2", "#/limit"),
        ("after=", "#/after"),
        ("after=EDP", "#/after"),
        ("after=a&after=b", "#/after"),
    ],
)
async def test_a_page_that_cannot_be_is_refused(site: Site, query: str, pointer: str) -> None:
    status, problem = await site.call("operator-1", "GET", f"/participants?{query}")
    assert (status, [error["pointer"] for error in problem["errors"]]) == (400, [pointer])


async def test_others_look_like_nobody(site: Site) -> None:
    theirs = await site.call("atp-1", "GET", "/participants/edp-1")
    assert theirs == await site.call("atp-1", "GET", "/participants/nobody")
    assert theirs[0] == 404


@pytest.mark.parametrize("client_id", ["atp-1", "edp-1", "node-1"])
async def test_only_operators_write(site: Site, client_id: str) -> None:
    for path in ("/participants", f"/participants/{client_id}/suspend", f"/participants/{client_id}/reinstate"):
        status, problem = await site.call(client_id, "POST", path, registration(site))
        assert (status, problem["code"]) == (403, "wrong_role")


async def test_a_suspension_reaches_the_feed_and_ends(site: Site) -> None:
    status, shown = await site.call("operator-1", "POST", "/participants/edp-1/suspend")
    assert (status, shown["suspended"]) == (200, True)
    assert (await fed(site)).suspended
    assert (await site.call("edp-1", "GET", "/participants/edp-1"))[0] == 403
    status, shown = await site.call("operator-1", "POST", "/participants/edp-1/reinstate")
    assert (status, shown["suspended"]) == (200, False)
    assert not (await fed(site)).suspended
    assert (await site.call("edp-1", "GET", "/participants/edp-1"))[0] == 200


async def test_suspending_twice_or_nobody_or_oneself_is_refused(site: Site) -> None:
    await site.call("operator-1", "POST", "/participants/edp-1/suspend")
    for client_id, expected in (
        ("edp-1", (409, "no_change")),
        ("nobody", (404, "unknown_participant")),
        ("operator-1", (409, "own_suspension")),
    ):
        status, problem = await site.call("operator-1", "POST", f"/participants/{client_id}/suspend")
        assert (status, problem["code"]) == expected


async def test_a_repeated_call_gets_the_first_answer(site: Site) -> None:
    first = await site.call("operator-1", "POST", "/participants/edp-1/suspend", key="the-same-key")
    await site.call("operator-1", "POST", "/participants/edp-1/reinstate")
    assert await site.call("operator-1", "POST", "/participants/edp-1/suspend", key="the-same-key") == first
    assert not (await site.call("operator-1", "GET", "/participants/edp-1"))[1]["suspended"]


async def test_a_key_of_another_call_is_refused(site: Site) -> None:
    await site.call("operator-1", "POST", "/participants/edp-1/suspend", key="the-same-key")
    status, problem = await site.call("operator-1", "POST", "/participants/edp-2/suspend", key="the-same-key")
    assert (status, problem["code"]) == (409, "idempotency_mismatch")


async def test_certificates_are_replaced_and_the_old_one_is_out_at_once(site: Site) -> None:
    assert (await site.call("edp-1", "GET", "/participants/edp-1"))[0] == 200
    body = {"certificates": [encoded(site, "edp-1-next")]}
    status, shown = await site.call("operator-1", "POST", "/participants/edp-1/certificates", body)
    assert (status, len(shown["certificates"])) == (200, 1)
    assert (await site.call("edp-1", "GET", "/participants/edp-1"))[0] == 401
    assert (await site.call("edp-1-next", "GET", "/participants/edp-1"))[0] == 200


async def test_values_are_updated(site: Site) -> None:
    body = {"organisation": {"name": "New name"}, "datasets": ["hh-gas"], "answers": "signed"}
    status, shown = await site.call("operator-1", "PUT", "/participants/edp-1", body)
    assert (status, shown["datasets"], shown["answers"], shown["version"]) == (200, ["hh-gas"], "signed", 2)
    assert (await site.call("edp-1", "GET", "/participants/edp-1"))[1] == shown


@pytest.mark.parametrize(
    ("members", "status", "code"),
    [
        ({"client_id": "edp-1"}, 409, "participant_exists"),
        ({"client_id": "Not An Id"}, 400, "invalid_fields"),
        ({"role": "king"}, 400, "invalid_fields"),
        ({"role": "atp"}, 400, "invalid_participant"),
        ({"colour": "red"}, 400, "invalid_fields"),
        ({"organisation": {"name": "x", "locations": ["http://x.example"]}}, 400, "invalid_fields"),
        ({"max_connections": 0}, 400, "invalid_fields"),
        ({"max_connections": True}, 400, "invalid_fields"),
        ({"certificates": []}, 400, "invalid_fields"),
        ({"certificates": ["AAAA"]}, 400, "invalid_certificate"),
        ({"certificates": ["not base64!"]}, 400, "invalid_fields"),
        ({"handles_last_known": None}, 400, "invalid_fields"),
    ],
)
async def test_a_bad_registration_is_refused(site: Site, members: dict[str, Any], status: int, code: str) -> None:
    got, problem = await site.call("operator-1", "POST", "/participants", registration(site, **members))
    assert (got, problem["code"]) == (status, code)


async def test_a_certificate_of_a_version_that_nobody_knows_is_refused(site: Site) -> None:
    der = b64decode(encoded(site, "edp-1")).replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x1a", 1)
    body = registration(site, certificates=[b64encode(der).decode()])
    status, problem = await site.call("operator-1", "POST", "/participants", body)
    assert (status, problem["code"]) == (400, "invalid_certificate")


async def test_a_certificate_of_somebody_else_is_refused(site: Site) -> None:
    body = registration(site, certificates=[encoded(site, "atp-1")])
    status, problem = await site.call("operator-1", "POST", "/participants", body)
    assert (status, problem["code"]) == (409, "certificate_taken")


async def test_a_write_needs_a_key(site: Site) -> None:
    async with site.client("operator-1") as http:
        response = await http.post("/participants/edp-1/suspend")
    assert (response.status_code, response.json()["code"]) == (400, "missing_idempotency_key")
