"""The guard's memory of what was known, as its other parts see it. A pushed end always wins, in whatever order.

Kept on disk, encrypted, bounded (`engine.guard.store`). Calls never wait for a network; looking takes microseconds.
What was written survives kill -9 of the process and a loss of power once the call has returned, which takes one wait
for the disk; `together` shares that wait. `remember` alone is lazy: a second's worth of active answers may be lost,
which narrows what is known and nothing else. Where an answer shows less than the one before, it is not lazy either.
"""

from contextlib import AbstractContextManager
from typing import Protocol

from engine.clock import UnixTime
from engine.errors import Fault, Kind
from engine.guard.shares import KnownConsent, KnownNo, KnownToken


class MemoryFull(Fault):
    """The disk takes no more: an event that cannot be kept must not be acknowledged."""

    kind = Kind.UNAVAILABLE


class Memory(Protocol):
    """What is known of tokens and consents. Every writing method may raise MemoryFull and changes nothing then."""

    def remember(self, known: KnownToken) -> bool:
        """An active answer. Kept if it rests on a newer truth than what is kept; revives nothing that has ended.

        False: it rests on a truth from before this memory began, so that nothing can be said of it.
        """

    def refuse(self, digest: bytes, as_of: UnixTime) -> None:
        """An inactive answer about a token: it replaces an active one and stays, whatever comes."""

    def end(self, consent_id: str, version: int, at: UnixTime) -> None:
        """A consent has ended: pushed, polled or listed. Kept as a tombstone although the consent may be unknown."""

    def change(self, consent_id: str, version: int, entry: bytes | None, expires_at: UnixTime | None) -> None:
        """A consent was granted, renewed or narrowed. Ignored unless version is above what is known; never widens
        what an answer showed: an ended consent stays ended, a narrower entry replaces a wider one."""

    def suspend(self, client_id: str, version: int, *, suspended: bool) -> None:
        """An ATP was stopped as a whole, or may go on. Ignored unless version is above what is known."""

    def look(self, digest: bytes) -> KnownToken | None:
        """What is known of a token: without consents that have ended; None: nothing, refused, or its ATP suspended."""

    def look_for_no(self, digest: bytes) -> KnownNo | None:
        """Whether a token that `look` does not show is known to be good for nothing; None: nothing sure is known.

        Refused, or every consent that answers showed has ended, or its ATP is suspended.
        """

    def has_ended(self, consent_id: str) -> bool:
        """Whether an end of this consent has been heard of."""

    def is_suspended(self, client_id: str) -> bool:
        """Whether this ATP was stopped as a whole, as far as was heard."""

    def cut(self, shown: KnownConsent) -> KnownConsent | None:
        """A consent as an answer shows it, cut to what was heard of a later version; None: nothing of it is left.

        `shown` itself where nothing later was heard.
        """

    @property
    def heard(self) -> int:
        """Moves with every end, change, suspension and refusal: while it stands, what `look` showed has not ended.

        Read it before looking. It may move without a change.
        """

    def rest(self, as_of: UnixTime) -> None:
        """The service said that nothing may be kept for an outage: our right to fall back rests, or the cap is 0.

        What rests on a truth from then or before is of no use in an outage any more, whatever its own answer said.
        """

    def rested_at(self) -> UnixTime:
        """When the service said so last, as far as that matters to what is kept; 0: never."""

    def newest(self) -> UnixTime:
        """The newest truth that an answer ever rested on: by the service's clocks it is later than that."""

    def lost_until(self) -> UnixTime:
        """Of a truth from then or before, an end that was heard of may be forgotten: a memory before this one is lost.

        0: there was none, so that nothing was ever heard that is not known.
        """

    def missing_since(self) -> UnixTime | None:
        """Since when pushed events are known to be missing; None: none are.

        While it is set, only what was confirmed by an answer after it may be used in an outage.
        """

    def mark_missing(self, since: UnixTime) -> None:
        """Events are missing: see `engine.guard.watch`. The earliest mark stands."""

    def mark_whole(self) -> None:
        """Nothing is missing any more."""

    def together(self) -> AbstractContextManager[None]:
        """What is written inside is kept as one: all of it when the block has ended, nothing where it raises.

        One wait for the disk, however many writes: for polls and listings. Not to be nested, no await inside.
        """
