"""Which key sets are taken, which keys in them, and how one set follows another."""

import base64
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from joserfc.jwk import ECKey, OKPKey, RSAKey

from admin.pki.keys import FileTokenSigner, TokenKey, private_pem, public_jwk
from engine.tokens.jws import Header
from engine.tokens.keys import BadKeySet, KeyFault, KeySet, VerificationKey
from engine.tokens.verify import TokenRefusal, VerifiedToken, verify
from tests.support.bad_tokens import compact
from tests.support.pki import ISSUER, METER_KEY, NOW, MakeToken, key_set_of

ALGORITHMS = ("PS256", "ES256", "EdDSA")


def jwk(key: Any, **changes: object) -> dict[str, Any]:
    members = json.loads(msgspec.json.encode(public_jwk(key.public_key())))
    return {name: value for name, value in (members | changes).items() if value is not None}


def jwks(*keys: object, **others: object) -> bytes:
    return json.dumps({"keys": keys, **others}).encode()


def octets(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@pytest.mark.parametrize("alg", ALGORITHMS)
def test_algorithm_is_the_keys_own_even_when_the_set_does_not_say(alg: str, token_keys: dict[str, TokenKey]) -> None:
    members = jwk(token_keys[alg], alg=None, use=None, kid="k")
    keys = KeySet.from_jwks(jwks(members), ISSUER)
    assert isinstance(keys.find(Header(alg, "k")), VerificationKey)
    for other in {*ALGORITHMS, "RS256", "HS256", "none"} - {alg}:
        assert keys.find(Header(other, "k")) == KeyFault(wrong_algorithm=True)
    assert keys.find(Header(alg, "another")) == KeyFault(wrong_algorithm=False)


def test_two_keys_under_one_kid_are_told_apart_by_algorithm(
    make_token: MakeToken, token_keys: dict[str, TokenKey]
) -> None:
    """FAPI 2.0 Security Profile section 5.4.3."""
    keys = KeySet.from_jwks(jwks(*(jwk(token_keys[alg], kid="one") for alg in ALGORITHMS)), ISSUER)
    claims = json.loads(msgspec.json.encode(make_token().claims))
    for alg in ALGORITHMS:
        right = compact(token_keys[alg], {"typ": "at+jwt", "alg": alg, "kid": "one"}, claims)
        assert isinstance(verify(right, keys, METER_KEY, NOW), VerifiedToken)
        for other in set(ALGORITHMS) - {alg}:
            wrong = compact(token_keys[alg], {"typ": "at+jwt", "alg": other, "kid": "one"}, claims)
            assert verify(wrong, keys, METER_KEY, NOW) is TokenRefusal.SIGNATURE


@pytest.mark.parametrize("alg", ALGORITHMS)
def test_set_with_a_private_key_is_refused_whole(alg: str, token_keys: dict[str, TokenKey]) -> None:
    kind = {"PS256": RSAKey, "ES256": ECKey, "EdDSA": OKPKey}[alg]
    private = kind.import_key(private_pem(token_keys[alg])).as_dict(private=True) | {"kid": "p"}
    good = jwk(token_keys["PS256"])
    with pytest.raises(BadKeySet, match="private or symmetric"):
        KeySet.from_jwks(jwks(good, private), ISSUER)
    secret = next(name for name in ("d", "p") if name in private)
    with pytest.raises(BadKeySet, match="private or symmetric"):
        KeySet.from_jwks(jwks(good, jwk(token_keys[alg], kid="q") | {secret: private[secret]}), ISSUER)


@pytest.mark.parametrize("member", ["d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"])
def test_any_secret_member_refuses_the_set(member: str, token_keys: dict[str, TokenKey]) -> None:
    for value in ("AQAB", "", 1, []):
        with pytest.raises(BadKeySet, match="private or symmetric"):
            KeySet.from_jwks(jwks(jwk(token_keys["ES256"], **{member: value})), ISSUER)


def test_set_with_a_symmetric_key_is_refused_whole(token_keys: dict[str, TokenKey]) -> None:
    for shared in ({"kty": "oct", "kid": "s", "k": "AAAA"}, {"kty": "oct", "kid": "s"}):
        with pytest.raises(BadKeySet, match="private or symmetric"):
            KeySet.from_jwks(jwks(jwk(token_keys["ES256"]), shared), ISSUER)


IGNORED: dict[str, Callable[[TokenKey], dict[str, Any]]] = {
    "unknown type": lambda _: {"kty": "AKP", "kid": "x", "alg": "ML-DSA-44", "pub": "AAAA"},
    "for encryption": lambda key: jwk(key, kid="x", use="enc"),
    "for signing, not verifying": lambda key: jwk(key, kid="x", key_ops=["wrapKey"]),
    "of another algorithm": lambda key: jwk(key, kid="x", alg="ES384"),
    "without a kid": lambda key: jwk(key, kid=None),
    "on P-384": lambda _: {"kty": "EC", "crv": "P-384", "kid": "x", "x": "AAAA", "y": "AAAA"},
    "on secp256k1": lambda _: {"kty": "EC", "crv": "secp256k1", "kid": "x", "x": "AAAA", "y": "AAAA"},
    "Ed448": lambda _: {
        "kty": "OKP",
        "crv": "Ed448",
        "kid": "x",
        "x": octets(ed448.Ed448PrivateKey.generate().public_key().public_bytes_raw()),
    },
    "X25519": lambda _: {"kty": "OKP", "crv": "X25519", "kid": "x", "x": octets(bytes(32))},
}


@pytest.mark.parametrize("name", IGNORED)
def test_key_that_is_not_for_our_tokens_is_left_out(name: str, token_keys: dict[str, TokenKey]) -> None:
    good = jwk(token_keys["PS256"])
    keys = KeySet.from_jwks(jwks(IGNORED[name](token_keys["ES256"]), good), ISSUER)
    assert keys.kids == {good["kid"]}


def test_members_that_nobody_knows_are_ignored(token_keys: dict[str, TokenKey]) -> None:
    members = jwk(token_keys["ES256"], nbf=1, x5c=["MIIB"], key_ops=["verify"])
    assert KeySet.from_jwks(jwks(members, more=[1]), ISSUER).kids == {members["kid"]}


def _off_the_curve(key: TokenKey) -> dict[str, Any]:
    return jwk(key, kid="x", y=octets(bytes(31) + b"\x01"))


IMPOSSIBLE: dict[str, Callable[[dict[str, TokenKey]], dict[str, Any]]] = {
    "RSA of 1024 bits": lambda _: jwk(rsa.generate_private_key(65_537, 1024)),  # noqa: S505 - it is weak on purpose
    "RSA of 2047 bits": lambda keys: jwk(keys["PS256"], n=octets((1 << 2046 | 1).to_bytes(256))),
    "RSA of 4104 bits": lambda keys: jwk(keys["PS256"], n=octets((1 << 4103 | 1).to_bytes(513))),
    "RSA with exponent 3": lambda keys: jwk(keys["PS256"], e="Aw"),
    "RSA with exponent 1": lambda keys: jwk(keys["PS256"], e="AQ"),
    "RSA without a modulus": lambda keys: jwk(keys["PS256"], n=None),
    "RSA padded": lambda keys: jwk(keys["PS256"], e="AQAB=="),
    "P-256 off the curve": lambda keys: _off_the_curve(keys["ES256"]),
    "P-256 at infinity": lambda keys: jwk(keys["ES256"], x=octets(bytes(32)), y=octets(bytes(32))),
    "P-256 with 31 bytes": lambda keys: jwk(keys["ES256"], x=octets(bytes(31))),
    "P-256 without y": lambda keys: jwk(keys["ES256"], y=None),
    "Ed25519 with 31 bytes": lambda keys: jwk(keys["EdDSA"], x=octets(bytes(31))),
    "Ed25519 not ASCII": lambda keys: jwk(keys["EdDSA"], x="é" * 43),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_set_with_a_weak_or_impossible_key_is_refused(name: str, token_keys: dict[str, TokenKey]) -> None:
    good = jwk(ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(BadKeySet, match="impossible"):
        KeySet.from_jwks(jwks(good, IMPOSSIBLE[name](token_keys)), ISSUER)


@pytest.mark.parametrize(
    "raw",
    [b"", b"{}", b"[]", b'{"keys":{}}', b'{"keys":[1]}', b'{"keys":[{}]}', b"\xff", b'{"keys":' + b"[" * 9000],
)
def test_what_is_no_key_set_is_refused(raw: bytes) -> None:
    with pytest.raises(BadKeySet, match="not a key set"):
        KeySet.from_jwks(raw, ISSUER)


def test_set_over_64_kib_is_refused(token_keys: dict[str, TokenKey]) -> None:
    with pytest.raises(BadKeySet, match="too long"):
        KeySet.from_jwks(jwks(jwk(token_keys["ES256"]), more="x" * 65_536), ISSUER)


def test_set_without_a_usable_key_is_refused() -> None:
    """Else every token would look bad, where the truth is that nobody can tell."""
    for raw in (jwks(), jwks({"kty": "new", "kid": "x"})):
        with pytest.raises(BadKeySet, match="no key"):
            KeySet.from_jwks(raw, ISSUER)


def test_one_kid_for_two_keys_of_one_algorithm_is_refused() -> None:
    pair = [jwk(ed25519.Ed25519PrivateKey.generate(), kid="same") for _ in range(2)]
    with pytest.raises(BadKeySet, match="share a kid"):
        KeySet.from_jwks(jwks(*pair), ISSUER)


def test_published_keys_are_taken_from_their_issuer_only(token_keys: dict[str, TokenKey]) -> None:
    published = {"issuer": ISSUER, "jwks": {"keys": [jwk(token_keys["ES256"])]}}
    raw = json.dumps(published).encode()
    assert KeySet.from_published(raw, ISSUER).issuer == ISSUER
    with pytest.raises(BadKeySet, match="another issuer"):
        KeySet.from_published(raw, "https://ccs.example")


def test_replaced_set_leaves_the_first_as_it_was(make_token: MakeToken, token_keys: dict[str, TokenKey]) -> None:
    old, new = (FileTokenSigner(token_keys[alg]) for alg in ("ES256", "EdDSA"))
    before = key_set_of(old)
    after = before.replace(jwks(jwk(token_keys["EdDSA"])))
    token = make_token(signer=old).token
    assert isinstance(verify(token, before, METER_KEY, NOW), VerifiedToken)
    assert verify(token, after, METER_KEY, NOW) is TokenRefusal.UNKNOWN_KEY
    assert isinstance(verify(make_token(signer=new).token, after, METER_KEY, NOW), VerifiedToken)
    assert after.issuer == before.issuer


def test_only_verified_headers_are_remembered(make_token: MakeToken, token_signer: FileTokenSigner) -> None:
    keys = key_set_of(token_signer)
    token = make_token().token
    header = token.split(b".")[0]
    bad = token[:-4] + b"AAAA"
    assert verify(bad, keys, METER_KEY, NOW) is TokenRefusal.SIGNATURE
    assert keys.for_header(header) is None
    assert isinstance(verify(token, keys, METER_KEY, NOW), VerifiedToken)
    assert keys.for_header(header) is not None


def test_no_more_than_some_headers_are_remembered(make_token: MakeToken, token_keys: dict[str, TokenKey]) -> None:
    """Only the issuer can spell one header in many ways; even then the memory is bounded, and all are taken."""
    signer = FileTokenSigner(token_keys["ES256"])
    keys, claims = key_set_of(signer), json.loads(msgspec.json.encode(make_token(signer=signer).claims))
    header = json.dumps({"typ": "at+jwt", "alg": "ES256", "kid": signer.public.kid}).encode()
    for spaces in range(100):
        token = compact(token_keys["ES256"], header + b" " * spaces, claims)
        assert isinstance(verify(token, keys, METER_KEY, NOW), VerifiedToken)
    assert len(keys._by_header) == 64


def test_ecdsa_signature_of_zeros_verifies_nothing(make_token: MakeToken, token_keys: dict[str, TokenKey]) -> None:
    """r = s = 0 once passed in a well-known implementation (CVE-2022-21449)."""
    signer = FileTokenSigner(token_keys["ES256"])
    head = make_token(signer=signer).token.rsplit(b".", 1)[0]
    keys = key_set_of(signer)
    for raw in (bytes(64), bytes(63) + b"\x01", b"\xff" * 64, bytes(65), b"0\x06\x02\x01\x00\x02\x01\x00"):
        assert verify(head + b"." + octets(raw).encode(), keys, METER_KEY, NOW) is TokenRefusal.SIGNATURE
