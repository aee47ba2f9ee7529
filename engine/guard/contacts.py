"""What came of the newest contacts with each node, for people to look at. Nothing is decided by it."""

from collections.abc import Collection

import msgspec

from engine.guard.evidence_words import Failure


class Contact(msgspec.Struct):
    """One node. Times: seconds since 1970; None: never.

    at, how: of the newest contact: `current` or `last_known` as the node said, `answered` where it did not say (a no
    does not), else how it failed. freshness, as_of: of the newest answer that said. failure: of the newest that failed.
    """

    address: str
    at: float | None = None
    how: str = ""
    freshness: str = ""
    as_of: float | None = None
    answered_at: float | None = None
    failed_at: float | None = None
    failure: str = ""


class Contacts:
    """All configured nodes. Every `at`: seconds since 1970."""

    def __init__(self, origins: Collection[str]) -> None:
        self._all = {origin: Contact(origin) for origin in origins}

    def answered(self, origin: str, at: float, freshness: str, as_of: float | None) -> None:
        """A sound answer came. freshness: "" = it did not say."""
        contact = self._all[origin]
        contact.at = contact.answered_at = at
        contact.how = freshness or "answered"
        if freshness:
            contact.freshness, contact.as_of = freshness, as_of

    def failed(self, origin: str, at: float, failure: Failure) -> None:
        """No sound answer came."""
        if failure is Failure.BUSY:
            return  # says something about us
        contact = self._all[origin]
        contact.at = contact.failed_at = at
        contact.how = contact.failure = failure.value

    def now(self) -> tuple[Contact, ...]:
        """Copies, in the order of the settings."""
        return tuple(msgspec.structs.replace(contact) for contact in self._all.values())
