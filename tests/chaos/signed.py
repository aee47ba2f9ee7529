"""Signed answers (RFC 9701), read and verified at some cost less than a library's: one comes every ten milliseconds."""

import base64
import hashlib
import json
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

MOST_WAITING = 20_000  # answers whose key was not published yet when they came
CURVE_BYTES = 32
ECDSA_SHA256 = ec.ECDSA(SHA256())


class SignedAnswers:
    """Opens answers at once; a signature is checked as soon as its key is known."""

    def __init__(self, issuer: str) -> None:
        self._issuer = issuer
        self._keys: dict[str, ec.EllipticCurvePublicKey] = {}
        self._kids: dict[str, str] = {}  # by the header as it stands
        self._waiting: list[tuple[str, str, str]] = []
        self.verified = 0
        self.faults: list[str] = []

    def open(self, raw: str, edp: str, token: str) -> dict[str, Any]:
        """What the answer says, whoever signed it."""
        if not self._check(raw, edp, token) and len(self._waiting) < MOST_WAITING:
            self._waiting.append((raw, edp, token))
        found: dict[str, Any] = _json(raw.split(".")[1])["token_introspection"]
        return found

    def learn(self, key_set: dict[str, Any]) -> None:
        """Take the issuer's published keys (JWKS), and check what waited for them."""
        for one in key_set["keys"]:
            if one["kty"] == "EC":
                x, y = (int.from_bytes(_bytes(one[name])) for name in ("x", "y"))
                self._keys[one["kid"]] = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
        self._waiting = [one for one in self._waiting if not self._check(*one)]

    @property
    def unverified(self) -> int:
        """Answers whose key nobody has published."""
        return len(self._waiting)

    def _check(self, raw: str, edp: str, token: str) -> bool:
        """Whether it could be checked."""
        head, payload, signature = raw.split(".")
        key = self._keys.get(self._kid(head))
        if key is None:
            return False
        if fault := self._fault(key, f"{head}.{payload}", signature, _json(payload), (edp, token)):
            self.faults.append(f"to {edp}: {fault}")
        else:
            self.verified += 1
        return True

    def _kid(self, head: str) -> str:
        if head not in self._kids:
            self._kids[head] = str(_json(head)["kid"])
        return self._kids[head]

    def _fault(
        self,
        key: ec.EllipticCurvePublicKey,
        said: str,
        signature: str,
        claims: dict[str, Any],
        expected: tuple[str, str],
    ) -> str:
        edp, token = expected
        raw = _bytes(signature)
        r, s = (int.from_bytes(raw[at : at + CURVE_BYTES]) for at in (0, CURVE_BYTES))
        try:
            key.verify(encode_dss_signature(r, s), said.encode(), ECDSA_SHA256)
        except InvalidSignature:
            return "the signature is not right"
        digest = base64.urlsafe_b64encode(hashlib.sha256(token.encode()).digest()).rstrip(b"=").decode()
        wrong = [(claims["iss"], self._issuer), (claims["aud"], edp), (claims["ath"], digest)]
        return "; ".join(f"{found!r} in place of {right!r}" for found, right in wrong if found != right)


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _json(part: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_bytes(part))
    return found
