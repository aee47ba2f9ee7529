"""The JSON by which an EDP reports what it shared while it could ask nobody (CMS-18). Pure.

Outages stand beside the shares, with the calls that failed, so that the service can hold them against its own record.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import Meta

from engine.clock import UnixTime
from engine.consent.energy_consent import Instant, instant
from engine.consent.reading import InvalidFields, Problem, read_struct, strict_json
from engine.guard.evidence_words import Failure

T = TypeVar("T")
F = TypeVar("F", bound=msgspec.Struct)

MAX_SHARES: Final = 100
MAX_OUTAGES: Final = 100
MAX_ATTEMPTS: Final = 32  # of one outage: the newest say enough
MAX_BYTES: Final = 262_144  # of a report: its shares, and a few attempts for each outage
MAX_DEPTH: Final = 6
MAX_VERSION: Final = 2**53 - 1  # after a restore a consent's version goes on at a position, which stays below this
CLOCK_SKEW: Final = 60  # seconds by which an EDP's clock may be ahead

ConsentIdText = Annotated[str, Meta(pattern="^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$")]
EvidenceId = Annotated[str, Meta(pattern="^[0-9a-f]{8}-[1-9][0-9]{0,17}$")]
ClientText = Annotated[str, Meta(pattern="^[a-z0-9-]{1,40}$")]
Digest = Annotated[str, Meta(pattern="^[A-Za-z0-9_-]{43}$", description="SHA-256, base64url")]


class AttemptForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A call that failed. address: origin of the node. status: of the answer; left out where none came."""

    address: Annotated[str, Meta(pattern=r"^https://[^/?#\s@]+$", max_length=300)]
    at: Instant
    milliseconds: Annotated[int, Meta(ge=0, le=3_600_000)]
    failure: Failure
    status: Annotated[int, Meta(ge=100, le=599)] | None = None


class OutageForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An outage that shares of this report were made in. since: the first exhausted retry."""

    since: Instant
    attempts: Annotated[tuple[AttemptForm, ...], Meta(max_length=MAX_ATTEMPTS)]


class OutageHead(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The members of an `OutageForm` but for the attempts."""

    since: Instant


class ShareForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One share. evidence_hash: of its entry in the EDP's chained log. outage_since: names the outage."""

    evidence_id: EvidenceId
    evidence_hash: Digest
    at: Instant
    outage_since: Instant
    token_digest: Digest
    client_id: ClientText
    consent_id: ConsentIdText
    consent_version: Annotated[int, Meta(ge=1, le=MAX_VERSION)]
    dataset_id: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{2,63}$")]
    data_from: Instant
    data_to: Instant
    answered_at: Instant
    as_of: Instant
    share_id: Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[\x21-\x7e]+$")] | None = None


class FallbackReportForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Shares made on what was known, and the outages they were made in."""

    outages: Annotated[tuple[OutageForm, ...], Meta(max_length=MAX_OUTAGES)]
    shares: Annotated[tuple[ShareForm, ...], Meta(min_length=1, max_length=MAX_SHARES)]


class Outage(msgspec.Struct, frozen=True):
    """An outage as it is claimed. until: the newest share that was made in it."""

    since: UnixTime
    until: UnixTime
    form: OutageForm


class ReportedShare(msgspec.Struct, frozen=True):
    """A share as it is reported, its times as numbers."""

    form: ShareForm
    at: UnixTime
    outage_since: UnixTime
    data_from: UnixTime
    data_to: UnixTime


class FallbackReport(msgspec.Struct, frozen=True):
    """A report that was read and is right by itself."""

    outages: tuple[Outage, ...]
    shares: tuple[ReportedShare, ...]


def read_fallback_report(body: bytes, now: UnixTime) -> FallbackReport:
    """Read the JSON of a report. Raises InvalidText, InvalidFields with every fault."""
    value = strict_json(body, max_bytes=MAX_BYTES, max_depth=MAX_DEPTH)
    if not isinstance(value, dict):
        raise InvalidFields([Problem("", "must be an object")])
    latest = UnixTime(now + CLOCK_SKEW)
    unknown = [Problem("", "has members that are not of this type")] if value.keys() - {"outages", "shares"} else []
    outages, wrong_outages = _read_all(value, "outages", MAX_OUTAGES, lambda one, path: _outage(one, path, latest))
    shares, wrong_shares = _read_all(value, "shares", MAX_SHARES, lambda one, path: _share(one, path, latest))
    problems = [*unknown, *wrong_outages, *wrong_shares] or list(_between(outages, shares))
    if problems:
        raise InvalidFields(problems)
    until: dict[UnixTime, UnixTime] = {}
    for share in shares:
        until[share.outage_since] = max(share.at, until.get(share.outage_since, share.at))
    found = tuple(Outage(since, until.get(since, since), form) for since, form in outages)
    return FallbackReport(found, tuple(shares))


def _read_all(
    value: dict[str, object], name: str, most: int, read: Callable[[object, str], T]
) -> tuple[list[T], list[Problem]]:
    items = value.get(name)
    if not isinstance(items, list) or not items or len(items) > most:
        return [], [Problem(name, f"must be an array of 1 to {most}")]
    read_ones: list[T] = []
    problems: list[Problem] = []
    for index, item in enumerate(items):
        try:
            read_ones.append(read(item, f"{name}.{index}."))
        except InvalidFields as fault:
            problems += fault.problems
    return read_ones, problems


def _outage(item: object, path: str, latest: UnixTime) -> tuple[UnixTime, OutageForm]:
    if not isinstance(item, dict):
        raise InvalidFields([Problem(path.rstrip("."), "must be an object")])
    members = dict(item)
    attempts = members.pop("attempts", None)
    if not isinstance(attempts, list) or len(attempts) > MAX_ATTEMPTS:
        raise InvalidFields([Problem(f"{path}attempts", f"must be an array of at most {MAX_ATTEMPTS}")])
    head = read_struct(members, OutageHead, path)
    (since,) = _times(head, path, ("since",), latest)
    read = tuple(_attempt(attempt, f"{path}attempts.{index}.", latest) for index, attempt in enumerate(attempts))
    return since, OutageForm(since=head.since, attempts=read)


def _attempt(item: object, path: str, latest: UnixTime) -> AttemptForm:
    form = read_struct(item, AttemptForm, path)
    _times(form, path, ("at",), latest)
    return form


def _share(item: object, path: str, latest: UnixTime) -> ReportedShare:
    form = read_struct(item, ShareForm, path)
    at, outage_since, _, _ = _times(form, path, ("at", "outage_since", "answered_at", "as_of"), latest)
    data_from, data_to = _times(form, path, ("data_from", "data_to"), None)
    if data_from >= data_to:
        raise InvalidFields([Problem(f"{path}data_to", "must be after data_from")])
    if at < outage_since:
        raise InvalidFields([Problem(f"{path}at", "must not be before outage_since")])
    return ReportedShare(form, at, outage_since, data_from, data_to)


def _times(form: F, path: str, names: Sequence[str], latest: UnixTime | None) -> list[UnixTime]:
    """Their instants. latest: none of them may lie after it."""
    found = {name: instant(getattr(form, name)) for name in names}
    problems = [
        Problem(path + name, "must be a date that exists and not lie in the future")
        for name, at in found.items()
        if at is None or (latest is not None and at > latest)
    ]
    if problems:
        raise InvalidFields(problems)
    return [at for at in found.values() if at is not None]


def _between(outages: Sequence[tuple[UnixTime, OutageForm]], shares: Sequence[ReportedShare]) -> list[Problem]:
    """The rules that take more than one item."""
    problems = []
    known = {since for since, _ in outages}
    if len(known) != len(outages):
        problems.append(Problem("outages", "must name each outage once"))
    if len({share.form.evidence_id for share in shares}) != len(shares):
        problems.append(Problem("shares", "must name each evidence_id once"))
    for index, share in enumerate(shares):
        if share.outage_since not in known:
            problems.append(Problem(f"shares.{index}.outage_since", "is none of the outages"))
    return problems
