"""Room for the replica: it is mapped whole, so its size is address space, which a machine or a limit may not have."""

import mmap
from typing import Final

from engine.config import BadConfig, Replica

_NO_ACCESS: Final = 0  # such a mapping takes addresses and nothing else


def check_map_size(replica: Replica) -> None:
    """Raises BadConfig before anything starts: later each child would fail by itself, and try again."""
    try:
        mmap.mmap(-1, replica.map_size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=_NO_ACCESS).close()
    except (OSError, OverflowError, ValueError) as error:
        raise BadConfig(
            f"replica.map-size: {replica.map_size} bytes of address space are not to be had here"
        ) from error
