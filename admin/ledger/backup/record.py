"""What was shipped and what was rehearsed, written down in a second place, apart from the backups.

Backups alone cannot show that their newest segments are gone: what is left is whole. So whoever ships notes the end of
each segment here, and a restore, a rehearsal and a pruning hold the place against it. The notes carry a MAC by the
backup key, so nobody without it makes them say less; somebody who can put back an old copy of this folder as well as
the place is not found out. The service reads them for its metrics, without the key and without believing them.
"""

import calendar
import hmac
import os
import secrets
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from admin.ledger.backup.contents import Head
from admin.ledger.backup.place import Newest
from admin.ledger.backup.sealed import BackupKey
from admin.ledger.store import LedgerUnavailable
from engine.errors import Fault, Kind

_SHIPPED: Final = "shipped.json"
_REHEARSED: Final = "rehearsed.json"
_FORM: Final = b"ccs.ledger.backup.record.1\n"


class BrokenRecord(Fault):
    """A note that cannot be read, or that was not made with this key."""

    kind = Kind.BROKEN


class SegmentsMissing(Fault):
    """The place holds less than was shipped to it."""

    kind = Kind.BROKEN


class ShippedNote(msgspec.Struct, frozen=True):
    """The newest segment that was published. as_of: the moment it reaches up to, seconds since 1970."""

    ledger: str
    series: str
    segment: int
    incarnation: str
    seq: int
    as_of: float

    @property
    def full_at(self) -> float:
        """When its series began, seconds since 1970."""
        return float(calendar.timegm(time.strptime(self.series[:16], "%Y%m%dT%H%M%SZ")))


class RehearsedNote(msgspec.Struct, frozen=True):
    """The last rehearsal. at: its end, seconds since 1970. fault: "" = all was right. rows: by table."""

    at: float
    seconds: float
    backup: str = ""
    seq: int = 0
    rows: dict[str, int] = {}
    fault: str = ""


class _Sealed(msgspec.Struct, frozen=True):
    said: msgspec.Raw
    mac: str


Note = TypeVar("Note", ShippedNote, RehearsedNote)


class Record:
    """A directory, with the key that backups are sealed with."""

    def __init__(self, directory: Path, key: BackupKey) -> None:
        self.directory = directory
        self._key = key

    def note_shipped(self, newest: Newest) -> None:
        """On disk when this returns. Raises LedgerUnavailable."""
        head = newest.head
        until = head.until
        note = ShippedNote(head.ledger, newest.series, newest.index, until.incarnation, until.seq, until.wall)
        self._write(_SHIPPED, note)

    def note_rehearsed(self, note: RehearsedNote) -> None:
        """On disk when this returns. Raises LedgerUnavailable."""
        self._write(_REHEARSED, note)

    def shipped(self) -> ShippedNote | None:
        """The newest; None = nothing was ever noted here. Raises BrokenRecord, LedgerUnavailable."""
        return self._read(_SHIPPED, ShippedNote)

    def rehearsed(self) -> RehearsedNote | None:
        """As `shipped`."""
        return self._read(_REHEARSED, RehearsedNote)

    def refuse_less(self, ends: Iterable[Newest]) -> None:
        """Hold the ends of the place's series against what was shipped.

        Raises SegmentsMissing, BrokenRecord, LedgerUnavailable.
        """
        note = self.shipped()
        if note is not None and not any(_reaches(end, note) for end in ends):
            raise SegmentsMissing(
                f"segment {note.segment} of {note.series}, up to position {note.seq}, was shipped and is not there, "
                f"nor anything newer: the newest backups were removed, or {self.directory} is of another place"
            )

    def _write(self, name: str, note: ShippedNote | RehearsedNote) -> None:
        said = msgspec.json.encode(note)
        sealed = _Sealed(msgspec.Raw(said), self._key.mac(_FORM + name.encode() + b"\n" + said).hex())
        try:
            _replace(self.directory / name, msgspec.json.encode(sealed) + b"\n")
        except OSError as error:
            raise LedgerUnavailable(f"{self.directory}: the record cannot be written: {error.strerror}") from error

    def _read(self, name: str, kind: type[Note]) -> Note | None:
        try:
            sealed = _sealed(self.directory / name)
        except OSError as error:
            raise LedgerUnavailable(f"{self.directory}: the record cannot be read: {error.strerror}") from error
        if sealed is None:
            return None
        mac = self._key.mac(_FORM + name.encode() + b"\n" + bytes(sealed.said)).hex()
        if not hmac.compare_digest(mac, sealed.mac):
            raise BrokenRecord(f"{self.directory / name}: was changed, or made with another backup key")
        return _note(sealed, kind, self.directory / name)


def read_unchecked(directory: Path) -> tuple[ShippedNote | None, RehearsedNote | None]:
    """Both notes as they stand there, whoever wrote them; None = there is none. Raises BrokenRecord, OSError."""
    shipped, rehearsed = directory / _SHIPPED, directory / _REHEARSED
    one, other = _sealed(shipped), _sealed(rehearsed)
    return (
        None if one is None else _note(one, ShippedNote, shipped),
        None if other is None else _note(other, RehearsedNote, rehearsed),
    )


def _reaches(end: Newest, note: ShippedNote) -> bool:
    """Whether that series holds the segment noted, or goes beyond it in the ledger's life."""
    if end.series == note.series:
        return end.index >= note.segment
    return end.head.ledger == note.ledger and _stands(end.head) >= (note.seq, note.as_of)


def _stands(head: Head) -> tuple[int, float]:
    return head.until.seq, head.until.wall


def _sealed(path: Path) -> _Sealed | None:
    if not path.parent.is_dir():  # a disk that is not mounted is not a record without notes
        raise NotADirectoryError(20, "no such directory")
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Sealed)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise BrokenRecord(f"{path}: cannot be read") from error


def _note(sealed: _Sealed, kind: type[Note], path: Path) -> Note:
    try:
        return msgspec.json.decode(sealed.said, type=kind)
    except msgspec.MsgspecError as error:
        raise BrokenRecord(f"{path}: cannot be read") from error


def _replace(path: Path, content: bytes) -> None:
    """Readers see the old file or the new one. For everybody to read: no secret is in it."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
