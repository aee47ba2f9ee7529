"""The other place: a directory with a folder for each series, which holds segments numbered without gaps from zero.

A segment appears under its name only when it is whole, on disk, and was read back and checked; so what has a name is
never half a backup. Nothing there is ever changed; a series may be removed, folder and all.
"""

import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from admin.ledger.backup.contents import End, Head, Part, Rows, decode
from admin.ledger.backup.sealed import BackupKey, BrokenBackup, SealedWriter, chunks
from admin.ledger.store import LedgerUnavailable
from engine.errors import Fault, Kind

_SERIES: Final = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{16}")
_SEGMENT: Final = re.compile(r"(\d{8})\.segment")
_HOLD: Final = "hold"
_GOING: Final = ".removed"  # behind the name of a series that is being removed


class NoBackup(Fault):
    """There is no backup in that place, or no such series."""

    kind = Kind.NOT_FOUND


class SeriesTaken(Fault):
    """Another process writes to the same series."""

    kind = Kind.CONFLICT


class Newest(msgspec.Struct, frozen=True):
    """The end of a series."""

    series: str
    index: int
    head: Head


class Place:
    """A directory that the operator names."""

    def __init__(self, root: Path, key: BackupKey) -> None:
        self.root = root
        self._key = key

    def new_series(self, wall: float) -> str:
        """A name that no other series has; names sort by time."""
        return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(wall)) + "-" + secrets.token_hex(8)

    def series(self) -> list[str]:
        """All that have a segment, in the order of their names. Raises NoBackup where there is no such directory."""
        try:
            names = sorted(path.name for path in self.root.iterdir() if _SERIES.fullmatch(path.name))
        except OSError as error:
            raise NoBackup(f"{self.root}: {error.strerror}") from error
        return [name for name in names if any(_numbered(self.root / name))]

    def segments(self, series: str) -> list[Path]:
        """The files of a series, in order. Raises NoBackup, BrokenBackup when one is missing between others."""
        found = dict(_numbered(self.root / series)) if _SERIES.fullmatch(series) else {}
        if not found:
            raise NoBackup(f"{self.root} holds no series {series}")
        for index in range(max(found) + 1):
            if index not in found:
                raise BrokenBackup(f"{self.root / series}: segment {index} is missing")
        return [found[index] for index in range(len(found))]

    def newest(self, series: str) -> Newest:
        """The end of a series. Raises NoBackup, BrokenBackup, WrongBackupKey."""
        index = len(self.segments(series)) - 1
        return Newest(series, index, self.head(series, index))

    def head(self, series: str, index: int) -> Head:
        """The head of a segment. Raises BrokenBackup, WrongBackupKey."""
        return next(head for head in self.parts(series, index) if isinstance(head, Head))

    def holds(self, series: str, index: int) -> bool:
        """Whether a segment has its name there; True as well where the place itself is away."""
        return _path(self.root / series, index).exists() or not self.root.is_dir()

    def is_held(self, series: str) -> bool:
        """Whether somebody wants it kept beyond its time."""
        return (self.root / series / _HOLD).exists()

    def size(self, series: str) -> int:
        """Bytes of its segments."""
        return sum(path.stat().st_size for _, path in _numbered(self.root / series))

    def left_over(self, before: float) -> list[str]:
        """Folders of ours that hold no backup and were last written to before that time (seconds since 1970)."""
        found = [path for path in self.root.iterdir() if _SERIES.fullmatch(path.name.removesuffix(_GOING))]
        return sorted(path.name for path in found if _is_left(path, before))

    def remove(self, name: str) -> None:
        """Remove a series or what was left of one. Call in a thread. Raises LedgerUnavailable."""
        folder = self.root / name
        going = folder.with_name(name.removesuffix(_GOING) + _GOING)
        try:
            folder.rename(going)  # from now on nobody takes it for a backup, however far the removal comes
            _sync(self.root)
            shutil.rmtree(going)
        except OSError as error:
            raise LedgerUnavailable(f"{folder} cannot be removed: {error.strerror}") from error

    def parts(self, series: str, index: int) -> Iterator[Part]:
        """What a segment holds, checked: the head first, the counts last. Raises BrokenBackup, WrongBackupKey."""
        path = _path(self.root / series, index)
        try:
            yield from _checked(chunks(path, self._key, series, index), path)
        except OSError as error:
            raise BrokenBackup(f"{path}: {error.strerror}") from error

    def publish(self, series: str, index: int, write: Callable[[SealedWriter], None]) -> int:
        """Write a segment, check it, and give it its name. Returns its size in bytes. Call in a thread.

        Raises LedgerUnavailable when the place cannot be written, BrokenBackup when what was read back differs,
        SeriesTaken, and whatever `write` raises; then nothing has a name.
        """
        folder = self.root / series
        try:
            folder.mkdir(mode=0o700, exist_ok=True)  # not the place itself: it may be a disk that is not mounted
            draft = folder / f".{index:08}.{secrets.token_hex(4)}.part"
            try:
                self._draft(draft, series, index, write)
                self._check(draft, series, index)
                _name(draft, _path(folder, index))
            finally:
                draft.unlink(missing_ok=True)
            for changed in (folder, self.root):
                _sync(changed)
        except OSError as error:
            raise LedgerUnavailable(f"{self.root}: the backup cannot be written: {error.strerror}") from error
        return _path(folder, index).stat().st_size

    def _draft(self, draft: Path, series: str, index: int, write: Callable[[SealedWriter], None]) -> None:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb", buffering=1 << 20) as file:
            writer = SealedWriter(file, self._key, series, index)
            write(writer)
            writer.finish()
            file.flush()
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)  # what is read back comes from the disk

    def _check(self, draft: Path, series: str, index: int) -> None:
        for _ in chunks(draft, self._key, series, index):
            pass


def _checked(found: Iterator[bytes], path: Path) -> Iterator[Part]:
    """The parts: the head first, then rows, last as many as are counted."""
    counted: dict[str, int] = {}
    part: Part | None = None
    for number, chunk in enumerate(found):
        part = _decoded(chunk, path)
        if isinstance(part, Head) != (number == 0):
            raise BrokenBackup(f"{path}: does not begin with its head, or has two")
        if isinstance(part, Rows):
            counted[part.table] = counted.get(part.table, 0) + len(part.rows)
        yield part
    if not isinstance(part, End) or part.counts != counted:
        raise BrokenBackup(f"{path}: does not hold as many rows as it says")


def _decoded(chunk: bytes, path: Path) -> Part:
    try:
        return decode(chunk)
    except msgspec.MsgspecError as error:
        raise BrokenBackup(f"{path}: holds what this program cannot read") from error


def _numbered(folder: Path) -> Iterator[tuple[int, Path]]:
    if folder.is_dir():
        for path in folder.iterdir():
            named = _SEGMENT.fullmatch(path.name)
            if named:
                yield int(named[1]), path


def _is_left(folder: Path, before: float) -> bool:
    if folder.name.endswith(_GOING):
        return True
    written = max(path.stat().st_mtime for path in (folder, *folder.iterdir()))  # a backup under way writes its draft
    return written < before and not any(_numbered(folder)) and not (folder / _HOLD).exists()


def _path(folder: Path, index: int) -> Path:
    return folder / f"{index:08}.segment"


def _name(draft: Path, path: Path) -> None:
    try:
        os.link(draft, path)  # unlike a rename, a link never replaces what is there
    except FileExistsError as error:
        raise SeriesTaken(f"{path}: another backup has written it meanwhile") from error


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
