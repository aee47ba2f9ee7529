"""Batch decisions about tokens by their digests, as an EDP asks for them."""

import base64
import hashlib
from typing import Any

from tests.support.sandbox import Caller

PATH = "/access/v1/evaluations"


def digest_of(token: str) -> bytes:
    """As the service's records are named."""
    return hashlib.sha256(token.encode()).digest()


def subject(token: str) -> dict[str, str]:
    digest = base64.urlsafe_b64encode(digest_of(token)).rstrip(b"=").decode()
    return {"type": "access_token", "id": digest}


def item(token: str, detail: dict[str, Any]) -> dict[str, Any]:
    """A share of the first half hour that a consent allows; windows begin on the hour."""
    end = detail["data_from"].replace(":00:00Z", ":30:00Z")
    asked = {"dataset_id": detail["dataset_id"], "from": detail["data_from"], "to": end}
    return {
        "subject": subject(token),
        "action": {"name": "share", "properties": asked},
        "resource": {"type": "meter_point", "id": detail["meter_points"][0]},
    }


def decide(edp: Caller, token: str, like: str) -> object:
    """True, or what is said in its place, for a share under a token. like: a token with such a consent."""
    (detail,) = edp.introspect(like)[1]["authorization_details"]
    status, answer = edp.call("POST", PATH, {"evaluations": [item(token, detail)]})
    assert status == 200, answer
    (one,) = answer["evaluations"]
    return one["decision"] or one["context"]
