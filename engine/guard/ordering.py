"""Which pushed events are missing, told by their numbers. Pure.

Each event names its own position in the feed and that of this receiver's event before it. Positions have gaps, which
is normal; what matters is the chain: where an event names one before it that has not come, something is missing.
"""

import enum
from typing import Final

import msgspec

_EMPTY: Final[dict[int, int]] = {}


class Place(enum.Enum):
    """Where an event stands, as the chain was when it came."""

    NONE = "none"  # it has no number
    OLD = "old"  # within what is whole, or seen already
    NEXT = "next"  # what is whole goes on with it
    AHEAD = "ahead"  # something before it is missing


class Chain(msgspec.Struct, frozen=True):
    """last_seq: up to here nothing is missing. ahead: events above it whose way there is not whole, seq to prev."""

    last_seq: int = 0
    ahead: dict[int, int] = msgspec.field(default_factory=_EMPTY.copy)

    @property
    def has_hole(self) -> bool:
        """Whether something is known to be missing."""
        return bool(self.ahead)

    @property
    def missing(self) -> int:
        """The highest position that an event has named and that has not come; 0: none."""
        return max((prev for prev in self.ahead.values() if prev not in self.ahead), default=0)

    @property
    def newest(self) -> int:
        """The highest position that has come."""
        return max(self.ahead, default=self.last_seq)

    def place(self, seq: int, prev: int) -> Place:
        """Of an event; seq 0: it has no number."""
        if not seq:
            return Place.NONE
        if seq <= self.last_seq or seq in self.ahead:
            return Place.OLD
        return Place.NEXT if prev <= self.last_seq else Place.AHEAD

    def after(self, seq: int, prev: int) -> "Chain":
        """With this event as well; the chain goes on along those that were waiting."""
        place = self.place(seq, prev)
        if place in {Place.NONE, Place.OLD}:
            return self
        if place is Place.AHEAD:
            return Chain(self.last_seq, {**self.ahead, seq: prev})
        return _along(seq, self.ahead)

    def known_to(self, seq: int) -> "Chain":
        """After a listing that said everything up to a position."""
        return self if seq <= self.last_seq else _along(seq, self.ahead)


def _along(last_seq: int, ahead: dict[int, int]) -> Chain:
    if not ahead:
        return Chain(last_seq)
    left = dict(ahead)
    for seq in sorted(ahead):
        if seq > last_seq and ahead[seq] > last_seq:
            break
        last_seq = max(last_seq, seq)
        del left[seq]
    return Chain(last_seq, left)
