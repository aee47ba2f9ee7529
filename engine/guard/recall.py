"""Records of the guard's store that it has read of late, decoded: what has not changed is not read or opened again.

One process has the store open, and every write passes here, so nothing changes behind it. What is written or taken
away is dropped; where a transaction fails, everything is. So what stands here is what stands on disk.
"""

from itertools import islice
from typing import Final, Generic, TypeVar

from engine.guard.rules import KeptConsent, KeptParty, KeptToken
from engine.guard.sealing import Sort

T = TypeVar("T")

_TOKEN_BYTES: Final = 64 << 20  # of answers and entries, decoded: some twenty thousand usual tokens
_OVERHEAD: Final = 1_024  # bytes that a token takes beside its answer and entries, more or less
_CONSENTS: Final = 65_536
_PARTIES: Final = 10_000
_EIGHTH: Final = 8  # of the oldest goes at once where there is no room


class Unread:
    """Not here: the disk must be asked."""


UNREAD: Final = Unread()


class Recent(Generic[T]):
    """Records by name, the oldest of which go first. room: how much all of them may weigh."""

    def __init__(self, room: int) -> None:
        self._room = self._left = room
        self._kept: dict[bytes, tuple[T, int]] = {}

    def find(self, name: bytes) -> T | Unread:
        """What stands under a name."""
        found = self._kept.get(name)
        return UNREAD if found is None else found[0]

    def keep(self, name: bytes, record: T, weight: int = 1) -> None:
        """As it was read."""
        self.drop(name)
        if weight > self._room:
            return
        while weight > self._left:
            for oldest in list(islice(self._kept, 1 + len(self._kept) // _EIGHTH)):
                self.drop(oldest)
        self._kept[name] = record, weight
        self._left -= weight

    def drop(self, name: bytes) -> None:
        """It is not what it was."""
        found = self._kept.pop(name, None)
        if found is not None:
            self._left += found[1]

    def __len__(self) -> int:
        return len(self._kept)


class Recall:
    """Tokens that are known, and consents and ATPs whether anything is known of them or not."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Nothing is certain any more."""
        self.tokens: Recent[KeptToken] = Recent(_TOKEN_BYTES)
        self.consents: Recent[KeptConsent | None] = Recent(_CONSENTS)
        self.parties: Recent[KeptParty | None] = Recent(_PARTIES)

    def drop(self, sort: Sort, name: bytes) -> None:
        """A record is written or taken away."""
        if sort is Sort.TOKEN:
            self.tokens.drop(name)
        elif sort is Sort.CONSENT:
            self.consents.drop(name)
        else:
            self.parties.drop(name)


def weight_of(kept: KeptToken) -> int:
    """Bytes that a token takes, more or less."""
    if kept.known is None:
        return _OVERHEAD
    return _OVERHEAD + len(kept.known.answer) + sum(len(consent.entry) for consent in kept.known.consents)
