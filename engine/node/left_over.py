"""Children that outlived a supervisor that was killed: they drain, and hold the ports and the replica until then.

Their pids stand in the old `node.json`. A pid may have gone to somebody else since, so a process counts as ours
only if it runs one of our modules with our runtime directory in its environment; a descriptor of the process, taken
before that is looked at, makes sure that it is this one that is waited for and no later one that is killed.
"""

import os
import select
import signal
import time
from collections.abc import Collection
from pathlib import Path
from typing import Final

import msgspec

from engine.clock import Seconds
from engine.telemetry import logs
from engine.telemetry.metric_files import VARIABLE

KILLED_WITHIN: Final = Seconds(5.0)

_log = logs.logger("node")


class _Pids(msgspec.Struct, frozen=True):
    workers: tuple[int, ...] = ()
    feeder: int = 0
    others: tuple[int, ...] = ()  # about to take a place, or draining


class _Described(msgspec.Struct, frozen=True):
    pids: _Pids


def outlast(described: Path, *, modules: Collection[str], metrics: Path, within: Seconds) -> None:
    """Wait until the children named in `described` have drained; what is left after `within` is killed. Blocks.

    modules, metrics: the mains of our children and the directory of their metrics, by which they are known.
    """
    deadline = time.monotonic() + within
    for pid in _pids_in(described):
        try:
            process = os.pidfd_open(pid)
        except OSError:
            continue
        try:
            if _is_ours(pid, modules, metrics):
                _outlast_one(pid, process, deadline)
        finally:
            os.close(process)


def _outlast_one(pid: int, process: int, deadline: float) -> None:
    if _ends(process, Seconds(0.0)):
        return
    _log.warning("left_over_awaited", pid=pid)
    if not _ends(process, Seconds(max(0.0, deadline - time.monotonic()))):
        _log.error("left_over_killed", pid=pid)
        signal.pidfd_send_signal(process, signal.SIGKILL)
        _ends(process, KILLED_WITHIN)


def _pids_in(described: Path) -> tuple[int, ...]:
    try:
        pids = msgspec.json.decode(described.read_bytes(), type=_Described).pids
    except (OSError, msgspec.MsgspecError):  # an orderly end removed it
        return ()
    return tuple(pid for pid in (*pids.workers, pids.feeder, *pids.others) if pid > 0)


def _is_ours(pid: int, modules: Collection[str], metrics: Path) -> bool:
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    runs = any(module.encode() in arguments for module in modules)
    return runs and f"{VARIABLE}={metrics}".encode() in environment


def _ends(process: int, within: Seconds) -> bool:
    waiting = select.poll()
    waiting.register(process, select.POLLIN)
    return bool(waiting.poll(within * 1000))
