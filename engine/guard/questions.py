"""A share put into the service's words: the form of an introspection, the JSON of a batch. Pure."""

import functools
import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from typing import Final
from urllib.parse import quote

import msgspec

from engine.clock import UnixTime, format_utc
from engine.consent.records import Thumbprint
from engine.guard.shares import Share
from engine.tokens.claims import MAX_PRESENTED_BYTES
from engine.tokens.jws import encode_part

INTROSPECT: Final = b"/introspect"
EVALUATIONS: Final = b"/access/v1/evaluations"
FORM: Final = b"application/x-www-form-urlencoded"
JSON: Final = b"application/json"
MAX_ITEMS: Final = 500
_ITEM: Final = 240  # bytes of an item's names and digests, its certificate's included
_ACTION: Final = 150  # bytes of an action's names and times
MAX_BATCH: Final = 200_000  # bytes; the service takes 256 KiB, and an item may turn out larger than it was reckoned

_PLAIN_TOKEN: Final = re.compile(r"[A-Za-z0-9._~-]+")


class BadShare(Exception):
    """What cannot be put into a question at all; the text says why, without naming the token."""


def digest_of(share: Share) -> bytes:
    """SHA-256 of the token. Raises BadShare for what cannot be a token, or be told of a share at all."""
    token = share.token
    if not token or not token.isascii() or len(token) > MAX_PRESENTED_BYTES:
        raise BadShare("a token is 1 to 8,192 ASCII characters")
    if len(share.thumbprint) != 32:
        raise BadShare("a thumbprint has 32 bytes")
    if not (share.dataset_id.isascii() and share.mpxn.isascii() and _is_ascii(share)):
        raise BadShare("what is told of a share is ASCII text")
    return hashlib.sha256(token.encode()).digest()


def _is_ascii(share: Share) -> bool:
    """Of what a share need not have: a key of the EDP's own making may hold what no question and no record can."""
    told = share.purpose_code, share.share_id, share.dpop_jkt
    return told == (None, None, None) or all(text is None or text.isascii() for text in told)


def introspection(share: Share, client_id: str) -> bytes:
    """The body of an introspection with its context (mode B). Raises BadShare."""
    token = share.token if _PLAIN_TOKEN.fullmatch(share.token) else quote(share.token, safe="")
    start, end = _instant(share.data_from), _instant(share.data_to)
    rest = "" if share.purpose_code is None else f"&ccs_purpose_code={_escaped(share.purpose_code)}"
    if share.share_id is not None:
        rest += f"&ccs_share_id={quote(share.share_id, safe='')}"
    return (
        f"token={token}&client_id={_escaped(client_id)}&ccs_dataset_id={_escaped(share.dataset_id)}"
        f"&ccs_mpxn={_escaped(share.mpxn)}&ccs_from={_escaped(start)}&ccs_to={_escaped(end)}{rest}"
    ).encode()


def probe(client_id: str, name: bytes) -> tuple[bytes, bytes]:
    """A question whose answer is no: an introspection of a token that nobody issued, and that token's digest."""
    token = b"probe-" + name
    return b"token=%b&client_id=%b" % (token, _escaped(client_id).encode()), hashlib.sha256(token).digest()


def nobodys_share(name: bytes, now: UnixTime) -> Share:
    """A share by a token that nobody issued: a batch of it is answered no, and says how fresh the node is all the same.

    Of an introspection only a yes says that.
    """
    return Share(
        token=f"probe-{name.decode()}",
        thumbprint=Thumbprint(bytes(32)),
        dataset_id="probe",
        mpxn="mpan:0000000000000",
        data_from=UnixTime(now - 1_800),
        data_to=now,
    )


class _Properties(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    x5t_s256: str


class _Subject(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    id: str
    properties: _Properties | None = None
    type: str = msgspec.field(default_factory=lambda: "access_token")


class _Resource(msgspec.Struct, frozen=True, gc=False):
    type: str
    id: str


class _ActionProperties(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    dataset_id: str
    start: str = msgspec.field(name="from")
    end: str = msgspec.field(name="to")
    purpose_code: str | None = None


class _Action(msgspec.Struct, frozen=True, gc=False):
    name: str
    properties: _ActionProperties


class _Context(msgspec.Struct, frozen=True, gc=False):
    share_id: str


class _Item(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    subject: _Subject
    resource: _Resource
    action: _Action | None = None
    context: _Context | None = None


class _Batch(msgspec.Struct, frozen=True):
    action: _Action
    evaluations: list[_Item]
    options: dict[str, str]


_encode: Final = msgspec.json.Encoder().encode
_What = tuple[str, UnixTime, UnixTime, str | None]


def batch(shares: Sequence[Share], digests: Sequence[bytes], *, names_certificates: bool) -> bytes:
    """The body of one batch, up to MAX_ITEMS. What most shares have in common is said once. Raises BadShare.

    names_certificates: the service compares them too; for tokens of which the guard knows nothing.
    """
    what: list[_What] = [(s.dataset_id, s.data_from, s.data_to, s.purpose_code) for s in shares]
    ((common, _),) = Counter(what).most_common(1)
    actions = {each: None if each == common else _action(each) for each in set(what)}
    items = [
        _Item(
            _Subject(
                encode_part(digest).decode(),
                _Properties(encode_part(share.thumbprint).decode()) if names_certificates else None,
            ),
            _Resource("meter_point", share.mpxn),
            actions[each],
            None if share.share_id is None else _Context(share.share_id),
        )
        for share, digest, each in zip(shares, digests, what, strict=True)
    ]
    try:
        return _encode(_Batch(_action(common), items, {"evaluations_semantic": "execute_all"}))
    except UnicodeEncodeError as error:
        raise BadShare("not text") from error


def size_of(share: Share, beside: Share | None = None) -> int:
    """Bytes that a share takes in a batch at most, as far as its texts are ASCII without quotes.

    beside: another share of that batch: what the two have in common need not be said by each.
    """
    size = _ITEM + len(share.mpxn)
    if share.share_id is not None:
        size += len(share.share_id)
    if beside is None or not _is_alike(share, beside):
        size += _ACTION + len(share.dataset_id) + len(share.purpose_code or "")
    return size


def _is_alike(share: Share, other: Share) -> bool:
    return (
        share.data_from == other.data_from
        and share.data_to == other.data_to
        and share.dataset_id == other.dataset_id
        and share.purpose_code == other.purpose_code
    )


def _action(what: _What) -> _Action:
    dataset_id, start, end, purpose_code = what
    return _Action("share", _ActionProperties(dataset_id, _instant(start), _instant(end), purpose_code))


@functools.lru_cache(maxsize=4096)
def _instant(at: UnixTime) -> str:
    try:
        return format_utc(at)
    except (ValueError, OverflowError, OSError, TypeError) as error:
        raise BadShare("not an instant of this world") from error


@functools.lru_cache(maxsize=16_384)
def _escaped(text: str) -> str:
    try:
        return quote(text, safe="")
    except UnicodeEncodeError as error:
        raise BadShare("not text") from error
