"""Ledger events and records as sealed feed entries, always under the ledger's present incarnation.

A record that was written under an earlier incarnation is still the truth, but positions of that incarnation mean
nothing any more; so whatever leaves the ledger carries the incarnation it has now.
"""

import msgspec

from admin.ledger.store import FeedRecord, StoredEvent
from engine.feed.entries import Entry, seal
from engine.feed.questions import Answer, ForgedMessage, Question, seal_answer, unseal_question


class Sealed(msgspec.Struct, frozen=True):
    """An entry with its sealed bytes."""

    entry: Entry
    sealed: bytes


class Sealer:
    """Holds the MAC keys. keys: newest first; the first seals, all of them check."""

    def __init__(self, keys: tuple[bytes, ...]) -> None:
        if not keys or any(len(key) < 32 for key in keys):
            raise ValueError("MAC keys have at least 32 bytes, and there is at least one")
        self.keys = keys

    def entry(self, entry: Entry) -> Sealed:
        """Seal an entry."""
        return Sealed(entry, seal(entry, self.keys[0]))

    def event(self, event: StoredEvent, incarnation: str) -> Sealed:
        """An event's entry, possibly empty."""
        feed = event.feed
        if feed is None:
            return self.entry(msgspec.structs.replace(event.entry(), incarnation=incarnation))
        return self.record(event.position.seq, feed, incarnation)

    def record(self, seq: int, record: FeedRecord, incarnation: str) -> Sealed:
        """The entry of a record, with the number of the event that wrote it."""
        return self.entry(Entry(incarnation, seq, record.kind, record.key, record.record))

    def answer(self, answer: Answer) -> bytes:
        """Seal an answer."""
        return seal_answer(answer, self.keys[0])

    def question(self, sealed: bytes) -> Question | None:
        """The question, or None for what no key of ours has sealed."""
        try:
            return unseal_question(sealed, self.keys)
        except ForgedMessage:
            return None
