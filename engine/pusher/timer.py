"""A timer that rings once, at a time that may be changed meanwhile."""

from collections.abc import Callable

import trio


class Timer:
    """now: any clock in seconds, always the same. One task runs it."""

    def __init__(self, now: Callable[[], float], ring: Callable[[], None]) -> None:
        self._now = now
        self._ring = ring
        self._at = float("inf")
        self._changed = trio.Event()

    def set(self, at: float) -> None:
        """Ring then; infinity: not at all."""
        if at != self._at:
            self._at = at
            self._changed.set()

    async def run(self) -> None:
        """For ever."""
        while True:
            with trio.move_on_after(max(0.0, self._at - self._now())) as sleeping:
                await self._changed.wait()
            self._changed = trio.Event()
            if sleeping.cancelled_caught:
                self._at = float("inf")
                self._ring()
