"""The processes of `ccs up`: started in order, watched, restarted, stopped in reverse.

Each child leads a process group of its own, so that Ctrl-C in the terminal reaches only `ccs up`, which then
stops the others in order. Process ids are kept in a file: a start after a kill -9 of `ccs up` finds what was left
over and ends it, but only where the process really runs on this state folder.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from engine.clock import Seconds
from engine.errors import Fault, Kind

STOP_WITHIN = Seconds(15.0)  # a draining node may take its drain timeout (10 s) and a little
POLL = Seconds(0.02)


class ChildFailed(Fault):
    """A process did not start, or ended when it should not."""

    kind = Kind.UNAVAILABLE


class Child:
    """One process and how to start it again. log: where its output goes."""

    def __init__(self, name: str, argv: Sequence[str], log: Path) -> None:
        self.name, self._argv, self._log = name, tuple(argv), log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    def start(self) -> None:
        """Start it; its output is appended to the log."""
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0
            )

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def wait_ready(self, ready: Callable[[], bool], within: Seconds) -> None:
        """Return once `ready()` holds. Raises ChildFailed with the end of its log."""
        deadline = time.monotonic() + within
        while not ready():
            if not self.alive():
                raise ChildFailed(f"{self.name} did not start: {self.last_words()}")
            if time.monotonic() > deadline:
                raise ChildFailed(f"{self.name} was not ready within {within:.0f} s; see {self._log}")
            time.sleep(POLL)

    def stop(self) -> None:
        """Ask, wait a bounded time, kill."""
        if self._process is None:
            return
        if self.alive():
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_WITHIN)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def last_words(self) -> str:
        """The last line of its log, for a message of one sentence."""
        try:
            lines = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        except OSError:
            lines = []
        return lines[-1][:500] if lines else "it said nothing"


def remember(path: Path, pids: dict[str, int]) -> None:
    """Write the process ids, atomically."""
    fresh = path.with_suffix(".new")
    fresh.write_bytes(msgspec.json.encode(pids))
    fresh.replace(path)


def end_left_over(path: Path, state: Path) -> list[str]:
    """End processes that an earlier start left behind on this state folder. Returns their names."""
    try:
        pids = msgspec.json.decode(path.read_bytes(), type=dict[str, int])
    except (OSError, msgspec.MsgspecError):
        return []
    left = {name: pid for name, pid in pids.items() if _runs_on(pid, state)}
    for pid in left.values():
        _signal(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_WITHIN
    while any(_runs_on(pid, state) for pid in left.values()) and time.monotonic() < deadline:
        time.sleep(POLL)
    for pid in left.values():
        if _runs_on(pid, state):
            _signal(pid, signal.SIGKILL)
    path.unlink(missing_ok=True)
    return sorted(left)


def _runs_on(pid: int, state: Path) -> bool:
    try:
        return str(state).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
