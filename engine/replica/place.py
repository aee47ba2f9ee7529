"""Where a replica stands: the boot and the very directory. What was earned there counts nowhere else.

A bound says what one instance has asked and applied, and the barrier relies on that instance's reports. A copy of its
directory holds the same bound, but nobody reports for the copy: a node that was cloned within MAX_SILENCE would be
`current` without a revocation that the original has acknowledged. So a bound is marked with the place it was earned in
and is believed only there; elsewhere it is a moment of the past, as after a boot. A machine that is copied with its
processes running is outside the promise, as is a hypervisor that stops the boot clock: start the copy's node anew.
"""

import hashlib
import os
from pathlib import Path
from typing import Final

from engine.errors import Fault, Kind
from engine.replica.generations import translated

PLACE_CHARACTERS: Final = 36  # as long as a boot id: the bound's fixed form has room for no more


class ReplicaReplaced(Fault):
    """Another directory stands where this process found the replica: start anew, to believe what is earned there."""

    kind = Kind.UNAVAILABLE


def place_of(directory: Path, boot_id: str) -> str:
    """The name of this directory in this boot. It is made where it is missing. Raises ReplicaUnwritable.

    Copying makes another inode, a snapshot of the file system another device, another machine another boot.
    """
    with translated(directory):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = directory.stat()
    return _name(found, boot_id)


def require_place(directory: Path, boot_id: str, place: str) -> None:
    """Whether the directory is still the one that was named so. Raises ReplicaReplaced; a missing one is no other."""
    try:
        found = directory.stat()
    except OSError:
        return
    if _name(found, boot_id) != place:
        raise ReplicaReplaced("another directory stands where the replica was", detail=str(directory))


def _name(found: os.stat_result, boot_id: str) -> str:
    text = f"{boot_id} {found.st_dev} {found.st_ino}"
    return hashlib.sha256(text.encode()).hexdigest()[:PLACE_CHARACTERS]
