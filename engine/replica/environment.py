"""One open LMDB environment with its databases: the only place where LMDB's own words and errors are known.

A process that reads must open the file after it was spawned, never across a fork (LMDB's rule: the lock table
holds process ids).
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeAlias

import lmdb

from engine.errors import Fault, Kind
from engine.replica import layout
from engine.replica.generations import PRIVATE_FILE
from engine.replica.layout import BrokenReplica

MAX_READERS: Final = 512  # slots of the reader table: one a thread that reads, far above cores times two

_BROKEN: Final = (
    lmdb.CorruptedError,
    lmdb.PageNotFoundError,
    lmdb.VersionMismatchError,
    lmdb.InvalidError,
    lmdb.IncompatibleError,
    lmdb.PanicError,
    lmdb.NotFoundError,
)


WriteTransaction: TypeAlias = "lmdb.Transaction[bytes]"
Database: TypeAlias = "lmdb._Database"


# On the disk, not in the map. LMDB calls a write that got through in part an I/O error.
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


class ReplicaFull(Fault):
    """The map's size or the disk is used up: nothing was written, and the node stays at what it last knew."""

    kind = Kind.UNAVAILABLE


class ReplicaUnreadable(Fault):
    """LMDB refused, and not because the file is broken: out of readers, memory, address space, rights."""

    kind = Kind.UNAVAILABLE


class Environment:
    """An open file. Attributes are the databases' handles; `lmdb` is LMDB's own environment."""

    def __init__(self, path: Path, *, map_size: int, writable: bool) -> None:
        """Open, and as writer create what is missing. Raises BrokenReplica, ReplicaUnreadable."""
        self.path = path
        with translated():
            self.lmdb = lmdb.open(
                str(path),
                map_size=map_size,
                max_dbs=len(layout.DATABASES),
                max_readers=MAX_READERS,
                mode=PRIVATE_FILE,
                readonly=not writable,
                create=writable,
                sync=False,
                metasync=False,
                readahead=False,
            )
            try:
                self._cut_short = writable and self._lengthen()
                self._open_databases(writable=writable)
            except BaseException:
                self.lmdb.close()
                raise

    def _open_databases(self, *, writable: bool) -> None:
        consents, participants, thumbprints, token_revocations, policy, meta, recovery, doubts = (
            self.lmdb.open_db(name, create=writable) for name in layout.DATABASES
        )
        self.consents, self.participants, self.thumbprints = consents, participants, thumbprints
        self.token_revocations, self.policy, self.meta = token_revocations, policy, meta
        self.recovery, self.doubts = recovery, doubts

    def _lengthen(self) -> bool:
        """Make the file as long as its own table of pages; True: it was shorter.

        Touching a page beyond the file's end would kill the process (SIGBUS); now what is missing reads as empty
        pages. LMDB never writes pages that were taken and freed in one transaction, so a sound file may end early.
        """
        needed = (self.lmdb.info()["last_pgno"] + 1) * self.lmdb.stat()["psize"]
        data = self.path / "data.mdb"
        if data.stat().st_size >= needed:
            return False
        os.truncate(data, needed)
        return True

    def check_whole(self) -> None:
        """Look for the damage a start can find; a file that ended early is read whole. Raises BrokenReplica."""
        with translated(), self.lmdb.begin() as txn:
            if txn.get(layout.FORMAT_KEY, db=self.meta) != layout.FORMAT:
                raise BrokenReplica("the replica has another format")
            layout.unpack_bound(txn.get(layout.BOUND_KEY, b"", db=self.meta))
            if self._cut_short:
                self._walk(txn)

    def _walk(self, txn: WriteTransaction) -> None:
        records = (self.consents, self.participants, self.thumbprints, self.token_revocations, self.policy)
        for database in (*records, self.recovery, self.doubts):
            entries = sum(1 for _ in txn.cursor(database))
            if entries != txn.stat(database)["entries"]:
                raise BrokenReplica("the replica has lost entries")

    @contextmanager
    def writing(self) -> Iterator[WriteTransaction]:
        """One write transaction: all of it or nothing. Raises ReplicaFull, BrokenReplica, ReplicaUnreadable."""
        with translated(), self.lmdb.begin(write=True) as txn:
            yield txn

    def close(self) -> None:
        """Unmap the file. Views of it must be over."""
        self.lmdb.close()


@contextmanager
def translated() -> Iterator[None]:
    """Turn what LMDB raises into faults of ours."""
    try:
        yield
    except lmdb.Error as error:
        raise fault_of(error) from error


def fault_of(error: lmdb.Error) -> Fault:
    """The fault of ours that an LMDB error means."""
    if isinstance(error, lmdb.MapFullError):
        return ReplicaFull("the replica is full: raise replica.map-size", detail=str(error))
    if getattr(error, "code", 0) in _NO_ROOM:
        return ReplicaFull("the disk does not take what the replica writes: make room on it", detail=str(error))
    if isinstance(error, _BROKEN):
        return BrokenReplica("the replica's file is broken", detail=str(error))
    return ReplicaUnreadable("the replica cannot be opened or read", detail=str(error))
