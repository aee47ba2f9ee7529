"""Tokens as attackers and broken software make them: each differs from a good one in one thing.

`BAD_TOKENS` names them all with the refusal that is due; `Forge` holds the issuer's own private key, so that the
defect is never just a bad signature.
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.hashes import SHA256

from admin.authorization.minting import Minted
from admin.pki.keys import FileTokenSigner, TokenKey, new_token_key, sign_jws
from engine.tokens.verify import TokenRefusal as No


def part(raw: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def as_json(value: object) -> bytes:
    """Raw bytes are taken as they are."""
    return value if isinstance(value, bytes) else json.dumps(value, separators=(",", ":")).encode()


def compact(key: TokenKey, header: object, payload: object) -> bytes:
    """A JWS rightly signed over whatever it holds."""
    text = f"{part(as_json(header))}.{part(as_json(payload))}".encode()
    return text + b"." + part(sign_jws(key, text)).encode()


class Forge:
    """Makes variations of one good token. keys: private token keys by algorithm; the good one is PS256."""

    def __init__(self, good: Minted, keys: dict[str, TokenKey]) -> None:
        self.good = good.token
        self.keys = keys
        self.signer = FileTokenSigner(keys["PS256"])
        self.header = {"typ": "at+jwt", "alg": "PS256", "kid": self.signer.public.kid}
        self.claims: dict[str, object] = json.loads(msgspec.json.encode(good.claims))
        self.now = good.claims.iat
        self.detail: dict[str, object] = self.claims["authorization_details"][0]

    def parts(self) -> list[str]:
        return self.good.decode().split(".")

    def signed(self, header: object = None, payload: object = None, key: str = "PS256") -> bytes:
        """A token rightly signed over whatever it holds."""
        header = self.header if header is None else header
        payload = self.claims if payload is None else payload
        return compact(self.keys[key], header, payload)

    def headed(self, **changes: object) -> bytes:
        """With header members changed or added; None takes one away."""
        return self.signed(header=changed(self.header, changes))

    def claiming(self, **changes: object) -> bytes:
        """With claims changed or added; None takes one away."""
        return self.signed(payload=changed(self.claims, changes))

    def detailed(self, **changes: object) -> bytes:
        """With the one consent's members changed or added; None takes one away."""
        return self.claiming(authorization_details=[changed(self.detail, changes)])

    def unsigned(self, alg: str) -> bytes:
        return f"{part(as_json(self.header | {'alg': alg}))}.{self.parts()[1]}.".encode()

    def mac(self, secret: bytes) -> bytes:
        text = f"{part(as_json(self.header | {'alg': 'HS256'}))}.{self.parts()[1]}".encode()
        return text + b"." + part(hmac.digest(secret, text, hashlib.sha256)).encode()

    def public_pem(self) -> bytes:
        return (
            self.keys["PS256"]
            .public_key()
            .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )

    def public_jwk(self) -> dict[str, str]:
        return json.loads(msgspec.json.encode(self.signer.public))

    def with_signature(self, change: Callable[[bytes], bytes]) -> bytes:
        """The good token with the bytes of its signature changed."""
        header, payload, signature = self.parts()
        raw = base64.urlsafe_b64decode(signature + "==")
        return f"{header}.{payload}.{part(change(raw))}".encode()

    def with_payload_of(self, other: bytes) -> bytes:
        """The good token's header and signature around another payload."""
        header, _, signature = self.parts()
        return f"{header}.{other.decode().split('.')[1]}.{signature}".encode()

    def raw_claims(self, old: str, new: str) -> bytes:
        """The claims' text with one piece replaced: for what a dict cannot say."""
        text = as_json(self.claims).decode()
        assert text.count(old) == 1
        return self.signed(payload=text.replace(old, new).encode())


def changed(members: dict[str, object], changes: dict[str, object]) -> dict[str, object]:
    """A copy with members set; None takes one away."""
    return {name: value for name, value in (members | changes).items() if value is not None}


Make = Callable[[Forge], bytes]


def _foreign_key(forge: Forge) -> bytes:
    """Signed by another key of the right kind, under the good key's kid."""
    text = ".".join(forge.parts()[:2]).encode()
    return text + b"." + part(sign_jws(new_token_key("PS256"), text)).encode()


