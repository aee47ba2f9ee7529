"""A ledger made to believe that it was restored, for tests of what follows; the restore itself has tests of its own.

Nothing is lost by it: what the tests tell is what the ledger would have lost.
"""

from admin.ledger.events import LedgerRestored, append_of
from admin.ledger.store import Ledger
from engine.clock import UnixTime

ENDED_UNDER = "00000000000000a1"  # the incarnation that is said to have ended


async def say_restored(ledger: Ledger, *, gap_from: int, gap_to: int, lost: int = 10, ended: str = ENDED_UNDER) -> int:
    """Append `ledger.restored`; returns its position. lost: events that are said to have been reported and lost."""
    state = await ledger.subject("ledger")
    assert state is not None
    head = (await ledger.head()).position.seq
    event = LedgerRestored(ended, head, head + lost, UnixTime(gap_from), UnixTime(gap_to), "series/1")
    receipt = await ledger.append([append_of(event, state.version)])
    return receipt.position.seq
