"""A restore with a gap, on real processes: nothing is current, what was touched is not acted on; then it goes live.

The ledger is lost with its last minutes and restored from a backup. The node had heard of a part of what was lost, the
data provider of another part; an operator lets the ledger go live when all have told what they know.
"""

import http.client
import json
import ssl
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.sandbox import SOON, eventually
from tests.support.services import Services
from tests.world.test_front_door import run_as_written, shell_blocks

INACTIVE = (200, {"active": False})
EDPS, ATPS = ("edp-1", "edp-2", "edp-3"), ("atp-1", "atp-2")


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    made = Services(tmp_path_factory.mktemp("recovering"))
    try:
        yield made.start()
    finally:
        made.stop()


def utc(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def revoke(services: Services, consent_id: str) -> None:
    done = services.done("sandbox", "revoke", consent_id, "--wait-effective")
    assert done["state"] == "effective"


def renew(services: Services, consent_id: str) -> None:
    operator = services.sandbox.machine()
    _, shown = operator.call("GET", f"/consents/{consent_id}")
    expires = datetime.fromisoformat(shown["consent"]["consent_expires_at"]) + timedelta(days=1)
    form = {"consent_expires_at": utc(expires), "address_confirmed": True, "wording": "renew-1"}
    status, body = operator.call("POST", f"/consents/{consent_id}/renew", form, {"idempotency-key": str(uuid.uuid4())})
    assert status == 200, body


def report(services: Services, client: str, *items: dict[str, str], complete: bool = True) -> list[str]:
    since = utc(datetime.now(UTC) - timedelta(days=1))
    form = {"since": since, "complete": complete, "items": list(items)}
    caller = services.sandbox.machine(client)
    status, body = caller.call("POST", "/recovery/reports", form, {"idempotency-key": str(uuid.uuid4())})
    assert status == 200, body
    return [one["result"] for one in body["results"]]


def item(consent_id: str, change: str = "revoked") -> dict[str, str]:
    return {"consent_id": consent_id, "change": change, "at": utc(datetime.now(UTC)), "evidence": "set-4471"}


def console_page(services: Services) -> str:
    url = urlsplit(services.sandbox.about["console_url"])
    context = ssl.create_default_context(cafile=services.sandbox.about["ca_file"])
    connection = http.client.HTTPSConnection("localhost", url.port, context=context, timeout=SOON)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def ready_page(services: Services, page: str = "/readyz") -> tuple[int, dict[str, Any]]:
    url = urlsplit(services.sandbox.about["node_status_url"])
    connection = http.client.HTTPConnection("127.0.0.1", url.port, timeout=SOON)
    try:
        connection.request("GET", page)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def as_the_guide_says(page: str, services: Services, folder: Path, consent_id: str) -> dict[str, Any]:
    """The last two commands of a guide: look, then tell of the consent in `var/consent.json`."""
    look, tell = shell_blocks(page)[-2:]
    (services.sandbox.state / "consent.json").write_text(json.dumps({"consent_id": consent_id}, separators=(",", ":")))
    looked: dict[str, Any] = json.loads(run_as_written(look, services.sandbox, folder))
    assert looked["state"] == "recovering"
    told: dict[str, Any] = json.loads(run_as_written(tell, services.sandbox, folder))
    assert told["complete"]
    return told


def test_a_restored_ledger_recovers_is_reconciled_and_goes_live(services: Services, tmp_path: Path) -> None:
    sandbox = services.sandbox
    (tmp_path / "var").symlink_to(sandbox.state)
    kept, within, unseen, renewed = sandbox.tokens(4)
    backup = services.back_up()
    revoke(services, within["consent_id"])  # the node has it
    renew(services, renewed["consent_id"])
    (lost,) = sandbox.tokens(1)  # granted in the gap
    eventually(lambda: sandbox.caller().introspect(lost["token"])[1]["active"] is True)
    services.stop_node()
    revoke(services, unseen["consent_id"])  # waited out: no node has it
    services.kill_admin()
    restored = services.lose_and_restore()
    assert restored["restored_seq"] == backup["seq"]

    services.start_admin()
    services.start_node()
    eventually(lambda: ready_page(services) == (200, {"state": "last_known", "draining": False, "recovering": True}))
    assert ready_page(services, "/readyz/current")[0] == 503
    found = services.done("ledger", "recovering", "--json")
    assert (found["state"], found["ended"], found["restored_seq"]) == ("recovering", 1, backup["seq"])
    assert {party["client_id"] for party in found["parties"] if party["reported"]} == {"node-1"}
    assert {doubt["consent_id"]: doubt["known"] for doubt in found["in_doubt"]} == {
        renewed["consent_id"]: True,
        lost["consent_id"]: False,
    }
    assert "recovering" in console_page(services)
    assert "recovering" in sandbox.ccs("status").stdout

    caller = sandbox.caller()
    gap_from = datetime.fromisoformat(found["gap_from"]).timestamp()
    for minted in (kept, unseen):  # nobody has told anything of these: as they were known when the gap began
        status, answer = caller.introspect(minted["token"])
        assert (status, answer["active"], answer["ccs_freshness"]) == (200, True, "last_known")
        assert answer["ccs_as_of"] == gap_from
    for minted in (within, renewed, lost):
        eventually(lambda token=minted["token"]: caller.introspect(token) == INACTIVE)

    too_soon = services.ccs("ledger", "go-live", "--apply")
    assert too_soon.returncode == 5, too_soon.stdout
    assert "edp-1" in too_soon.stderr
    told = as_the_guide_says("docs/edp.md", services, tmp_path, unseen["consent_id"])
    assert [one["result"] for one in told["results"]] == ["ended"]
    assert report(services, "edp-1", item(unseen["consent_id"])) == ["ended"]  # the same again
    eventually(lambda: caller.introspect(unseen["token"]) == INACTIVE)
    services.kill_admin()  # it goes on where it was
    services.start_admin()
    told = as_the_guide_says("docs/atp.md", services, tmp_path, renewed["consent_id"])
    assert [one["result"] for one in told["results"]] == ["in_doubt"]
    for client in (*EDPS[1:], *ATPS[1:]):
        assert report(services, client) == []
    again = services.done("ledger", "recovering", "--json")
    assert (again["state"], again["ended"], again.get("obstacles", [])) == ("recovering", 2, [])
    assert services.state() == "last_known"

    dry = services.ccs("ledger", "go-live")
    assert dry.returncode == 0, dry.stderr
    assert services.done("ledger", "recovering", "--json")["state"] == "recovering"
    live = services.done("ledger", "go-live", "--apply", "--json")
    assert (live["ended"], live["in_doubt"], live["without"]) == (2, 2, [])
    eventually(lambda: services.state() == "current")
    assert "recovering" not in console_page(services)
    for minted in (kept, renewed):  # the renewal is lost; what it renewed stands
        eventually(lambda token=minted["token"]: caller.introspect(token)[1].get("ccs_freshness") == "current")
    for minted in (within, unseen, lost):
        assert caller.introspect(minted["token"]) == INACTIVE
    verified = services.ccs("ledger", "verify")
    assert verified.returncode == 0, verified.stderr


def test_a_node_that_returns_after_going_live_brings_back_the_ends_that_nobody_else_knew(services: Services) -> None:
    sandbox = services.sandbox
    known, kept = sandbox.tokens(2)
    services.back_up()
    revoke(services, known["consent_id"])
    services.stop_node()
    services.kill_admin()
    services.lose_and_restore()
    services.start_admin()
    refused = services.ccs("ledger", "go-live", "--apply", "--without", "node-1")
    assert refused.returncode == 2  # no reason given
    names = services.done("ledger", "recovering", "--json")["obstacles"]
    assert "node-1" in names
    without = [word for name in names for word in ("--without", name)]
    live = services.done("ledger", "go-live", "--apply", *without, "--reason", "site-lost", "--json")
    assert "node-1" in live["without"]
    assert "consent.revoked" not in services.tags(10)

    services.start_node()
    caller = sandbox.caller()
    eventually(lambda: services.state() == "current")
    deadline = time.monotonic() + 1.0
    while time.monotonic() < deadline:
        assert caller.introspect(known["token"]) == INACTIVE
    assert caller.introspect(kept["token"])[1]["ccs_freshness"] == "current"
    eventually(lambda: services.tags(10).count("consent.revoked") == 1)
    operator = sandbox.machine()
    assert operator.call("GET", f"/consents/{known['consent_id']}")[1]["state"] == "revoked"
