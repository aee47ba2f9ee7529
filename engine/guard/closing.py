"""A hole in what was pushed that has just been found: for as long as it may be nothing but a changed order, one waits.

Pushes overtake each other by design, and what was overtaken is mostly there within a second. While it is not, events
are missing, and nothing is shared on what was known before; but a share that is refused for that alone may as well be
judged a little later, when the hole has closed, or has been polled for in vain.
"""

from typing import Final

import anyio

from engine.clock import Clock, Seconds
from engine.guard.memory import Memory

LOOK_EVERY: Final = Seconds(0.05)
POLLING: Final = Seconds(0.5)  # for what the reorder timer has polled


class Closing:
    """One for each guard. reorder_wait: seconds from a hole to the poll for it."""

    def __init__(self, memory: Memory, clock: Clock, reorder_wait: Seconds) -> None:
        self._memory = memory
        self._clock = clock
        self._patience = reorder_wait + POLLING

    async def wait(self) -> bool:
        """Until what is missing has come; True then. False: nothing is, or for longer, or it has not come in time."""
        if not self._is_new():
            return False
        with anyio.move_on_after(self._patience):
            while self._memory.missing_since() is not None:  # noqa: ASYNC110 - what heals it rings no bell of ours
                await anyio.sleep(LOOK_EVERY)
            return True
        return False

    def _is_new(self) -> bool:
        """Not where the mark lies ahead: a stream that is held back closes by nothing that we could wait for."""
        since = self._memory.missing_since()
        return since is not None and 0 <= self._clock.now() - since <= self._patience
