"""Meter points: `mpan:` + 13 digits (electricity) or `mprn:` + 6 to 10 digits (gas), always text.

The MPAN's check digit is published and certain, so a wrong one is refused. The MPRN's comes from a secondary
source (domain facts, section 2), so a wrong one is only a warning: the enquiry service is the judge. Outside the
house a meter point appears only as a keyed digest.
"""

import functools
import hashlib
import re
from operator import mul
from typing import Final

from engine.consent.records import ConsentKey

DIGEST_BYTES: Final = 16

_SHAPE: Final = re.compile(r"mpan:[0-9]{13}|mprn:[0-9]{6,10}")
_MPAN_WEIGHTS: Final = (3, 5, 7, 13, 17, 19, 23, 29, 31, 37, 41, 43)  # the primes from 3 on, 11 left out
_MPAN_ZEROS: Final = ord("0") * sum(_MPAN_WEIGHTS)  # what twelve zeros weigh as ASCII
_BLOCK: Final = 64  # bytes of SHA-256's (FIPS 180-4)


def is_shaped(meter_point: str) -> bool:
    """Whether the text has the form of a meter point: prefix and ASCII digits, nothing else."""
    return _SHAPE.fullmatch(meter_point) is not None


def problem_with(meter_point: str) -> str | None:
    """Why the text is no meter point, in words that may be shown; None = it is one."""
    if not is_shaped(meter_point):
        return "must be mpan: and 13 digits, or mprn: and 6 to 10 digits"
    number = meter_point[5:]
    if meter_point.startswith("mpan:") and mpan_check_digit(number[:12]) != number[12]:
        return "the check digit of the MPAN is wrong"
    return None


def warning_about(meter_point: str) -> str | None:
    """What looks wrong with a well-shaped meter point, but is no reason to refuse it; None = nothing."""
    number = meter_point[5:]
    if meter_point.startswith("mprn:") and mprn_check_digits(number[:-2]) != number[-2:]:
        return "the check digits of the MPRN look wrong"
    return None


def mpan_check_digit(leading: str) -> str:
    """The 13th digit for the first 12: sum of digit times prime, mod 11, mod 10 (a remainder of 10 gives 0)."""
    if len(leading) != len(_MPAN_WEIGHTS):
        raise ValueError("an MPAN has 12 digits before its check digit")
    return str((sum(map(mul, leading.encode(), _MPAN_WEIGHTS)) - _MPAN_ZEROS) % 11 % 10)


def mprn_check_digits(leading: str) -> str:
    """The last two digits for the n before them: sum of digit times n … 1, mod 11, as two digits (00 to 10)."""
    weights = range(len(leading), 0, -1)
    total = sum(int(digit) * weight for digit, weight in zip(leading, weights, strict=True))
    return f"{total % 11:02}"


def meter_digest(key: bytes, consent: ConsentKey, meter_point: str) -> bytes:
    """The name of a meter point inside one consent: HMAC-SHA256(key, consent | meter point), first 16 bytes.

    key: 32 bytes that never travel through Redis. Digests of one meter point under two consents differ, so that
    nobody can tell from records which consents stand on the same meter.
    """
    inner, outer = _begun(key)
    inner, outer = inner.copy(), outer.copy()
    inner.update(consent + meter_point.encode())
    outer.update(inner.digest())
    return outer.digest()[:DIGEST_BYTES]


@functools.lru_cache(maxsize=16)
def _begun(key: bytes) -> tuple["hashlib._Hash", "hashlib._Hash"]:
    """HMAC's two hashes (RFC 2104 section 2) with the key taken in: that is two thirds of its cost."""
    block = (hashlib.sha256(key).digest() if len(key) > _BLOCK else key).ljust(_BLOCK, b"\0")
    return hashlib.sha256(bytes([octet ^ 0x36 for octet in block])), hashlib.sha256(
        bytes([octet ^ 0x5C for octet in block])
    )
