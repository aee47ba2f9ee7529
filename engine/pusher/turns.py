"""Turns for the bulk lane: so many deliveries a second over all receivers, one after the other.

Bulk deliveries are the single ends of an ATP that was stopped as a whole: everybody has been told already, and a
million of them must delay nobody.
"""

from collections import deque
from typing import Final, Protocol

import trio

_SHORTEST: Final = 0.02  # seconds between rounds


class Asking(Protocol):
    """Whoever wants a turn."""

    def your_turn(self) -> None:
        """One bulk delivery may be begun."""


class Turns:
    """rate: a second."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._line: deque[Asking] = deque()
        self._some = trio.Event()

    def ask(self, asking: Asking) -> None:
        """Stand in line for one turn."""
        self._line.append(asking)
        self._some.set()

    async def run(self) -> None:
        """Give turns, for ever."""
        pause = max(_SHORTEST, 1 / self._rate)
        owed = 0.0
        while True:
            if not self._line:
                self._some = trio.Event()
                await self._some.wait()
                owed = 1.0
            while self._line and owed >= 1:
                owed -= 1
                self._line.popleft().your_turn()
            await trio.sleep(pause)
            owed = min(owed + pause * self._rate, max(1.0, pause * self._rate))
