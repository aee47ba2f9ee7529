"""What the supervisor tells a child, and what the child tells back.

The order travels as the first line of the *lifeline*, a pipe whose writing end only the supervisor holds and
keeps open; each later line is the same order with new settings. When the supervisor dies, however it dies, the
kernel closes it and the child sees the end. (Asking the kernel for a signal at the parent's death would not do: it is
tied to a thread, and is lost by exec of others.)
The child's reports travel as lines on a second pipe: first how its start went, later what the status shows of it.
"""

import fcntl
import os
import sys
import termios
from pathlib import Path
from typing import Any, Final

import msgspec

from engine.config import NodeConfig
from engine.errors import Fault, Kind
from engine.node.balance import Slot

_LINE: Final = 1 << 20
_UNREAD: Final = 1 << 14  # bytes: several orders, and a quarter of the pipe


class NoOrder(Fault):
    """The lifeline ended before an order came: the supervisor is gone."""

    kind = Kind.UNAVAILABLE


class Order(msgspec.Struct, frozen=True):
    """sockets: descriptors of listening sockets that the child has inherited. name: `worker-1`, `feeder`.

    proxy_sockets: of the proxy's listener.
    slot: where a worker tells its connections; None = it goes without, or accepts none.
    """

    name: str
    config: NodeConfig
    sockets: tuple[int, ...] = ()
    proxy_sockets: tuple[int, ...] = ()
    slot: Slot | None = None


class Report(msgspec.Struct, frozen=True):
    """ready: serving. Otherwise it cannot start; fault: one sentence; hopeless: trying again will not help.

    head: the highest feed position heard of; -1 = this is not about that.
    """

    ready: bool
    fault: str = ""
    hopeless: bool = False
    head: int = -1


def write_order(lifeline: int, order: Order) -> None:
    """Supervisor's side. The pipe takes it at once: an order is far below its 64 KiB."""
    os.write(lifeline, msgspec.json.encode(order, enc_hook=_write_path) + b"\n")


def tell_order(lifeline: int, order: Order) -> bool:
    """Supervisor's side, on a lifeline that was set not to block. False = the child has not read for long."""
    try:
        unread = int.from_bytes(fcntl.ioctl(lifeline, termios.FIONREAD, bytes(4)), sys.byteorder)
        if unread > _UNREAD:
            return False
        write_order(lifeline, order)
    except BrokenPipeError:  # it is gone; its end is noticed in due course
        return True
    return True


class Lifeline:
    """Child's side."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._read = b""

    @property
    def has_order(self) -> bool:
        """Whether the next one has been read already."""
        return b"\n" in self._read

    def read_order(self) -> Order:
        """The next; blocks. Raises NoOrder."""
        while not self.has_order:
            self.fill()
        line, _, self._read = self._read.partition(b"\n")
        return msgspec.json.decode(line, type=Order, dec_hook=_read_path)

    def fill(self) -> None:
        """Read what is there; blocks until there is something. Raises NoOrder."""
        piece = os.read(self.descriptor, _LINE)
        if not piece:
            raise NoOrder("the supervisor is gone")
        self._read += piece


def write_report(reports: int, report: Report) -> None:
    """Child's side; one that was set not to block raises BlockingIOError when nobody has listened for long."""
    os.write(reports, msgspec.json.encode(report) + b"\n")


def decode_report(line: bytes) -> Report:
    """Supervisor's side. A child that was killed in the middle of its line has reported nothing."""
    try:
        return msgspec.json.decode(line, type=Report)
    except msgspec.MsgspecError:
        return Report(ready=False, fault="it ended before it was ready")


def _write_path(value: Any) -> Any:  # noqa: ANN401 - msgspec's own signature
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError(f"no encoder for {type(value)}")


def _read_path(kind: type, value: Any) -> Any:  # noqa: ANN401 - msgspec's own signature
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise NotImplementedError(f"no decoder for {kind}")
