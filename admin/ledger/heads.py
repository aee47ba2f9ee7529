"""Which position of the ledger this process saw when: by then it was committed, so the time since can be counted.

Whoever asks again whether a write is effective, by a repeated call or a reloaded page, must not wait from the start.
The commit's wall time cannot tell, because clocks jump and disagree; that somebody here has seen it can. Pure: times
are passed in, in seconds of a clock that does not jump.
"""

from collections import deque

from admin.ledger.presence import WAIT_OUT
from engine.feed.entries import Position


class Heads:
    """The positions seen in the last WAIT_OUT, and the newest one before."""

    def __init__(self) -> None:
        self._incarnation = ""
        self._seen: deque[tuple[int, float]] = deque()  # each higher than the one before, with the first time seen

    def see(self, head: Position, now: float) -> None:
        """The ledger stood there, at the latest now."""
        if head.incarnation != self._incarnation or (self._seen and head.seq < self._seen[-1][0]):
            self._incarnation = head.incarnation
            self._seen.clear()  # another ledger, or one that lost its tail: what was seen says nothing of this one
        if not self._seen or head.seq > self._seen[-1][0]:
            self._seen.append((head.seq, now))
        while len(self._seen) > 1 and now - self._seen[1][1] > WAIT_OUT:
            self._seen.popleft()

    def committed_by(self, position: Position) -> float | None:
        """A time at which the position was committed for certain; None: this process cannot tell."""
        if position.incarnation != self._incarnation:
            return None
        return next((at for seq, at in self._seen if seq >= position.seq), None)
