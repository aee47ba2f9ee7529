"""Processor time of whole families of processes, as the operating system accounts it, and which core they run on."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path


def cpu_seconds(root: int) -> float:
    """CPU seconds that a process and all its living descendants have used, all threads, in nanosecond grain."""
    return sum(_used(pid) for pid in family(root))


def family(root: int) -> list[int]:
    """A process and its living descendants."""
    parents = {int(entry.name): _parent(entry) for entry in Path("/proc").iterdir() if entry.name.isdigit()}
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def _parent(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:  # it has ended meanwhile
        return 0


def _used(pid: int) -> float:
    """The process clock of another process (clock_getcpuclockid(3): the kernel's number for it)."""
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:  # it has ended meanwhile
        return 0.0


def core(number: int) -> set[int]:
    """One of the cores that this process may use; counted round where there are fewer."""
    cores = sorted(os.sched_getaffinity(0))
    return {cores[number % len(cores)]}


@contextlib.contextmanager
def starting_on(cores: set[int]) -> Iterator[None]:
    """What is started inside stays on these cores, with its children."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
