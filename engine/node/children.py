"""A child process as a supervised service: start, wait until it reports, wait until it ends, leave none behind.

Children are started by `subprocess.Popen` from the main thread, never by trio's worker threads. Each leads a
process group of its own, so that Ctrl-C in a terminal reaches only the supervisor, which then drains.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any, Final

import trio

from engine.clock import Seconds
from engine.errors import Fault, Kind
from engine.node.orders import Order, Report, decode_report, write_order

START_TIMEOUT: Final = Seconds(30.0)
KILL_MARGIN: Final = Seconds(2.0)  # beyond the drain's own bound, before a child that hangs is killed


class ChildEnded(Fault):
    """The process ended, or did not start."""

    kind = Kind.UNAVAILABLE


class ChildHopeless(ChildEnded):
    """The process says that it cannot start as it was told to."""

    kind = Kind.INVALID


class Child:
    """One place in the node and whatever process holds it now.

    order: made anew for each start, after which `changed` is called, as it is at each end. ended: told the pid of
    a process that is gone. head: the highest feed position that it, or one before it, has told; -1 = none.
    """

    def __init__(
        self,
        module: str,
        order: Callable[[], Order],
        *,
        changed: Callable[[], None],
        ended: Callable[[int], None],
    ) -> None:
        self._module = module
        self._order = order
        self._changed = changed
        self._ended = ended
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = self._reload_due = False
        self.head = -1

    @property
    def pid(self) -> int:
        """Of the running process; 0 = there is none."""
        return self._process.pid if self._process else 0

    def reload(self) -> None:
        """Ask the process to read its certificates again (SIGHUP); one that is starting, once it can hear that."""
        if self._process and self._ready:
            self._process.send_signal(signal.SIGHUP)
        else:
            self._reload_due = True

    async def run(self, *, task_status: trio.TaskStatus[Any]) -> None:
        """One life of the process. Raises ChildEnded; when cancelled the process is drained first."""
        self._ready = self._reload_due = False
        order = self._order()
        process, lifeline, reports = self._spawn(order)
        self._process = process
        self._changed()
        try:
            told = await _wait_ready(reports)
            self._ready = True
            if self._reload_due:  # it may have read its files before they changed
                self.reload()
            task_status.started()
            self._changed()
            async with trio.open_nursery() as listening:
                listening.start_soon(self._listen, reports, told)
                await _wait_end(process)
                listening.cancel_scope.cancel()
            raise ChildEnded(f"the process ended {_how(process.returncode)}")
        finally:
            try:
                with trio.CancelScope(shield=True):  # bounded inside: ask, wait, kill
                    await _end(process, Seconds(order.config.drain_timeout + KILL_MARGIN))
            finally:  # whatever happened: the lifeline's end ends the process
                os.close(lifeline)
                os.close(reports)
            self._process = None
            self._ended(process.pid)
            self._changed()

    async def _listen(self, reports: int, told: bytes) -> None:
        """Take what the process tells after its start, until its end of the pipe closes."""
        piece = told
        while True:
            *lines, rest = piece.split(b"\n")
            for line in lines:
                self.head = max(self.head, decode_report(line).head)
            await trio.lowlevel.wait_readable(reports)
            piece = os.read(reports, 65536)
            if not piece:
                return
            piece = rest + piece

    def _spawn(self, order: Order) -> tuple[subprocess.Popen[bytes], int, int]:
        """Returns the process, our end of its lifeline and our end of its reports."""
        order_read, order_write = os.pipe()
        report_read, report_write = os.pipe()
        try:
            process = subprocess.Popen(  # noqa: S603 - our own module, no shell
                [sys.executable, "-m", self._module, str(order_read), str(report_write)],
                stdin=subprocess.DEVNULL,
                pass_fds=(order_read, report_write, *order.sockets),
                process_group=0,
            )
        except OSError as error:
            os.close(order_write)
            os.close(report_read)
            raise ChildEnded("the process could not be started", detail=str(error)) from error
        finally:
            os.close(order_read)
            os.close(report_write)
        with contextlib.suppress(BrokenPipeError):  # it is gone already; its end is noticed in due course
            write_order(order_write, order)
        os.set_blocking(report_read, False)
        return process, order_write, report_read


async def _wait_ready(reports: int) -> bytes:
    """Returns what was told beyond the readiness."""
    told = b""
    with trio.move_on_after(START_TIMEOUT) as waiting:
        while b"\n" not in told:
            await trio.lowlevel.wait_readable(reports)
            piece = os.read(reports, 65536)
            if not piece:
                break
            told += piece
    if waiting.cancelled_caught:
        raise ChildEnded(f"the process was not ready within {START_TIMEOUT:.0f} s")
    line, _, beyond = told.partition(b"\n")
    _raise_unless_ready(decode_report(line))
    return beyond


def _raise_unless_ready(report: Report) -> None:
    if report.hopeless:
        raise ChildHopeless(report.fault)
    if not report.ready:
        raise ChildEnded(report.fault)


async def _wait_end(process: subprocess.Popen[bytes]) -> None:
    """The process stays a zombie until it is asked for, so the descriptor is of this process and no other."""
    if process.poll() is not None:
        return
    descriptor = os.pidfd_open(process.pid)
    try:
        while process.poll() is None:
            await trio.lowlevel.wait_readable(descriptor)
    finally:
        os.close(descriptor)


async def _end(process: subprocess.Popen[bytes], within: Seconds) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    with trio.move_on_after(within):
        await _wait_end(process)
    if process.poll() is None:
        process.kill()
        await _wait_end(process)


def _how(code: int) -> str:
    if code < 0:
        return f"by signal {signal.Signals(-code).name}"
    return f"with exit code {code}"
