"""Where a replica lives on disk: one directory with a lock, generations of the file, and a link to the one in use.

    lock            held (flock) by the one writer as long as it lives; the kernel lets go when it dies
    current         symbolic link to the generation readers open; swapped in one rename
    generation-*/   an LMDB environment and its `mark`

The file is written without waiting for the disk (sync=False): it survives the death of any process, because the
kernel has the pages, but not the death of the machine. The mark tells the two apart: `open <boot id>` while a
writer is at work, `clean` after an orderly end. Whatever else a start finds is thrown away.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from engine.errors import Fault, Kind

PRIVATE_FILE: Final = 0o600
PRIVATE_DIRECTORY: Final = 0o700
CURRENT: Final = "current"
_PREFIX: Final = "generation-"
_CLEAN: Final = "clean"


class ReplicaInUse(Fault):
    """Another process writes this replica."""

    kind = Kind.CONFLICT


class ReplicaUnwritable(Fault):
    """The directory cannot be used: rights, disk, a file in its place."""

    kind = Kind.UNAVAILABLE


class WriterLock:
    """The exclusive right to write a directory's replica; ends with `release` or with the process."""

    def __init__(self, directory: Path) -> None:
        """Create the directory if need be and take the lock. Raises ReplicaInUse, ReplicaUnwritable."""
        with translated(directory):
            directory.mkdir(mode=PRIVATE_DIRECTORY, parents=True, exist_ok=True)
            self._fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(self._fd, 20).decode("ascii", "replace").strip() or "unknown"
            os.close(self._fd)
            raise ReplicaInUse(f"the replica in {directory} is already written by process {holder}") from error
        os.ftruncate(self._fd, 0)
        os.write(self._fd, b"%d\n" % os.getpid())

    def release(self) -> None:
        """Let the next writer in."""
        os.close(self._fd)


class Generations:
    """The generations below one directory. Only the holder of the `WriterLock` may call what writes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def current(self) -> Path | None:
        """The generation in use; None: there is none."""
        name = current_name(self.directory)
        return None if name is None else self.directory / name

    def create(self) -> Path:
        """An empty directory for the next generation.

        Its name was never used before: readers tell by the name whether what they have open is still the one in use.
        """
        with translated(self.directory):
            return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=self.directory))

    def switch_to(self, generation: Path) -> None:
        """Make a generation the one that readers open, in one step."""
        with translated(self.directory):
            link = self.directory / f"{CURRENT}.next"
            link.unlink(missing_ok=True)
            link.symlink_to(generation.name)
            link.replace(self.directory / CURRENT)
            _sync_directory(self.directory)

    def remove_others(self, keep: Path | None) -> None:
        """Delete all generations but one. Readers that have one open keep what they see until they close it."""
        with translated(self.directory):
            if keep is None:
                (self.directory / CURRENT).unlink(missing_ok=True)
            for path in self.directory.glob(_PREFIX + "*"):
                if path != keep:
                    shutil.rmtree(path)


def current_name(directory: Path) -> str | None:
    """What `current` points to; None: there is no replica. One system call: readers ask several times a second."""
    try:
        return str((directory / CURRENT).readlink())
    except OSError:
        return None


def mark_open(generation: Path, boot_id: str) -> None:
    """Say, durably, that a writer is at work in this boot. Called before anything is written."""
    _write_mark(generation, f"open {boot_id}")


def mark_clean(generation: Path) -> None:
    """Say, durably, that the file is whole on disk. Called after it was synced and closed."""
    _write_mark(generation, _CLEAN)


def mark_trial(generation: Path) -> None:
    """Say, durably, that a start is about to look into the file: should that kill it, the next start will not."""
    _write_mark(generation, "trial")


def distrusted(generation: Path, boot_id: str) -> str | None:
    """Why a generation must not be opened; None: it is whole."""
    try:
        mark = (generation / "mark").read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return "it has no readable mark"
    if mark in (_CLEAN, f"open {boot_id}"):
        return None
    if mark.startswith("open "):
        return "it was being written when it was copied or the machine went down"
    return "an earlier start did not survive opening it"


def _write_mark(generation: Path, text: str) -> None:
    with translated(generation):
        path = generation / "mark.next"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, PRIVATE_FILE)
        try:
            os.write(fd, text.encode())
            os.fsync(fd)
        finally:
            os.close(fd)
        path.replace(generation / "mark")
        _sync_directory(generation)


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def translated(directory: Path) -> Iterator[None]:
    """Turn what the file system raises into ReplicaUnwritable."""
    try:
        yield
    except OSError as error:
        raise ReplicaUnwritable(f"the replica in {directory} cannot be used: {error.strerror}") from error
