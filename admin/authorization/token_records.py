"""Leaves a sealed record of each minted token in Redis, for as long as the token lives.

Redis holds only what may vanish: a record that could not be written, or was lost, costs an EDP one more question
with the token itself. A token is therefore handed out whether its record was kept or not, and soon: a Redis that
made one batch wait in vain is left alone by the next ones for a while.

Beside the records it leaves its word that none of them is missing (`engine.tokens.vouching`), as long as that is so.
When a record cannot be written, the token waits until the last word has lapsed: a second or two, once in an outage.
"""

import secrets
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import msgspec
import trio

from admin.authorization.minting import Minted
from engine.backoff import Breaker
from engine.clock import Seconds, UnixTime
from engine.feed.redis_commands import Executor, get, put
from engine.feed.redis_faults import RedisFault
from engine.feed.redis_link import Command
from engine.feed.redis_names import TOKENS_VOUCHED, TOKENS_WITNESS, token_key
from engine.tokens.claims import VerifiedToken
from engine.tokens.grants import parse_grants
from engine.tokens.token_records import seal_token_record, token_record
from engine.tokens.verify import revocation_key
from engine.tokens.vouching import LIFE, WITNESS_BYTES, seal_word

WRITE_TIMEOUT: Final = Seconds(0.25)  # of a batch; Redis takes a millisecond
REST: Final = Seconds(1.0)
VOUCH_EVERY: Final = Seconds(0.25)
CLOCKS_APART: Final = Seconds(1.0)  # how far the wall clocks of this machine and of Redis may differ


class TokenRecords(Protocol):
    """Where records of minted tokens are left."""

    async def keep(self, minted: Sequence[Minted], now: UnixTime) -> int:
        """Leave the records of these tokens; how many were kept. Raises nothing."""


class Link(Executor, Protocol):
    """`redis_client.RedisClient`, as far as needed."""

    @property
    def up_for(self) -> Seconds: ...


class _Era(msgspec.Struct, frozen=True):
    """A time in which no record was lost. Times are trio's."""

    link_since: float
    began: float
    witness: bytes
    is_first: bool  # no token of this ledger is older


class RedisTokenRecords:
    """In Redis, sealed, each expiring with its token. mac_key: the feed's newest; meter_key: the feed's. 32 bytes.

    lifetime: of the longest-lived token. is_new: nothing was issued yet by anybody who shares the ledger. wall: seconds
    since 1970, as exact as there are.
    """

    def __init__(
        self,
        redis: Link,
        *,
        mac_key: bytes,
        meter_key: bytes,
        lifetime: Seconds = Seconds(3600.0),  # noqa: B008 - a number
        is_new: bool = False,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._redis = redis
        self._mac_key = mac_key
        self._meter_key = meter_key
        self._breaker = Breaker(REST)
        self._lifetime = lifetime
        self._is_new = is_new
        self._wall = wall
        self._era: _Era | None = None
        self._failures = 0
        self._word_at = float("-inf")

    async def keep(self, minted: Sequence[Minted], now: UnixTime) -> int:
        """See TokenRecords; none where Redis has not said within WRITE_TIMEOUT that it has them."""
        self._is_new = False  # an era that begins from now on is not the first
        kept = await self._keep(minted, now)
        if kept < sum(one.claims.exp > now for one in minted):
            await self._give_up_vouching()
        return kept

    async def _keep(self, minted: Sequence[Minted], now: UnixTime) -> int:
        if not self._breaker.admits(trio.current_time()):
            return 0
        commands = await trio.to_thread.run_sync(self._commands, minted, now)  # 20 us each: too much for a batch
        with trio.move_on_after(WRITE_TIMEOUT):
            kept = await self._write(commands)
            self._breaker.succeeded()
            return kept
        self._breaker.failed(trio.current_time())
        return 0

    async def vouch(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled: give the word while it is true."""
        task_status.started()
        while True:
            with trio.move_on_after(WRITE_TIMEOUT) as limit:
                try:
                    await self._vouch_once()
                except RedisFault:
                    self._era = None
            if limit.cancelled_caught:
                self._era = None
            await trio.sleep(VOUCH_EVERY)

    async def _vouch_once(self) -> None:
        now, failures = trio.current_time(), self._failures
        link_since = now - self._redis.up_for
        era = self._era
        if era is None or abs(era.link_since - link_since) > 1e-3:
            self._era = None
            witness = secrets.token_bytes(WITNESS_BYTES)
            first = self._is_new
            await put(self._redis, TOKENS_WITNESS, witness)
            if failures == self._failures:
                self._era, self._is_new = _Era(link_since, now, witness, first), False
            return
        if not era.is_first and now - era.began <= self._lifetime:
            return
        if await get(self._redis, TOKENS_WITNESS) != era.witness:
            self._era = None  # Redis was emptied
        elif self._era is era:
            await self._give_word(era.witness)

    async def _give_word(self, witness: bytes) -> None:
        self._word_at = trio.current_time()
        wall = self._wall()
        word = seal_word(witness, UnixTime(int(wall)), self._mac_key)
        lapses = int((wall + LIFE) * 1000)  # by the clock: a Redis that stood still must not lengthen it
        await self._redis.execute("SET", TOKENS_VOUCHED, word, "PXAT", lapses)

    async def _give_up_vouching(self) -> None:
        """A token without a record is about to be handed out: not before the last word has lapsed."""
        self._failures += 1
        self._era = None
        await trio.sleep_until(self._word_at + LIFE + CLOCKS_APART)

    async def _write(self, commands: list[Command]) -> int:
        try:
            replies = await self._redis.execute_many(commands)
        except RedisFault:
            return 0  # told at once: the next batch loses nothing by trying
        return sum(not isinstance(reply, Exception) for reply in replies)

    def _commands(self, minted: Sequence[Minted], now: UnixTime) -> list[Command]:
        return [
            ("SET", token_key(one.digest), self._sealed(one), "PX", (one.claims.exp - now) * 1000)
            for one in minted
            if one.claims.exp > now
        ]

    def _sealed(self, minted: Minted) -> bytes:
        claims = minted.claims
        grants = parse_grants(claims.authorization_details, self._meter_key)
        token = VerifiedToken(
            claims, minted.kid, minted.digest, revocation_key(claims.jti), grants, minted.key_thumbprint
        )
        return seal_token_record(token_record(token), minted.digest, self._mac_key)
