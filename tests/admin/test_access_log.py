"""One line a call, with the pattern of its route and nothing of what was said in it."""

import json
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import httpx2
import pytest
import structlog

from engine.telemetry import logs
from tests.support.admin_service import Site, grant_form

MARK = "canary-4711"


class Lines:
    """What was logged at the end of each call."""

    def __init__(self, stream: BytesIO) -> None:
        self.stream = stream

    @property
    def text(self) -> str:
        return self.stream.getvalue().decode()

    def calls(self) -> list[dict[str, Any]]:
        read = [json.loads(line) for line in self.text.splitlines()]
        return [line for line in read if line["event"] == "call"]


@pytest.fixture
def log() -> Iterator[Lines]:
    stream = BytesIO()
    logs.configure("debug", stream=stream)
    yield Lines(stream)
    structlog.reset_defaults()


async def test_a_call_is_one_line_with_all_its_members(log: Lines, site: Site) -> None:
    consent_id = await site.granted()
    await site.call("atp-1", "GET", f"/consents/{consent_id}")
    line = log.calls()[-1]
    assert {name: line[name] for name in ("method", "route", "status", "client_id", "level", "room")} == {
        "method": "GET",
        "route": "/consents/<consent_id>",
        "status": 200,
        "client_id": "atp-1",
        "level": "info",
        "room": "admin.access",
    }
    assert 0 < line["milliseconds"] < 20_000
    assert line["request_id"]
    assert len(log.calls()) == 2


async def test_nothing_of_what_was_said_is_in_the_log(log: Lines, site: Site) -> None:
    form = grant_form()
    status, granted = await site.call("atp-1", "POST", "/consents", form)
    assert status == 201
    path = f"/consents/{granted['consent_id']}"
    _, line = await site.call("atp-1", "POST", f"{path}/tokens", {"edp": "edp-1"})
    await site.call("atp-1", "POST", f"{path}/revoke?wait={MARK}", {"reason": "withdrawn"})
    await site.call("atp-1", "GET", f"/{MARK}/{MARK}?x={MARK}")
    await site.call("atp-1", "GET", f"/consents/{MARK}")
    await site.call("atp-1", "POST", "/consents", {**form, MARK: MARK}, headers={"X-Made-Up": MARK})
    assert len(log.calls()) == 6
    point = form["authorization_details"]["meter_points"][0]
    for secret in (MARK, granted["consent_id"], line["token"], form["person"]["name"], point):
        assert secret not in log.text


@pytest.mark.parametrize(
    ("client_id", "method", "path", "status", "route"),
    [
        ("atp-1", "GET", "/nowhere", 404, "-"),
        ("atp-1", "DELETE", "/participants/atp-1", 405, "-"),
        ("atp-1", "BREW", "/nowhere", 404, "-"),
        ("atp-1", "POST", "/participants", 403, "/participants"),
        ("stranger", "GET", "/participants", 401, "/participants"),
    ],
)
async def test_refusals_are_written_too(
    log: Lines, site: Site, client_id: str, method: str, path: str, status: int, route: str
) -> None:
    async with site.client(client_id) as http:
        response = await http.request(method, path)
    assert response.status_code == status
    (line,) = log.calls()
    assert (line["status"], line["route"]) == (status, route)
    assert "BREW" not in log.text


async def test_a_suspended_caller_is_named_and_a_stranger_is_nobody(log: Lines, site: Site) -> None:
    await site.call("operator-1", "POST", "/participants/atp-2/suspend")
    assert (await site.call("atp-2", "GET", "/participants"))[0] == 403
    assert log.calls()[-1]["client_id"] == "atp-2"
    assert (await site.call("stranger", "GET", "/participants"))[0] == 401
    assert log.calls()[-1]["client_id"] == ""


async def test_calls_on_one_connection_do_not_mix(log: Lines, site: Site) -> None:
    async with site.client("atp-1") as http:
        assert isinstance(http, httpx2.AsyncClient)
        for path in ("/participants", "/nowhere", "/participants/atp-1"):
            await http.get(path)
    assert [(line["route"], line["client_id"]) for line in log.calls()] == [
        ("/participants", "atp-1"),
        ("-", ""),
        ("/participants/<client_id>", "atp-1"),
    ]
