"""The issuer's published documents: only what exists, and nothing private (RFC 8414, RFC 7517, FAPI 2.0 CR-07)."""

import json

from joserfc.jwk import KeySet as OracleKeySet

from admin.authorization.metadata import key_set, metadata
from admin.pki.keys import FileTokenSigner, TokenKey
from engine.tokens.keys import KeySet
from tests.support.pki import ISSUER

INTROSPECTION = "https://localhost:8440/introspect"


def test_issuer_is_byte_for_byte_the_configured_one() -> None:
    """RFC 8414 section 3.3: a client compares it with where it asked."""
    assert metadata(ISSUER, INTROSPECTION)["issuer"] == ISSUER


def test_no_endpoint_is_promised_that_does_not_exist() -> None:
    document = metadata(ISSUER, INTROSPECTION)
    endpoints = {name for name in document if name.endswith(("_endpoint", "_uri"))}
    assert endpoints == {"introspection_endpoint", "jwks_uri"}
    assert document["mtls_endpoint_aliases"] == {"introspection_endpoint": INTROSPECTION}  # RFC 8705 section 5


def test_answers_are_signed_with_one_algorithm_and_not_encrypted() -> None:
    """RFC 9701 section 7: what is left out is not offered."""
    document = metadata(ISSUER, INTROSPECTION)
    assert document["introspection_signing_alg_values_supported"] == ["ES256"]
    assert not {name for name in document if name.startswith("introspection_encryption")}


def test_no_member_is_an_empty_list() -> None:
    """RFC 8414 section 3.2: members with zero elements are left out."""
    assert all(value != [] for value in metadata(ISSUER, INTROSPECTION).values())


def test_key_set_holds_public_halves_only_and_is_read_by_others(token_keys: dict[str, TokenKey]) -> None:
    signers = [FileTokenSigner(key) for key in token_keys.values()]
    raw = key_set([signer.public for signer in signers])
    published = json.loads(raw)["keys"]
    assert [jwk["kid"] for jwk in published] == [signer.public.kid for signer in signers]
    for jwk in published:
        assert jwk.keys() <= {"kty", "kid", "use", "alg", "crv", "x", "y", "n", "e"}
    assert len(OracleKeySet.import_key_set({"keys": published}).keys) == len(signers)
    assert KeySet.from_jwks(raw, ISSUER).kids == {signer.public.kid for signer in signers}
