"""What clients may find out by themselves: the issuer's metadata (RFC 8414) and its keys (RFC 7517). Pure.

Only what exists is published: authorization, pushed requests and tokens get their members with their endpoints.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from engine.consent.energy_consent import TYPE
from engine.tokens.answer_keys import ALGORITHM
from engine.tokens.keys import Jwk, JwkSet

CACHE_SECONDS: Final = 600  # a new key is published this long before it signs (oauth-endpoints, section 7.2)


def metadata(issuer: str, introspection_endpoint: str) -> dict[str, Any]:
    """The document at `/.well-known/oauth-authorization-server`; every client must use mTLS, so aliases equal."""
    return {
        "issuer": issuer,
        "jwks_uri": f"{issuer}/jwks",
        "response_types_supported": ["code"],  # required by RFC 8414 section 2
        "introspection_endpoint": introspection_endpoint,
        "introspection_endpoint_auth_methods_supported": ["tls_client_auth"],
        "introspection_signing_alg_values_supported": [ALGORITHM],  # RFC 9701 section 7; answers are not encrypted
        "tls_client_certificate_bound_access_tokens": True,
        "mtls_endpoint_aliases": {"introspection_endpoint": introspection_endpoint},
        "authorization_details_types_supported": [TYPE],
    }


def key_set(keys: Sequence[Jwk]) -> bytes:
    """The JWKS text: public halves, the signing one first."""
    return msgspec.json.encode(JwkSet(tuple(keys)))
