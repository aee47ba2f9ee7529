"""Batches against a whole sandbox: over TLS, with tokens that no worker has seen, resolved by the issuer's records."""

import base64
import hashlib
from typing import Any

from tests.support.sandbox import Running, eventually

METADATA = "/.well-known/authzen-configuration"


def subject(token: str) -> dict[str, str]:
    digest = hashlib.sha256(token.encode()).digest()
    return {"type": "access_token", "id": base64.urlsafe_b64encode(digest).rstrip(b"=").decode()}


def item(token: str, detail: dict[str, Any]) -> dict[str, Any]:
    """A share of the first half hour that a consent allows; windows begin on the hour."""
    end = detail["data_from"].replace(":00:00Z", ":30:00Z")
    asked = {"dataset_id": detail["dataset_id"], "from": detail["data_from"], "to": end}
    return {
        "subject": subject(token),
        "action": {"name": "share", "properties": asked},
        "resource": {"type": "meter_point", "id": detail["meter_points"][0]},
    }


def test_tokens_that_no_worker_has_seen_are_resolved_by_their_digests(sandbox: Running) -> None:
    seen, unseen = [each["token"] for each in sandbox.tokens(2, "--consents", "1")]
    edp = sandbox.caller()
    (detail,) = edp.introspect(seen)[1]["authorization_details"]
    path = "/" + sandbox.about["evaluations_endpoint"].split("/", 3)[3]
    body = {"evaluations": [item(unseen, detail), item(seen, detail), item("not a token", detail)]}

    def codes() -> list[Any]:
        status, answer = edp.call("POST", path, body)
        assert status == 200
        return [each["decision"] or each["context"].get("code") for each in answer["evaluations"]]

    # The worker believes the issuer's word only over a link that has stood for some seconds.
    eventually(lambda: codes() == [True, True, "token_not_active"])
    single = "/" + sandbox.about["evaluation_endpoint"].split("/", 3)[3]
    status, answer = edp.call("POST", single, item(unseen, detail))
    assert (status, answer["decision"], answer["context"]["consent_id"]) == (200, True, detail["consent_id"])
    assert answer["context"]["ccs_freshness"] == "current"


def test_metadata_leads_to_the_endpoints(sandbox: Running) -> None:
    status, found = sandbox.caller().call("GET", METADATA)
    assert status == 200
    assert found["access_evaluation_endpoint"] == sandbox.about["evaluation_endpoint"]
    assert found["access_evaluations_endpoint"] == sandbox.about["evaluations_endpoint"]
    assert found["policy_decision_point"] + "/introspect" == sandbox.about["introspection_endpoint"]


def test_evaluations_of_an_atp_are_refused(sandbox: Running) -> None:
    assert sandbox.caller("atp-1").call("POST", "/access/v1/evaluation", {})[0] in (400, 403)
    assert sandbox.caller("atp-1").call("POST", "/access/v1/evaluations", {"evaluations": [{}]})[0] == 403
