"""Whether a ledger is recovering, told from the records of its restores and of its goings live. Pure.

A restored ledger has lost what came after the backup: the *gap*. What was lost is not known to it, so until an
operator lets it go live nobody may call any answer current. The newest record wins by its position: the ledger is
recovering while a restore stands behind the last going live. Positions grow over incarnations, so they can be
compared here; two restores in a row make one recovery, which reaches back to the first of them.
"""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from engine.clock import UnixTime
from engine.consent.records import LIVE_KEY, RestoreRecord

Stored = tuple[int, bytes, bytes]  # position, key, record

_restore: Final = msgspec.msgpack.Decoder(RestoreRecord)


class Recovery(msgspec.Struct, frozen=True):
    """A recovery under way."""

    since: int  # position of the first restore that nobody went live after; what is told after it counts
    gap_from: UnixTime  # what was recorded up to here is known
    gap_to: UnixTime


class Past(msgspec.Struct, frozen=True):
    """All restores of a ledger: (position, record) by the incarnation that ended, and where it last went live."""

    restores: Mapping[str, tuple[int, RestoreRecord]]
    went_live: int  # 0 = never had to

    def recovery(self, applied: int | None = None) -> Recovery | None:
        """The recovery under way; None: the ledger is live.

        applied: what a replica has applied; None = all. Its snapshot may hold a going live that was written while it
        was read, and not the ends before that: such a one counts when the replica has come as far. Until then its
        recovery reaches back to the first restore, as nobody knows where the ledger went live before.
        """
        went_live = self.went_live if applied is None or self.went_live <= applied else 0
        pending = [(seq, restore) for seq, restore in self.restores.values() if seq > went_live]
        if not pending:
            return None
        return Recovery(
            min(seq for seq, _ in pending),
            min(restore.gap_from for _, restore in pending),
            max(restore.gap_to for _, restore in pending),
        )

    def newest(self) -> tuple[int, RestoreRecord] | None:
        """The newest restore with its position; None: there was none."""
        return max(self.restores.values(), key=lambda found: found[0], default=None)


def past_of(records: Iterable[Stored]) -> Past:
    """Read the records of kind RECOVERY. Raises msgspec.MsgspecError and UnicodeDecodeError where one is unreadable."""
    restores: dict[str, tuple[int, RestoreRecord]] = {}
    went_live = 0
    for seq, key, record in records:
        if key == LIVE_KEY:
            went_live = seq
        else:
            restores[key.decode("ascii")] = (seq, _restore.decode(record))
    return Past(restores, went_live)


NO_PAST: Final = Past({}, 0)
