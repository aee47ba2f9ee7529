"""What a request for access evaluations asks, told from the message alone (AuthZEN Authorization API 1.0): pure.

An item takes from the top level the whole of what it lacks. One that is wrong, or is incomplete, says so in its place;
the others are judged.
"""

import re
from collections.abc import Container
from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

from engine.clock import parse_utc
from engine.consent.meter_points import problem_with
from engine.decision.evaluations import Asked, Flaw, Question, Semantic
from engine.listener.evaluation_body import (
    Action,
    BadRequest,
    Context,
    Options,
    Resource,
    Subject,
    WireItem,
    check_strings,
    convert_or_refuse,
    listed_item,
    read_quickly,
    read_strictly,
    top_level,
)

MAX_ITEMS: Final = 500
_KNOWN_POINTS: Final = 16_384

_SHA256_TEXT: Final = re.compile(r"[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]")
_DATASET: Final = re.compile(r"[a-z0-9][a-z0-9._-]{2,63}")
_PURPOSE_CODE: Final = re.compile(r"[a-z0-9_-]{1,40}")
_SHARE_ID: Final = re.compile(r"[!-~]{1,128}")
_DELIVERIES: Final = frozenset((None, "pull", "push"))

Item = Question | Flaw


class Single(msgspec.Struct, frozen=True):
    """One evaluation. An item that is flawed is MALFORMED: an incomplete one was refused."""

    item: Item


class Batch(msgspec.Struct, frozen=True):
    """At least one item."""

    items: list[Item]
    semantic: Semantic


class RequestReader:
    """Reads bodies. One per worker: it remembers meter points that were found right.

    known: ids of tokens that were found right.
    """

    def __init__(self, known: Container[str] = ()) -> None:
        self._points: set[str] = set()
        self._known = known

    def read_single(self, body: bytes) -> Single:
        """The body of an access evaluation; a member `evaluations` is unknown there. Raises BadRequest."""
        wire = read_quickly(body)
        if wire is None or wire.evaluations is not UNSET:
            top = read_strictly(body)
            return self._single(top_level(top))
        return self._single(wire)

    def read_batch(self, body: bytes) -> Single | Batch:
        """The body of access evaluations; without any, it is a single one (AuthZEN section 7.1). Raises BadRequest."""
        wire = read_quickly(body)
        if wire is None:
            return self._read_slowly(body)
        if not wire.evaluations:
            return self._single(wire)
        semantic = _semantic(wire.options)
        return Batch(self._items(wire, wire.evaluations), semantic)

    def _read_slowly(self, body: bytes) -> Single | Batch:
        top = read_strictly(body)
        wire = top_level(top)
        options = convert_or_refuse(top, "options", Options)
        semantic = _semantic(options)
        listed = top.get("evaluations", [])
        if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
            raise BadRequest("evaluations must be an array of objects")
        if not listed:
            return self._single(wire)
        _check_count(len(listed))
        for item in listed:
            check_strings(item)
        return Batch(self._items(wire, [listed_item(members) for members in listed]), semantic)

    def _single(self, wire: WireItem) -> Single:
        item = self._items(wire, [WireItem()])[0]
        if item is Flaw.INCOMPLETE:
            raise BadRequest(_missing(wire))
        return Single(item)

    def _items(self, defaults: WireItem, items: "list[WireItem] | list[WireItem | Flaw]") -> list[Item]:
        """Each item with the defaults it lacks: whole entities, never parts of one."""
        _check_count(len(items))
        who_else, what_else = _who(defaults.subject), _what(defaults.action)
        point_else, share_id_else = self._point(defaults.resource), _share_id(defaults.context)
        is_plain = type(what_else) is Asked and type(share_id_else) is not Flaw
        known, points = self._known, self._points
        read: list[Item] = []
        for item in items:
            if isinstance(item, Flaw):
                read.append(item)
                continue
            subject, resource = item.subject, item.resource
            if (  # what most items are like, and nothing in it is new
                is_plain
                and item.action is UNSET
                and item.context is UNSET
                and subject is not UNSET
                and resource is not UNSET
                and subject.id in known
                and resource.id in points
                and subject.properties is UNSET
                and subject.type == "access_token"
                and resource.type == "meter_point"
            ):
                read.append(Question(subject.id, resource.id, what_else, None, share_id_else))  # type: ignore[arg-type] # is_plain
                continue
            who = who_else if item.subject is UNSET else _who(item.subject)
            what = what_else if item.action is UNSET else _what(item.action)
            point = point_else if item.resource is UNSET else self._point(item.resource)
            share_id = share_id_else if item.context is UNSET else _share_id(item.context)
            if who is None or what is None or point is None:
                read.append(Flaw.INCOMPLETE)
            elif type(who) is Flaw or type(what) is Flaw or type(point) is Flaw or type(share_id) is Flaw:
                read.append(Flaw.MALFORMED)
            else:
                # mypy does not narrow by type(), which is what this loop can afford
                read.append(Question(who[0], point, what, who[1], share_id))  # type: ignore[index, arg-type] # as above
        return read

    def _point(self, resource: Resource | UnsetType) -> str | Flaw | None:
        if resource is UNSET:
            return None
        point = resource.id
        if resource.type == "meter_point":
            if point in self._points:
                return point
            if problem_with(point) is None:
                if len(self._points) >= _KNOWN_POINTS:
                    self._points.clear()
                self._points.add(point)
                return point
        return Flaw.MALFORMED


