"""Leaves a sealed record of each minted token in Redis, for as long as the token lives.

Redis holds only what may vanish: a record that could not be written, or was lost, costs an EDP one more question
with the token itself. A token is therefore handed out whether its record was kept or not, and soon: a Redis that
made one batch wait in vain is left alone by the next ones for a while.
"""

from collections.abc import Sequence
from typing import Final, Protocol

import trio

from admin.authorization.minting import Minted
from engine.backoff import Breaker
from engine.clock import Seconds, UnixTime
from engine.feed.redis_commands import Executor
from engine.feed.redis_faults import RedisFault
from engine.feed.redis_link import Command
from engine.feed.redis_names import token_key
from engine.tokens.claims import VerifiedToken
from engine.tokens.grants import parse_grants
from engine.tokens.token_records import seal_token_record, token_record
from engine.tokens.verify import revocation_key

WRITE_TIMEOUT: Final = Seconds(0.25)  # of a batch; Redis takes a millisecond
REST: Final = Seconds(1.0)


class TokenRecords(Protocol):
    """Where records of minted tokens are left."""

    async def keep(self, minted: Sequence[Minted], now: UnixTime) -> int:
        """Leave the records of these tokens; how many were kept. Raises nothing."""


class RedisTokenRecords:
    """In Redis, sealed, each expiring with its token. mac_key: the feed's newest; meter_key: the feed's. 32 bytes."""

    def __init__(self, redis: Executor, *, mac_key: bytes, meter_key: bytes) -> None:
        self._redis = redis
        self._mac_key = mac_key
        self._meter_key = meter_key
        self._breaker = Breaker(REST)

    async def keep(self, minted: Sequence[Minted], now: UnixTime) -> int:
        """See TokenRecords; none where Redis has not said within WRITE_TIMEOUT that it has them."""
        if not self._breaker.admits(trio.current_time()):
            return 0
        commands = await trio.to_thread.run_sync(self._commands, minted, now)  # 20 us each: too much for a batch
        with trio.move_on_after(WRITE_TIMEOUT):
            kept = await self._write(commands)
            self._breaker.succeeded()
            return kept
        self._breaker.failed(trio.current_time())
        return 0

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
