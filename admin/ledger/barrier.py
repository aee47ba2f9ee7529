"""When is a revocation effective? When no node can answer `current` without it any more.

It is *recorded* when its transaction commits at position N. It is *effective* as soon as every instance that the
ledger's database admitted by then has said, under this incarnation, that it has applied N; or when WAIT_OUT has
passed since the commit, because an answer asked for before it is worth nothing by then. An instance admitted later
was answered with a position that includes N; one that is forgotten cannot be current. The time is counted from when
this process knows N to have been committed, the call at the latest: a little too long, never too short.
"""

import enum
from collections import OrderedDict
from typing import Final

import msgspec
import trio

from admin.ledger.instances import Member, View
from admin.ledger.presence import WAIT_OUT
from admin.ledger.register import Register
from admin.ledger.store import LedgerUnavailable, Receipt
from engine.clock import Seconds
from engine.errors import Fault, Kind
from engine.feed.entries import Position

LOOK_EVERY: Final = Seconds(0.1)  # for instances that another process hears, and for those that are forgotten
# The table is read for every question that is answered, and each node that has the write asks at once: a reading of our
# own meanwhile would only hold up the projector.
OTHERS_LOOK: Final = Seconds(0.03)
REMEMBERED: Final = 10_000  # conclusions, some 500 bytes each; whoever asks later gets one of that moment


class Standing(enum.StrEnum):
    """How far a write has come."""

    RECORDED = "recorded"
    EFFECTIVE = "effective"


class How(enum.StrEnum):
    """How it was concluded."""

    ACKNOWLEDGED = "acknowledged"
    WAITED_OUT = "waited_out"


class NodeEffect(msgspec.Struct, frozen=True):
    """One instance that could have answered without the write. last_heard: seconds since 1970."""

    node_id: str
    instance: str
    acknowledged: bool
    last_heard: float


class Effect(msgspec.Struct, frozen=True):
    """What a consumer may be told of a write. milliseconds: from the commit to the conclusion."""

    state: Standing
    how: How | None  # None: not concluded within the time given
    position: Position
    nodes: tuple[NodeEffect, ...]
    milliseconds: int


class LedgerReplaced(Fault):
    """The ledger is not the one that gave the receipt: whether the write survived has to be looked up."""

    kind = Kind.CONFLICT


class Barrier:
    """Waits for writes to be effective; any number at once.

    What was concluded stays so and is said again in the same words, however the table has changed since: nodes that
    came later had no part in it. Another process, and this one after a restart, concludes anew; it can do so WAIT_OUT
    after its start at the latest.
    """

    def __init__(self, register: Register) -> None:
        self._register = register
        self._concluded: OrderedDict[Position, Effect] = OrderedDict()

    async def wait_effective(
        self,
        receipt: Receipt,
        timeout: Seconds,  # noqa: ASYNC109 - running out of it is an answer, not an error
    ) -> Effect:
        """Wait until the write is effective, at most `timeout` seconds; then it is `recorded`, which it was before.

        Raises LedgerReplaced. A ledger that does not answer is waited for within the time-out.
        """
        effect = self._concluded.get(receipt.position)
        if effect is None:
            effect = await self._wait(receipt, timeout)
            if effect.state is Standing.EFFECTIVE:
                self._remember(effect)
        return effect

    def _remember(self, effect: Effect) -> None:
        self._concluded.setdefault(effect.position, effect)
        if len(self._concluded) > REMEMBERED:
            self._concluded.popitem(last=False)

    async def _wait(self, receipt: Receipt, timeout: Seconds) -> Effect:  # noqa: ASYNC109 - as above
        wait = _Wait(self._register, receipt, trio.current_time(), timeout)
        with trio.move_on_at(wait.first_look):
            return await wait.told()
        while (effect := await wait.look()) is None:
            with trio.move_on_at(wait.next_look()):
                return await wait.told()
        return effect


class _Wait:
    """One wait: who was there at the commit, and who of them has not said that it has the write."""

    def __init__(self, register: Register, receipt: Receipt, called: float, timeout: Seconds) -> None:
        self._register = register
        self._position = receipt.position
        self._committed_at = receipt.committed_at
        self._committed_by = called
        self._limit = called + timeout
        self._head = receipt.position.seq
        self._ticket = register.ticket()  # what was read before may know nothing of the commit
        self._watched: dict[str, Member] | None = None  # None: the table was not read since the commit
        self.first_look = min(called + OTHERS_LOOK, self._limit)

    async def told(self) -> Effect:
        """The effect, once everybody has spoken; from what others have read of the table, without reading it."""
        while True:
            view = self._register.read_since(self._ticket)
            if view is not None:
                self._take(view)
                if (effect := self._acknowledged()) is not None:
                    return effect
            await self._register.news.wait()

    async def look(self) -> Effect | None:
        """Read the table; the effect, once there is one."""
        now = trio.current_time()  # before the table is read: what is concluded held then
        known = await self._read()
        if known and (effect := self._acknowledged()) is not None:
            return effect
        if known and now - self._committed_by > WAIT_OUT:
            return self._conclude(Standing.EFFECTIVE, How.WAITED_OUT)
        return self._conclude(Standing.RECORDED, None) if now >= self._limit else None

    def next_look(self) -> float:
        """When the table is worth another look of our own."""
        again = trio.current_time() + LOOK_EVERY
        return min(again, self._limit) if self._limit > trio.current_time() else again

    async def _read(self) -> bool:
        """Bring the table up to date; False when the ledger does not answer."""
        try:
            view = await self._register.view()
        except LedgerUnavailable:
            return False
        self._take(view)
        return True

    def _take(self, view: View) -> None:
        """What was read of the table after the commit. Raises LedgerReplaced."""
        if view.position.incarnation != self._position.incarnation or view.position.seq < self._position.seq:
            raise LedgerReplaced("the ledger was restored meanwhile; look the write up again")
        self._head = view.position.seq
        seen = self._register.committed_by(self._position)
        if seen is not None:
            self._committed_by = min(self._committed_by, seen)
        self._watch(view)

    def _acknowledged(self) -> Effect | None:
        """The effect, if everybody has spoken.

        A claim that is not above the head when the table was read is not above it now; a higher one has to wait for
        the next reading.
        """
        if self._missing(self._head) or not self._register.vouches_for(self._position):
            return None
        return self._conclude(Standing.EFFECTIVE, How.ACKNOWLEDGED)

    def _watch(self, view: View) -> None:
        """Those there at the first look after the commit; whoever was forgotten since cannot be current any more."""
        if self._watched is None:
            self._watched = view.members
        self._watched = {name: view.members[name] for name in self._watched if name in view.members}

    def _missing(self, head: int) -> list[Member]:
        """Who has not said that it has the write. head: of the ledger; who claims more is not believed."""
        members = (self._watched or {}).values()
        return [member for member in members if not self._register.presence.has_applied(member, self._position, head)]

    def _conclude(self, state: Standing, how: How | None) -> Effect:
        nodes = tuple(self._node(member) for member in (self._watched or {}).values())
        return Effect(state, how, self._position, nodes, self._milliseconds())

    def _milliseconds(self) -> int:
        """Since the commit. The wall clock knows when that was, but may have been set since: then at least the wait."""
        waited = trio.current_time() - self._committed_by
        return round(1000 * max(waited, self._register.wall() - self._committed_at))

    def _node(self, member: Member) -> NodeEffect:
        presence = self._register.presence
        said = presence.has_applied(member, self._position, self._head)
        return NodeEffect(member.node_id, member.instance, said, presence.last_heard(member))
