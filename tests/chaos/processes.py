"""Processes of the system under test: started, killed, frozen, and started again as an init system would."""

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import trio

ROOT = Path(__file__).parents[2]
LOOK_EVERY = 0.05
RESTART_AFTER = 0.5  # seconds, where nobody has said otherwise
STOP_WITHIN = 15.0


class Process:
    """One process that is kept running. log: where its output goes; before: what to do to its files first."""

    def __init__(self, name: str, argv: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self.name, self.log = name, log
        self._argv, self._environment = argv, environment
        self._process: subprocess.Popen[bytes] | None = None
        self._due = 0.0
        self._killed = False
        self.ended_by_itself: list[str] = []
        self.before: Callable[[], None] | None = None

    @property
    def pid(self) -> int:
        """0 = it never ran."""
        return self._process.pid if self._process else 0

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, whatever it is doing to be ready."""
        if self.before is not None:
            self.before()
            self.before = None
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT, process_group=0,
                env=self._environment,
            )  # fmt: skip
        self._killed = False

    def kill(self, away: float, before: Callable[[], None] | None = None) -> None:
        """SIGKILL; it is started again after so many seconds. before: done to its files while it is away."""
        self._killed, self._due, self.before = True, trio.current_time() + away, before
        self.send(signal.SIGKILL)

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if there is anybody to take it."""
        if self.alive:
            os.kill(self.pid, number)

    async def keep(self) -> None:
        """Start it again whenever it has ended, until cancelled."""
        while True:
            await trio.sleep(LOOK_EVERY)
            if self.alive or self._process is None:
                continue
            if not self._killed:
                self.ended_by_itself.append(f"{self.name} ended by itself with {self._process.returncode}")
                self._killed, self._due = True, trio.current_time() + RESTART_AFTER
            if trio.current_time() >= self._due:
                self.start()

    def stop(self) -> None:
        """Thaw it, ask it to end, and kill it if it does not."""
        if self._process is None:
            return
        self.send(signal.SIGCONT)
        self.send(signal.SIGTERM)
        try:
            self._process.wait(STOP_WITHIN)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def signal_to(pid: int, number: signal.Signals) -> bool:
    """Whether there was a process to take it."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True
