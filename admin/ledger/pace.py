"""So much at a time that nobody else has to wait: a long run of writes goes on only when the outbox has followed.

Whatever is recorded behind a million events is told behind them. A run that waits until deliveries were made of what
it wrote before it writes more keeps that way short; and one that then rests for some times as long as its step took
leaves most of the process and of the database's one writer to others, on a slow machine as on a fast one.
"""

from typing import Any, Final

import sqlalchemy as sa
import trio

from admin.ledger.database import Database
from admin.ledger.schema import ledger_meta, outbox
from admin.ledger.signal import Signal
from engine.clock import Seconds
from engine.errors import Fault, Kind

PATIENCE: Final = Seconds(15.0)  # below the time that callers give an answer
LONGEST_REST: Final = Seconds(15.0)  # with PATIENCE half of a minute, after which callers take nobody to be there
LOOK_EVERY: Final = Seconds(0.05)  # where another process's sequencer leads the outbox on, no bell rings here


class OutboxBehind(Fault):
    """Deliveries are not made as fast as events are written, or not at all."""

    kind = Kind.UNAVAILABLE


class Pace:
    """news: rings when deliveries were made here. Each long run may share one, and keeps its own step."""

    def __init__(self, database: Database, news: Signal, *, patience: Seconds = PATIENCE) -> None:
        self._database = database
        self._news = news
        self._patience = patience

    async def wait_even(self) -> None:
        """Until deliveries are made of everything that is written now. Raises OutboxBehind, and the ledger's faults."""
        head = await self._read(sa.select(ledger_meta.c.head_seq))
        with trio.move_on_after(self._patience):
            while True:
                ringing = self._news.next_ring()
                if await self._read(sa.select(outbox.c.seq)) >= head:
                    return
                with trio.move_on_after(LOOK_EVERY):
                    await ringing.wait()
        raise OutboxBehind("events are not made into deliveries: see the sequencer's state, and ask again")

    async def rest(self, began: float, share: float) -> None:
        """After a step that began then (trio's clock), for this share of the time it took; at most LONGEST_REST."""
        await trio.sleep(min(LONGEST_REST, share * max(0.0, trio.current_time() - began)))

    async def _read(self, query: sa.Select[Any]) -> int:
        return await self._database.read(lambda connection: int(connection.execute(query).scalar() or 0))
