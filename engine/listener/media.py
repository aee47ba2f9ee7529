"""What the head of an introspection request says: the body's media type, the answers taken, credentials.

Pure, and remembered by the header tuple: a client's heads repeat, and the reader of heads hands out the same
tuple for the same bytes.
"""

import re
from typing import Final

import msgspec

from engine.listener.http1 import Headers

FORM: Final = b"application/x-www-form-urlencoded"
JSON: Final = b"application/json"
SIGNED: Final = b"application/token-introspection+jwt"  # RFC 9701 section 4

FORWARDED: Final = frozenset((b"client-cert", b"client-cert-chain"))  # RFC 9440: for `forwarded` only

_MAX_KEPT: Final = 1024  # bytes of values: ordinary heads have a few hundred
_WEIGHT: Final = re.compile(rb"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?")  # RFC 9110 section 12.4.2


class Head(msgspec.Struct, frozen=True, gc=False):
    """The judgement. prefers_signed: the signed form is named, and weighs more than JSON."""

    is_form: bool
    takes_json: bool
    takes_signed: bool
    prefers_signed: bool
    authorization: bytes | None  # the scheme in lower case; credentials themselves are not kept
    authorizations: int
    forwards: bool  # it says who the client is, which is a proxy's to say


class HeadReader:
    """Reads heads and remembers the judgements; emptied when full, as `http1.HeadMemo` is."""

    def __init__(self, size: int = 1024) -> None:
        self._size = size
        self._heads: dict[Headers, Head] = {}

    def read(self, headers: Headers) -> Head:
        """Judge the header fields of a request (names in lower case)."""
        head = self._heads.get(headers)
        if head is None:
            head = read_head(headers)
            if _is_worth_keeping(head, headers):
                if len(self._heads) >= self._size:
                    self._heads.clear()
                self._heads[headers] = head
        return head


def _is_worth_keeping(head: Head, headers: Headers) -> bool:
    """Not credentials; nothing large."""
    return not head.authorizations and sum(len(value) for _, value in headers) <= _MAX_KEPT


def read_head(headers: Headers) -> Head:
    """Judge the header fields of a request (names in lower case)."""
    types = [value for name, value in headers if name == b"content-type"]
    accepted = [value for name, value in headers if name == b"accept"]
    credentials = [value for name, value in headers if name == b"authorization"]
    ranges = _ranges(accepted)
    json, signed = _weight_of(ranges, JSON), _weight_of(ranges, SIGNED)
    return Head(
        is_form=len(types) == 1 and media_type(types[0]) == FORM,
        takes_json=json > 0,
        takes_signed=signed > 0,
        prefers_signed=signed > json and any(media_type(part) == SIGNED for part in ranges),
        authorization=credentials[0].partition(b" ")[0].lower() if credentials else None,
        authorizations=len(credentials),
        forwards=any(name in FORWARDED for name, _ in headers),
    )


def media_type(value: bytes) -> bytes:
    """Type and subtype in lower case, parameters left out (RFC 9110 section 8.3.1)."""
    return value.partition(b";")[0].strip(b" \t").lower()


def accepts(fields: list[bytes], wanted: bytes) -> bool:
    """Whether `Accept` fields admit a media type (RFC 9110 section 12.5.1). No field, or only empty ones: anything.

    The most specific range decides; a weight of 0 excludes; an unreadable weight counts as 0.
    """
    return _weight_of(_ranges(fields), wanted) > 0


def _ranges(fields: list[bytes]) -> list[bytes]:
    return [part for part in b",".join(fields).split(b",") if part.strip(b" \t")]


def _weight_of(ranges: list[bytes], wanted: bytes) -> float:
    """The weight that the most specific ranges give; the highest of several that are equally specific."""
    if not ranges:
        return 1.0
    kind = wanted.partition(b"/")[0]
    ranks = {wanted: 3, kind + b"/*": 2, b"*/*": 1}
    return max(((rank, _weight(part)) for part in ranges if (rank := ranks.get(media_type(part)))), default=(0, 0.0))[1]


def _weight(part: bytes) -> float:
    for parameter in part.split(b";")[1:]:
        name, _, value = parameter.strip(b" \t").partition(b"=")
        if name.lower() == b"q":
            return float(value) if _WEIGHT.fullmatch(value) else 0.0
    return 1.0
