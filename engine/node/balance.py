"""Spreads connections evenly over workers that share one accept queue.

The kernel wakes all of them for a newcomer, and whoever is quickest takes it; with few long-lived connections one
worker could end up with all of them. Each tells its number of connections on a page that all of them share, and holds
back for a moment while another has fewer. It is a matter of manners, never of permission: after that moment it takes
the newcomer. A worker that is frozen costs each of the others less than two tenths of a second in all, a dead one
nothing.

A worker whose *sign of life* has not moved for `LONGEST` since somebody first held back for it does not react, and is
left out of account until it moves. So nobody has to keep a clock, and an idle worker does not have to wake up to say
that it is there.
"""

import mmap
import os
import time
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from engine.clock import Seconds

SPARE_SLOTS: Final = 64  # for workers that stand beside those they replace, or come later
LONGEST: Final = Seconds(0.1)
_STEP: Final = Seconds(0.004)
_SLACK: Final = 64  # one connection in so many makes no difference
_WORD: Final = 4  # written and read by the machine as a whole
_FIELDS: Final = 2  # connections + 1 (0 = nobody is here); sign of life
_WRAP: Final = 1 << 32


class Slot(msgspec.Struct, frozen=True):
    """A worker's place on the page. descriptor: of the page, inherited."""

    descriptor: int
    number: int


def hold_back(mine: int, others: Iterable[int]) -> Seconds:
    """How long a worker with so many connections waits for those with fewer: growing, at most `LONGEST`; 0.0 = not."""
    least = min(others, default=mine)
    excess = mine - least - least // _SLACK
    return Seconds(min(LONGEST, _STEP * excess * excess)) if excess > 0 else Seconds(0.0)


class Page:
    """The supervisor's end: makes the page and says who has which slot. Closed by whoever made it."""

    def __init__(self, workers: int) -> None:
        self.slots = workers + SPARE_SLOTS
        self._descriptor = os.memfd_create("connections")
        os.ftruncate(self._descriptor, self.slots * _FIELDS * _WORD)
        self._map = mmap.mmap(self._descriptor, 0)
        self._words = memoryview(self._map).cast("I")
        self._free = list(range(self.slots - 1, -1, -1))

    def take(self) -> Slot | None:
        """A free slot; None = there is none, and the worker goes without."""
        return Slot(self._descriptor, self._free.pop()) if self._free else None

    def give_back(self, slot: Slot) -> None:
        """Its worker is gone."""
        self._words[slot.number * _FIELDS] = 0
        self._free.append(slot.number)

    def connections(self) -> list[int]:
        """Of each worker that has told."""
        return [told - 1 for told in self._words[::_FIELDS] if told]

    def close(self) -> None:
        """Give the memory back."""
        self._words.release()
        self._map.close()
        os.close(self._descriptor)


class Balance:
    """A worker's end, as the accept loop uses it. monotonic: any seconds that do not go back."""

    def __init__(self, slot: Slot, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._map = mmap.mmap(slot.descriptor, 0)
        self._words = memoryview(self._map).cast("I")
        self._mine = slot.number * _FIELDS
        self._monotonic = monotonic
        self._awaited: dict[int, tuple[int, float]] = {}  # by place: the sign we saw, and until when it may move
        self._left = False

    def wait(self, connections: int) -> float:
        """Seconds to hold back before one more is accepted; 0.0 = none."""
        self.now_has(connections)
        now = self._monotonic()
        others = {place: told - 1 for place, told in self._others() if not self._is_silent(place, now)}
        seconds = hold_back(connections, others.values())
        if seconds > 0.0:
            self._note_awaited(now + LONGEST, [place for place, count in others.items() if count < connections])
        return seconds

    def now_has(self, connections: int) -> None:
        """Tell the others."""
        if not self._left:
            self._words[self._mine] = connections + 1
            self._words[self._mine + 1] = (self._words[self._mine + 1] + 1) % _WRAP

    def join(self) -> None:
        """Accepting from now on: one that has told nothing yet has none."""
        if not self._words[self._mine]:
            self.now_has(0)

    def leave(self) -> None:
        """Accept no more: nobody is to wait for this worker."""
        self._left = True
        self._words[self._mine] = 0

    def close(self) -> None:
        """Give the memory back."""
        self._words.release()
        self._map.close()

    def _others(self) -> list[tuple[int, int]]:
        told = self._words.tolist()[::_FIELDS]
        return [(place, count) for place, count in zip(range(0, len(self._words), _FIELDS), told, strict=True)
                if count and place != self._mine]  # fmt: skip

    def _is_silent(self, place: int, now: float) -> bool:
        seen = self._awaited.get(place)
        return seen is not None and now >= seen[1] and self._words[place + 1] == seen[0]

    def _note_awaited(self, until: float, places: list[int]) -> None:
        for place in places:
            sign = self._words[place + 1]
            seen = self._awaited.get(place)
            if seen is None or seen[0] != sign:  # else it has been awaited for some time already
                self._awaited[place] = (sign, until)
