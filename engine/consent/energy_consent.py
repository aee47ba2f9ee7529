"""The `energy-consent` type: what an ATP asks for in one entry of `authorization_details`, read strictly.

Every fault of an entry is found and named by its member, in one pass, so that an integrator mends all at once;
any fault refuses the whole request (RFC 9396 section 5). Whether a later request stays inside what was granted is
told by `engine.consent.narrowing`.
"""

import re
from collections.abc import Iterator
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from engine.clock import UnixTime, parse_utc
from engine.consent.meter_points import problem_with
from engine.consent.reading import InvalidFields, InvalidText, Problem, read_struct, strict_json
from engine.consent.records import AccessMode
from engine.consent.windows import Window, is_london_midnight, midnight_after, months_after

TYPE: Final = "https://ccs.example/rar/energy-consent/v1"
SCHEMA_VERSION: Final = "v1"
MAX_ENTRIES: Final = 20
ONE_OFF_SECONDS: Final = 86_400  # CMS-05: a one-off ends so long after the grant, used or not

_INSTANT: Final = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$"
_MIDNIGHT: Final = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T(00|23):00:00Z$"
_EARLIEST: Final = parse_utc("2000-01-01T00:00:00Z")  # no half-hourly data of homes is older
_LATEST: Final = parse_utc("2200-01-01T00:00:00Z")
_MARKUP: Final = re.compile(r"<[A-Za-z/!?]|&[A-Za-z#][A-Za-z0-9]*;")

Instant = Annotated[str, Meta(pattern=_INSTANT, description="RFC 3339 UTC, whole seconds, ending in Z")]
Midnight = Annotated[str, Meta(pattern=_MIDNIGHT, description="RFC 3339 UTC, a midnight of London")]
MeterPointText = Annotated[str, Meta(pattern=r"^(mpan:[0-9]{13}|mprn:[0-9]{6,10})$")]
LocationText = Annotated[str, Meta(pattern=r"^https://", max_length=300)]


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """One entry as it stands on the wire. `read_entry` adds the rules between members."""

    type: Literal["https://ccs.example/rar/energy-consent/v1"]
    dataset_id: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{2,63}$")]
    purpose: Annotated[str, Meta(min_length=10, max_length=500)]
    access_mode: Literal["one_off", "enduring"]
    data_from: Midnight
    atp_declaration: Annotated[str, Meta(pattern=r"^[a-z0-9._-]{1,40}$")]
    purpose_code: Annotated[str, Meta(pattern=r"^[a-z0-9_-]{1,40}$")] | None = None
    consent_expires_at: Instant | None = None
    data_to: Midnight | None = None
    meter_points: Annotated[tuple[MeterPointText, ...], Meta(min_length=1, max_length=10)] | None = None
    locations: Annotated[tuple[LocationText, ...], Meta(min_length=1, max_length=10)] | None = None
    actions: tuple[Literal["read"]] = ("read",)
    lawful_basis: Literal["consent"] = "consent"
    atp_reference: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}$")] | None = None
    renews: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{16,64}$")] | None = None


class Limits(msgspec.Struct, frozen=True):
    """Policy of the service on what may be asked. Calendar months."""

    term_months: int = 12  # CMS-06: the longest consent
    history_months: int | None = None  # how far back a window may begin; None: the occupancy alone decides


class Requested(msgspec.Struct, frozen=True):
    """An entry that was read and found right: times as numbers. expires_at None = one-off."""

    entry: Entry
    access_mode: AccessMode
    window: Window
    expires_at: UnixTime | None


def read_details(text: bytes, now: UnixTime, limits: Limits | None = None) -> tuple[Requested, ...]:
    """Read the parameter `authorization_details` (RFC 9396 section 2) of a new request.

    Raises InvalidText (`invalid_request`) when it is not a JSON array with something in it, InvalidFields otherwise.
    """
    value = strict_json(text)
    if not isinstance(value, list) or not value:
        raise InvalidText("authorization_details must be an array with at least one entry")
    if len(value) > MAX_ENTRIES:
        raise InvalidFields([Problem("", f"at most {MAX_ENTRIES} entries")])
    requested: list[Requested] = []
    problems: list[Problem] = []
    for index, member in enumerate(value):
        try:
            requested.append(read_entry(member, now, limits, f"{index}."))
        except InvalidFields as error:
            problems += error.problems
    problems += [] if problems else list(_duplicates(requested))
    if problems:
        raise InvalidFields(problems)
    return tuple(requested)


