"""How many connections are being opened at once: handshakes cost a processor more than all the rest of a push.

At a take-over everybody is owed something, and two thousand handshakes begun together would all end too late. So they
wait in line, and the time limits of a push begin at its end. A receiver that is slow to shake hands keeps its place for
a moment only: those behind it wait for our processor, never for somebody else's.
"""

from typing import Final

import trio

from engine.clock import Seconds

PLACES: Final = 64  # at 1.6 ms of a core each, a tenth of a second in all where the processor is what is short
LONGEST: Final = Seconds(0.25)  # most servers in the world are done by then


class Place:
    """Of one who was let in."""

    __slots__ = ("begun",)

    def __init__(self, begun: float) -> None:
        self.begun = begun


class Gate:
    """Whoever comes first is let in first. longest: after that a place is free again, whether its owner left or not."""

    def __init__(self, places: int = PLACES, longest: Seconds = LONGEST) -> None:
        self._places = places
        self._longest = longest
        self._taken: dict[Place, None] = {}  # in the order in which they were
        self._left = trio.Event()
        self._line = trio.Lock()

    async def enter(self) -> Place:
        """Wait for a place. Leave it, whatever happens."""
        async with self._line:
            while len(self._taken) >= self._places:
                oldest = next(iter(self._taken))
                self._left = trio.Event()
                with trio.move_on_at(oldest.begun + self._longest) as waiting:
                    await self._left.wait()
                if waiting.cancelled_caught:
                    self._taken.pop(oldest, None)
            place = Place(trio.current_time())
            self._taken[place] = None
            return place

    def leave(self, place: Place) -> None:
        """It is free for another."""
        self._taken.pop(place, None)
        self._left.set()
