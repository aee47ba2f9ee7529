"""A bounded mailbox: how actors are told things.

Posting never waits: a sender that finds it full is told so and decides (drop, merge, slow down). What must not
be lost is not put into mailboxes; a message says "look", and a cursor elsewhere says what is owed.
"""

from typing import Generic, TypeVar

import msgspec
import trio

from engine.errors import Fault, Kind

M = TypeVar("M")


class MailboxFull(Fault):
    """The actor is behind by a whole mailbox."""

    kind = Kind.TOO_MANY


class MailboxStatistics(msgspec.Struct, frozen=True):
    """waiting, peak: messages; peak is for choosing the size. refused: posts that found it full."""

    size: int
    waiting: int
    peak: int
    posted: int
    refused: int


class Mailbox(Generic[M]):
    """At most `size` messages, in order, for one reader. size: at least 1."""

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError("a mailbox is bounded")
        self._size = size
        self._sender, self._receiver = trio.open_memory_channel[M](size)
        self._peak = self._posted = self._refused = 0
        self._idle = trio.Event()
        self._idle.set()

    def post_nowait(self, message: M) -> None:
        """Put a message in. Raises MailboxFull."""
        try:
            self._sender.send_nowait(message)
        except trio.WouldBlock:
            self._refused += 1
            raise MailboxFull("the mailbox is full") from None
        self._posted += 1
        self._peak = max(self._peak, self._receiver.statistics().current_buffer_used)
        if self._idle.is_set():
            self._idle = trio.Event()

    async def take(self) -> M:
        """Wait for the next message; call `done` when it has been dealt with."""
        return await self._receiver.receive()

    def done(self) -> None:
        """The message taken last has been dealt with, or given up."""
        if not self._receiver.statistics().current_buffer_used:
            self._idle.set()

    async def wait_idle(self) -> None:
        """Wait until every message posted so far has been dealt with."""
        await self._idle.wait()

    def statistics(self) -> MailboxStatistics:
        """Counts since the mailbox was made."""
        waiting = self._receiver.statistics().current_buffer_used
        return MailboxStatistics(self._size, waiting, self._peak, self._posted, self._refused)
