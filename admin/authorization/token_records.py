"""Leaves a sealed record of each minted token in Redis, for as long as the token lives.

Redis holds only what may vanish: a record that could not be written, or was lost, costs an EDP one more question
with the token itself. A token is therefore handed out whether its record was kept or not.
"""

from collections.abc import Sequence
from typing import Protocol

import trio

from admin.authorization.minting import Minted
from engine.clock import UnixTime
from engine.feed.redis_commands import Executor
from engine.feed.redis_faults import RedisFault
from engine.feed.redis_link import Command
from engine.feed.redis_names import token_key
from engine.tokens.claims import VerifiedToken
from engine.tokens.grants import parse_grants
from engine.tokens.token_records import seal_token_record, token_record
from engine.tokens.verify import revocation_key


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

    async def keep(self, minted: Sequence[Minted], now: UnixTime) -> int:
        """See TokenRecords."""
        commands = await trio.to_thread.run_sync(self._commands, minted, now)  # 20 us each: too much for a batch
        try:
            replies = await self._redis.execute_many(commands)
        except RedisFault:
            return 0
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
