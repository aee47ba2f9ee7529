"""A process that appends until it is killed, and says on stdout what was acknowledged.

It is started once and forks a writer for each line on stdin, so that twenty kills do not cost twenty starts. Lines
out: `pid N` for a new writer, `ack SEQ NUMBER` for an acknowledged write, `ended` once the writer is dead. A write
is two events, of the subjects NUMBER and NUMBER + PAIR, under one idempotency key.
"""

import os
import sys

import msgspec
import trio

from admin.config import Ledger
from admin.ledger.sql import SqlLedger, open_ledger
from engine.telemetry.host import SystemClock
from tests.support.ledger import change, used

PAIR = 10_000_000
WRITERS = 40


class Order(msgspec.Struct):
    """A line on stdin: append numbers from `first` on."""

    config: Ledger
    first: int


async def append_for_ever(order: Order) -> None:
    """Forty tasks append at the same time, so that a kill always finds writes under way."""
    numbers = iter(range(order.first, order.first + PAIR))

    async def writer(ledger: SqlLedger) -> None:
        for number in numbers:
            pair = [change(number, person=f"p-{number % 7}"), change(number + PAIR)]
            receipt = await ledger.append(pair, used(f"k-{number}"))
            os.write(1, b"ack %d %d\n" % (receipt.position.seq, number))

    async with open_ledger(order.config, SystemClock()) as ledger, trio.open_nursery() as nursery:
        for _ in range(WRITERS):
            nursery.start_soon(writer, ledger)


def main() -> None:
    """Fork a writer for each order; there are no threads yet when we fork."""
    for line in sys.stdin.buffer:
        pid = os.fork()
        if pid == 0:
            trio.run(append_for_ever, msgspec.json.decode(line, type=Order, dec_hook=lambda kind, value: kind(value)))
        os.write(1, b"pid %d\n" % pid)
        os.waitpid(pid, 0)
        os.write(1, b"ended\n")


if __name__ == "__main__":
    main()
