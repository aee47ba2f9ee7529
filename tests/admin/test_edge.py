"""Every kind of fault has its status, and nothing of an unexpected exception gets out."""

from typing import Any

import msgspec
import pytest
import trio
from quart import request

from admin.edge import STATUSES, EdgeApp, answer, code_of, edge_app, read_json, request_id
from admin.ledger.store import IdempotencyMismatch, LedgerUnavailable, VersionConflict
from engine.consent.reading import MAX_TEXT_BYTES, InvalidFields, InvalidText, Problem
from engine.errors import Fault, Kind


class Thing(msgspec.Struct, forbid_unknown_fields=True):
    name: str


def fault_of(wanted: Kind) -> Fault:
    class MadeUp(Fault):
        kind = wanted

    return MadeUp("a text that may be shown", detail="a detail for the log")


def app_raising(error: BaseException) -> EdgeApp:
    app = edge_app()

    async def view() -> None:
        raise error

    app.add_url_rule("/", view_func=view, methods=["GET"])
    return app


def app_reading() -> EdgeApp:
    app = edge_app()

    async def view() -> Any:
        return answer(await read_json(Thing))

    app.add_url_rule("/things", view_func=view, methods=["POST"])
    return app


def test_every_kind_of_fault_has_a_status() -> None:
    assert set(STATUSES) == set(Kind)


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.BROKEN])
async def test_a_fault_becomes_a_problem(kind: Kind) -> None:
    response = await app_raising(fault_of(kind)).test_client().get("/")
    assert response.status_code == STATUSES[kind]
    assert response.content_type == "application/problem+json"
    problem = await response.get_json(force=True)
    assert problem["status"] == STATUSES[kind]
    assert (problem["code"], problem["detail"]) == ("made_up", "a text that may be shown")


@pytest.mark.parametrize("kind", [Kind.UNAVAILABLE, Kind.TOO_MANY])
async def test_callers_who_should_wait_are_told_how_long(kind: Kind) -> None:
    response = await app_raising(fault_of(kind)).test_client().get("/")
    assert int(response.headers["Retry-After"]) >= 1


@pytest.mark.parametrize("error", [fault_of(Kind.BROKEN), ValueError("SELECT secret"), KeyError("a name")])
async def test_what_is_broken_or_unexpected_says_nothing(error: Exception) -> None:
    response = await app_raising(error).test_client().get("/")
    assert response.status_code == 500
    assert await response.get_json(force=True) == {
        "status": 500,
        "title": "Internal Server Error",
        "code": "internal",
    }


@pytest.mark.parametrize(
    ("group", "status"),
    [
        (ExceptionGroup("", [VersionConflict("moved on")]), 409),
        (ExceptionGroup("", [ExceptionGroup("", [ValueError("x")])]), 500),
        (ExceptionGroup("", [VersionConflict("moved on"), LedgerUnavailable("away")]), 500),
    ],
)
async def test_no_exception_group_leaves_a_view(group: BaseException, status: int) -> None:
    response = await app_raising(group).test_client().get("/")
    assert response.status_code == status
    assert response.content_type == "application/problem+json"


async def test_a_cancelled_view_is_cancelled() -> None:
    app = edge_app()

    async def view() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            await trio.sleep_forever()

    app.add_url_rule("/", view_func=view, methods=["GET"])
    with trio.move_on_after(0.05) as scope:
        await app.test_client().get("/")
    assert scope.cancelled_caught


async def test_field_errors_are_listed() -> None:
    fault = InvalidFields([Problem("terms.name", "is missing"), Problem("", "must be an object")])
    response = await app_raising(fault).test_client().get("/")
    assert (await response.get_json(force=True))["errors"] == [
        {"pointer": "#/terms/name", "detail": "is missing"},
        {"pointer": "#", "detail": "must be an object"},
    ]


@pytest.mark.parametrize(
    ("headers", "body", "status", "code"),
    [
        ({"Content-Type": "application/json"}, b'{"name": "x"}', 200, None),
        ({"Content-Type": "application/json; charset=utf-8"}, b'{"name": "x"}', 200, None),
        ({"Content-Type": "text/plain"}, b'{"name": "x"}', 415, "unsupported_media_type"),
        ({}, b'{"name": "x"}', 415, "unsupported_media_type"),
        ({"Content-Type": "application/json", "Content-Encoding": "gzip"}, b"x", 415, "unsupported_media_type"),
        ({"Content-Type": "application/json"}, b" " * (MAX_TEXT_BYTES + 1), 413, "request_entity_too_large"),
        ({"Content-Type": "application/json"}, b'{"nam": "x"}', 400, "invalid_fields"),
        ({"Content-Type": "application/json"}, b'{"name": "x", "name": "y"}', 400, "invalid_text"),
        ({"Content-Type": "application/json"}, b"", 400, "invalid_text"),
    ],
)
async def test_bodies_are_bounded_and_of_one_type(
    headers: dict[str, str], body: bytes, status: int, code: str | None
) -> None:
    response = await app_reading().test_client().post("/things", headers=headers, data=body)
    assert response.status_code == status
    assert (await response.get_json(force=True)).get("code") == code


async def test_unknown_paths_and_methods_are_problems_too() -> None:
    client = app_reading().test_client()
    missing, wrong, options = await client.get("/no"), await client.get("/things"), await client.options("/things")
    assert [missing.status_code, wrong.status_code, options.status_code] == [404, 405, 405]
    assert {r.content_type for r in (missing, wrong, options)} == {"application/problem+json"}
    assert wrong.headers["Allow"] == "POST"


@pytest.mark.parametrize("offered", ["abc-123", "A.b_c", "x" * 64])
async def test_a_well_formed_request_id_comes_back(offered: str) -> None:
    response = await app_reading().test_client().get("/no", headers={"X-Request-ID": offered})
    assert response.headers["X-Request-ID"] == offered


@pytest.mark.parametrize("offered", ["", "x" * 65, "a b", "{}"])
async def test_any_other_request_id_is_replaced(offered: str) -> None:
    response = await app_reading().test_client().get("/no", headers={"X-Request-ID": offered})
    assert response.headers["X-Request-ID"] not in ("", offered)


async def test_one_request_has_one_id() -> None:
    app = edge_app()
    seen: list[str] = []

    async def view() -> str:
        seen.extend((request_id(), request_id(), request.method))
        return ""

    app.add_url_rule("/", view_func=view, methods=["GET"])
    response = await app.test_client().get("/")
    assert seen == [response.headers["X-Request-ID"]] * 2 + ["GET"]


def test_codes_are_stable() -> None:
    """Clients match on these: a renamed class must keep its old code."""
    assert [code_of(kind("")) for kind in (VersionConflict, IdempotencyMismatch, LedgerUnavailable, InvalidText)] == [
        "version_conflict",
        "idempotency_mismatch",
        "ledger_unavailable",
        "invalid_text",
    ]
