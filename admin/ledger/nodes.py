"""Which nodes are asked after: participants of role NODE that are not suspended, as the ledger knows them."""

from typing import Final

import msgspec
import trio

from admin.ledger.store import LedgerReader
from engine.clock import Seconds
from engine.consent.records import ParticipantRecord, Role
from engine.feed.entries import EntryKind

REFRESH_EVERY: Final = Seconds(2.0)  # for participants that another process wrote; ours are heard of at once
PAGE: Final = 1_000

_participants: Final = msgspec.msgpack.Decoder(ParticipantRecord)


class KnownNodes:
    """The ids, kept for a while."""

    def __init__(self, ledger: LedgerReader) -> None:
        self._ledger = ledger
        self._ids: frozenset[str] = frozenset()
        self._stale_at = -1.0

    async def ids(self) -> frozenset[str]:
        """Client ids of the nodes. Raises the ledger's faults."""
        now = trio.current_time()
        if now >= self._stale_at:
            self._ids = await self._read()
            self._stale_at = now + REFRESH_EVERY
        return self._ids

    def forget(self) -> None:
        """Read anew at the next call: a participant has changed."""
        self._stale_at = -1.0

    async def _read(self) -> frozenset[str]:
        found: set[str] = set()
        after = (int(EntryKind.PARTICIPANT), b"")
        while True:
            page = await self._ledger.records(after, PAGE)
            records = [record for _, record in page if record.kind is EntryKind.PARTICIPANT]
            participants = [_participants.decode(record.record) for record in records]
            found.update(p.client_id for p in participants if p.role is Role.NODE and not p.suspended)
            if len(records) < PAGE:
                return frozenset(found)
            after = (int(EntryKind.PARTICIPANT), records[-1].key)
