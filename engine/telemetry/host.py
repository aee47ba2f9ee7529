"""The one place that reads the machine's clocks and its boot id; everything else is handed a `Clock`."""

import time
from pathlib import Path
from typing import Final

from engine.clock import BootTime, UnixTime
from engine.errors import Fault, Kind

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class NoBootId(Fault):
    """The kernel does not say which boot this is; without it a bound from before a restart could be believed."""

    kind = Kind.UNAVAILABLE


class SystemClock:
    """`engine.clock.Clock` on this machine."""

    def now(self) -> UnixTime:
        """Wall time, whole seconds."""
        return UnixTime(int(time.time()))

    def wall(self) -> float:
        """Wall time, seconds with their fractions."""
        return time.time()

    def boot(self) -> BootTime:
        """CLOCK_BOOTTIME, seconds: goes on while the machine sleeps."""
        return BootTime(time.clock_gettime(time.CLOCK_BOOTTIME))


def boot_id(source: Path = _BOOT_ID) -> str:
    """The kernel's id of this boot (random(4)). Raises NoBootId where there is none."""
    try:
        text = source.read_text().strip()
    except OSError as error:
        raise NoBootId("the kernel gives no boot id", detail=str(error)) from error
    if not text:
        raise NoBootId("the kernel gives an empty boot id")
    return text
