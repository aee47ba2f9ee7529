"""What receivers find on the public listener without any certificate."""

import pytest

from admin.directory.ssf_discovery import ssf_configuration, ssf_views
from admin.directory.stream_forms import Face
from admin.edge import edge_app


@pytest.mark.parametrize("issuer", ["https://ccs.example", "https://ccs.example/energy/"])
async def test_the_configuration_is_found_where_the_issuer_says(issuer: str) -> None:
    face = Face(issuer, "https://machines.ccs.example:8451")
    app = edge_app()
    app.register_blueprint(ssf_views(face))
    inserted = "/energy" if issuer.endswith("/energy/") else ""
    for path in ("/.well-known/ssf-configuration", f"/.well-known/ssf-configuration{inserted}"):
        response = await app.test_client().get(path)
        assert (response.status_code, response.content_type) == (200, "application/json")
        assert await response.get_json() == ssf_configuration(face)
    assert (await app.test_client().get("/.well-known/ssf-configuration/other")).status_code == 404


def test_the_configuration_says_what_there_is() -> None:
    assert ssf_configuration(Face("https://ccs.example", "https://machines.ccs.example:8451")) == {
        "spec_version": "1_0",
        "issuer": "https://ccs.example",
        "jwks_uri": "https://ccs.example/event-jwks",
        "delivery_methods_supported": ["urn:ietf:rfc:8935", "urn:ietf:rfc:8936"],
        "configuration_endpoint": "https://machines.ccs.example:8451/ssf/streams",
        "status_endpoint": "https://machines.ccs.example:8451/ssf/status",
        "verification_endpoint": "https://machines.ccs.example:8451/ssf/verify",
        "ccs_confirmation_endpoint": "https://machines.ccs.example:8451/ssf/confirm",
        "default_subjects": "ALL",
        "authorization_schemes": [{"spec_urn": "urn:ietf:rfc:6749"}, {"spec_urn": "urn:ietf:rfc:8705"}],
    }