def _pkcs1(forge: Forge) -> bytes:
    text = ".".join(forge.parts()[:2]).encode()
    return text + b"." + part(forge.keys["PS256"].sign(text, padding.PKCS1v15(), SHA256())).encode()


def _pss(forge: Forge, salt: int) -> bytes:
    text = ".".join(forge.parts()[:2]).encode()
    signature = forge.keys["PS256"].sign(text, padding.PSS(padding.MGF1(SHA256()), salt), SHA256())
    return text + b"." + part(signature).encode()


def _json_form(forge: Forge) -> bytes:
    protected, payload, signature = forge.parts()
    return as_json({"protected": protected, "payload": payload, "signature": signature})


def _standard_letters(forge: Forge) -> bytes:
    """The signature in base64 instead of base64url."""
    head, signature = forge.good.rsplit(b".", 1)
    assert b"-" in signature or b"_" in signature
    return head + b"." + signature.replace(b"-", b"+").replace(b"_", b"/")


def _respelled_payload(forge: Forge) -> bytes:
    text = as_json(forge.claims)
    while len(text) % 3 == 0:
        text += b" "
    return _respell(forge.signed(payload=text), 1)


def _respell(token: bytes, index: int) -> bytes:
    """The last letter's unused bits set: the same bytes, another text."""
    parts = token.decode().split(".")
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    parts[index] = parts[index][:-1] + letters[letters.index(parts[index][-1]) + 1]
    return ".".join(parts).encode()


def _bad_utf8(forge: Forge) -> bytes:
    return forge.signed(payload=as_json(forge.claims).replace(b'"edp-1"', b'"edp\xff1"'))


def _repeating(forge: Forge, members: bytes) -> bytes:
    """Members put before all others."""
    return forge.signed(payload=b"{" + members + as_json(forge.claims)[1:])


