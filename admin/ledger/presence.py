"""Who was heard when, and what they have applied: one process's own ears, on one steady clock.

Everything that is decided by time is decided here, by how long *this* process has seen something be so; never by
comparing clocks of two machines. Time is passed in, in seconds of a clock that does not jump.
"""

from collections.abc import Iterable
from typing import Final

from admin.ledger.instances import Member, Membership
from engine.clock import Seconds
from engine.decision.freshness import CLOCK_RATE_MARGIN, MAX_SILENCE
from engine.feed.entries import Position
from engine.feed.questions import Question

SILENT_AFTER: Final = Seconds(5.0)  # a node asks ten times a second; fifty unheard questions are no hiccup
MARGIN: Final = Seconds(0.05)  # for what stands between reading a clock and acting on it
# Twice the rate: the node's clock may be slow and ours fast.
WAIT_OUT: Final = Seconds(MAX_SILENCE * (1 + 2 * CLOCK_RATE_MARGIN) + MARGIN)
REMEMBERED: Final = Seconds(60.0)  # longer than a question lives in Redis: an old one admits nobody anew
PAUSE: Final = Seconds(1.0)  # not looked for so long: nobody's silence in that time counts


class _Heard:
    __slots__ = ("at", "last_seen", "nonce", "position", "wall")

    def __init__(self, at: float, wall: float) -> None:
        self.at = at
        self.wall = wall
        self.nonce = ""
        self.last_seen = 0.0
        self.position: Position | None = None


class Presence:
    """What is known of instances by listening. Not shared between threads."""

    def __init__(self) -> None:
        self._heard: dict[tuple[str, str], _Heard] = {}  # by node and instance: nobody speaks for another node
        self._leaving: dict[str, tuple[float, float]] = {}  # instance -> (mark, when first seen so)
        self._looked: float | None = None

    def hear(self, question: Question, now: float, wall: float) -> bool:
        """Take a question. False = it was heard before. wall: seconds since 1970, for people."""
        name = (question.node_id, question.instance)
        heard = self._heard.get(name)
        if heard is not None and heard.nonce == question.nonce:
            return False
        if heard is None:
            heard = self._heard[name] = _Heard(now, wall)
        heard.at, heard.wall, heard.nonce, heard.position = now, wall, question.nonce, question.position
        return True

    def has_applied(self, member: Member, position: Position, head: int | None = None) -> bool:
        """Whether the instance said, to us or to whoever wrote the table, that it has applied the position.

        head: of the ledger, read after what was said. Who claims more has applied events that the ledger has lost,
        and has them under numbers that now belong to others. None: claims are not looked into.
        """
        heard = self._heard.get(member.name)
        said = [member.applied]
        if heard is not None and heard.position is not None and heard.position.incarnation == position.incarnation:
            said.append(heard.position.seq)
        return any(position.seq <= seq and (head is None or seq <= head) for seq in said)

    def last_heard(self, member: Member) -> float:
        """When anybody last heard the instance, seconds since 1970."""
        heard = self._heard.get(member.name)
        return max(member.last_seen, heard.wall if heard is not None and heard.nonce else 0.0)

    def silent(self, members: Iterable[Member], now: float) -> list[Member]:
        """Those in of whom we have noticed nothing for SILENT_AFTER: no new question, no change in the table."""
        paused = self._looked is not None and now - self._looked > PAUSE
        self._looked = now
        found = []
        for member in members:
            heard = self._heard.setdefault(member.name, _Heard(now, 0.0))
            if paused or member.last_seen != heard.last_seen:
                heard.last_seen, heard.at = member.last_seen, max(heard.at, now)
            if member.state is Membership.IN and now - heard.at > SILENT_AFTER:
                found.append(member)
        return found

    def expired(self, members: Iterable[Member], now: float) -> list[Member]:
        """Those leaving that we have seen so marked for WAIT_OUT: none of their answers is worth anything now."""
        leaving = {m.instance: m for m in members if m.state is Membership.LEAVING}
        seen = {name: self._leaving.get(name, (m.since, now)) for name, m in leaving.items()}
        # Another mark means that it was forgotten and struck off again meanwhile: the time starts anew.
        self._leaving = {n: (t if t[0] == leaving[n].since else (leaving[n].since, now)) for n, t in seen.items()}
        return [leaving[name] for name, (_, first) in self._leaving.items() if now - first > WAIT_OUT]

    def prune(self, members: Iterable[Member], now: float) -> None:
        """Drop what was heard long ago of instances that nobody knows any more."""
        known = {member.name for member in members}
        self._heard = {n: h for n, h in self._heard.items() if n in known or now - h.at < REMEMBERED}