def read_entry(value: object, now: UnixTime, limits: Limits | None = None, path: str = "") -> Requested:
    """Read one entry, decoded from JSON. Raises InvalidFields with every fault; path goes before each field name."""
    entry = read_struct(value, Entry, path)
    problems = [Problem(path + p.field, p.text) for p in _rule_problems(entry, now, limits or Limits())]
    if problems:
        raise InvalidFields(problems)
    return _requested(entry)


def _requested(entry: Entry) -> Requested:
    end = None if entry.data_to is None else parse_utc(entry.data_to)
    expires = None if entry.consent_expires_at is None else parse_utc(entry.consent_expires_at)
    return Requested(entry, AccessMode[entry.access_mode.upper()], Window(parse_utc(entry.data_from), end), expires)


def _rule_problems(entry: Entry, now: UnixTime, limits: Limits) -> Iterator[Problem]:
    """The rules that take more than one member's form (sheet, sections 3.2 and 3.3)."""
    if _MARKUP.search(entry.purpose) or not entry.purpose.strip():
        yield Problem("purpose", "must be plain text without markup")
    for meter_point in entry.meter_points or ():
        if (text := problem_with(meter_point)) is not None:
            yield Problem("meter_points", text)
    times = {name: instant(getattr(entry, name)) for name in ("consent_expires_at", "data_from", "data_to")}
    impossible = [name for name, at in times.items() if at is None and getattr(entry, name) is not None]
    yield from (Problem(name, "is not a date that exists, or far out of range") for name in impossible)
    if not impossible:
        yield from _window_problems(times["data_from"], times["data_to"], now, limits)
        yield from _mode_problems(entry.access_mode, times["consent_expires_at"], times["data_to"], now, limits)


def instant(text: str | None) -> UnixTime | None:
    """A time of the wire as a number; None = absent, no date that exists, or one that nobody can mean."""
    try:
        at = None if text is None else parse_utc(text)
    except ValueError:
        return None
    return at if at is not None and _EARLIEST <= at < _LATEST else None


def _window_problems(start: UnixTime | None, end: UnixTime | None, now: UnixTime, limits: Limits) -> Iterator[Problem]:
    for name, at in (("data_from", start), ("data_to", end)):
        if at is not None and not is_london_midnight(at):
            yield Problem(name, "must be a midnight of Europe/London")
    if start is not None and end is not None and end <= start:
        yield Problem("data_to", "must be later than data_from")
    if start is not None and limits.history_months is not None and start < months_after(now, -limits.history_months):
        yield Problem("data_from", f"must not lie more than {limits.history_months} months back")


def _mode_problems(
    mode: str, expires: UnixTime | None, end: UnixTime | None, now: UnixTime, limits: Limits
) -> Iterator[Problem]:
    if mode == "one_off":
        if expires is not None:
            yield Problem("consent_expires_at", "must not be sent for one_off")
        if end is None:
            yield Problem("data_to", "is missing: one_off needs it")
        elif end > now:
            yield Problem("data_to", "must not lie in the future for one_off")
    elif expires is None:
        yield Problem("consent_expires_at", "is missing: enduring needs it")
    else:
        yield from term_problems(expires, now, limits)
        if end is not None and end > midnight_after(expires):
            yield Problem("data_to", "must not be later than the midnight after consent_expires_at")


def term_problems(expires: UnixTime, now: UnixTime, limits: Limits) -> Iterator[Problem]:
    """What is wrong with an expiry, for a grant or a renewal at `now` (CMS-06)."""
    if expires <= now:
        yield Problem("consent_expires_at", "must lie in the future")
    elif expires > months_after(now, limits.term_months):
        yield Problem("consent_expires_at", f"must not lie more than {limits.term_months} months ahead")


def _duplicates(requested: list[Requested]) -> Iterator[Problem]:
    """Entries that ask for the same thing twice (sheet, 3.3 rule 7); absent meter points may be any."""
    for index, later in enumerate(requested):
        if any(_overlap(earlier, later) for earlier in requested[:index]):
            yield Problem(
                str(index), "repeats an earlier entry: same data set, purpose and meter point, windows overlap"
            )


def _overlap(one: Requested, other: Requested) -> bool:
    same = one.entry.dataset_id == other.entry.dataset_id and one.entry.purpose == other.entry.purpose
    left, right = one.entry.meter_points, other.entry.meter_points
    shared = left is None or right is None or not set(left).isdisjoint(right)
    return same and shared and _starts_before_end(one, other) and _starts_before_end(other, one)


def _starts_before_end(one: Requested, other: Requested) -> bool:
    return other.window.end is None or one.window.start < other.window.end
