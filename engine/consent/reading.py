"""Reading JSON strictly: one meaning only, no member unknown, and every fault named by its field in one pass.

msgspec stops at the first fault of a value. Here each member of a struct is converted by itself and nested structs
are walked, so that an integrator sees all faults at once. No text here quotes a value that was sent.
"""

import functools
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
# Possessive, and a string without an end is one as well: else looking for its end, from each quote in it anew, takes
# time that grows with the square of the length.
_BRACKET_OR_STRING: Final = re.compile(rb'[\[\]{}]|"(?:[^"\\]|\\.)*+"?', re.DOTALL)

# Parts by which a pattern is known in msgspec's sentence, and what it asks, for people.
_PATTERNS_IN_WORDS: Final = (
    ("(00|23):00:00Z", "must be a midnight of London in UTC, such as 2026-01-31T00:00:00Z or 2026-06-30T23:00:00Z"),
    ("T[0-9]{2}:[0-9]{2}:[0-9]{2}Z", "must be UTC to the second, such as 2026-01-31T12:00:00Z"),
    ("mpan:", "must be mpan: and 13 digits, or mprn: and 6 to 10 digits"),
    ("^https://", "must begin with https://"),
    ("^[a-z0-9-]{1,40}$", "must be 1 to 40 of: small letters, digits, -"),
    ("^[a-z0-9._-]{1,40}$", "must be 1 to 40 of: small letters, digits, . _ -"),
    ("^[a-z0-9_-]{1,40}$", "must be 1 to 40 of: small letters, digits, _ -"),
    ("^[a-z0-9][a-z0-9._-]{2,63}$", "must be 3 to 64 of: small letters, digits, . _ - (a letter or digit first)"),
    ("^[A-Za-z0-9._-]{1,64}$", "must be 1 to 64 of: letters, digits, . _ -"),
    ("^[A-Za-z0-9_-]{1,64}$", "must be 1 to 64 of: letters, digits, _ -"),
    ("^[A-Za-z0-9_-]{16,64}$", "must be 16 to 64 of: letters, digits, _ -"),
    ("^[A-Za-z0-9_-]{43}$", "must be 43 characters of base64url, as of a SHA-256 digest"),
    ("^[A-Za-z0-9+/]+={0,2}$", "must be base64"),
    ("^[!-~]+$", "must be visible ASCII characters, without spaces"),
    ("[0-9a-f]{8}-", "must be a UUID in small letters"),
)

S = TypeVar("S", bound=msgspec.Struct)


class Problem(msgspec.Struct, frozen=True):
    """One fault of a request. field: the member's path, `0.data_from`; text: safe to show."""

    field: str
    text: str


class _Member(msgspec.Struct, frozen=True):
    """What one member of a struct must be. nested: the struct that it holds, if it holds one."""

    name: str
    kind: object
    required: bool
    nested: type[msgspec.Struct] | None


class InvalidFields(Fault):
    """The request's members break its rules; nothing of it was taken."""

    kind = Kind.INVALID

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(f"{p.field}: {p.text}" if p.field else p.text for p in self.problems))


class InvalidText(Fault):
    """Not JSON at all, or JSON that two readers could read differently."""

    kind = Kind.INVALID


def strict_json(text: bytes, *, max_bytes: int = MAX_TEXT_BYTES, max_depth: int = MAX_DEPTH) -> object:
    """Read JSON that has one meaning only. Raises InvalidText.

    Refused: too long, not UTF-8, repeated member names, NaN and Infinity, nesting too deep.
    """
    if len(text) > max_bytes:
        raise InvalidText("the text is too long")
    try:
        _check_nesting(text, max_depth)
        value: object = json.loads(text.decode(), object_pairs_hook=_members, parse_constant=_no_constant)
    except ValueError as error:
        raise InvalidText("not JSON, or a member name is repeated") from error
    return value


