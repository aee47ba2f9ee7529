"""When a guard asks for events that should have come, and whether some are known to be missing. Pure: times passed in.

    what is seen                                     what is done
    an event names one before it that has not come   missing; ask after five seconds (it may just be overtaken)
    a heartbeat names a newer event than is known    the same
    no heartbeat for three minutes                   ask now, and again each minute
    all is well                                      ask every quarter of an hour, which is a cheap audit
    asking failed                                    ask again after a wait that doubles, up to a minute
    our push stream is paused or disabled            missing, until it is enabled
    a heartbeat names another, later ledger          ask for the listing now: it was restored, and may not know all of
                                                     what it has told (docs/decisions/0032)

Silence alone does not say that events are missing: in an outage heartbeats stop, and the fallback is for outages. It
says so where the service speaks to us otherwise: it refuses to tell, or it answers introspections while it cannot be
asked for events. Nothing is missing once the chain is whole up to the newest event that the service has told of, by a
heartbeat or by its listing, and it has told so within three minutes.
"""

import enum
from typing import Final

import msgspec

from engine.backoff import Backoff
from engine.clock import BootTime, Seconds
from engine.guard.retry import NOT_SAID

AGAIN: Final = Seconds(60.0)  # while there is no heartbeat, asking may bring what a push does not
BACKOFF: Final = Backoff(first=Seconds(1.0), limit=Seconds(60.0))
HELD_AHEAD: Final = (
    60  # seconds that the mark lies ahead while events are held back, so that nothing is confirmed after it
)
_NEVER: Final = BootTime(float("-inf"))


class Why(enum.StrEnum):
    """What made the guard ask."""

    START = "start"
    HOLE = "hole"
    SILENCE = "silence"
    AUDIT = "audit"
    RESTORED = "restored"


class Standing(enum.StrEnum):
    """What is known of pushed events."""

    WHOLE = "whole"
    MISSING = "missing"
    UNHEARD = "unheard"  # neither: nobody has told lately, and nobody can be asked


class Limits(msgspec.Struct, frozen=True):
    """Seconds. heartbeats: whether there is a push stream, on which they come; else the listing is asked instead."""

    reorder_wait: Seconds = Seconds(5.0)
    silence: Seconds = Seconds(180.0)
    audit: Seconds = Seconds(900.0)
    heartbeats: bool = True


class Watch:
    """One guard's clockwork. Times are of the boot clock, which goes on while a machine sleeps."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._told = 0  # position of our newest event, as the service told
        self._heard_at = _NEVER  # when it told
        self._hole_at: BootTime | None = None  # since when something is known to be missing
        self._missing = 0  # the highest position that is known to be
        self._asked_at: BootTime | None = None  # answered to the end
        self._refused = False  # the last time we asked, the service spoke and did not tell
        self._failures = 0
        self._not_before = _NEVER
        self.is_restored = False  # the service's ledger, since its last listing
        self.holds_back = False  # the service has told that it pushes nothing for now

    def told(self, newest: int, at: BootTime) -> None:
        """The service said which event is our newest."""
        self._told = max(self._told, newest)
        self._heard_at = max(self._heard_at, at)  # a listing is as of when it was asked for

    def forgotten(self) -> None:
        """What had come is not known any more: nothing is whole until the service has told all of it, now."""
        self._asked_at, self._heard_at = None, _NEVER

    def note(self, last_seq: int, now: BootTime, *, has_hole: bool, missing: int = 0, newest: int = 0) -> bool:
        """How the chain stands now; returns whether something is missing that was not missing before.

        missing: the highest position that an event has named and that has not come; newest: of those that have. What
        lies below one that was known to be missing before happened before that was known, so that it is no news.
        """
        if not has_hole and last_seq >= self._told:
            self._hole_at, self._missing = None, 0
            return False
        highest = max(missing, self._told if self._told > max(newest, last_seq) else 0)
        is_news = self._hole_at is None or highest > self._missing
        self._missing = max(highest, self._missing)
        if self._hole_at is None:
            self._hole_at = now
        return is_news

    def standing(self, now: BootTime, answered_at: BootTime | None = None) -> Standing:
        """answered_at: when the service last answered an introspection with what is true now."""
        if self._hole_at is not None or self.holds_back:
            return Standing.MISSING
        limit = self._heard_at + self.limits.silence
        if now < limit:
            return Standing.WHOLE
        speaks = self._refused or (answered_at is not None and answered_at > limit)
        return Standing.MISSING if speaks and self._failures else Standing.UNHEARD

    def asked(self, now: BootTime) -> None:
        """Asking was answered to the end."""
        self._asked_at, self._failures, self._not_before, self._refused = now, 0, _NEVER, False

    def failed(self, now: BootTime, jitter: float, *, refused: bool, wait: Seconds = NOT_SAID) -> None:
        """Asking failed. refused: the service was there and did not tell. jitter: in [0, 1). wait: as it asked for."""
        self._failures += 1
        self._refused = refused
        self._not_before = BootTime(now + max(BACKOFF.delay(self._failures + 1, jitter), wait))

    def next_ask(self) -> tuple[BootTime, Why]:
        """When to ask next unless something happens before, and why then."""
        at, why = min(self._reasons(), key=lambda reason: reason[0])
        return max(at, self._not_before), why

    def _reasons(self) -> list[tuple[BootTime, Why]]:
        if self._asked_at is None:
            return [(_NEVER, Why.START)]
        reasons = [(BootTime(self._asked_at + self.limits.audit), Why.AUDIT)]
        if self._hole_at is not None:
            reasons.append((BootTime(max(self._hole_at, self._asked_at) + self.limits.reorder_wait), Why.HOLE))
        if self.is_restored:
            reasons.append((_NEVER, Why.RESTORED))
        due = max(self._heard_at + self._patience(), self._asked_at + AGAIN)
        return [*reasons, (BootTime(due), Why.SILENCE)]

    def _patience(self) -> Seconds:
        """How long after the last word to ask: without heartbeats, so soon that the next word is not late."""
        return self.limits.silence if self.limits.heartbeats else Seconds(self.limits.silence / 2)
