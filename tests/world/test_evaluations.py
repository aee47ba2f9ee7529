"""Batches against a whole sandbox: over TLS, with tokens that no worker has seen, resolved by the issuer's records."""

import base64
import contextlib
import json
import time
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.mutual_tls import thumbprint_of
from tests.support.sandbox import Caller, Running, eventually
from tests.support.tokens_by_digest import item

METADATA = "/.well-known/authzen-configuration"
EVALUATION = "/access/v1/evaluation"
EVALUATIONS = "/access/v1/evaluations"


def codes(edp: Caller, items: list[dict[str, Any]]) -> list[Any]:
    """For each item True, the code of a no, or the status of an error."""
    status, answer = edp.call("POST", EVALUATIONS, {"evaluations": items})
    assert status == 200
    told = [(each["decision"], each["context"]) for each in answer["evaluations"]]
    return [decision or context.get("code") or context["error"]["status"] for decision, context in told]


def test_tokens_that_no_worker_has_seen_are_resolved_by_their_digests(sandbox: Running) -> None:
    seen, unseen = [each["token"] for each in sandbox.tokens(2, "--consents", "1")]
    edp = sandbox.caller()
    (detail,) = edp.introspect(seen)[1]["authorization_details"]
    items = [item(unseen, detail), item(seen, detail), item("not a token", detail)]
    # The worker believes the issuer's word only over a link that has stood for some seconds.
    eventually(lambda: codes(edp, items) == [True, True, "token_not_active"])
    status, answer = edp.call("POST", EVALUATION, item(unseen, detail))
    assert (status, answer["decision"], answer["context"]["consent_id"]) == (200, True, detail["consent_id"])
    assert answer["context"]["ccs_freshness"] == "current"


def test_metadata_leads_to_the_endpoints(sandbox: Running) -> None:
    status, found = sandbox.caller().call("GET", METADATA)
    assert status == 200
    assert found["access_evaluation_endpoint"] == sandbox.about["evaluation_endpoint"]
    assert found["access_evaluations_endpoint"] == sandbox.about["evaluations_endpoint"]
    assert found["policy_decision_point"] + "/introspect" == sandbox.about["introspection_endpoint"]


def test_evaluations_of_an_atp_are_refused(sandbox: Running) -> None:
    assert sandbox.caller("atp-1").call("POST", EVALUATION, {})[0] in (400, 403)
    assert sandbox.caller("atp-1").call("POST", EVALUATIONS, {"evaluations": [{}]})[0] == 403


@pytest.mark.parametrize("path", [EVALUATION, EVALUATIONS])
def test_a_certificate_in_a_header_is_ignored_and_reported(sandbox: Running, path: str) -> None:
    """RFC 9440 where no proxy is expected: an ATP that names an EDP stays an ATP, and is told on."""
    pki = sandbox.state / "pki"
    named = base64.b64encode((pki / "edp-1.pem").read_bytes()).decode()
    before = len(strays(sandbox))
    body = item("not a token", {"data_from": "2026-01-01T00:00:00Z", "dataset_id": "d-1", "meter_points": ["mpan:1"]})
    body = body if path == EVALUATION else {"evaluations": [body]}
    assert sandbox.caller("atp-1").call("POST", path, body, {"Client-Cert": f":{named}:"})[0] == 403
    eventually(lambda: len(strays(sandbox)) > before)
    assert thumbprint_of(pki / "atp-1.pem").hex() in strays(sandbox)[-1]["detail"]


def strays(sandbox: Running) -> list[dict[str, Any]]:
    lines = (sandbox.state / "log/node.log").read_text().splitlines()
    events = [json.loads(line) for line in lines if "stray_forwarded_certificate" in line]
    return [event for event in events if event["kind"] == "stray_forwarded_certificate"]


def test_after_a_flush_of_redis_no_unknown_digest_is_told_no(tmp_path: Path) -> None:
    """The records of tokens are gone: absence proves nothing, so it is "ask with the token" (503), never false."""
    running = Running(tmp_path / "var", consents=3, workers=1).start()
    try:
        seen, unseen = [each["token"] for each in running.tokens(2, "--consents", "1")]
        edp = running.caller()
        (detail,) = edp.introspect(seen)[1]["authorization_details"]
        lost, known, never = item(unseen, detail), item(seen, detail), item("not a token", detail)
        eventually(lambda: codes(edp, [known, never]) == [True, "token_not_active"])
        with contextlib.closing(redis.Redis.from_url(running.about["redis_url"], socket_timeout=10)) as client:
            client.flushall()
        told = [codes(edp, [lost, known, never])]
        until = time.monotonic() + 4  # longer than a link must have stood for the issuer's word to be believed
        while time.monotonic() < until:
            told.append(codes(edp, [lost, known, never]))
            time.sleep(0.05)
        assert all(each == [503, True, 503] for each in told), told
        assert edp.introspect(unseen)[1]["active"] is True
        assert codes(edp, [lost, known, never]) == [True, True, 503]
    finally:
        assert running.stop() == 0, running.output.read_text()
