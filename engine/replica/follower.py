"""What a node does with entries and answers, whichever way they came. Nothing here waits.

Redis and the HTTPS feed both hand over here, at the same time if need be: each call reads the state, decides and
writes one transaction without letting another task in between. What cannot be done here (fetch what is missing,
find out which incarnation is the true one) is rung for.
"""

from collections.abc import Callable, Sequence
from typing import Final

from engine.clock import Clock, Seconds
from engine.decision.freshness import Bound
from engine.feed.entries import Entry, EntryKind, Position
from engine.feed.questions import Answer, Question
from engine.replica.asking import Asking, bound_of, disowned, silence, withdrawn
from engine.replica.bell import Bell
from engine.replica.environment import ReplicaFull
from engine.replica.store import ReplicaStore
from engine.telemetry.logs import logger

OVERDUE: Final = Seconds(0.25)  # an answer speaks of entries that did not come so long: fetch them

_log = logger("feeder")


class Follower:
    """The replica and the questions of one feeder instance.

    instance: drawn at each start. draw: gives a new nonce, lower-case hexadecimal.
    """

    def __init__(
        self,
        store: ReplicaStore,
        *,
        node_id: str,
        instance: str,
        boot_id: str,
        clock: Clock,
        draw: Callable[[], str],
    ) -> None:
        self.instance = instance
        self.applied = Bell()  # rings when the position moved on: tell the projector at once
        self.missing = Bell()  # rings when entries are known to be missing
        self.doubted = Bell()  # rings when something spoke of another incarnation
        self.keys_changed = Bell()
        self.full = False  # the replica has no room; nothing moves until it has
        self._store = store
        self._node_id = node_id
        self._boot_id = boot_id
        self._clock = clock
        self._draw = draw
        self._asking = Asking(instance, self.position.incarnation)
        self._in_doubt = False
        self._lacks_room = 0  # entries of the smallest transaction that found none; 0 = there is room

    @property
    def position(self) -> Position:
        """What is applied; ("", 0) before the first snapshot."""
        bound = self._store.bound
        return Position("", 0) if bound is None else Position(bound.incarnation, bound.applied)

    @property
    def head(self) -> int:
        """The highest position of the ledger that an answer spoke of."""
        return max(self._asking.head, self.position.seq)

    @property
    def in_doubt(self) -> bool:
        """Something authentic spoke of another incarnation, and which is the true one is not settled."""
        return self._in_doubt

    def silence(self) -> Seconds:
        """How long ago the newest fulfilled question was asked."""
        return silence(self._asking.earned(self.position.seq), self._clock.boot())

    def overdue(self) -> bool:
        """Whether entries that an answer spoke of are missing for longer than they should."""
        since = self._asking.waiting_since(self.position.seq)
        return since is not None and self._clock.boot() - since > OVERDUE

    def ask(self) -> Question:
        """Note the time, then give the question to be written."""
        at, wall = self._clock.boot(), self._clock.now()
        nonce, position = self._draw(), self.position
        self._asking.ask(nonce, at, wall)
        return Question(self._node_id, self.instance, nonce, position.incarnation, position.seq)

    def take_answer(self, answer: Answer) -> bool:
        """Take an answer; True: it was to a question of ours and counts."""
        if answer.instance == self.instance and answer.incarnation != self.position.incarnation:
            self.doubt(answer.incarnation)
            return False
        if self._in_doubt or not self._asking.answer(answer):
            return False
        self._publish(())
        return True

    def take_entries(self, entries: Sequence[Entry]) -> None:
        """Apply what continues the position; entries applied before are passed over, a gap is rung for."""
        incarnation, applied = self.position.incarnation, self.position.seq
        following: list[Entry] = []
        for entry in entries:
            if entry.incarnation != incarnation:
                self.doubt(entry.incarnation)
                break
            if entry.seq > applied + len(following) + 1:
                self.missing.ring()
                break
            if entry.seq == applied + len(following) + 1:
                following.append(entry)
        if following:
            self._publish(following)

    def doubt(self, other: str) -> None:
        """Leave `current` until the feed service has said which incarnation is the true one."""
        bound = self._store.bound
        if bound is None or self._in_doubt:
            return
        _log.warning("other_incarnation_doubted", held=bound.incarnation, other=other)
        self._in_doubt = True
        self._asking = Asking(self.instance, bound.incarnation)
        self._write((), withdrawn(bound, self._clock.boot()))
        self.doubted.ring()

    def trust(self) -> None:
        """The incarnation held is the true one: only answers to questions asked from now on count."""
        self._in_doubt = False

    def disown(self) -> None:
        """The incarnation held is over: the replica knows nothing until there is a new one."""
        bound = self._store.bound
        if bound is not None:
            self._in_doubt = True
            self._asking = Asking(self.instance, bound.incarnation)
            self._write((), disowned(bound))

    def begin_anew(self) -> None:
        """Another generation was adopted: forget the questions asked under the one before."""
        self._asking = Asking(self.instance, self.position.incarnation)
        self._in_doubt = False
        self.full, self._lacks_room = False, 0
        self.applied.ring()

    def _publish(self, entries: Sequence[Entry]) -> None:
        bound = self._store.bound
        if bound is None:
            return
        applied = bound.applied + len(entries)
        earned = self._asking.earned(applied)
        fresh = bound_of(bound, applied, earned, self._boot_id)
        recovers = any(entry.kind is EntryKind.RECOVERY for entry in entries)
        if recovers:
            fresh = withdrawn(fresh, self._clock.boot())
        if not self._write(entries, fresh):
            return
        if recovers:
            _log.warning("recovery_changed", position=applied)
            self._asking = Asking(self.instance, bound.incarnation)  # only what is asked after it counts
        else:
            self._asking.keep(earned)
        if entries:
            self.applied.ring()
            if any(entry.kind is EntryKind.KEYS for entry in entries):
                self.keys_changed.ring()

    def _write(self, entries: Sequence[Entry], bound: Bound) -> bool:
        try:
            self._store.apply(entries, bound)
        except ReplicaFull as fault:
            if not self.full:
                _log.error("replica_full", text=fault.text, detail=fault.detail)
            self.full, self._lacks_room = True, min(len(entries), self._lacks_room or len(entries))
            return False
        if len(entries) >= self._lacks_room:  # where a bound finds room, entries may not
            if self.full:
                _log.info("replica_has_room")
            self.full, self._lacks_room = False, 0
        return True