def _check_nesting(text: bytes, max_depth: int) -> None:
    """Before it is read: how deep a reader may go before it fails, or how it fails, differs between Pythons.

    Brackets are counted outside strings; whether they match is the reader's business. Raises InvalidText.
    """
    depth = 0
    for bracket in _BRACKET_OR_STRING.findall(text):
        if bracket in b"[{":
            depth += 1
        elif bracket in b"]}":
            depth -= 1
        if depth > max_depth:
            raise InvalidText("the text is nested too deeply")


def _members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("repeated member name")
    return members


def _no_constant(name: str) -> object:
    raise ValueError(name)


def plain_words(text: str, longest: int) -> str:
    """What somebody says, where it is no reason to refuse: control characters as spaces, and cut to a length."""
    return _CONTROL.sub(" ", text[:longest])


def read_struct(value: object, kind: type[S], path: str = "") -> S:
    """Convert decoded JSON into a struct. Raises InvalidFields with every fault; path goes before each field."""
    converted = _converted(value, kind)
    found = _problems(value, kind, fits=converted is not None)
    problems = [Problem((path + problem.field).rstrip("."), problem.text) for problem in found]
    if problems or converted is None:
        raise InvalidFields(problems or [Problem(path.rstrip("."), "does not have the form of this type")])
    return converted


def _converted(value: object, kind: type[S]) -> S | None:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return None


def _problems(value: object, kind: type[msgspec.Struct], *, fits: bool) -> Iterator[Problem]:
    """Each member by itself: known, of the right JSON type and form; none missing.

    fits: msgspec takes the value as a whole, so only our own rules are left to check, which is much quicker.
    """
    if not isinstance(value, dict):
        yield Problem("", "must be an object")
        return
    members = _layout(kind)
    for name in value.keys() - members.keys():
        yield Problem(name if _MEMBER_NAME.fullmatch(name) else "", "is not a member of this type")
    for name, member in members.items():
        if name in value:
            yield from _member_problems(member, value[name], fits=fits)
        elif member.required:
            yield Problem(name, "is missing")


@functools.cache  # resolving annotations takes ten times as long as checking a value against them
def _layout(kind: type[msgspec.Struct]) -> dict[str, _Member]:
    fields = msgspec.structs.fields(kind)
    members = (_Member(field.encode_name, field.type, field.required, _nested(field.type)) for field in fields)
    return {member.name: member for member in members}


def _member_problems(member: _Member, value: object, *, fits: bool) -> Iterator[Problem]:
    if value is None:
        yield Problem(member.name, "must not be null")
    elif member.nested is not None:
        for problem in _problems(value, member.nested, fits=fits):
            yield Problem(f"{member.name}.{problem.field}".rstrip("."), problem.text)
    elif (text := _text_problem(value, member.kind, fits=fits)) is not None:
        yield Problem(member.name, text)


def _nested(kind: object) -> type[msgspec.Struct] | None:
    """The struct that a field's annotation names, also as `X | None`."""
    if get_origin(kind) is Annotated:
        return _nested(get_args(kind)[0])
    choices = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    return next((c for c in choices if isinstance(c, type) and issubclass(c, msgspec.Struct)), None)


def _text_problem(value: object, kind: object, *, fits: bool) -> str | None:
    if any(_CONTROL.search(text) for text in _texts(value)):
        return "must hold no control characters"
    try:
        _ = None if fits else msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        return _in_our_words(str(error))
    if isinstance(value, list) and len(set(value)) != len(value):
        return "must hold no repeats"
    return None


def _in_our_words(message: str) -> str:
    """msgspec's sentence without the place, which the field says, and without the value, which is not ours to show."""
    if message.startswith("Invalid enum value"):
        return "is not one of the allowed values"
    if "matching regex" in message:
        known = (words for pattern, words in _PATTERNS_IN_WORDS if pattern in message)
        return next(known, "does not have the form of this member")
    return message.split(" - at ", maxsplit=1)[0]


def _texts(value: object) -> Iterator[str]:
    """All that is text in it, names of members too: keys of a map are whoever sent them's words."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            yield name
            yield from _texts(item)