def _who(subject: Subject | UnsetType) -> tuple[str, str | None] | Flaw | None:
    """The token's digest and the certificate's thumbprint. A raw token has dots, or is too long (row 18)."""
    if subject is UNSET:
        return None
    if subject.type != "access_token" or not _SHA256_TEXT.fullmatch(subject.id):
        return Flaw.MALFORMED
    properties = subject.properties
    if properties is UNSET or properties.x5t_s256 is UNSET:
        return subject.id, None
    return (subject.id, properties.x5t_s256) if _SHA256_TEXT.fullmatch(properties.x5t_s256) else Flaw.MALFORMED


def _what(action: Action | UnsetType) -> Asked | Flaw | None:
    if action is UNSET:
        return None
    told = action.properties
    if action.name != "share" or told is UNSET:
        return Flaw.MALFORMED
    if told.dataset_id is UNSET or told.start is UNSET or told.end is UNSET or not _DATASET.fullmatch(told.dataset_id):
        return Flaw.MALFORMED
    purpose = None if told.purpose_code is UNSET else told.purpose_code
    if purpose is not None and not _PURPOSE_CODE.fullmatch(purpose):
        return Flaw.MALFORMED
    try:
        start, end = parse_utc(told.start), parse_utc(told.end)
    except ValueError:
        return Flaw.MALFORMED
    return Asked(told.dataset_id, start, end, purpose) if start < end else Flaw.MALFORMED


def _share_id(context: Context | UnsetType) -> str | Flaw | None:
    if context is UNSET:
        return None
    if context.delivery is not UNSET and context.delivery not in _DELIVERIES:
        return Flaw.MALFORMED
    if context.share_id is UNSET:
        return None
    return context.share_id if _SHARE_ID.fullmatch(context.share_id) else Flaw.MALFORMED


def _semantic(options: Options | UnsetType) -> Semantic:
    if options is UNSET or options.evaluations_semantic is UNSET:
        return Semantic.EXECUTE_ALL
    try:
        return Semantic(options.evaluations_semantic)
    except ValueError as error:
        raise BadRequest("unknown evaluations_semantic") from error


def _missing(wire: WireItem) -> str:
    names = [name for name in ("subject", "action", "resource") if getattr(wire, name) is UNSET]
    return f"missing {names[0]}"


def _check_count(items: int) -> None:
    if items > MAX_ITEMS:
        raise BadRequest(f"at most {MAX_ITEMS} evaluations")