BAD_TOKENS: dict[str, tuple[Make, No]] = {
    # Algorithms (RFC 8725 sections 2.1, 3.1)
    "alg none": (lambda f: f.unsigned("none"), No.ALGORITHM),
    "alg None": (lambda f: f.unsigned("None"), No.ALGORITHM),
    "alg nOnE": (lambda f: f.unsigned("nOnE"), No.ALGORITHM),
    "alg none, signature kept": (lambda f: f.headed(alg="none"), No.ALGORITHM),
    "alg missing": (lambda f: f.headed(alg=None), No.ALGORITHM),
    "alg a list": (lambda f: f.headed(alg=["PS256"]), No.ALGORITHM),
    "alg RS256": (lambda f: f.headed(alg="RS256"), No.ALGORITHM),
    "alg PS512": (lambda f: f.headed(alg="PS512"), No.ALGORITHM),
    "alg ES512": (lambda f: f.headed(alg="ES512"), No.ALGORITHM),
    "alg in lower case": (lambda f: f.headed(alg="ps256"), No.ALGORITHM),
    "HMAC with the public key's PEM": (lambda f: f.mac(f.public_pem()), No.ALGORITHM),
    "HMAC with the public JWK": (lambda f: f.mac(as_json(f.public_jwk())), No.ALGORITHM),
    "HMAC with the modulus": (lambda f: f.mac(f.public_jwk()["n"].encode()), No.ALGORITHM),
    "HMAC with nothing": (lambda f: f.mac(b""), No.ALGORITHM),
    "signed by the EC key under the RSA key's kid": (
        lambda f: f.signed(header=f.header | {"alg": "ES256"}, key="ES256"),
        No.ALGORITHM,
    ),
    "signed by the Ed25519 key under the RSA key's kid": (
        lambda f: f.signed(header=f.header | {"alg": "EdDSA"}, key="EdDSA"),
        No.ALGORITHM,
    ),
    # Kinds of JWT (RFC 8725 section 3.11)
    "typ JWT": (lambda f: f.headed(typ="JWT"), No.TYPE),
    "typ of an introspection answer": (lambda f: f.headed(typ="token-introspection+jwt"), No.TYPE),
    "typ of a security event": (lambda f: f.headed(typ="secevent+jwt"), No.TYPE),
    "typ of a DPoP proof": (lambda f: f.headed(typ="dpop+jwt"), No.TYPE),
    "typ missing": (lambda f: f.headed(typ=None), No.TYPE),
    "typ a number": (lambda f: f.headed(typ=7), No.TYPE),
    "typ with a space": (lambda f: f.headed(typ="at+jwt "), No.TYPE),
    # Headers that bring or point to a key, or ask to be understood
    "kid unknown": (lambda f: f.headed(kid="unknown"), No.UNKNOWN_KEY),
    "kid a path": (lambda f: f.headed(kid="../../../dev/null"), No.UNKNOWN_KEY),
    "kid empty": (lambda f: f.headed(kid=""), No.UNKNOWN_KEY),
    "kid missing": (lambda f: f.headed(kid=None), No.HEADER),
    "kid a number": (lambda f: f.headed(kid=1), No.HEADER),
    "jku": (lambda f: f.headed(jku="https://evil.example/jwks"), No.HEADER),
    "jku in place of kid": (lambda f: f.headed(kid=None, jku="https://evil.example/jwks"), No.HEADER),
    "jwk": (lambda f: f.headed(jwk=f.public_jwk()), No.HEADER),
    "x5u": (lambda f: f.headed(x5u="https://evil.example/cert"), No.HEADER),
    "x5c": (lambda f: f.headed(x5c=["MIIB"]), No.HEADER),
    "x5t": (lambda f: f.headed(**{"x5t#S256": "A" * 43}), No.HEADER),
    "crit": (lambda f: f.headed(crit=["exp"]), No.HEADER),
    "b64 false": (lambda f: f.headed(b64=False, crit=["b64"]), No.HEADER),
    "zip": (lambda f: f.headed(zip="DEF"), No.HEADER),
    "cty": (lambda f: f.headed(cty="JWT"), No.HEADER),
    "header repeats alg": (
        lambda f: f.signed(header=b'{"alg":"none",' + as_json(f.header)[1:]),
        No.SHAPE,
    ),
    "header repeats kid": (lambda f: f.signed(header=b'{"kid":"a",' + as_json(f.header)[1:]), No.SHAPE),
    "header a list": (lambda f: f.signed(header=[f.header]), No.SHAPE),
    "header a text": (lambda f: f.signed(header=b'"at+jwt"'), No.SHAPE),
    "header not JSON": (lambda f: f.signed(header=b"{"), No.SHAPE),
    "header not UTF-8": (lambda f: f.signed(header=b'{"alg":"\xff"}'), No.SHAPE),
    "header in UTF-16": (lambda f: f.signed(header=as_json(f.header).decode().encode("utf-16")), No.SHAPE),
    "header nested deep": (lambda f: f.signed(header=b"[" * 380), No.SHAPE),
    "header of 2 KiB": (lambda f: f.headed(kid="k" * 2048), No.SHAPE),
    # Signatures
    "payload of another token": (lambda f: f.with_payload_of(f.claiming(aud="edp-2")), No.SIGNATURE),
    "one bit of the payload flipped": (
        lambda f: f.with_payload_of(f.claiming(exp=int(str(f.claims["exp"])) ^ 1)),
        No.SIGNATURE,
    ),
    "one bit of the signature flipped": (
        lambda f: f.with_signature(lambda raw: raw[:-1] + bytes([raw[-1] ^ 1])),
        No.SIGNATURE,
    ),
    "signature of another key": (_foreign_key, No.SIGNATURE),
    "signature cut short": (lambda f: f.with_signature(lambda raw: raw[:-1]), No.SIGNATURE),
    "signature with a byte in front": (lambda f: f.with_signature(lambda raw: b"\x00" + raw), No.SIGNATURE),
    "signature twice": (lambda f: f.with_signature(lambda raw: raw + raw), No.SIGNATURE),
    "signature empty": (lambda f: f.with_signature(lambda _: b""), No.SIGNATURE),
    "signature all zero": (lambda f: f.with_signature(lambda raw: bytes(len(raw))), No.SIGNATURE),
    "PKCS #1 v1.5 signature": (_pkcs1, No.SIGNATURE),
    "PSS with another salt length": (lambda f: _pss(f, 20), No.SIGNATURE),
    # Shapes
    "empty": (lambda _: b"", No.SHAPE),
    "random text": (lambda _: b"2YotnFZFEjr1zCsicMWpAA", No.SHAPE),
    "two parts": (lambda f: f.good.rsplit(b".", 1)[0], No.SHAPE),
    "four parts": (lambda f: f.good + b".AAAA", No.SHAPE),
    "JWE of five parts": (lambda f: f.good + b".AAAA.AAAA", No.SHAPE),
    "dots only": (lambda _: b"..", No.SHAPE),
    "detached payload": (lambda f: f"{f.parts()[0]}..{f.parts()[2]}".encode(), No.SHAPE),
    "header missing": (lambda f: f".{f.parts()[1]}.{f.parts()[2]}".encode(), No.SHAPE),
    "JSON serialization": (_json_form, No.SHAPE),
    "8 KiB and a byte": (lambda f: f.good + b"A" * (8193 - len(f.good)), No.SHAPE),
    "a megabyte of dots": (lambda _: b"." * (1 << 20), No.SHAPE),
    "padding": (lambda f: f.good + b"==", No.SHAPE),
    "padding in the header": (lambda f: f.good.replace(b".", b"=.", 1), No.SHAPE),
    "base64 letters": (_standard_letters, No.SHAPE),
    "signature respelled": (lambda f: _respell(f.good, 2), No.SHAPE),
    "line feed at the end": (lambda f: f.good + b"\n", No.SHAPE),
    "space in front": (lambda f: b" " + f.good, No.SHAPE),
    "line feed in the middle": (lambda f: f.good[:-8] + b"\n" + f.good[-8:], No.SHAPE),
    "NUL at the end": (lambda f: f.good + b"\x00", No.SHAPE),
    "NUL in the header": (lambda f: f.good[:8] + b"\x00" + f.good[8:], No.SHAPE),
    "not ASCII": (lambda f: f.good + "é".encode(), No.SHAPE),
    "full-width letters": (lambda f: f.good[:-1] + "Ａ".encode(), No.SHAPE),
    "scheme in front": (lambda f: b"Bearer " + f.good, No.SHAPE),
    # Payloads
    "payload respelled": (_respelled_payload, No.CLAIMS),
    "payload a list": (lambda f: f.signed(payload=[f.claims]), No.CLAIMS),
    "payload a text": (lambda f: f.signed(payload=b'"text"'), No.CLAIMS),
    "payload null": (lambda f: f.signed(payload=b"null"), No.CLAIMS),
    "payload not JSON": (lambda f: f.signed(payload=b"{"), No.CLAIMS),
    "payload not UTF-8": (_bad_utf8, No.CLAIMS),
    "payload with a tail": (lambda f: f.signed(payload=as_json(f.claims) + b"{}"), No.CLAIMS),
    "payload repeats exp": (lambda f: _repeating(f, b'"exp":1,'), No.CLAIMS),
    "payload repeats aud": (lambda f: _repeating(f, b'"aud":"edp-2",'), No.CLAIMS),
    "payload repeats a member of a detail": (
        lambda f: f.raw_claims('"access_mode":', '"access_mode":"one_off","access_mode":'),
        No.CLAIMS,
    ),
    "payload repeats a member of cnf": (
        lambda f: f.raw_claims('"cnf":{', '"cnf":{"x5t#S256":"' + "A" * 43 + '",'),
        No.CLAIMS,
    ),
    "payload repeats an unknown member": (lambda f: _repeating(f, b'"x":1,"x":1,'), No.CLAIMS),
    "payload repeats a name by an escape": (lambda f: _repeating(f, b'"\\u0065xp":1,'), No.CLAIMS),
    "payload with NaN": (lambda f: _repeating(f, b'"x":NaN,'), No.CLAIMS),
    "lists nested deep": (lambda f: _repeating(f, b'"x":' + b"[" * 2500 + b"]" * 2500 + b","), No.CLAIMS),
    "objects nested deep": (lambda f: _repeating(f, b'"x":' + b'{"a":' * 800 + b"1" + b"}" * 800 + b","), No.CLAIMS),
    "lists nested ten deep": (lambda f: _repeating(f, b'"x":' + b"[" * 10 + b"]" * 10 + b","), No.CLAIMS),
    # Times
    "expired": (lambda f: f.claiming(exp=f.now), No.EXPIRED),
    "expired long ago": (lambda f: f.claiming(iat=f.now - 7200, exp=f.now - 3600), No.EXPIRED),
    "exp zero": (lambda f: f.claiming(exp=0), No.EXPIRED),
    "exp missing": (lambda f: f.claiming(exp=None), No.CLAIMS),
    "exp a text": (lambda f: f.claiming(exp=str(f.now + 600)), No.CLAIMS),
    "exp a float": (lambda f: f.claiming(exp=f.now + 600.0), No.CLAIMS),
    "exp with an exponent": (lambda f: f.raw_claims(f'"exp":{f.now + 600}', '"exp":2e9'), No.CLAIMS),
    "exp true": (lambda f: f.claiming(exp=True), No.CLAIMS),
    "exp null": (lambda f: f.raw_claims(f'"exp":{f.now + 600}', '"exp":null'), No.CLAIMS),
    "exp negative": (lambda f: f.claiming(exp=-1), No.CLAIMS),
    "exp huge": (lambda f: f.claiming(exp=10**30), No.CLAIMS),
    "exp of five thousand digits": (lambda f: f.raw_claims(f'"exp":{f.now + 600}', '"exp":' + "9" * 5000), No.CLAIMS),
    "exp a list": (lambda f: f.claiming(exp=[f.now + 600]), No.CLAIMS),
    "exp before iat": (lambda f: f.claiming(iat=f.now + 9, exp=f.now + 5), No.CLAIMS),
    "iat missing": (lambda f: f.claiming(iat=None), No.CLAIMS),
    "iat a text": (lambda f: f.claiming(iat=str(f.now)), No.CLAIMS),
    "iat a float": (lambda f: f.claiming(iat=f.now + 0.5), No.CLAIMS),
    "iat true": (lambda f: f.claiming(iat=True), No.CLAIMS),
    "iat negative": (lambda f: f.claiming(iat=-5), No.CLAIMS),
    "iat in the future": (lambda f: f.claiming(iat=f.now + 11), No.NOT_YET_VALID),
    "nbf in the future": (lambda f: f.claiming(nbf=f.now + 11), No.NOT_YET_VALID),
    "nbf a text": (lambda f: f.claiming(nbf="0"), No.CLAIMS),
    "nbf huge": (lambda f: f.claiming(nbf=10**18), No.CLAIMS),
    # Who
    "iss foreign": (lambda f: f.claiming(iss="https://evil.example"), No.FOREIGN_ISSUER),
    "iss with a slash": (lambda f: f.claiming(iss=f"{f.claims['iss']}/"), No.FOREIGN_ISSUER),
    "iss missing": (lambda f: f.claiming(iss=None), No.CLAIMS),
    "iss a list": (lambda f: f.claiming(iss=[f.claims["iss"]]), No.CLAIMS),
    "aud a list of one": (lambda f: f.claiming(aud=["edp-1"]), No.CLAIMS),
    "aud a list of two": (lambda f: f.claiming(aud=["edp-1", "edp-2"]), No.CLAIMS),
    "aud empty": (lambda f: f.claiming(aud=""), No.CLAIMS),
    "aud missing": (lambda f: f.claiming(aud=None), No.CLAIMS),
    "client_id missing": (lambda f: f.claiming(client_id=None), No.CLAIMS),
    "client_id a number": (lambda f: f.claiming(client_id=7), No.CLAIMS),
    "sub missing": (lambda f: f.claiming(sub=None), No.CLAIMS),
    "jti missing": (lambda f: f.claiming(jti=None), No.CLAIMS),
    "jti empty": (lambda f: f.claiming(jti=""), No.CLAIMS),
    "jti with half a surrogate": (lambda f: f.claiming(jti="\ud800"), No.CLAIMS),
    # To whom it is bound
    "cnf missing": (lambda f: f.claiming(cnf=None), No.CLAIMS),
    "cnf empty": (lambda f: f.claiming(cnf={}), No.CLAIMS),
    "cnf a text": (lambda f: f.claiming(cnf="x"), No.CLAIMS),
    "cnf with unknown members only": (lambda f: f.claiming(cnf={"osc": {}}), No.CLAIMS),
    "cnf in hexadecimal": (lambda f: f.claiming(cnf={"x5t#S256": "ab" * 32}), No.CLAIMS),
    "cnf padded": (lambda f: f.claiming(cnf={"x5t#S256": "A" * 43 + "="}), No.CLAIMS),
    "cnf with a line feed": (lambda f: f.claiming(cnf={"x5t#S256": "A" * 43 + "\n"}), No.CLAIMS),
    "cnf respelled": (lambda f: f.claiming(cnf={"x5t#S256": "A" * 42 + "B"}), No.CLAIMS),
    "jkt too short": (lambda f: f.claiming(cnf={"jkt": "A" * 42}), No.CLAIMS),
    # To what
    "details missing": (lambda f: f.claiming(authorization_details=None), No.CLAIMS),
    "details not a list": (lambda f: f.claiming(authorization_details=f.detail), No.CLAIMS),
    "details a text": (lambda f: f.claiming(authorization_details=json.dumps([f.detail])), No.CLAIMS),
    "details empty": (lambda f: f.claiming(authorization_details=[]), No.CLAIMS),
    "details of another type": (lambda f: f.detailed(type="https://ccs.example/rar/energy-consent/v2"), No.CLAIMS),
    "details without a type": (lambda f: f.detailed(type=None), No.CLAIMS),
    "details with one of another type": (
        lambda f: f.claiming(authorization_details=[f.detail, {"type": "payment_initiation"}]),
        No.CLAIMS,
    ),
    "details with an unknown member": (lambda f: f.detailed(only_on_sundays=True), No.CLAIMS),
    "details name a consent twice": (lambda f: f.claiming(authorization_details=[f.detail] * 2), No.CLAIMS),
    "consent_id in upper case": (lambda f: f.detailed(consent_id=str(f.detail["consent_id"]).upper()), No.CLAIMS),
    "consent_id not a UUID": (lambda f: f.detailed(consent_id="1"), No.CLAIMS),
    "consent_id of version 1": (lambda f: f.detailed(consent_id="7f3c1b1e-5a0e-1a55-9a53-0d6c2f7c9b10"), No.CLAIMS),
    "consent_id with a line feed": (lambda f: f.detailed(consent_id=f"{f.detail['consent_id']}\n"), No.CLAIMS),
    "consent_id in braces": (lambda f: f.detailed(consent_id=f"{{{f.detail['consent_id']}}}"), No.CLAIMS),
    "access_mode unknown": (lambda f: f.detailed(access_mode="ENDURING"), No.CLAIMS),
    "actions more than read": (lambda f: f.detailed(actions=["read", "write"]), No.CLAIMS),
    "actions empty": (lambda f: f.detailed(actions=[]), No.CLAIMS),
    "no meter point": (lambda f: f.detailed(meter_points=[]), No.CLAIMS),
    "meter points missing": (lambda f: f.detailed(meter_points=None), No.CLAIMS),
    "eleven meter points": (lambda f: f.detailed(meter_points=[f"mprn:{n:08}" for n in range(11)]), No.CLAIMS),
    "meter point a number": (lambda f: f.detailed(meter_points=[1000000000012]), No.CLAIMS),
    "meter point without prefix": (lambda f: f.detailed(meter_points=["1000000000012"]), No.CLAIMS),
    "meter point of a wrong check digit": (lambda f: f.detailed(meter_points=["mpan:1000000000013"]), No.CLAIMS),
    "meter point in other digits": (lambda f: f.detailed(meter_points=["mpan:١٠٠٠٠٠٠٠٠٠٠١٢"]), No.CLAIMS),
    "meter point with a line feed": (lambda f: f.detailed(meter_points=["mprn:3938424403\n"]), No.CLAIMS),
    "meter point twice": (lambda f: f.detailed(meter_points=["mprn:3938424403"] * 2), No.CLAIMS),
    "expiry with an offset": (lambda f: f.detailed(consent_expires_at="2027-11-22T10:00:00+00:00"), No.CLAIMS),
    "expiry without Z": (lambda f: f.detailed(consent_expires_at="2027-11-22T10:00:000"), No.CLAIMS),
    "expiry on a day that does not exist": (
        lambda f: f.detailed(consent_expires_at="2027-02-30T00:00:00Z"),
        No.CLAIMS,
    ),
    "expiry a number": (lambda f: f.detailed(consent_expires_at=f.now), No.CLAIMS),
    "expiry missing": (lambda f: f.detailed(consent_expires_at=None), No.CLAIMS),
    "window missing": (lambda f: f.detailed(data_from=None), No.CLAIMS),
    "window empty": (lambda f: f.detailed(data_to=f.detail["data_from"]), No.CLAIMS),
    "window after the consent": (lambda f: f.detailed(data_from="2028-01-01T00:00:00Z"), No.CLAIMS),
    "window in other digits": (lambda f: f.detailed(data_from="٢٠٢٦-01-01T00:00:00Z"), No.CLAIMS),
}
