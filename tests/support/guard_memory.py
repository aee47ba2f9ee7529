"""A guard's memory in a dictionary: the rules and nothing else. Bounded by nothing, kept nowhere."""

from collections.abc import Iterator
from contextlib import contextmanager

from engine.clock import UnixTime
from engine.guard import rules
from engine.guard.shares import KnownConsent, KnownNo, KnownToken


class InMemory:
    """`engine.guard.memory.Memory` for tests."""

    def __init__(self) -> None:
        self._tokens: dict[bytes, rules.KeptToken] = {}
        self._consents: dict[str, rules.KeptConsent] = {}
        self._parties: dict[str, rules.KeptParty] = {}
        self._missing_since: UnixTime | None = None
        self.heard = 0
        self._rested_at = self._newest = UnixTime(0)

    def remember(self, known: KnownToken) -> bool:
        """See `Memory.remember`."""
        after = rules.remembered(self._tokens.get(known.digest), known, UnixTime(0))
        if after is not None:
            self._tokens[known.digest] = after
            self._newest = max(self._newest, known.as_of)
        return True

    def refuse(self, digest: bytes, as_of: UnixTime) -> None:
        """See `Memory.refuse`."""
        self.heard += 1
        after = rules.refused(self._tokens.get(digest), as_of)
        if after is not None:
            self._tokens[digest] = after

    def end(self, consent_id: str, version: int, at: UnixTime) -> None:
        """See `Memory.end`."""
        self.heard += 1
        after = rules.ended(self._consents.get(consent_id), version, at)
        if after is not None:
            self._consents[consent_id] = after

    def change(self, consent_id: str, version: int, entry: bytes | None, expires_at: UnixTime | None) -> None:
        """See `Memory.change`."""
        self.heard += 1
        after = rules.changed(self._consents.get(consent_id), version, entry, expires_at)
        if after is not None:
            self._consents[consent_id] = after

    def suspend(self, client_id: str, version: int, *, suspended: bool) -> None:
        """See `Memory.suspend`."""
        self.heard += 1
        after = rules.suspended(self._parties.get(client_id), version, suspended)
        if after is not None:
            self._parties[client_id] = after

    def look(self, digest: bytes) -> KnownToken | None:
        """See `Memory.look`."""
        kept = self._tokens.get(digest)
        if kept is None or kept.known is None:
            return None
        return rules.in_force(kept.known, self._consents.get, self._parties.get(kept.known.client_id))

    def look_for_no(self, digest: bytes) -> KnownNo | None:
        """See `Memory.look_for_no`."""
        kept = self._tokens.get(digest)
        return None if kept is None else rules.denied(kept, self._consents.get, self._parties.get)

    def has_ended(self, consent_id: str) -> bool:
        """See `Memory.has_ended`."""
        kept = self._consents.get(consent_id)
        return kept is not None and kept.ended

    def is_suspended(self, client_id: str) -> bool:
        """See `Memory.is_suspended`."""
        kept = self._parties.get(client_id)
        return kept is not None and kept.suspended

    def cut(self, shown: KnownConsent) -> KnownConsent | None:
        """See `Memory.cut`."""
        return rules.narrowed(shown, self._consents.get(shown.consent_id))

    def rest(self, as_of: UnixTime) -> None:
        """See `Memory.rest`."""
        self._rested_at = max(self._rested_at, as_of)

    def rested_at(self) -> UnixTime:
        """See `Memory.rested_at`."""
        return self._rested_at

    def newest(self) -> UnixTime:
        """See `Memory.newest`."""
        return self._newest

    def lost_until(self) -> UnixTime:
        """See `Memory.lost_until`."""
        return UnixTime(0)

    def missing_since(self) -> UnixTime | None:
        """See `Memory.missing_since`."""
        return self._missing_since

    def mark_missing(self, since: UnixTime) -> None:
        """See `Memory.mark_missing`."""
        self._missing_since = since if self._missing_since is None else min(since, self._missing_since)

    def mark_whole(self) -> None:
        """See `Memory.mark_whole`."""
        self._missing_since = None

    @contextmanager
    def together(self) -> Iterator[None]:
        """See `Memory.together`."""
        before = dict(self._tokens), dict(self._consents), dict(self._parties), self._missing_since
        rested_at = self._rested_at
        try:
            yield
        except BaseException:
            self._tokens, self._consents, self._parties, self._missing_since = before
            self._rested_at = rested_at
            raise
