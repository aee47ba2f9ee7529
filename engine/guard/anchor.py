"""A few bytes beside the store's key that show whether the store went back in time.

The store holds a mark, the anchor the same one. A new mark is drawn at each start, each orderly stop and every
so often, and written in this order: the anchor names the new mark beside the old, the store takes the new one, the
anchor forgets the old. Nothing else is written in between. So:

  - A store that holds neither of the marks in the anchor is an older copy. It is found.
  - A crash between the steps leaves a store that holds one of the two, with the same content: it is taken as it is.
    A copy of it made before the crash is the same store.
  - A copy made after the newest mark and put back after more was written, while no process ran and none had stopped in
    order, is not found by the mark. It is at most `MARK_EVERY` old, and only where the run ended by a crash.
  - An anchor put back together with its store, as by a snapshot of the whole machine, is not found. Keep the anchor
    (and the key) where such snapshots do not reach.
"""

import os
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from engine.config import BadConfig
from engine.errors import Fault, Kind

MARK_EVERY: Final = 60  # seconds between marks while ends are written: three short waits for the disk a minute
MARK_BYTES: Final = 16
_MAX_BYTES: Final = 1_024

Mark = Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]


class Anchor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The marks that the store may hold. generation: counts marks, for people who compare files."""

    generation: int
    current: Mark
    previous: Mark | None = None

    def knows(self, mark: bytes) -> bool:
        """Whether a store with this mark is the newest one."""
        return mark.hex() in (self.current, self.previous)

    def towards(self, mark: bytes, held: bytes | None) -> "Anchor":
        """With a new mark, while the store still holds the old one."""
        return Anchor(self.generation + 1, mark.hex(), None if held is None else held.hex())

    def settled(self) -> "Anchor":
        """When the store has the new mark."""
        return Anchor(self.generation, self.current)


NEVER: Final = Anchor(0, "00" * MARK_BYTES)


class AnchorLost(Fault):
    """There is no anchor, or none that can be read: nothing shows that the store is the newest."""

    kind = Kind.BROKEN


def read_anchor(path: Path) -> Anchor:
    """Raises AnchorLost."""
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(_MAX_BYTES), type=Anchor)
    except FileNotFoundError as error:
        raise AnchorLost("there is no anchor") from error
    except (OSError, msgspec.MsgspecError) as error:
        raise AnchorLost(f"{path} cannot be read", detail=str(error)) from error


def write_anchor(path: Path, anchor: Anchor) -> None:
    """Whole and on disk, or the old one stays. Raises BadConfig: without an anchor no store is opened."""
    draft = path.with_name(path.name + ".new")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, msgspec.json.encode(anchor))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        draft.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        raise BadConfig(f"{path}: the store's anchor cannot be written: {error.strerror}") from error


def sync_directory(directory: Path) -> None:
    """Names in a directory survive a loss of power from here on."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
