"""What was granted, in its full form, and whether a later request stays inside it.

`uncovered` is the comparison of the energy-consent type (RFC 9396 section 6.1 leaves it to each type): texts are
compared byte by byte, times as instants, lists as sets, and nothing is ever taken as a wildcard.
"""

from collections.abc import Iterator
from typing import Final

import msgspec

from engine.clock import parse_utc
from engine.consent.energy_consent import SCHEMA_VERSION, instant
from engine.consent.records import ConsentId


class EnergyConsent(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The full form of a granted entry, for the ATP and the consumer (sheet, section 3.2)."""

    type: str
    consent_id: ConsentId
    dataset_id: str
    purpose: str
    access_mode: str
    consent_expires_at: str
    granted_at: str
    data_from: str
    meter_points: tuple[str, ...]
    atp_declaration: str
    data_to: str | None = None
    locations: tuple[str, ...] = ()
    actions: tuple[str, ...] = msgspec.field(default_factory=lambda: ("read",))
    purpose_code: str | None = None
    atp_reference: str | None = None
    schema_version: str = msgspec.field(default_factory=lambda: SCHEMA_VERSION)


class Narrowing(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One entry of a request for less than was granted: a token request, or a refresh. Absent = as granted."""

    type: str
    dataset_id: str
    access_mode: str
    data_from: str
    purpose: str
    atp_declaration: str
    purpose_code: str | None = None
    consent_id: str | None = None
    consent_expires_at: str | None = None
    data_to: str | None = None
    meter_points: tuple[str, ...] | None = None
    locations: tuple[str, ...] | None = None
    actions: tuple[str, ...] | None = None
    atp_reference: str | None = None
    granted_at: str | None = None
    schema_version: str | None = None


_EQUAL: Final = ("type", "dataset_id", "purpose", "purpose_code", "access_mode", "atp_declaration")
_SAME_IF_SENT: Final = ("consent_id", "atp_reference", "granted_at", "schema_version")


def uncovered(granted: EnergyConsent, asked: Narrowing) -> tuple[str, ...]:
    """The members by which `asked` goes beyond `granted` (sheet, section 3.4); empty = covered.

    Texts compare byte by byte, times as instants, lists as sets. Each asked entry must be covered by one granted
    entry: the caller never stitches two together. A time that cannot be read is beyond.
    """
    beyond = [name for name in _EQUAL if getattr(asked, name) != getattr(granted, name)]
    beyond += [name for name in _SAME_IF_SENT if getattr(asked, name) not in (None, getattr(granted, name))]
    beyond += [name for name in ("meter_points", "locations", "actions") if not _subset(asked, granted, name)]
    return (*beyond, *_times_beyond(granted, asked))


def covers(granted: EnergyConsent, asked: Narrowing) -> bool:
    """Whether what is asked lies inside what was granted (RFC 9396 section 6.1)."""
    return not uncovered(granted, asked)


def _subset(asked: Narrowing, granted: EnergyConsent, name: str) -> bool:
    wanted = getattr(asked, name)
    return wanted is None or (len(wanted) > 0 and set(wanted) <= set(getattr(granted, name)))


def _times_beyond(granted: EnergyConsent, asked: Narrowing) -> Iterator[str]:
    wanted = {name: instant(getattr(asked, name)) for name in ("consent_expires_at", "data_from", "data_to")}
    unreadable = [name for name, at in wanted.items() if at is None and getattr(asked, name) is not None]
    yield from unreadable
    if unreadable:
        return
    expires, start, end = wanted["consent_expires_at"], wanted["data_from"], wanted["data_to"]
    granted_expiry = parse_utc(granted.consent_expires_at)
    granted_end = granted_expiry if granted.data_to is None else parse_utc(granted.data_to)
    if expires is not None and expires > granted_expiry:
        yield "consent_expires_at"
    if start is None or start < parse_utc(granted.data_from):
        yield "data_from"
    if end is not None and end > granted_end:
        yield "data_to"
    if start is not None and start >= (granted_end if end is None else end):
        yield "data_from"
