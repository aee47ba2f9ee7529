"""The tokens a worker has verified lately, by the digest of the whole token: a repeat costs one look-up.

Only a signature is remembered, never an answer: consent, client and participant are looked at on every request.
A token leaves when it expires, when its key leaves the set, or when newer ones need the room.
"""

from collections import OrderedDict

import msgspec

from engine.clock import UnixTime
from engine.tokens.claims import VerifiedToken
from engine.tokens.keys import KeySet


class MemoStatistics(msgspec.Struct, frozen=True):
    """For metrics. hits and misses count since start; an expired or orphaned entry is a miss."""

    size: int
    hits: int
    misses: int


class VerifiedTokens:
    """At most `size` tokens. Every operation takes the same time however many there are: nothing is scanned.

    The one that came first goes first. Tokens all live about equally long, so it is also the next to expire; and
    to keep an order of last use would cost more on each hit than a second verification costs now and then.
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError("a memo holds at least one token")
        self._size = size
        self._tokens: OrderedDict[bytes, VerifiedToken] = OrderedDict()
        self._hits = 0
        self._misses = 0

    def get(self, digest: bytes, keys: KeySet, now: UnixTime) -> VerifiedToken | None:
        """The token of this digest (`verify.token_digest`), if it has not expired and its key is still in the set."""
        token = self._tokens.get(digest)
        if token is None:
            self._misses += 1
            return None
        if token.claims.exp <= now or token.key_thumbprint not in keys.thumbprints:
            del self._tokens[digest]
            self._misses += 1
            return None
        self._hits += 1
        return token

    def put(self, token: VerifiedToken) -> None:
        """Remember a token that `verify` returned. One that no key has verified is never given out again."""
        self._tokens[token.digest] = token
        if len(self._tokens) > self._size:
            self._tokens.popitem(last=False)

    def statistics(self) -> MemoStatistics:
        """A frozen record of now."""
        return MemoStatistics(len(self._tokens), self._hits, self._misses)
