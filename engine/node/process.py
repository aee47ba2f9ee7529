"""What every child process of a node does around its own work: take its order, watch its lifeline, report, drain.

SIGTERM and the end of the lifeline both mean: drain and go. An order that comes later on the lifeline brings settings
that are taken in place, and means as SIGHUP does: read certificates again.
"""

import contextlib
import gc
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final

import trio

from engine.clock import Seconds
from engine.errors import Fault, Kind
from engine.node.balance import Balance
from engine.node.orders import Lifeline, NoOrder, Order, Report, write_report
from engine.telemetry import logs
from engine.telemetry.late import load_telemetry
from engine.telemetry.reloads import reload_each

MEASURE_EVERY: Final = Seconds(1.0)
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_TICKS: Final = os.sysconf("SC_CLK_TCK")

_log = logs.logger("node")


class Process:
    """This child process, as its work sees it. order: the settings in it change when new ones come."""

    def __init__(self, order: Order, reports: int) -> None:
        self.order = order
        self.draining = trio.Event()
        self.balance = Balance(order.slot) if order.slot else None
        self.telemetry_loaded = trio.Event()  # `engine.telemetry.metrics` may be imported; some time after `ready`
        self._serving = trio.Event()
        self._reports = reports
        self._on_reload: dict[str, Callable[[], None]] = {}

    def ready(self) -> None:
        """Tell the supervisor, and take what was made so far out of the garbage collector's rounds."""
        self._serving.set()
        if self.balance is not None:
            self.balance.join()
        with contextlib.suppress(BrokenPipeError):
            write_report(self._reports, Report(ready=True))
        os.set_blocking(self._reports, False)
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 50, 100)  # requests make no cycles; rounds would only add to the slowest of them

    def tell_head(self, position: int) -> None:
        """Tell the supervisor the highest feed position heard of; after `ready`."""
        with contextlib.suppress(BrokenPipeError, BlockingIOError):  # it is gone, or stopped: it will be told the next
            write_report(self._reports, Report(ready=True, head=position))

    async def load_telemetry(self) -> None:
        """Load metrics and logs once this process serves."""
        await self._serving.wait()
        await load_telemetry()
        self.telemetry_loaded.set()

    def drain(self) -> None:
        """Begin to drain."""
        if self.balance is not None:
            self.balance.leave()
        self.draining.set()

    def take(self, order: Order) -> None:
        """New settings."""
        logs.configure(order.config.log_level, late=True, role=order.name, node_id=order.config.node_id)
        self.order = order
        self.reload()

    def on_reload(self, part: str, reload: Callable[[], None]) -> None:
        """Call this when `order` has changed, and at SIGHUP. A Fault it raises is logged; things stay as they were.

        part: what reads anew, in the words of the settings; for the log.
        """
        self._on_reload[part] = reload

    def reload(self) -> None:
        """Take in place what can be."""
        reload_each(self._on_reload, _log)


Work = Callable[[Process], Awaitable[None]]


def run_child(work: Work, argv: list[str]) -> int:
    """Main of a child process. argv: program, descriptor of the lifeline, of the reports. Returns the exit code.

    work: serves until `draining` is set and then ends by itself, within the drain timeout.
    """
    lifeline, reports = Lifeline(int(argv[1])), int(argv[2])
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # until the drain is ready for it: just end
    try:
        order = lifeline.read_order()
        logs.configure(order.config.log_level, late=True, role=order.name, node_id=order.config.node_id)
        trio.run(_run, work, Process(order, reports), lifeline)
    except (NoOrder, KeyboardInterrupt):
        return 0
    except Fault as fault:
        return _failed(reports, fault)
    except Exception as error:
        _log.exception("child_failed")
        return _failed(reports, Fault(f"it failed with {type(error).__name__}"))
    return 0


def _failed(reports: int, fault: Fault) -> int:
    _log.critical("cannot_run", text=fault.text, detail=fault.detail)
    with contextlib.suppress(BrokenPipeError):
        write_report(reports, Report(ready=False, fault=fault.text, hopeless=fault.kind is Kind.INVALID))
    return 1


async def _run(work: Work, process: Process, lifeline: Lifeline) -> None:
    fault: Fault | None = None
    try:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGHUP) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_obey, process, signals)
                nursery.start_soon(_watch_lifeline, process, lifeline)
                nursery.start_soon(process.load_telemetry)
                nursery.start_soon(_measure, process)
                await work(process)
                nursery.cancel_scope.cancel()
    except* Fault as group:
        fault = _first(group)
    if fault is not None:
        raise fault


def _first(group: BaseExceptionGroup[Fault]) -> Fault:
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner


async def _obey(process: Process, signals: AsyncIterator[int]) -> None:
    async for number in signals:
        if number == signal.SIGHUP:
            process.reload()
        else:
            process.drain()


async def _watch_lifeline(process: Process, lifeline: Lifeline) -> None:
    while True:
        while lifeline.has_order:
            process.take(lifeline.read_order())
        await trio.lowlevel.wait_readable(lifeline.descriptor)
        try:
            lifeline.fill()
        except NoOrder:
            _log.warning("supervisor_gone")
            process.drain()
            return


async def _measure(process: Process) -> None:
    await process.telemetry_loaded.wait()
    from engine.telemetry import metrics  # noqa: PLC0415 - not before it serves

    role = process.order.name.partition("-")[0]
    resident, seconds = metrics.RESIDENT.labels(role), metrics.CPU_SECONDS.labels(role)
    before = 0.0
    while True:
        resident.set(resident_bytes())
        used = resource.getrusage(resource.RUSAGE_SELF)
        now = used.ru_utime + used.ru_stime
        seconds.inc(now - before)
        before = now
        await trio.sleep(MEASURE_EVERY)


def resident_bytes(pid: int | str = "self") -> int:
    """Resident memory of a process; 0 when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):
        return 0


def cpu_seconds(pid: int) -> float:
    """User and system time that a process has used; 0 when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS
    except (OSError, IndexError, ValueError):
        return 0.0


def end_with(work: Work) -> None:
    """`if __name__ == "__main__"` of a child's module."""
    sys.exit(run_child(work, sys.argv))
