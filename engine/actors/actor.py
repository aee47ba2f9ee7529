"""An actor: one task, one bounded mailbox, one state that only its task touches.

`handle` is given the state and a message and returns the next state; there is no await between reading the state
and replacing it but those inside `handle`, and no other task can see it half changed. After a failure the actor
begins anew with a fresh state; the message that broke it is gone, those behind it are not.
"""

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import trio

from engine.actors.mailbox import Mailbox

S = TypeVar("S")
M = TypeVar("M")


class Actor(Generic[S, M]):
    """fresh: makes the first state. handle: (state, message) -> next state. size: of the mailbox."""

    def __init__(self, fresh: Callable[[], S], handle: Callable[[S, M], Awaitable[S]], *, size: int) -> None:
        self.mailbox: Mailbox[M] = Mailbox(size)
        self._fresh = fresh
        self._handle = handle
        self._state = fresh()

    @property
    def state(self) -> S:
        """As the last message left it."""
        return self._state

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Handle messages for ever. Raises what `handle` raises; supervise it."""
        self._state = self._fresh()
        task_status.started()
        while True:
            message = await self.mailbox.take()
            try:
                self._state = await self._handle(self._state, message)
            finally:
                self.mailbox.done()
