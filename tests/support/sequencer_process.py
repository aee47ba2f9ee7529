"""A process that derives an outbox until it is killed. It is started once and forks a sequencer for each line on stdin.

Lines out: `pid N` for a new sequencer, `step SEQ` after each of its small batches, `ended` once it is dead or done.
"""

import os
import sys
from time import time

import msgspec
import trio

from admin.config import Ledger
from admin.ledger.sequencer import Sequencer
from admin.ledger.signal import Signal
from admin.ledger.sql import open_ledger
from engine.telemetry.host import SystemClock
from tests.support.outboxes import ISSUER

BATCH = 3  # events in one transaction: many of them to be killed in


class Order(msgspec.Struct):
    """A line on stdin: derive the outbox of this ledger to its end."""

    config: Ledger


async def derive(order: Order) -> None:
    async with open_ledger(order.config, SystemClock()) as ledger:
        sequencer = Sequencer(ledger, ISSUER, Signal(), wall=time, jitter=lambda: 0.5, batch=BATCH)
        while await sequencer.step():
            os.write(1, b"step %d\n" % sequencer.statistics().position)


def main() -> None:
    """Fork a sequencer for each order; there are no threads yet when we fork."""
    for line in sys.stdin.buffer:
        pid = os.fork()
        if pid == 0:
            trio.run(derive, msgspec.json.decode(line, type=Order, dec_hook=lambda kind, value: kind(value)))
            os._exit(0)
        os.write(1, b"pid %d\n" % pid)
        os.waitpid(pid, 0)
        os.write(1, b"ended\n")


if __name__ == "__main__":
    main()
