"""What parties tell of a consent that a restored ledger may have lost, and the JSON of ATPs and EDPs for it. Pure.

A node tells what its old replica holds; an ATP or EDP what it asked for, or was told, since the gap began.
"""

import enum
from collections.abc import Sequence
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from admin.consents.forms import Evidence
from admin.ledger.events import Change
from engine.clock import UnixTime
from engine.consent.energy_consent import Instant, instant
from engine.consent.reading import InvalidFields, Problem, read_struct, strict_json
from engine.consent.records import ClientId, ConsentId, Role
from engine.feed.gap_reports import TouchedConsent

CLOCK_SKEW: Final = 60  # seconds by which a party's clock may be ahead; what is told counts from now at the latest
MAX_ITEMS: Final = 100  # in one call, which is 16 KiB at most; more go into further calls
_NAMES_OF_ENDS: Final = frozenset({"revoked", "terminated_by_dispute", "consumed", "expired", "superseded"})
ENDS: Final = frozenset(Change(name) for name in _NAMES_OF_ENDS)

ConsentIdText = Annotated[str, Meta(pattern="^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$")]
ShareId = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[\x21-\x7e]+$")]
ChangeName = Literal["revoked", "terminated_by_dispute", "consumed", "granted", "renewed", "window_cut"]


class Teller(msgspec.Struct, frozen=True):
    """Who tells, and when."""

    client_id: ClientId
    role: Role
    at: UnixTime


class Telling(msgspec.Struct, frozen=True):
    """One consent. change: None = the teller knows it as active with this expiry and window, not what was done."""

    consent_id: ConsentId
    change: Change | None
    happened_at: UnixTime | None = None
    evidence: str = ""
    share_id: str = ""
    position: int = 0
    expires_at: UnixTime | None = None
    window: tuple[UnixTime, UnixTime | None] | None = None  # half-open
    parties: tuple[ClientId, ...] = ()


class Result(enum.StrEnum):
    """What became of one telling, as the teller is told."""

    ENDED = "ended"  # the consent has ended by it
    RESTRICTED = "restricted"  # its window was cut by it
    KNOWN = "known"  # the ledger has that, or something newer
    IN_DOUBT = "in_doubt"  # noted; the ledger has lost it, and it has to be done again
    UNKNOWN = "unknown_consent"  # there is no such consent, or it is not the teller's: nobody learns which
    NOT_ONE_OFF = "not_a_one_off"  # only a one-off is consumed


class ItemForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One change of a consent of the caller's. share_id: of a one-off that was consumed."""

    consent_id: ConsentIdText
    change: ChangeName
    at: Instant  # when it was asked for, or told
    evidence: Evidence
    share_id: ShareId | None = None


class ReportForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the caller asked for or was told since a time. complete: with what was sent before, this is all."""

    since: Instant
    complete: bool
    items: Annotated[tuple[ItemForm, ...], Meta(max_length=MAX_ITEMS)]


class ReportHead(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The members of a `ReportForm` but for the items."""

    since: Instant
    complete: bool


class Report(msgspec.Struct, frozen=True):
    """A report that was read and is right by itself."""

    since: UnixTime
    complete: bool
    tellings: tuple[Telling, ...]


def read_report(body: bytes, teller: Teller) -> Report:
    """Read the JSON of an ATP's or EDP's report. Raises InvalidText, InvalidFields with every fault."""
    value = strict_json(body)
    if not isinstance(value, dict):
        raise InvalidFields([Problem("", "must be an object")])
    items = value.pop("items", None)
    if not isinstance(items, list) or len(items) > MAX_ITEMS:
        raise InvalidFields([Problem("items", f"must be an array of at most {MAX_ITEMS}")])
    head = read_struct(value, ReportHead)
    since = instant(head.since)
    problems = [] if since is not None else [Problem("since", "is not a date that exists")]
    tellings, wrong = _read_items(items, teller)
    if since is None or problems or wrong:
        raise InvalidFields([*problems, *wrong])
    return Report(since, head.complete, tuple(tellings))


def _read_items(items: Sequence[object], teller: Teller) -> tuple[list[Telling], list[Problem]]:
    tellings: list[Telling] = []
    problems: list[Problem] = []
    for index, item in enumerate(items):
        try:
            tellings.append(_telling(read_struct(item, ItemForm, f"items.{index}."), teller, index))
        except InvalidFields as fault:
            problems += fault.problems
    return tellings, problems


def _telling(form: ItemForm, teller: Teller, index: int) -> Telling:
    at, change = instant(form.at), Change(form.change)
    if at is None or at > teller.at + CLOCK_SKEW:
        raise InvalidFields([Problem(f"items.{index}.at", "must be a date that exists and not lie in the future")])
    if change is Change.CONSUMED and (teller.role is not Role.EDP or form.share_id is None):
        raise InvalidFields([Problem(f"items.{index}.change", "consumed is an EDP's to tell, with its share_id")])
    parties = (teller.client_id,)
    return Telling(ConsentId(form.consent_id), change, at, form.evidence, form.share_id or "", parties=parties)


def told_by_node(touched: TouchedConsent) -> Telling:
    """What a node's old replica holds."""
    change = Change(touched.state) if touched.state in _NAMES_OF_ENDS else None
    return Telling(
        ConsentId(touched.consent_id),
        change,
        position=touched.seq,
        expires_at=UnixTime(touched.expires_at),
        window=(UnixTime(touched.data_from), None if touched.data_to is None else UnixTime(touched.data_to)),
        parties=tuple(ClientId(party) for party in touched.parties),
    )
