"""Erasing a person, and the journal of it, so that a backup made before cannot bring the person back.

To erase is to destroy the person's key. Backups made before hold it still, so each erasure is written down in the
database, from where backups ship it, and where the settings name a journal in another place, there as well: before
the key is destroyed, so that a person who was told "erased" is in the journal whatever is lost afterwards. Both are
pseudonymous: the person's pseudonym, the key's id, the time. The journal's lines are signed by the checkpoint key, so
that nobody can make a restore forget somebody else; that lines are missing at its end it cannot show.
"""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
import sqlalchemy as sa

from admin.ledger.bulk import bulk_for
from admin.ledger.checkpoints import CheckpointKey, CheckpointSigner
from admin.ledger.schema import erasures, events, person_keys
from admin.ledger.store import LedgerUnavailable
from engine.clock import UnixTime
from engine.config import BadConfig
from engine.errors import Fault, Kind

_FORM: Final = "ccs.ledger.erasure.1"
_TAIL: Final = 4_096  # bytes; longer than any line

_encode = msgspec.msgpack.Encoder().encode


class BrokenJournal(Fault):
    """A line of the erasure journal that nobody of ours has written."""

    kind = Kind.BROKEN


class Erasure(msgspec.Struct, frozen=True):
    """One destroyed key. ledger: whose (`ledger_id`)."""

    ledger: str
    person_id: str
    key_id: bytes
    erased_at: UnixTime

    def signed_bytes(self, kid: str) -> bytes:
        """What a line's signature covers."""
        return _encode((_FORM, self.ledger, self.person_id, self.key_id, self.erased_at, kid))


class Line(msgspec.Struct, frozen=True):
    """A line of the journal, JSON."""

    erasure: Erasure
    kid: str
    signature: bytes


class ErasureJournal:
    """The journal in another place: a file that grows by a line for each erasure; several processes may write it."""

    def __init__(self, path: Path, signer: CheckpointSigner) -> None:
        self._path = path
        self._signer = signer

    def prepare(self) -> None:
        """Make the file, so that a journal without lines is told from one that is missing. Raises OSError."""
        with _locked(self._path):
            pass

    def add(self, erasure: Erasure) -> None:
        """Append a line; on disk when this returns. Call in a thread. Raises LedgerUnavailable."""
        kid = self._signer.kid
        line = Line(erasure, kid, self._signer.sign(erasure.signed_bytes(kid)))
        try:
            with _locked(self._path) as descriptor:
                _cut_torn_line(descriptor)
                os.write(descriptor, msgspec.json.encode(line) + b"\n")
                os.fsync(descriptor)
        except OSError as error:
            raise LedgerUnavailable(
                f"the erasure journal cannot be written ({error.strerror}): nobody was erased", detail=str(self._path)
            ) from error


def read_journal(path: Path, key: CheckpointKey, ledger: str) -> list[Erasure]:
    """All lines. A last line without its end is of an erasure that was not done. Raises BadConfig, BrokenJournal."""
    try:
        whole, _, _torn = path.read_bytes().rpartition(b"\n")
    except OSError as error:
        raise BadConfig(f"{path}: {error.strerror}") from error
    return [_read(line, number, key, ledger) for number, line in enumerate(whole.splitlines(), 1)]


def erase(connection: sa.Connection, person_id: str, now: UnixTime, journal: ErasureJournal | None) -> bool:
    """Destroy a person's key and write that down. False: there is none. Raises LedgerUnavailable.

    A journal may then name an erasure that the database did not come to; it was asked for, and holds at a restore.
    """
    bulk_for(connection).lock_head()  # no append that still uses the key is under way
    found = connection.execute(sa.select(person_keys.c.key_id).where(person_keys.c.person_id == person_id)).first()
    if found is None:
        return False
    if journal is not None:
        journal.add(Erasure(ledger_id(connection), person_id, found.key_id, now))
    write_down(connection, person_id, found.key_id, now)
    connection.execute(sa.delete(person_keys).where(person_keys.c.person_id == person_id))
    return True


def write_down(connection: sa.Connection, person_id: str, key_id: bytes, at: UnixTime) -> None:
    """Add to the journal in the database; the head is locked."""
    number = connection.execute(sa.select(sa.func.coalesce(sa.func.max(erasures.c.number), 0) + 1)).scalar_one()
    connection.execute(sa.insert(erasures).values(number=number, person_id=person_id, key_id=key_id, erased_at=at))


def ledger_id(connection: sa.Connection) -> str:
    """Names the ledger for ever, through all incarnations: 32 hexadecimal digits of its first event's hash."""
    first = connection.execute(sa.select(events.c.hash).order_by(events.c.seq).limit(1)).scalar()
    return (first or hashlib.sha256().digest()).hex()[:32]


def _read(line: bytes, number: int, key: CheckpointKey, ledger: str) -> Erasure:
    try:
        read = msgspec.json.decode(line, type=Line)
    except (msgspec.MsgspecError, ValueError) as error:  # the latter: text that is no UTF-8
        raise BrokenJournal(f"line {number} of the erasure journal cannot be read") from error
    if read.kid != key.kid or not key.verify(read.erasure.signed_bytes(read.kid), read.signature):
        raise BrokenJournal(f"line {number} of the erasure journal was not signed by this ledger's checkpoint key")
    if read.erasure.ledger != ledger:
        raise BrokenJournal(f"line {number} of the erasure journal is of another ledger")
    return read.erasure


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """The file's descriptor, made where it is missing, for this process alone."""
    is_new = not path.exists()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if is_new:
            folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        yield descriptor
    finally:
        os.close(descriptor)  # and with it the lock


def _cut_torn_line(descriptor: int) -> None:
    """Remove what a process left that was killed while it wrote: its erasure was not done."""
    size = os.fstat(descriptor).st_size
    tail = os.pread(descriptor, _TAIL, max(0, size - _TAIL))
    torn = len(tail) - (tail.rfind(b"\n") + 1)
    if torn:
        os.ftruncate(descriptor, size - torn)
