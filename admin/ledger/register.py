"""The instances' table, shared by all who need it in one process: questions, checks over HTTPS, barriers.

Many barriers wait at once when many consents are revoked; one reading serves all of them that asked before it began.
"""

from collections.abc import Callable, Sequence

import sqlalchemy as sa
import trio

from admin.ledger.database import Database
from admin.ledger.heads import Heads
from admin.ledger.instances import Member, View, forget, mark_leaving, note, read_view, reset_applied
from admin.ledger.presence import WAIT_OUT, Presence
from admin.ledger.signal import Signal
from engine.errors import Fault, Kind
from engine.feed.entries import Position
from engine.feed.questions import Question


class StruckOff(Fault):
    """The instance was silent for too long, or is another node's; it asks again and is admitted anew."""

    kind = Kind.UNAVAILABLE


class LedgerLostItsTail(Fault):
    """A node has applied more of this incarnation than the ledger has: nothing it says can be trusted now."""

    kind = Kind.UNAVAILABLE


class Register:
    """wall: seconds since 1970, for the table's times."""

    def __init__(self, database: Database, wall: Callable[[], float]) -> None:
        self.wall = wall
        self._database = database
        self._lock = trio.Lock()
        self._started = 0
        self._newest: tuple[int, View] | None = None
        self._first_seen: dict[str, float] = {}
        self._heads = Heads()
        self.presence = Presence()
        self.news = Signal()  # rings when an instance said something new, or the table was read anew

    async def view(self) -> View:
        """The table as it stands after this call began. Raises LedgerUnavailable."""
        ticket = self._started
        async with self._lock:
            if self._newest is not None and self._newest[0] > ticket:
                return self._newest[1]
            self._started += 1
            number = self._started
            view = await self._database.read(read_view)
            if view.position.incarnation not in self._first_seen:
                view = await self._meet(view.position.incarnation)
            self._heads.see(view.position, trio.current_time())
            self._newest = (number, view)
            self.news.ring()
            return view

    def ticket(self) -> int:
        """A moment, for `read_since`."""
        return self._started

    def read_since(self, ticket: int) -> View | None:
        """The newest reading of the table, if somebody began one after the moment; reads nothing itself."""
        return self._newest[1] if self._newest is not None and self._newest[0] > ticket else None

    async def _meet(self, incarnation: str) -> View:
        """An incarnation not seen before: what the table says was applied may be of the one before."""
        await self._database.run(reset_applied)
        view = await self._database.read(read_view)
        if view.position.incarnation == incarnation:
            self._first_seen[incarnation] = trio.current_time()
        return view

    def vouches_for(self, position: Position) -> bool:
        """Whether the table is known to hold everybody who could be current beside this position.

        A ledger restored from a back-up has an old table under a new incarnation; WAIT_OUT after the incarnation
        was first seen nobody is current by an answer of the one before.
        """
        first = self._first_seen.get(position.incarnation)
        return first is not None and trio.current_time() - first > WAIT_OUT

    def committed_by(self, position: Position) -> float | None:
        """A time, by trio's clock, at which the position was committed for certain; None: we have not seen it."""
        return self._heads.committed_by(position)

    def hear(self, question: Question) -> None:
        """Take what an instance says of itself; wakes the barriers."""
        if self.presence.hear(question, trio.current_time(), self.wall()):
            self.news.ring()

    async def admit(self, questions: Sequence[Question]) -> View:
        """Admit the askers that are new, in the table, and then read it. The questions were read before."""
        view = await self.view()
        now = self.wall()
        lacking = [question for question in questions if view.must_note(question, now)]
        if not lacking:
            return view
        await self._database.run(lambda connection: note(connection, lacking, now))
        return await self.view()

    async def check(self, question: Question) -> Position:
        """Answer one question asked over HTTPS. Raises StruckOff, LedgerLostItsTail, and the ledger's faults."""
        now = self.wall()
        view = await self.view()
        member = view.members.get(question.instance)
        if view.must_note(question, now) or (member is not None and view.applied(question) != member.applied):
            await self._database.run(lambda connection: note(connection, [question], now))
            view = await self.view()
        if not view.admits(question):
            raise StruckOff("this instance is struck off; ask again in a few seconds")
        self.hear(question)
        if view.applied(question) > view.position.seq:
            raise LedgerLostItsTail("the ledger has lost events that a node had applied")
        return view.position

    async def strike_off(self, view: View) -> None:
        """Mark those that fell silent, forget those that were marked long enough ago."""
        now = trio.current_time()
        members = view.members.values()
        silent, gone = self.presence.silent(members, now), self.presence.expired(members, now)
        self.presence.prune(members, now)
        if silent or gone:
            await self._write(silent, gone)

    async def _write(self, silent: list[Member], gone: list[Member]) -> None:
        now = self.wall()

        def change(connection: sa.Connection) -> None:
            mark_leaving(connection, silent, now)
            forget(connection, gone)

        await self._database.run(change)
