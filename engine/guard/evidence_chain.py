"""Entries of the evidence log as JSON, each bound to the one before by its hash. Pure.

`hash` of an entry is the SHA-256 over the 32 bytes of `previous`, the hash of the one before, and the JSON text of
`entry` as it stands. Each reported share carries its hash, so that the service holds a point of the chain: nothing
before it can be changed, left out or put in afterwards without that being seen. Members are named as in
`evidence_words`; bytes are base64 (RFC 4648 section 4).
"""

import base64
import hashlib
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from engine.errors import Fault, Kind
from engine.guard.evidence_words import Attempt, Entry, OutageEvidence, ShareEvidence

_KINDS: Final[dict[str, type[ShareEvidence] | type[OutageEvidence]]] = {
    "share": ShareEvidence,
    "outage": OutageEvidence,
}


class BrokenChain(Fault):
    """A line does not follow from the one before, or is none."""

    kind = Kind.BROKEN


class Link(msgspec.Struct, frozen=True, array_like=True):
    """An entry in its place. seq: from 1. entry: its JSON text. reported_at: seconds since 1970; 0 = not yet."""

    chain: str  # 8 hex digits; another one begins where the log began anew
    seq: int
    previous: bytes
    entry: bytes
    reported_at: float = 0.0

    @property
    def evidence_id(self) -> str:
        """Names the entry for ever."""
        return f"{self.chain}-{self.seq}"

    @property
    def hash(self) -> bytes:
        """What the next entry is bound to."""
        return hashlib.sha256(self.previous + self.entry).digest()


class Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line of an export. Hashes: hex."""

    evidence_id: str
    seq: int
    previous: str
    hash: str
    reported_at: float
    entry: msgspec.Raw

    @property
    def chain(self) -> str:
        """As in its name."""
        return self.evidence_id.partition("-")[0]


class Checked(msgspec.Struct, frozen=True):
    """An export that holds together. gaps: the ids of lines before which entries of the same chain are missing."""

    lines: int
    gaps: tuple[str, ...] = ()


_lines: Final = msgspec.json.Decoder(Line)


def entry_text(entry: Entry) -> bytes:
    """The JSON text of an entry, always the same for the same entry."""
    kind = "share" if isinstance(entry, ShareEvidence) else "outage"
    return msgspec.json.encode({"kind": kind, **_members(entry)})


def entry_of(text: bytes) -> Entry:
    """Back from `entry_text`. Raises BrokenChain."""
    try:
        members = msgspec.json.decode(text, type=dict[str, Any])
        kind = _KINDS[members["kind"]]
        values = [_value(name, members.get(name, msgspec.UNSET)) for name in kind.__struct_fields__]
        return msgspec.convert([members["kind"], *_up_to_the_last_known(values)], kind)
    except (msgspec.MsgspecError, KeyError, TypeError, ValueError) as error:
        raise BrokenChain("this is no entry of an evidence log") from error


def line_of(link: Link) -> bytes:
    """A line of JSON for an export, without its end."""
    hashes = link.previous.hex(), link.hash.hex()
    return msgspec.json.encode(Line(link.evidence_id, link.seq, *hashes, link.reported_at, msgspec.Raw(link.entry)))


def check_lines(lines: Iterable[bytes]) -> Checked:
    """Whether an export holds together: each line's hash is right and, where lines adjoin, the next one's `previous`.

    A gap is told and is not broken: what was reported is let go between what was not. The lines cannot tell which it
    was that is missing; whoever holds the hashes of the reports can. A new chain may follow, where the log began anew.

    Raises BrokenChain, naming the first that was changed, does not follow, or stands in another place.
    """
    count, gaps, before = 0, list[str](), None
    for count, text in enumerate(lines, 1):
        line = _read(text, count)
        own = hashlib.sha256(bytes.fromhex(line.previous) + bytes(line.entry)).hexdigest()
        if own != line.hash or line.evidence_id != f"{line.chain}-{line.seq}":
            raise BrokenChain(f"line {count}: {line.evidence_id} was changed")
        if before is not None and before.chain == line.chain:
            if line.seq <= before.seq:
                raise BrokenChain(f"line {count}: {line.evidence_id} stands after {before.evidence_id}")
            if line.seq > before.seq + 1:
                gaps.append(line.evidence_id)
            elif before.hash != line.previous:
                raise BrokenChain(f"line {count}: {line.evidence_id} does not follow the line before")
        before = line
    return Checked(count, tuple(gaps))


def _read(text: bytes, number: int) -> Line:
    try:
        line = _lines.decode(text)
        bytes.fromhex(line.previous)
    except (msgspec.MsgspecError, ValueError) as error:
        raise BrokenChain(f"line {number} is no line of an evidence log") from error
    return line


def _members(struct: msgspec.Struct) -> dict[str, Any]:
    return {name: _plain(getattr(struct, name)) for name in struct.__struct_fields__}


def _plain(value: object) -> object:
    if isinstance(value, Attempt):
        return _members(value)
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def _value(name: str, value: Any) -> Any:  # noqa: ANN401 - a member of a JSON object
    if name == "attempts" and isinstance(value, list):
        return [[attempt[field] for field in Attempt.__struct_fields__ if field in attempt] for attempt in value]
    return value


def _up_to_the_last_known(values: list[Any]) -> list[Any]:
    """An entry of an earlier release has fewer members, and the later ones have defaults."""
    while values and values[-1] is msgspec.UNSET:
        values.pop()
    return values
