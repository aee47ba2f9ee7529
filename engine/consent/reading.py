"""Reading JSON strictly: one meaning only, no member unknown, and every fault named by its field in one pass.

msgspec stops at the first fault of a value. Here each member of a struct is converted by itself and nested structs
are walked, so that an integrator sees all faults at once. No text here quotes a value that was sent.
"""

import json
import re
import types
from collections.abc import Iterable, Iterator
from typing import Annotated, Final, TypeVar, Union, get_args, get_origin

import msgspec

from engine.errors import Fault, Kind

MAX_TEXT_BYTES: Final = 16_384
MAX_DEPTH: Final = 6

_MEMBER_NAME: Final = re.compile(r"[A-Za-z0-9_]{1,40}")
# C0, C1, line and paragraph separators, bidirectional overrides, lone surrogates. It also catches what `$` in a
# pattern would let through: a final newline.
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

S = TypeVar("S", bound=msgspec.Struct)


class Problem(msgspec.Struct, frozen=True):
    """One fault of a request. field: the member's path, `0.data_from`; text: safe to show."""

    field: str
    text: str


class InvalidFields(Fault):
    """The request's members break its rules; nothing of it was taken."""

    kind = Kind.INVALID

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(f"{p.field}: {p.text}" if p.field else p.text for p in self.problems))


class InvalidText(Fault):
    """Not JSON at all, or JSON that two readers could read differently."""

    kind = Kind.INVALID


def strict_json(text: bytes) -> object:
    """Read JSON that has one meaning only. Raises InvalidText.

    Refused: over 16 KiB, not UTF-8, repeated member names, NaN and Infinity, nesting deeper than 6.
    """
    if len(text) > MAX_TEXT_BYTES:
        raise InvalidText("the text is too long")
    try:
        value: object = json.loads(text.decode(), object_pairs_hook=_members, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidText("not JSON, or a member name is repeated") from error
    if _depth(value) > MAX_DEPTH:
        raise InvalidText("the text is nested too deeply")
    return value


def _members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("repeated member name")
    return members


def _no_constant(name: str) -> object:
    raise ValueError(name)


def _depth(value: object) -> int:
    """Nesting of arrays and objects; a plain value has none."""
    match value:
        case dict():
            inner: Iterable[object] = value.values()
        case list():
            inner = value
        case _:
            return 0
    return 1 + max(map(_depth, inner), default=0)


def read_struct(value: object, kind: type[S], path: str = "") -> S:
    """Convert decoded JSON into a struct. Raises InvalidFields with every fault; path goes before each field."""
    problems = [Problem((path + problem.field).rstrip("."), problem.text) for problem in _problems(value, kind)]
    if problems:
        raise InvalidFields(problems)
    return msgspec.convert(value, kind)


def _problems(value: object, kind: type[msgspec.Struct]) -> Iterator[Problem]:
    """Each member by itself: known, of the right JSON type and form; none missing."""
    if not isinstance(value, dict):
        yield Problem("", "must be an object")
        return
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    for name in value.keys() - fields.keys():
        yield Problem(name if _MEMBER_NAME.fullmatch(name) else "", "is not a member of this type")
    for name, field in fields.items():
        if name in value:
            yield from _member_problems(name, value[name], field.type)
        elif field.required:
            yield Problem(name, "is missing")


def _member_problems(name: str, value: object, kind: object) -> Iterator[Problem]:
    nested = _nested(kind)
    if value is None:
        yield Problem(name, "must not be null")
    elif nested is not None:
        for problem in _problems(value, nested):
            yield Problem(f"{name}.{problem.field}".rstrip("."), problem.text)
    elif (text := _text_problem(value, kind)) is not None:
        yield Problem(name, text)


def _nested(kind: object) -> type[msgspec.Struct] | None:
    """The struct that a field's annotation names, also as `X | None`."""
    if get_origin(kind) is Annotated:
        return _nested(get_args(kind)[0])
    choices = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    return next((c for c in choices if isinstance(c, type) and issubclass(c, msgspec.Struct)), None)


def _text_problem(value: object, kind: object) -> str | None:
    if any(_CONTROL.search(text) for text in _texts(value)):
        return "must hold no control characters"
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        return _in_our_words(str(error))
    if isinstance(value, list) and len(set(value)) != len(value):
        return "must hold no repeats"
    return None


def _in_our_words(message: str) -> str:
    """msgspec's sentence without the place, which the field says, and without the value, which is not ours to show."""
    if message.startswith("Invalid enum value"):
        return "is not one of the allowed values"
    return message.split(" - at ", maxsplit=1)[0]


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        yield from (item for item in value if isinstance(item, str))
