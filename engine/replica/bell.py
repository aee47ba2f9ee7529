"""A bell: wakes whoever waits, and counts, so that a ring between two waits is not missed."""

import trio


class Bell:
    """Any number may ring and wait; rings in quick succession are one."""

    def __init__(self) -> None:
        self.rings = 0
        self._event = trio.Event()

    def ring(self) -> None:
        """Wake all who wait."""
        self.rings += 1
        self._event.set()
        self._event = trio.Event()

    async def wait_beyond(self, rings: int) -> None:
        """Return once the bell has been rung more often than `rings`."""
        while self.rings <= rings:
            await self._event.wait()
