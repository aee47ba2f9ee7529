"""One process of the supervisor's: started with its order, listened to, told of new settings, ended.

Processes are started by `subprocess.Popen` from the main thread, never by trio's worker threads. Each leads a
process group of its own, so that Ctrl-C in a terminal reaches only the supervisor, which then drains.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Final

import msgspec
import trio

from engine.clock import Seconds
from engine.config import NodeConfig
from engine.errors import Fault, Kind
from engine.node.orders import Order, Report, decode_report, tell_order, write_order

START_TIMEOUT: Final = Seconds(30.0)
KILL_MARGIN: Final = Seconds(2.0)  # beyond the drain's own bound, before a child that hangs is killed


class ChildEnded(Fault):
    """The process ended, or did not start."""

    kind = Kind.UNAVAILABLE


class ChildHopeless(ChildEnded):
    """The process says that it cannot start as it was told to."""

    kind = Kind.INVALID


class ChildProcess:
    """A process from its start on. `end` must be awaited, whatever happens. Raises ChildEnded when it cannot start."""

    def __init__(self, module: str, order: Order) -> None:
        self.order = order
        self._told = b""
        self._ended = False
        self._process, self._lifeline, self._reports = _spawn(module, order)

    @property
    def pid(self) -> int:
        """Also of one that has ended."""
        return self._process.pid

    async def wait_ready(self) -> None:
        """Wait until it serves. Raises ChildEnded, ChildHopeless."""
        with trio.move_on_after(START_TIMEOUT) as waiting:
            while b"\n" not in self._told:
                await trio.lowlevel.wait_readable(self._reports)
                piece = os.read(self._reports, 65536)
                if not piece:
                    break
                self._told += piece
        if waiting.cancelled_caught:
            raise ChildEnded(f"the process was not ready within {START_TIMEOUT:.0f} s")
        line, _, self._told = self._told.partition(b"\n")
        _raise_unless_ready(decode_report(line))

    async def watch(self, hear: Callable[[Report], None]) -> str:
        """Pass on what it reports until it ends; returns how it ended."""
        async with trio.open_nursery() as listening:
            listening.start_soon(self._listen, hear)
            await self._wait_end()
            listening.cancel_scope.cancel()
        return _how(self._process.returncode)

    def tell(self, config: NodeConfig) -> bool:
        """Tell it of new settings; False = it does not listen."""
        self.order = msgspec.structs.replace(self.order, config=config)
        return self._ended or tell_order(self._lifeline, self.order)

    async def end(self) -> None:
        """Ask it to drain, wait, kill it if need be; bounded, and not to be cancelled."""
        if self._ended:
            return
        self._ended = True
        try:
            with trio.CancelScope(shield=True):
                await self._drain(Seconds(self.order.config.drain_timeout + KILL_MARGIN))
        finally:  # whatever happened: the lifeline's end ends the process
            os.close(self._lifeline)
            os.close(self._reports)

    async def _drain(self, within: Seconds) -> None:
        if self._process.poll() is not None:
            return
        self._process.terminate()
        with trio.move_on_after(within):
            await self._wait_end()
        if self._process.poll() is None:
            self._process.kill()
            await self._wait_end()

    async def _listen(self, hear: Callable[[Report], None]) -> None:
        """Until its end of the pipe closes."""
        while True:
            *lines, self._told = self._told.split(b"\n")
            for line in lines:
                hear(decode_report(line))
            await trio.lowlevel.wait_readable(self._reports)
            piece = os.read(self._reports, 65536)
            if not piece:
                return
            self._told += piece

    async def _wait_end(self) -> None:
        """The process stays a zombie until it is asked for, so the descriptor is of this process and no other."""
        if self._process.poll() is not None:
            return
        descriptor = os.pidfd_open(self._process.pid)
        try:
            while self._process.poll() is None:
                await trio.lowlevel.wait_readable(descriptor)
        finally:
            os.close(descriptor)


def _spawn(module: str, order: Order) -> tuple[subprocess.Popen[bytes], int, int]:
    """Returns the process, our end of its lifeline and our end of its reports."""
    order_read, order_write = os.pipe()
    report_read, report_write = os.pipe()
    slot = (order.slot.descriptor,) if order.slot else ()
    try:
        process = subprocess.Popen(  # noqa: S603 - our own module, no shell
            [sys.executable, "-m", module, str(order_read), str(report_write)],
            stdin=subprocess.DEVNULL,
            pass_fds=(order_read, report_write, *order.sockets, *order.proxy_sockets, *slot),
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
    os.set_blocking(order_write, False)
    os.set_blocking(report_read, False)
    return process, order_write, report_read


def _raise_unless_ready(report: Report) -> None:
    if report.hopeless:
        raise ChildHopeless(report.fault)
    if not report.ready:
        raise ChildEnded(report.fault)


def _how(code: int) -> str:
    if code < 0:
        return f"by signal {signal.Signals(-code).name}"
    return f"with exit code {code}"
