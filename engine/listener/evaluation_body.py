"""From the bytes of a request for access evaluations to the members that we know: pure.

A body has one meaning or is refused: repeated member names, other encodings than UTF-8 and values outside JSON are
400 (row 6 of the sheet's section 6.5). What most clients send takes a short way: the body is decoded into structs and
encoded again; when that has as many bytes, white space aside, then no member was repeated and none was unknown, because
each of them would have added some; and a part that is short as JSON holds no long strings. Everything else is read once
more, slowly, with the same result for a good body.
"""

import json
import re
from collections.abc import Mapping
from typing import Final, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from engine.consent.reading import InvalidText, strict_json
from engine.decision.evaluations import Flaw

MAX_BODY: Final = 262_144  # bytes
MAX_DEPTH: Final = 8
MAX_STRINGS: Final = 65_536  # characters of all strings of one item, names included

_WHITE: Final = b" \t\r\n"
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")

T = TypeVar("T")


class BadRequest(Exception):
    """The whole request is refused. The text names the rule, never a value. allow: of a 405, the methods there are."""

    def __init__(self, text: str, status: int = 400, *, allow: bytes = b"") -> None:
        super().__init__(text)
        self.text = text
        self.status = status
        self.allow = allow


class Wire(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Members of the wire. Absent is UNSET; null is no value of any of them. Unknown members are ignored."""


class SubjectProperties(Wire, frozen=True, gc=False):
    x5t_s256: str | UnsetType = UNSET


class Subject(Wire, frozen=True, gc=False):
    type: str
    id: str
    properties: SubjectProperties | UnsetType = UNSET


class ActionProperties(Wire, frozen=True, gc=False):
    dataset_id: str | UnsetType = UNSET
    start: str | UnsetType = msgspec.field(default=UNSET, name="from")
    end: str | UnsetType = msgspec.field(default=UNSET, name="to")
    purpose_code: str | UnsetType = UNSET


class Action(Wire, frozen=True, gc=False):
    name: str
    properties: ActionProperties | UnsetType = UNSET


class Resource(Wire, frozen=True, gc=False):
    type: str
    id: str


class ResourceWithProperties(Resource, frozen=True, gc=False):
    """Of a resource's properties we know none, but they must be an object."""

    properties: dict[str, object] | UnsetType = UNSET


class Context(Wire, frozen=True, gc=False):
    share_id: str | UnsetType = UNSET
    delivery: str | UnsetType = UNSET


class Options(Wire, frozen=True, gc=False):
    evaluations_semantic: str | UnsetType = UNSET


class WireItem(Wire, frozen=True, gc=False):
    subject: Subject | UnsetType = UNSET
    action: Action | UnsetType = UNSET
    resource: Resource | UnsetType = UNSET
    context: Context | UnsetType = UNSET


class WireRequest(WireItem, frozen=True, gc=False):
    evaluations: list[WireItem] | UnsetType = UNSET
    options: Options | UnsetType = UNSET


_decode: Final = msgspec.json.Decoder(WireRequest).decode
_encode: Final = msgspec.json.Encoder().encode
_kinds: Final[Mapping[str, type[msgspec.Struct]]] = {
    "subject": Subject,
    "action": Action,
    "resource": ResourceWithProperties,
    "context": Context,
}


def read_quickly(body: bytes) -> WireRequest | None:
    """The request, if it certainly says nothing twice and nothing unknown or too long; None: read it slowly.

    Raises BadRequest (413).
    """
    if len(body) > MAX_BODY:
        raise BadRequest("the body is too large", 413)
    try:
        wire = _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    again = _encode(wire)
    if len(again) != len(body) and len(again.translate(None, _WHITE)) != len(body.translate(None, _WHITE)):
        return None
    return wire if len(again) <= MAX_STRINGS or _is_of_short_parts(wire, len(again)) else None


def _is_of_short_parts(wire: WireRequest, size: int) -> bool:
    """Whether no part can hold too long strings: as JSON it has at least a byte for each character. size: of all."""
    sizes = [len(_encode(item)) for item in wire.evaluations or ()]
    return max(sizes, default=0) <= MAX_STRINGS and size - sum(sizes) <= MAX_STRINGS


def read_strictly(body: bytes) -> dict[str, object]:
    """The whole body, told apart from everything that is not one JSON object with one meaning. Raises BadRequest."""
    try:
        top = strict_json(body, max_bytes=MAX_BODY, max_depth=MAX_DEPTH)
    except InvalidText as fault:
        raise BadRequest(fault.text) from fault
    if not isinstance(top, dict):
        raise BadRequest("not a JSON object")
    if _SURROGATE.search(body):
        _check_characters(top)
    check_strings({name: value for name, value in top.items() if name != "evaluations"})
    return top


def _check_characters(top: dict[str, object]) -> None:
    """Refuse halves of surrogate pairs: they stand for no character, and readers disagree (RFC 8259 section 8.2)."""
    try:
        json.dumps(top, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise BadRequest("a string holds half a surrogate pair") from error


def check_strings(item: object) -> None:
    """Bound what one item, or what serves all of them, may hold. Raises BadRequest."""
    if _strings(item) > MAX_STRINGS:
        raise BadRequest("an evaluation holds too long strings")


def _strings(value: object) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(len(name) + _strings(member) for name, member in value.items())
    return sum(map(_strings, value)) if isinstance(value, list) else 0


def top_level(top: dict[str, object]) -> WireItem:
    """What serves every item that lacks it. Raises BadRequest."""
    return WireItem(**{name: convert_or_refuse(top, name, kind) for name, kind in _kinds.items()})  # type: ignore[arg-type] # by name


def convert_or_refuse(members: dict[str, object], name: str, kind: type[T]) -> T | UnsetType:
    """One member. Raises BadRequest."""
    try:
        return msgspec.convert(members[name], kind) if name in members else UNSET
    except msgspec.ValidationError as error:
        raise BadRequest(f"{name} is not as it must be") from error


def listed_item(members: dict[str, object]) -> WireItem | Flaw:
    """One of the items that are listed; a fault of it is its own."""
    try:
        return WireItem(**{name: convert_or_refuse(members, name, kind) for name, kind in _kinds.items()})  # type: ignore[arg-type] # by name
    except BadRequest:
        return Flaw.MALFORMED
