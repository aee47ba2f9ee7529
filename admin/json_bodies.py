"""Request bodies read strictly: one JSON text, no member twice, no member unknown, every fault with its place.

Two readers that see different members in one text are how checks are got around, so a repeated member is refused
(RFC 8259 section 4 leaves it open; RFC 7493 section 2.3 forbids it). Pure: bytes in, struct or fault out.
"""

import json
import re
from typing import Any, Final, NoReturn, TypeVar

import msgspec

from engine.errors import Fault, Kind

T = TypeVar("T")

_PLACE: Final = re.compile(r"(?P<text>.*?)(?: - at `\$(?P<path>.*)`)?", re.DOTALL)
_NAMED: Final = re.compile(r"(?:missing required|contains unknown) field `(?P<name>.*)`")
_STEP: Final = re.compile(r"\.(?P<name>[^.\[]+)|\[(?P<index>[0-9]+)\]")


class FieldError(msgspec.Struct, frozen=True):
    """One fault of one member. pointer: a JSON Pointer as a URI fragment (RFC 6901 section 6), `#/purpose`."""

    pointer: str
    detail: str


class InvalidBody(Fault):
    """The body is not the JSON that was asked for; `errors` names the members, where it is a member's fault."""

    kind = Kind.INVALID

    def __init__(self, text: str, errors: tuple[FieldError, ...] = ()) -> None:
        super().__init__(text)
        self.errors = errors


def read_body(raw: bytes, kind: type[T]) -> T:
    """Decode a body into a struct. Raises InvalidBody; whatever bytes it is given, nothing else."""
    _check_text(raw)
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        raise InvalidBody("the body breaks a rule", (_field_error(str(error)),)) from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidBody("the body is not valid JSON") from error


def _check_text(raw: bytes) -> None:
    try:
        json.loads(raw.decode("utf-8"), object_pairs_hook=_distinct, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise InvalidBody("the body is not valid JSON") from error


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidBody("a member stands twice in the body", (FieldError(_pointer("", twice), "repeated"),))
    return members


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)  # NaN and Infinity are not JSON


def _field_error(message: str) -> FieldError:
    """msgspec's `Expected … - at `$.a[0]`` as a pointer and a sentence."""
    place = _PLACE.fullmatch(message)
    text, path = (place["text"], place["path"] or "") if place else (message, "")
    named = _NAMED.search(text)
    return FieldError(_pointer(path, named["name"] if named else None), text)


def _pointer(path: str, last: str | None) -> str:
    steps = [step["name"] or step["index"] for step in _STEP.finditer(path)]
    return "#" + "".join(f"/{_escape(step)}" for step in [*steps, *([last] if last is not None else [])])


def _escape(step: str) -> str:
    return step.replace("~", "~0").replace("/", "~1")
