"""Which pushed events are missing, told by their numbers. Pure.

Each event names its own position in the feed and that of this receiver's event before it. Positions have gaps, which
is normal; what matters is the chain: where an event names one before it that has not come, something is missing.

In a flood with a hole at its beginning, events by the hundred thousand wait for one. So an event costs the same however
many wait, and no more than MOST_AHEAD are noted one by one; of those beyond, what is known is that they have come, and
a listing says what lies before them.
"""

import enum
import heapq
from collections.abc import Mapping
from typing import Final

import msgspec

MOST_AHEAD: Final = 100_000  # some 20 MB; a flood brings a fifth of it before what is missing is asked for


class Place(enum.Enum):
    """Where an event stands, as the chain was when it came."""

    NONE = "none"  # it has no number
    OLD = "old"  # within what is whole, or seen already
    NEXT = "next"  # what is whole goes on with it
    AHEAD = "ahead"  # something before it is missing


class ChainState(msgspec.Struct, frozen=True):
    """How a chain stands. last_seq: up to here nothing is missing. ahead: so many events above it are noted.

    missing: the highest position that an event has named and that has not come; 0: none. highest: the highest position
    that has come above a hole; 0: there is no hole.
    """

    last_seq: int = 0
    ahead: int = 0
    missing: int = 0
    highest: int = 0

    @property
    def has_hole(self) -> bool:
        """Whether something is known to be missing."""
        return self.highest > 0

    @property
    def newest(self) -> int:
        """The highest position that has come."""
        return self.highest or self.last_seq


class Chain:
    """What has come; changes may be taken back until `settled`. beyond: the highest that came and is not noted.

    ahead: events above `last_seq` whose way there is not whole, seq to prev, each prev below its seq.
    """

    __slots__ = (
        "_added", "_ahead", "_before", "_beyond_missing", "_highest", "_left", "_named", "_order", "beyond", "last_seq",
    )  # fmt: skip

    def __init__(self, last_seq: int = 0, ahead: Mapping[int, int] | None = None, beyond: int = 0) -> None:
        self.last_seq = last_seq
        self._ahead = dict(ahead or {})
        self.beyond = beyond
        self._beyond_missing = self._highest = 0
        self._order: list[int] = []  # a heap of what is ahead
        self._named: list[int] = []  # a heap of what was named and may be missing, negative: the highest first
        self._heap()
        self.settled()

    def settled(self) -> None:
        """What was changed stands."""
        self._added: list[tuple[int, int]] = []  # noted as ahead since, seq and prev
        self._left: list[tuple[int, int]] = []  # and no more
        self._before = self.last_seq, self.beyond, self._beyond_missing

    def undo(self) -> None:
        """As it was when it was settled last."""
        self._ahead.update(self._left)
        for seq, _ in self._added:
            del self._ahead[seq]
        self.last_seq, self.beyond, self._beyond_missing = self._before
        self._heap()
        self.settled()

    def now(self) -> ChainState:
        """A frozen record of now."""
        missing, highest = self._missing(), max(self._highest if self._ahead else 0, self.beyond)
        return ChainState(self.last_seq, len(self._ahead), missing, highest if highest > self.last_seq else 0)

    def place(self, seq: int, prev: int) -> Place:
        """Of an event; seq 0: it has no number."""
        if not seq:
            return Place.NONE
        if seq <= self.last_seq or seq in self._ahead:
            return Place.OLD
        return Place.NEXT if prev <= self.last_seq else Place.AHEAD

    def add(self, seq: int, prev: int) -> None:
        """This event has come; the chain goes on along those that were waiting."""
        place = self.place(seq, prev)
        if place is Place.NEXT:
            self._go_on(seq)
        elif place is Place.AHEAD and len(self._ahead) < MOST_AHEAD:
            self._added.append((seq, prev))
            self._note(seq, prev)
        elif place is Place.AHEAD:
            if prev not in self._ahead and prev != max(self._highest, self.beyond):
                self._beyond_missing = max(self._beyond_missing, prev)
            self.beyond = max(self.beyond, seq)

    def known_to(self, seq: int) -> None:
        """A listing has said everything up to a position."""
        if seq > self.last_seq:
            self._go_on(seq)

    @property
    def newly_ahead(self) -> list[tuple[int, int]]:
        """Events noted as ahead since it was settled, that still are: seq and prev."""
        return [(seq, prev) for seq, prev in self._added if seq in self._ahead]

    @property
    def no_longer_ahead(self) -> list[tuple[int, int]]:
        """Events that were noted as ahead when it was settled, and are no more: seq and prev."""
        added = {seq for seq, _ in self._added}
        return [(seq, prev) for seq, prev in self._left if seq not in added]

    def _go_on(self, seq: int) -> None:
        self.last_seq, order, ahead = max(self.last_seq, seq), self._order, self._ahead
        while order and (order[0] <= self.last_seq or ahead[order[0]] <= self.last_seq):
            reached = heapq.heappop(order)
            self._left.append((reached, ahead.pop(reached)))
            self.last_seq = max(self.last_seq, reached)

    def _note(self, seq: int, prev: int) -> None:
        self._ahead[seq] = prev
        heapq.heappush(self._order, seq)
        self._highest = max(self._highest, seq)
        if len(self._named) > 2 * len(self._ahead):
            self._named = self._still_named()
        heapq.heappush(self._named, -prev)

    def _missing(self) -> int:
        """The highest that was named; those that have come, or lie in what is whole by now, go for good."""
        named = self._named
        while named and (-named[0] in self._ahead or -named[0] <= self.last_seq):
            heapq.heappop(named)
        beyond = self._beyond_missing if self._beyond_missing > self.last_seq else 0
        return max(-named[0] if named else 0, beyond)

    def _heap(self) -> None:
        self._order = sorted(self._ahead)
        self._highest = self._order[-1] if self._order else 0
        self._named = self._still_named()

    def _still_named(self) -> list[int]:
        return sorted(-prev for prev in self._ahead.values() if prev not in self._ahead)
