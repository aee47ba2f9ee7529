"""One readiness loop for all connections of a server: who can go on goes on, in turns, within one task.

trio's own waiting costs a request a system call, a wake-up and a switch of tasks; with tens of thousands of requests
a second that was a third of their price. Here trio waits for one thing, an epoll of ours, and each round of the loop
serves everybody who is ready by plain calls. Whoever has to wait for something else gets a task of its own.

Newcomers stand in an epoll of their own, inside the first: a handshake costs as much as forty answers, so each round
takes one step of one of them after the others had their turn. Two thousand clients that come back at once cost those
who stayed one such step a round, and no more.
"""

import os
import select
import time
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

import trio

IN: Final = select.EPOLLIN
OUT: Final = select.EPOLLOUT
_STRETCH: Final = 0.002  # seconds of rounds, before trio's other tasks have their turn
_MANY: Final = 1024  # served in one round
_LOOK_EVERY: Final = 16  # turns between looks at the clock
_LETTERS: Final = 16  # turns whose answers go out together


class Member(Protocol):
    """Somebody who stands in the loop. Neither call may raise or block."""

    def on_ready(self) -> None:
        """The descriptor is ready for what was waited for."""

    def go_on(self) -> None:
        """It is your turn again, as you asked."""

    def post(self) -> None:
        """Send what you held back."""


class Readiness:
    """The loop. tick: called as a round begins. `late`: this round has worked for longer than patience, in seconds."""

    def __init__(self, tick: Callable[[], None], patience: float) -> None:
        self._all = select.epoll()
        self._newcomers = select.epoll()
        self._all.register(self._newcomers, IN)
        self._door = self._newcomers.fileno()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)  # rung by other tasks, to end our waiting
        self._all.register(self._bell, IN)
        self._is_awake = False
        self._members: dict[int, Member] = {}
        self._again: deque[Member] = deque()
        self._letters: list[Member] = []
        self._tick = tick
        self._patience = patience
        self.late = False

    def greet(self, descriptor: int, member: Member) -> None:
        """Let a newcomer stand in line, to read."""
        self._members[descriptor] = member
        self._newcomers.register(descriptor, IN)

    def watch_newcomer(self, descriptor: int, interest: int) -> None:
        """Let a newcomer wait for IN or OUT from now on."""
        self._newcomers.modify(descriptor, interest)

    def settle(self, descriptor: int) -> None:
        """A newcomer is one no more."""
        self._newcomers.unregister(descriptor)
        self._all.register(descriptor, IN)

    def watch(self, descriptor: int, interest: int) -> None:
        """Wait for IN or OUT from now on."""
        self._all.modify(descriptor, interest)

    def rest(self, descriptor: int) -> None:
        """Wait for nothing, not even for the peer's leaving."""
        self._all.unregister(descriptor)

    def come_back(self, descriptor: int) -> None:
        """Wait for IN, after a rest."""
        self._all.register(descriptor, IN)

    def again(self, member: Member) -> None:
        """Have another turn without waiting for anything."""
        self._again.append(member)
        if not self._is_awake:
            os.eventfd_write(self._bell, 1)

    def post_later(self, member: Member) -> bool:
        """Take the member's answers to the network with those of others; False = there is no round now."""
        if self._is_awake:
            self._letters.append(member)
        return self._is_awake

    def forget(self, descriptor: int) -> None:
        """Leave, before the descriptor is closed: the kernel takes it out of both lines with the closing."""
        self._members.pop(descriptor, None)

    def close(self) -> None:
        """Give the descriptors back."""
        self._newcomers.close()
        self._all.close()
        os.close(self._bell)

    async def run(self) -> None:
        """Serve until cancelled."""
        descriptor = self._all.fileno()
        while True:
            if self._again:
                await trio.lowlevel.checkpoint()
            else:
                await trio.lowlevel.wait_readable(descriptor)
            self._is_awake = True
            until = time.monotonic() + _STRETCH
            while self._round() and time.monotonic() < until:
                pass
            self._is_awake = False
            self.late = False  # who goes on between the stretches has waited for nobody

    def _round(self) -> bool:
        """Everybody's turn once; False = nobody was ready."""
        began = time.thread_time()  # of work, not of standing still: a machine that paused us must not cost answers
        self._tick()
        self.late = False
        again, self._again = self._again, deque()
        for turn, member in enumerate(again, 1):
            member.go_on()
            if not turn % _LOOK_EVERY:
                self.late = time.thread_time() - began > self._patience
        ready = self._all.poll(0, _MANY)
        find, door, knocks = self._members.get, self._door, False
        for turn, (descriptor, _) in enumerate(ready, 1):
            ready_member = find(descriptor)
            if ready_member is not None:
                ready_member.on_ready()
            elif descriptor == door:
                knocks = True
            elif descriptor == self._bell:
                os.eventfd_read(self._bell)
            if not turn % _LETTERS:
                self._post()
            if not turn % _LOOK_EVERY:
                self.late = time.thread_time() - began > self._patience
        self._post()
        if knocks:
            self._hear_one()
            self._post()  # its first request may have come with the end of its handshake
        return bool(ready or again)

    def _post(self) -> None:
        letters, self._letters = self._letters, []
        for member in letters:
            member.post()

    def _hear_one(self) -> None:
        for descriptor, _ in self._newcomers.poll(0, 1):
            member = self._members.get(descriptor)
            if member is not None:
                member.on_ready()
