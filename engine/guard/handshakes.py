"""Places for connections whose other end has not shown yet who it is, so that they take none from the service's own.

Anybody can open a connection and say nothing. So there is a bound, a short deadline, and where all places are taken the
oldest of whoever holds most of them is closed for the newest: the service's own handshake takes some milliseconds and
comes from an address of its own.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import anyio

from engine.clock import Seconds

DEADLINE: Final = Seconds(5.0)  # to have shown a certificate; the service itself gives a whole push no longer


class Handshakes:
    """most: at once. closed: so many had to go for others, since the start."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._under_way: dict[int, tuple[str, anyio.CancelScope]] = {}  # the oldest first
        self.closed = 0

    def __len__(self) -> int:
        return len(self._under_way)

    @contextmanager
    def place(self, peer: str) -> Iterator[anyio.CancelScope]:
        """One connection's, cut off in the end. peer: its address, without the port."""
        if len(self._under_way) >= self._most:
            self._close_one()
        with anyio.move_on_after(DEADLINE) as scope:
            self._under_way[id(scope)] = peer, scope
            try:
                yield scope
            finally:
                self._under_way.pop(id(scope), None)

    def _close_one(self) -> None:
        held = Counter(peer for peer, _ in self._under_way.values())
        most = max(held.values())
        oldest = next(name for name, (peer, _) in self._under_way.items() if held[peer] == most)
        _, scope = self._under_way.pop(oldest)
        self.closed += 1
        scope.cancel()
