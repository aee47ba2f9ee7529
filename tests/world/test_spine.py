"""The whole way on real processes: a consent in the ledger is answered by the engine, and an ended one is not."""

import json
import signal
import ssl
import urllib.request
from uuid import uuid4

import pytest

from tests.support.sandbox import Running, eventually, gone, kill


def test_a_token_of_a_standing_consent_is_active_and_names_it(sandbox: Running) -> None:
    (minted,) = sandbox.tokens()
    status, answer = sandbox.caller("edp-1").introspect(minted["token"])
    assert (status, answer["active"], answer["aud"]) == (200, True, "edp-1")
    assert [detail["consent_id"] for detail in answer["authorization_details"]] == [minted["consent_id"]]
    assert answer["ccs_freshness"] == "current"


def test_a_request_inside_the_consent_is_active_and_one_outside_is_not(sandbox: Running) -> None:
    (minted,) = sandbox.tokens()
    caller = sandbox.caller("edp-1")
    (detail,) = caller.introspect(minted["token"])[1]["authorization_details"]
    inside = {
        "ccs_dataset_id": detail["dataset_id"],
        "ccs_mpxn": detail["meter_points"][0],
        "ccs_from": detail["data_from"],
        "ccs_to": "2026-11-01T00:00:00Z",
    }
    assert caller.introspect(minted["token"], **inside)[1]["active"] is True
    for change in (
        {"ccs_mpxn": "mpan:2000000000024"},
        {"ccs_dataset_id": "tariffs"},
        {"ccs_from": "2001-01-01T00:00:00Z"},
    ):
        assert caller.introspect(minted["token"], **{**inside, **change}) == (200, {"active": False})


def test_answers_said_again_are_counted(sandbox: Running) -> None:
    (minted,) = sandbox.tokens(1)
    caller = sandbox.caller()

    def said_again() -> float:
        with urllib.request.urlopen(sandbox.about["node_status_url"] + "/metrics") as page:  # noqa: S310 - our own address
            lines = page.read().decode().splitlines()
        counts = [line for line in lines if line.startswith("ccs_answers_said_again_total")]
        return float(counts[0].rpartition(" ")[2]) if counts else 0.0

    before = said_again()
    for _ in range(3):  # verified; decided and learned; said again
        assert caller.introspect(minted["token"])[1]["ccs_freshness"] == "current"
    eventually(lambda: said_again() > before)


def test_another_edp_learns_nothing(sandbox: Running) -> None:
    (minted,) = sandbox.tokens()
    assert sandbox.caller("edp-2").introspect(minted["token"]) == (200, {"active": False})
    assert sandbox.caller("atp-1").introspect(minted["token"]) == (200, {"active": False})


def test_a_caller_without_a_certificate_never_speaks_http(sandbox: Running) -> None:
    caller = sandbox.caller("edp-1")
    caller.connection._context = ssl.create_default_context(cafile=sandbox.about["ca_file"])  # type: ignore[attr-defined] # the test's own client
    with pytest.raises((ssl.SSLError, ConnectionError)):
        caller.introspect("x")


def test_a_revocation_reported_effective_is_refused_by_every_worker(sandbox: Running) -> None:
    minted = sandbox.tokens(5)
    callers = [sandbox.caller("edp-1") for _ in range(6)]  # several connections reach several workers
    assert all(caller.introspect(m["token"])[1]["active"] for caller in callers for m in minted)
    for each in minted:
        done = sandbox.ccs("sandbox", "revoke", each["consent_id"], "--wait-effective")
        receipt = json.loads(done.stdout)
        assert (done.returncode, receipt["state"]) == (0, "effective"), done.stderr
        assert all(c.introspect(each["token"]) == (200, {"active": False}) for c in callers)


def test_revoking_twice_or_an_unknown_consent_is_refused_clearly(sandbox: Running) -> None:
    (minted,) = sandbox.tokens()
    assert sandbox.ccs("sandbox", "revoke", minted["consent_id"]).returncode == 0
    again = sandbox.ccs("sandbox", "revoke", minted["consent_id"])
    unknown = sandbox.ccs("sandbox", "revoke", str(uuid4()))
    assert (again.returncode, unknown.returncode) == (5, 4)
    assert "revoked" in again.stderr


def test_a_suspended_edp_is_refused_on_its_open_connection_and_comes_back(sandbox: Running) -> None:
    (minted,) = sandbox.tokens(1, "--edp", "edp-2")
    caller, operator = sandbox.caller("edp-2"), sandbox.machine()
    assert caller.introspect(minted["token"])[1]["active"] is True
    try:
        status, _ = operator.call("POST", "/participants/edp-2/suspend", {}, {"idempotency-key": str(uuid4())})
        assert status == 200
        eventually(lambda: caller.introspect(minted["token"]) == (401, {"error": "invalid_client"}))
    finally:
        operator.call("POST", "/participants/edp-2/reinstate", {}, {"idempotency-key": str(uuid4())})
    eventually(lambda: caller.introspect(minted["token"])[1].get("active") is True)


