"""A ledger made to believe that it was restored, for tests of what follows; the restore itself has tests of its own.

Nothing is lost by it: what the tests tell is what the ledger would have lost.
"""

import sqlalchemy as sa

from admin.ledger.events import LedgerRestored, append_of
from admin.ledger.schema import ledger_meta
from admin.ledger.sql import SqlLedger
from admin.ledger.store import Ledger
from engine.clock import UnixTime

ENDED_UNDER = "00000000000000a1"  # the incarnation that is said to have ended


async def say_restored(ledger: Ledger, *, gap_from: int, gap_to: int, lost: int = 10, ended: str = ENDED_UNDER) -> int:
    """Append `ledger.restored`; returns its position. lost: events that are said to have been reported and lost."""
    return await _append(ledger, (await ledger.head()).position.seq, gap_from, gap_to, lost, ended)


async def restore_beyond(ledger: SqlLedger, *, gap_from: int, gap_to: int, lost: int = 10) -> int:
    """As `say_restored`, but it goes on above the positions that are said to be lost, as a restored ledger does."""
    kept = (await ledger.head()).position.seq
    raised = sa.update(ledger_meta).values(head_seq=kept + lost)
    await ledger.database.run(lambda connection: connection.execute(raised))
    return await _append(ledger, kept, gap_from, gap_to, lost, ENDED_UNDER)


async def _append(ledger: Ledger, kept: int, gap_from: int, gap_to: int, lost: int, ended: str) -> int:
    state = await ledger.subject("ledger")
    assert state is not None
    event = LedgerRestored(ended, kept, kept + lost, UnixTime(gap_from), UnixTime(gap_to), "series/1")
    return (await ledger.append([append_of(event, state.version)])).position.seq
