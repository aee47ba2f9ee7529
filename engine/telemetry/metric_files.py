"""Where the processes of a node leave their metrics: one memory-mapped file a process and type, read by the supervisor.

Nothing here imports prometheus_client at the top: it decides at its import, by the environment, whether values
live in files.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
_ADDED_UP: Final = ("counter", "histogram")  # kinds whose values of several processes are added
_THE_DEAD: Final = 0  # stands for a pid; no child has this one


def prepare(directory: Path) -> None:
    """Empty the directory and tell this process and its children about it; before any of them imports metrics."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for file in directory.glob("*.db"):
        file.unlink()
    os.environ[VARIABLE] = str(directory)


def forget_process(directory: Path, pid: int) -> None:
    """A process has died: its live gauges no longer count, its counters do, in one file for all the dead.

    Else every crash would leave files behind that each scrape reads again. Raises OSError.
    """
    from prometheus_client import multiprocess  # noqa: PLC0415 - see the module's own words

    multiprocess.mark_process_dead(pid, path=str(directory))  # type: ignore[no-untyped-call]  # untyped there
    for kind in _ADDED_UP:
        own = directory / f"{kind}_{pid}.db"
        if own.exists():
            _add(own, directory / f"{kind}_{_THE_DEAD}.db")
            own.unlink()


def _add(own: Path, total: Path) -> None:
    from prometheus_client.mmap_dict import MmapedDict  # noqa: PLC0415 - as above

    totals = MmapedDict(str(total))  # type: ignore[no-untyped-call]  # as above
    try:
        for key, value, at, _ in MmapedDict.read_all_values_from_file(str(own)):  # type: ignore[no-untyped-call]  # as above
            before, _ = totals.read_value(key)  # type: ignore[no-untyped-call]  # as above
            totals.write_value(key, before + value, at)  # type: ignore[no-untyped-call]  # as above
    finally:
        totals.close()  # type: ignore[no-untyped-call]  # as above


def exposition(directory: Path, more: Iterable["Metric"] = ()) -> bytes:
    """All processes' metrics together, Prometheus text format 0.0.4. Reads files: about a millisecond.

    more: families that no process keeps in files.
    """
    from prometheus_client import CollectorRegistry, generate_latest, multiprocess  # noqa: PLC0415 - as above

    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry, path=str(directory))  # type: ignore[no-untyped-call]  # as above
    registry.register(_Given(more))
    return generate_latest(registry)


class _Given:
    """Families as a collector."""

    def __init__(self, families: Iterable["Metric"]) -> None:
        self._families = families

    def collect(self) -> Iterable["Metric"]:
        return self._families