def test_a_suspended_atps_tokens_are_inactive(sandbox: Running) -> None:
    (minted,) = sandbox.tokens(1, "--atp", "atp-2")
    caller, operator = sandbox.caller("edp-1"), sandbox.machine()
    assert caller.introspect(minted["token"])[1]["active"] is True
    try:
        operator.call("POST", "/participants/atp-2/suspend", {}, {"idempotency-key": str(uuid4())})
        eventually(lambda: caller.introspect(minted["token"]) == (200, {"active": False}))
    finally:
        operator.call("POST", "/participants/atp-2/reinstate", {}, {"idempotency-key": str(uuid4())})
    eventually(lambda: caller.introspect(minted["token"])[1]["active"] is True)


def test_a_killed_worker_is_replaced_and_costs_only_its_own_connections(sandbox: Running) -> None:
    (minted,) = sandbox.tokens()
    callers = [sandbox.caller("edp-1") for _ in range(12)]
    for caller in callers:
        assert caller.introspect(minted["token"])[1]["active"] is True
    victim = sandbox.about["pids"]["workers"][0]
    kill(victim)
    eventually(lambda: gone(victim))
    lost = 0
    for caller in callers:
        try:
            assert caller.introspect(minted["token"])[1]["active"] is True
        except (ConnectionError, OSError, ValueError):
            lost += 1
    assert lost < len(callers)
    eventually(lambda: victim not in (now := sandbox.about["pids"]["workers"]) and len(now) == 2)
    assert sandbox.caller("edp-1").introspect(minted["token"])[1]["active"] is True


def test_a_killed_feeder_is_replaced_and_the_node_becomes_current_again(sandbox: Running) -> None:
    victim = sandbox.about["pids"]["feeder"]
    kill(victim)
    eventually(lambda: sandbox.about["pids"]["feeder"] not in (victim, 0))
    (minted,) = sandbox.tokens()
    caller = sandbox.caller("edp-1")
    eventually(lambda: caller.introspect(minted["token"])[1].get("ccs_freshness") == "current")


def test_losing_redis_loses_nothing_and_revocations_still_bite(sandbox: Running) -> None:
    kept, ended = sandbox.tokens(2)
    victim = sandbox.about["pids"]["redis"]
    kill(victim)
    done = sandbox.ccs("sandbox", "revoke", ended["consent_id"], "--wait-effective")
    caller = sandbox.caller("edp-1")
    assert json.loads(done.stdout)["state"] == "effective"
    assert caller.introspect(ended["token"]) == (200, {"active": False})
    assert caller.introspect(kept["token"])[1]["active"] is True
    eventually(lambda: sandbox.about["pids"]["redis"] != victim)
    eventually(lambda: caller.introspect(kept["token"])[1].get("ccs_freshness") == "current")


def test_an_admin_that_is_killed_comes_back_with_every_acknowledged_write(sandbox: Running) -> None:
    (minted,) = sandbox.tokens()
    done = sandbox.ccs("sandbox", "revoke", minted["consent_id"])
    assert done.returncode == 0
    victim = sandbox.about["pids"]["admin"]
    kill(victim)
    eventually(lambda: sandbox.about["pids"]["admin"] != victim)
    caller = sandbox.caller("edp-1")
    eventually(lambda: caller.introspect(minted["token"]) == (200, {"active": False}))
    eventually(lambda: sandbox.ccs("sandbox", "revoke", minted["consent_id"]).returncode == 5)  # once it listens again
    assert sandbox.ccs("ledger", "verify").returncode == 0


def test_status_is_honest_about_the_node(sandbox: Running) -> None:
    eventually(lambda: sandbox.node_status()["state"] == "current")
    eventually(lambda: sandbox.ccs("status").returncode == 0)


def test_a_frozen_feeder_makes_the_node_last_known_and_it_recovers(sandbox: Running) -> None:
    (minted,) = sandbox.tokens()
    feeder = sandbox.about["pids"]["feeder"]
    caller = sandbox.caller("edp-1")
    kill(feeder, signal.SIGSTOP)
    try:
        eventually(lambda: caller.introspect(minted["token"])[1].get("ccs_freshness") == "last_known")
    finally:
        kill(feeder, signal.SIGCONT)
    eventually(lambda: caller.introspect(minted["token"])[1].get("ccs_freshness") == "current")
