"""From the digests that batches carry to tokens: those a worker has seen, and the issuer's records in Redis.

A token that a worker has verified, or whose record it has read, needs no asking. The rest is looked for with one MGET.
What Redis lacks is either no token that is alive, or one whose record was lost or never written; which of them is told
by the issuer's vouching (`tokens.vouching`). Without it nothing is known, and nobody is told no for that reason.
"""

import binascii
import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import msgspec

from engine.clock import Clock, Seconds, UnixTime
from engine.errors import Fault
from engine.feed.redis_commands import Executor, mget
from engine.feed.redis_names import TOKENS_VOUCHED, TOKENS_WITNESS, token_key
from engine.tokens.claims import VerifiedToken
from engine.tokens.keys import KeySet
from engine.tokens.memo import VerifiedTokens
from engine.tokens.token_records import ForgedTokenRecord, TokenRecord, restored_token, unseal_token_record
from engine.tokens.vouching import vouches

LINK_AGE: Final = Seconds(3.0)  # a vouching that a replica brought along from its old primary has lapsed by then
_FROM_BASE64URL: Final = str.maketrans("-_", "+/")


class Unresolved(enum.Enum):
    """A digest of which nothing can be told."""

    UNRESOLVED = "unresolved"


UNRESOLVED: Final = Unresolved.UNRESOLVED
Resolved = VerifiedToken | None | Unresolved  # None: of no token that is alive


class Found(msgspec.Struct, frozen=True):
    """What Redis has. absent_means_none: whether a digest neither in records nor in doubt is of no live token."""

    records: Mapping[bytes, TokenRecord]
    in_doubt: frozenset[bytes] = frozenset()
    absent_means_none: bool = False


class TokenLookups(Protocol):
    """Finds the issuer's records of tokens."""

    async def find(self, digests: Sequence[bytes]) -> Found:
        """All that are there, their seals checked. Raises Fault when nobody can be asked."""


class Link(Executor, Protocol):
    """`redis_client.RedisClient`, as far as needed."""

    @property
    def up_for(self) -> Seconds: ...


class RedisTokenLookups:
    """From Redis. mac_keys: newest first. one_issuer: whether there is but one, so that its vouching says all.

    forged: called for each record whose seal is wrong.
    """

    def __init__(
        self,
        redis: Link,
        mac_keys: tuple[bytes, ...],
        clock: Clock,
        *,
        one_issuer: bool,
        forged: Callable[[], object] = lambda: None,
    ) -> None:
        self._redis = redis
        self._forged = forged
        self._mac_keys = mac_keys
        self._clock = clock
        self._one_issuer = one_issuer

    async def find(self, digests: Sequence[bytes]) -> Found:
        """One MGET, which Redis answers as of one moment: the records, and whether all of them are there."""
        link_age = self._redis.up_for
        keys = [token_key(digest) for digest in digests]
        *sealed, vouched, witness = await mget(self._redis, [*keys, TOKENS_VOUCHED, TOKENS_WITNESS])
        records, in_doubt = self._unseal(digests, sealed)
        is_whole = (
            self._one_issuer
            and link_age >= LINK_AGE
            and self._redis.up_for >= link_age  # the same link
            and vouches(vouched, witness, self._mac_keys, self._clock.now())
        )
        return Found(records, in_doubt, is_whole)

    def _unseal(
        self, digests: Sequence[bytes], sealed: Sequence[bytes | None]
    ) -> tuple[dict[bytes, TokenRecord], frozenset[bytes]]:
        records: dict[bytes, TokenRecord] = {}
        in_doubt = set()
        for digest, raw in zip(digests, sealed, strict=True):
            if raw is None:
                continue
            try:
                records[digest] = unseal_token_record(raw, digest, self._mac_keys)
            except ForgedTokenRecord:
                self._forged()
                in_doubt.add(digest)
        return records, frozenset(in_doubt)


class NoTokenLookups:
    """For a node that has no Redis: nobody can be asked."""

    async def find(self, digests: Sequence[bytes]) -> Found:
        """Raises Fault."""
        raise Fault(f"there is no Redis to read {len(digests)} token records from")


class TokenDigests:
    """One per worker, beside its memo of verified tokens. size: restored tokens kept; the first to come go first."""

    def __init__(self, memo: VerifiedTokens, lookups: TokenLookups, size: int) -> None:
        self._memo = memo
        self._lookups = lookups
        self._size = size
        self._restored: dict[bytes, VerifiedToken] = {}

    def known(self, token_id: str, keys: KeySet, now: UnixTime) -> VerifiedToken | None:
        """A token that needs no looking up. token_id: base64url of its digest."""
        digest = digest_of(token_id)
        token = self._memo.get(digest, keys, now)
        return self._restored.get(digest) if token is None else token

    async def look_up(self, token_ids: Sequence[str]) -> dict[str, Resolved]:
        """What Redis says of each. Raises Fault when it cannot be asked."""
        digests = {token_id: digest_of(token_id) for token_id in token_ids}
        found = await self._lookups.find(list(digests.values()))
        return {token_id: self._resolved(digest, found) for token_id, digest in digests.items()}

    def _resolved(self, digest: bytes, found: Found) -> Resolved:
        record = found.records.get(digest)
        if record is None:
            return None if found.absent_means_none and digest not in found.in_doubt else UNRESOLVED
        if record.x5t_s256 is None and record.jkt is None:  # of an issuer that did not say yet what binds a token
            return UNRESOLVED
        token = restored_token(record, digest)
        self._restored[digest] = token
        if len(self._restored) > self._size:
            del self._restored[next(iter(self._restored))]
        return token


def digest_of(token_id: str) -> bytes:
    """The 32 bytes of a digest in canonical base64url."""
    return binascii.a2b_base64(token_id.translate(_FROM_BASE64URL) + "=")
