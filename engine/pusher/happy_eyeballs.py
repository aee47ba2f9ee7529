"""One connection to a name that has several addresses (RFC 8305, "Happy Eyeballs Version 2").

The families take turns. The next address is tried as soon as one has failed, or was not reached within a quarter of a
second: one that swallows what is sent to it takes a moment only. One that was reached has a second to shake hands
first, because handshakes cost a processor. The first connection that stands is taken; all others are closed.
Of a name with hundreds of addresses not all are tried.
"""

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Final, Protocol

import trio

from engine.clock import Seconds
from engine.pusher.connections import Connection, Unreached
from engine.pusher.schedule import Trouble

HEAD_START: Final = Seconds(0.25)  # RFC 8305, section 8: the delay between attempts
MOST: Final = 8  # addresses that are tried: in what connecting may take there is time for no more that hang
SHAKING: Final = Seconds(1.0)  # half of what connecting may take

Address = tuple[int, tuple[object, ...]]  # family, socket address


class Attempt(Protocol):
    """Connects to one address."""

    async def __call__(self, address: Address, reached: trio.Event) -> Connection:
        """Sets `reached` once TCP stands, before the handshake. Raises Unreached."""


async def first_connected(addresses: Iterable[Address], attempt: Attempt) -> Connection:
    """The first connection that stands. Raises Unreached: what the last that failed brought. May be cancelled."""
    race = _Race(attempt)
    taken = False
    try:
        async with trio.open_nursery() as nursery:
            for address in by_turns(list(addresses))[:MOST]:
                nursery.start_soon(race.run, address, running := _Running(), nursery.cancel_scope)
                await running.had_its_time()
        taken = True
    finally:
        if race.won is not None and not taken:
            race.won.close()
    if race.won is None:
        raise race.fault
    return race.won


def by_turns(addresses: Sequence[Address]) -> list[Address]:
    """One of each family after the other, in the order that was given otherwise (RFC 8305, section 4)."""
    families = dict.fromkeys(family for family, _ in addresses)
    rows = [[one for one in addresses if one[0] == family] for family in families]
    return [one for turn in zip_longest(*rows) for one in turn if one is not None]


class _Running:
    """How far an attempt is."""

    def __init__(self) -> None:
        self.reached = trio.Event()
        self.failed = trio.Event()

    async def had_its_time(self) -> None:
        """Until it is the next address's turn too."""
        with trio.move_on_after(HEAD_START):
            await self.reached.wait()
        if self.reached.is_set():
            with trio.move_on_after(SHAKING):
                await self.failed.wait()


class _Race:
    """All attempts of one connection."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self.won: Connection | None = None
        self.fault = Unreached(Trouble.NAME)

    async def run(self, address: Address, running: _Running, everybody: trio.CancelScope) -> None:
        """One of them; it ends all others if it is the first."""
        try:
            connection = await self._attempt(address, running.reached)
        except Unreached as fault:
            self.fault = fault
            running.reached.set()
            running.failed.set()
            return
        if self.won is not None:  # another stood in the same moment
            connection.close()
            return
        self.won = connection
        everybody.cancel()
