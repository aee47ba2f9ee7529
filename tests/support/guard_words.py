"""Shares, entries and what is known of tokens, as a guard's tests need them."""

import json
import uuid
from typing import Any, Final

from engine.clock import UnixTime, format_utc
from engine.consent.energy_consent import TYPE
from engine.consent.records import Thumbprint
from engine.guard.shares import KnownConsent, KnownToken, Share

NOW: Final = UnixTime(1_795_341_600)
DAY: Final = 86_400
POINTS: Final = ("mpan:1000000000012", "mpan:2000000000024", "mpan:1012345678903", "mprn:3938424403")
DATASETS: Final = ("hh-electricity-import", "hh-gas")
BOUND: Final = Thumbprint(bytes(32))


def share(**changes: Any) -> Share:
    values: dict[str, Any] = {
        "token": "t", "thumbprint": BOUND, "dataset_id": DATASETS[0], "mpxn": POINTS[0],
        "data_from": UnixTime(NOW - DAY), "data_to": NOW,
    } | changes  # fmt: skip
    return Share(**values)


def entry(**changes: Any) -> bytes:
    members: dict[str, Any] = {
        "type": TYPE, "consent_id": str(uuid.UUID(int=7, version=4)), "dataset_id": DATASETS[0],
        "access_mode": "enduring", "consent_expires_at": format_utc(UnixTime(NOW + DAY)),
        "data_from": format_utc(UnixTime(NOW - 2 * DAY)), "meter_points": [POINTS[0]], "actions": ["read"],
    } | changes  # fmt: skip
    return json.dumps({name: value for name, value in members.items() if value is not None}).encode()


def pushed_entry(**changes: Any) -> bytes:
    """The same as events carry it: without meter points."""
    return entry(meter_points=None, **changes)


def consent(**changes: Any) -> KnownConsent:
    values: dict[str, Any] = {
        "consent_id": str(uuid.UUID(int=7, version=4)), "consent_version": 3, "expires_at": UnixTime(NOW + DAY),
        "one_off": False, "entry": entry(),
    } | changes  # fmt: skip
    return KnownConsent(**values)


def known(*consents: KnownConsent, **changes: Any) -> KnownToken:
    values: dict[str, Any] = {
        "digest": bytes(32), "client_id": "atp-1", "thumbprint": BOUND, "token_expires_at": UnixTime(NOW + 300),
        "answered_at": UnixTime(NOW - 100), "as_of": UnixTime(NOW - 101), "last_known_until": UnixTime(NOW + DAY - 101),
        "consents": consents or (consent(),),
    } | changes  # fmt: skip
    return KnownToken(**values)
