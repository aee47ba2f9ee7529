"""Active answers as a guard remembers them."""

import hashlib
from typing import Any

import msgspec

from engine.clock import UnixTime, parse_utc
from engine.consent.energy_consent import TYPE
from engine.consent.records import Thumbprint
from engine.guard.shares import KnownConsent, KnownToken

NOW = parse_utc("2026-11-28T00:00:00Z")
CONSENT = "7f3c1b1e-5a0e-4a55-9a53-0d6c2f7c9b10"
OTHER_CONSENT = "7f3c1b1e-5a0e-4a55-9a53-0d6c2f7c9b11"
EXPIRES = "2027-06-01T00:00:00Z"


def entry(consent_id: str = CONSENT, **members: Any) -> bytes:
    """An `authorization_details` entry as events carry it: without meter points."""
    return msgspec.json.encode(_entry(consent_id) | members)


def known_consent(consent_id: str = CONSENT, *, version: int = 1, **members: Any) -> KnownConsent:
    """A consent as an answer shows it."""
    shown = _entry(consent_id) | {"meter_points": ["mpan:1000000000012"]} | members
    expires_at = parse_utc(shown["consent_expires_at"])
    return KnownConsent(consent_id, version, expires_at, shown["access_mode"] == "one_off", msgspec.json.encode(shown))


def known_token(name: str = "token", **members: Any) -> KnownToken:
    """An active answer about a token of that name."""
    known = KnownToken(
        digest=hashlib.sha256(name.encode()).digest(),
        client_id="atp-1",
        thumbprint=Thumbprint(hashlib.sha256(b"certificate").digest()),
        token_expires_at=UnixTime(NOW + 600),
        answered_at=NOW,
        as_of=NOW,
        last_known_until=UnixTime(NOW + 86_400),
        consents=(known_consent(),),
    )
    return msgspec.structs.replace(known, **members)


def _entry(consent_id: str) -> dict[str, Any]:
    return {
        "type": TYPE,
        "consent_id": consent_id,
        "dataset_id": "electricity-half-hourly",
        "access_mode": "enduring",
        "consent_expires_at": EXPIRES,
        "data_from": "2026-01-01T00:00:00Z",
        "data_to": "2027-01-01T00:00:00Z",
    }
