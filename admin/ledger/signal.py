"""A bell: whoever waits is woken by the next ring. It carries nothing; what has happened is read elsewhere."""

import trio


class Signal:
    """Many waiters, many ringers, one trio loop."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def ring(self) -> None:
        """Wake all who wait now."""
        event, self._event = self._event, trio.Event()
        event.set()

    def next_ring(self) -> trio.Event:
        """Set at the next ring after this call: for whoever must look before it waits."""
        return self._event

    async def wait(self) -> None:
        """Return at the next ring."""
        await self._event.wait()

    async def wait_until(self, deadline: float) -> None:
        """Return at the next ring, or at the deadline (trio's clock)."""
        with trio.move_on_at(deadline):
            await self._event.wait()
