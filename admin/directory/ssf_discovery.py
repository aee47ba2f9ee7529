"""What receivers find out by themselves: the transmitter's configuration (SSF 1.0 section 7.1)."""

from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from quart import Blueprint, Response

from admin.authorization.metadata import CACHE_SECONDS
from admin.directory.stream_forms import POLL_URN, PUSH_URN, Face

WELL_KNOWN: Final = "/.well-known/ssf-configuration"
EVENT_JWKS: Final = "/event-jwks"  # served with the issuer's other keys
_SCHEMES: Final = [{"spec_urn": "urn:ietf:rfc:6749"}, {"spec_urn": "urn:ietf:rfc:8705"}]


def ssf_configuration(face: Face) -> dict[str, Any]:
    """The document. Subjects cannot be added or removed: a receiver hears of its own consents, all of them."""
    return {
        "spec_version": "1_0",
        "issuer": face.issuer,
        "jwks_uri": face.issuer + EVENT_JWKS,
        "delivery_methods_supported": [PUSH_URN, POLL_URN],
        "configuration_endpoint": f"{face.machine_url}/ssf/streams",
        "status_endpoint": f"{face.machine_url}/ssf/status",
        "verification_endpoint": f"{face.machine_url}/ssf/verify",
        "ccs_confirmation_endpoint": f"{face.machine_url}/ssf/confirm",
        "default_subjects": "ALL",
        "authorization_schemes": _SCHEMES,
    }


def ssf_views(face: Face) -> Blueprint:
    """Blueprint for the public listener."""
    views = Blueprint("ssf", __name__)
    document = msgspec.json.encode(ssf_configuration(face))
    inserted = urlsplit(face.issuer).path.rstrip("/")

    async def show() -> Response:
        response = Response(document, content_type="application/json")
        response.headers["Cache-Control"] = f"public, max-age={CACHE_SECONDS}"
        return response

    for path in dict.fromkeys((WELL_KNOWN, WELL_KNOWN + inserted)):
        views.add_url_rule(path, "configuration", show)

    return views
