"""For processes started with this folder on PYTHONPATH: their wall clock goes wrong by what stands in a file.

CCS_TEST_WALL names a file that holds a float of eight bytes, seconds to add to the time of day; it may be changed at
any time. Only `time.time` is moved: it is what the service takes for the time of day. The boot clock is left alone, as
setting a machine's date leaves it alone.
"""

import mmap
import os
import struct
import time

_true_time = time.time
with open(os.environ["CCS_TEST_WALL"], "rb") as _file:  # noqa: PTH123 - before anything else is imported
    _wrong_by = mmap.mmap(_file.fileno(), 8, access=mmap.ACCESS_READ)


def _wrong_time() -> float:
    wrong_by: float = struct.unpack_from("d", _wrong_by)[0]
    return _true_time() + wrong_by


time.time = _wrong_time
