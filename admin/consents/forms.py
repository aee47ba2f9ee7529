"""The JSON bodies of consent calls, read strictly: a payload with meter readings is refused for its unknown members.

Each `read_` function takes the raw body and returns a form that is right by itself, or raises with every fault
named by its field. What needs the ledger (participants, the consent's state) is checked by the commands.
"""

from collections.abc import Iterator
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from engine.clock import UnixTime
from engine.consent.energy_consent import Entry, Instant, Limits, Requested, instant, read_entry
from engine.consent.reading import InvalidFields, Problem, read_struct, strict_json
from engine.consent.windows import Window, cut_to_occupancy

ClientText = Annotated[str, Meta(pattern="^[a-z0-9-]{1,40}$")]
Words = Annotated[str, Meta(min_length=1, max_length=200)]
WordingId = Annotated[str, Meta(pattern="^[a-z0-9._-]{1,40}$")]
# A reference of the caller's own, never words about people: a case number, the id of a record it keeps.
Evidence = Annotated[str, Meta(pattern="^[A-Za-z0-9._-]{1,64}$")]
RevocationReason = Literal["withdrawn", "moved_out", "no_longer_needed", "account_closed", "error", "security"]
InvalidReason = Literal["moved_out", "no_longer_customer", "supply_ended", "wrong_meter_point", "not_entitled"]

OUTSIDE: Final = "nothing of the window lies inside the occupancy"


class PersonForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Whom the consent is of, and since when at the address."""

    person_id: Annotated[str, Meta(pattern="^[A-Za-z0-9_-]{1,64}$")]
    name: Words
    address: Words
    moved_in: Instant | None = None
    moved_out: Instant | None = None


class LeadOccupantForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Both boxes of somebody who consents for all adults of a home (OCC-03)."""

    authority: bool
    agreement: bool
    wording: WordingId


class GrantForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A direct grant: what the journey of the consumer would have gathered."""

    client_id: ClientText  # the ATP
    edps: Annotated[tuple[ClientText, ...], Meta(min_length=1, max_length=10)]
    authorization_details: Entry  # one: each data set and purpose is a consent of its own
    person: PersonForm
    address_confirmed: bool
    wording: WordingId  # of the page that asked
    lead_occupant: LeadOccupantForm | None = None


class RenewForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The same scope for longer. There is no member that could change the scope."""

    consent_expires_at: Instant
    address_confirmed: bool
    wording: WordingId
    evidence: Evidence | None = None  # of what the consumer did; an ATP always names one


class OccupancyForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A corrected occupancy; an absent member stays as it was."""

    moved_in: Instant | None = None
    moved_out: Instant | None = None


class RevokeForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Why, and since when if that was earlier (somebody had moved out)."""

    reason: RevocationReason
    effective_from: Instant | None = None
    evidence: Evidence | None = None


class InvalidForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """That a consent is no longer valid: why, since when, and what the caller knows it from (CMS-23)."""

    reason: InvalidReason
    effective_from: Instant
    evidence: Evidence


class Grant(msgspec.Struct, frozen=True):
    """A grant form that was read and found right by itself."""

    form: GrantForm
    requested: Requested
    window: Window  # cut to the occupancy


def read_grant(body: bytes, now: UnixTime, limits: Limits | None = None) -> Grant:
    """Read the JSON of a direct grant. Raises InvalidText, InvalidFields."""
    value = strict_json(body)
    form = read_struct(value, GrantForm)
    assert isinstance(value, dict)  # noqa: S101 - read_struct has refused everything else
    requested = read_entry(value["authorization_details"], now, limits, "authorization_details.")
    window = _occupied(requested.window, form.person)
    problems = list(_grant_problems(form))
    if problems or window is None:
        raise InvalidFields(problems or [Problem("authorization_details.data_from", OUTSIDE)])
    return Grant(form, requested, window)


def _occupied(window: Window, person: PersonForm) -> Window | None:
    return cut_to_occupancy(window, instant(person.moved_in), instant(person.moved_out))


def _grant_problems(form: GrantForm) -> Iterator[Problem]:
    yield from _occupancy_problems(form.person.moved_in, form.person.moved_out, "person.")
    if not form.address_confirmed:
        yield Problem("address_confirmed", "must be confirmed")
    if form.authorization_details.meter_points is None:
        yield Problem("authorization_details.meter_points", "is missing: a grant names what was chosen")
    if form.authorization_details.renews is not None:
        yield Problem("authorization_details.renews", "a renewal is a call of its own")
    if form.lead_occupant is not None and not (form.lead_occupant.authority and form.lead_occupant.agreement):
        yield Problem("lead_occupant", "both must be confirmed")


def _occupancy_problems(moved_in: str | None, moved_out: str | None, path: str = "") -> Iterator[Problem]:
    times = {"moved_in": moved_in, "moved_out": moved_out}
    wrong = [name for name, text in times.items() if text is not None and instant(text) is None]
    yield from (Problem(path + name, "is not a date that exists") for name in wrong)
    start, end = instant(moved_in), instant(moved_out)
    if start is not None and end is not None and end <= start:
        yield Problem(path + "moved_out", "must be later than moved_in")


def read_renewal(body: bytes) -> RenewForm:
    """Read the JSON of a renewal. Raises InvalidText, InvalidFields."""
    return read_struct(strict_json(body), RenewForm)


def read_occupancy(body: bytes) -> OccupancyForm:
    """Read the JSON of a corrected occupancy. Raises InvalidText, InvalidFields."""
    form = read_struct(strict_json(body), OccupancyForm)
    problems = list(_occupancy_problems(form.moved_in, form.moved_out))
    if problems:
        raise InvalidFields(problems)
    return form


def read_revocation(body: bytes) -> RevokeForm:
    """Read the JSON of a revocation. Raises InvalidText, InvalidFields."""
    return read_struct(strict_json(body), RevokeForm)


def read_invalidity(body: bytes) -> InvalidForm:
    """Read the JSON of what is no longer valid. Raises InvalidText, InvalidFields."""
    return read_struct(strict_json(body), InvalidForm)
