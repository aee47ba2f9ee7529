"""The processes of `ccs up`: started in order, watched, restarted, stopped in reverse.

Each child leads a process group of its own, so that Ctrl-C in the terminal reaches only `ccs up`, which then
stops the others in order. Each carries the state folder's name in its environment: a start after a kill -9 of
`ccs up` finds whatever was left over and ends it.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from engine.backoff import HEALTHY_AFTER, Backoff
from engine.clock import Seconds
from engine.errors import Fault, Kind

STOP_WITHIN = Seconds(15.0)  # a draining node may take its drain timeout (10 s) and a little
POLL = Seconds(0.02)
RESTART = Backoff(first=Seconds(0.5), limit=Seconds(10.0))
STATE_MARK = "CCS_SANDBOX_STATE"  # environment variable: the folder that a process was started for


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


class Revival:
    """Starts a part again when it has ended, with back-off; a start that fails is tried again, never given up."""

    def __init__(self, name: str, alive: Callable[[], bool], start: Callable[[], object]) -> None:
        self._name, self._alive, self._start = name, alive, start
        self._failures = 0
        self._failed_at = 0.0
        self._due: float | None = None

    def look(self, now: float, jitter: float) -> str:
        """Act if it is time to; returns what to tell the person, or nothing. now: any monotonic seconds."""
        if self._due is None:
            if self._alive():
                return ""
            self._note_failure(now, jitter)
            return f"{self._name} ended; starting it again"
        if now < self._due:
            return ""
        try:
            self._start()
        except Fault as fault:
            self._note_failure(now, jitter)
            return f"{self._name} did not start, trying again: {fault.text}"
        self._due = None
        return ""

    def _note_failure(self, now: float, jitter: float) -> None:
        self._failures = 1 if now - self._failed_at > HEALTHY_AFTER else self._failures + 1
        self._failed_at = now
        self._due = now + RESTART.delay(self._failures, jitter)


def end_left_over(state: Path) -> int:
    """End every process that was started for this state folder and is not ours any more. Returns how many there were.

    They are known by a mark in their environment, which each has from its first instant: a list written afterwards
    would miss what was started just before a kill.
    """
    left = _marked(state)
    for pid in left:
        _signal(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_WITHIN
    while (remaining := _marked(state)) and time.monotonic() < deadline:
        time.sleep(POLL)
    for pid in remaining:
        _signal(pid, signal.SIGKILL)
    return len(left)


def _marked(state: Path) -> list[int]:
    """Living processes that carry the folder's mark; ourselves apart, who set it after we had begun."""
    mark = f"{STATE_MARK}={state}".encode()
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if pid != os.getpid() and mark in _environment(pid) and not _is_zombie(pid)]


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # gone, or somebody else's
        return []


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
