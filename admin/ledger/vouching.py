"""Signs checkpoints by time: when the service starts, while it runs, and when it stops in order.

The ledger itself signs every so many events; a small installation would never get there, and what no checkpoint
vouches for can be cut off or made anew by whoever has the database.
"""

from typing import Final

import trio

from admin.ledger.sql import SqlLedger
from engine.clock import Seconds
from engine.errors import Fault
from engine.telemetry.logs import logger

EVERY: Final = Seconds(
    60.0
)  # at most half a million small rows a year, and no more than a minute that is not vouched for

_log = logger("admin.vouching")


class Vouching:
    """The actor. A head that has not moved gets no second checkpoint."""

    def __init__(self, ledger: SqlLedger, every: Seconds = EVERY) -> None:
        self._ledger = ledger
        self._every = every

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Vouch for the head, then again and again until cancelled. Ready after the first; raises its fault."""
        await self._ledger.checkpoint()
        task_status.started()
        while True:
            await trio.sleep(self._every)
            await self.try_once()

    async def try_once(self) -> None:
        """Vouch for the head; a ledger that is away only costs this one."""
        try:
            await self._ledger.checkpoint()
        except Fault as fault:
            _log.warning("not_vouched_for", text=fault.text, detail=fault.detail)
