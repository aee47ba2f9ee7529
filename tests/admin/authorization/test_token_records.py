"""Records of tokens in a real Redis: there as long as the token, sealed, and missed by nobody when lost."""

import time
from typing import Any

import pytest
import trio

from admin.authorization.token_records import VOUCH_EVERY, RedisTokenRecords
from engine.clock import Seconds, UnixTime
from engine.feed.redis_client import RedisClient
from engine.feed.redis_commands import mget
from engine.feed.redis_faults import RedisUnavailable
from engine.feed.redis_names import TOKENS_VOUCHED, TOKENS_WITNESS, token_key
from engine.tokens.keys import KeySet
from engine.tokens.token_records import ForgedTokenRecord, token_record, unseal_token_record
from engine.tokens.verify import VerifiedToken, verify
from engine.tokens.vouching import seal_word, vouches
from tests.support.pki import CONSENT_ID, METER_KEY, METER_POINT, NOW, MakeToken
from tests.support.valkey import Valkey, client_of

MAC_KEY = b"m" * 32
PATIENCE = 30.0  # far above what anything here takes


def records_in(redis: RedisClient) -> RedisTokenRecords:
    return RedisTokenRecords(redis, mac_key=MAC_KEY, meter_key=METER_KEY)


async def test_record_says_what_verification_of_the_token_says(
    redis_client: RedisClient, valkey: Valkey, make_token: MakeToken, key_set: KeySet
) -> None:
    minted = make_token()
    assert await records_in(redis_client).keep([minted], NOW) == 1
    sealed = valkey.call("GET", token_key(minted.digest))
    found = verify(minted.token, key_set, METER_KEY, NOW)
    assert isinstance(found, VerifiedToken)
    assert unseal_token_record(sealed, minted.digest, (b"n" * 32, MAC_KEY)) == token_record(found)


async def test_record_lives_as_long_as_its_token(
    redis_client: RedisClient, valkey: Valkey, make_token: MakeToken
) -> None:
    minted = [make_token(), make_token()]
    later = UnixTime(minted[0].claims.exp - 100)
    assert await records_in(redis_client).keep(minted, later) == 2
    for one in minted:
        assert 0 < valkey.call("PTTL", token_key(one.digest)) <= 100_000
    assert await records_in(redis_client).keep(minted, UnixTime(minted[0].claims.exp)) == 0


async def test_record_tells_redis_neither_person_nor_meter_nor_token(
    redis_client: RedisClient, valkey: Valkey, make_token: MakeToken
) -> None:
    minted = make_token()
    await records_in(redis_client).keep([minted], NOW)
    sealed = valkey.call("GET", token_key(minted.digest))
    claims = minted.claims
    for secret in (
        minted.token,
        claims.sub.encode(),
        claims.jti.encode(),
        METER_POINT.encode(),
        METER_POINT[5:].encode(),
    ):
        assert secret not in sealed
    assert CONSENT_ID.encode() not in sealed


async def test_lost_redis_holds_up_no_token(
    doomed_valkey: Valkey, make_token: MakeToken, nursery: trio.Nursery
) -> None:
    client = client_of(doomed_valkey.url)
    await nursery.start(client.run)
    await client.wait_up()
    doomed_valkey.kill()
    assert await records_in(client).keep([make_token()], NOW) == 0


async def test_frozen_redis_holds_up_one_token_briefly_and_the_next_ones_not_at_all(
    doomed_valkey: Valkey, make_token: MakeToken, nursery: trio.Nursery
) -> None:
    client = client_of(doomed_valkey.url, silence=Seconds(300.0))  # the link itself would wait for ever
    await nursery.start(client.run)
    await client.wait_up()
    records = records_in(client)
    assert await records.keep([make_token()], NOW) == 1
    doomed_valkey.pause()
    with trio.fail_after(PATIENCE):
        assert await records.keep([make_token()], NOW) == 0
        waiting = client.statistics().waiting
        for _ in range(20):
            assert await records.keep([make_token()], NOW) == 0
        assert client.statistics().waiting <= waiting + 2  # most have not even tried
        doomed_valkey.resume()
        while not await records.keep([make_token()], NOW):  # noqa: ASYNC110 - Redis is back when it is back
            await trio.sleep(0.05)


async def test_record_under_another_digest_or_changed_is_forged(
    redis_client: RedisClient, valkey: Valkey, make_token: MakeToken
) -> None:
    mine, other = make_token(), make_token()
    await records_in(redis_client).keep([mine, other], NOW)
    sealed = valkey.call("GET", token_key(mine.digest))
    with pytest.raises(ForgedTokenRecord):
        unseal_token_record(sealed, other.digest, (MAC_KEY,))
    with pytest.raises(ForgedTokenRecord):
        unseal_token_record(sealed, mine.digest, (b"k" * 32,))
    for index in range(len(sealed)):
        changed = sealed[:index] + bytes([sealed[index] ^ 1]) + sealed[index + 1 :]
        with pytest.raises(ForgedTokenRecord):
            unseal_token_record(changed, mine.digest, (MAC_KEY,))
    with pytest.raises(ForgedTokenRecord):
        unseal_token_record(b"", mine.digest, (MAC_KEY,))


# The issuer's word that no record is missing.


class Issuer:
    """Records with a life of tokens that a test can wait for, vouching beside it."""

    def __init__(self, redis: RedisClient, **options: Any) -> None:
        self.redis = redis
        self.records = RedisTokenRecords(redis, mac_key=MAC_KEY, meter_key=METER_KEY, **options)

    async def is_vouching(self) -> bool:
        vouched, witness = await mget(self.redis, [TOKENS_VOUCHED, TOKENS_WITNESS])
        return vouches(vouched, witness, (MAC_KEY,), UnixTime(int(time.time())))

    async def until_vouching(self) -> None:
        with trio.fail_after(PATIENCE):
            while not await self.is_vouching():  # noqa: ASYNC110 - Redis cannot tell
                await trio.sleep(0.02)


LONG = Seconds(3600.0)


async def test_word_of_a_new_ledger_s_issuer_is_given_at_once(redis_client: RedisClient, nursery: trio.Nursery) -> None:
    issuer = Issuer(redis_client, lifetime=LONG, is_new=True)
    await nursery.start(issuer.records.vouch)
    await issuer.until_vouching()


async def test_issuer_of_an_older_ledger_waits_until_all_older_tokens_are_over(
    redis_client: RedisClient, nursery: trio.Nursery
) -> None:
    issuer = Issuer(redis_client, lifetime=LONG)
    await nursery.start(issuer.records.vouch)
    await trio.sleep(4 * VOUCH_EVERY)
    assert not await issuer.is_vouching()


async def test_word_is_not_given_again_after_redis_was_emptied(
    redis_client: RedisClient, valkey: Valkey, nursery: trio.Nursery
) -> None:
    issuer = Issuer(redis_client, lifetime=LONG, is_new=True)
    await nursery.start(issuer.records.vouch)
    await issuer.until_vouching()
    valkey.call("FLUSHALL")
    assert not await issuer.is_vouching()
    for _ in range(20):
        await trio.sleep(VOUCH_EVERY / 5)
        assert not await issuer.is_vouching()


async def test_token_without_a_record_waits_until_the_word_has_lapsed(
    redis_client: RedisClient, nursery: trio.Nursery, make_token: MakeToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuer = Issuer(redis_client, lifetime=LONG, is_new=True)
    await nursery.start(issuer.records.vouch)
    await issuer.until_vouching()
    assert await issuer.records.keep([make_token()], NOW) == 1
    assert await issuer.is_vouching()

    async def fails(_commands: object) -> list[object]:
        raise RedisUnavailable("for this once")

    monkeypatch.setattr(redis_client, "execute_many", fails)
    assert await issuer.records.keep([make_token()], NOW) == 0
    assert not await issuer.is_vouching()
    await trio.sleep(2 * VOUCH_EVERY)
    assert not await issuer.is_vouching()


def test_word_of_another_witness_time_or_key_is_none() -> None:
    word = seal_word(b"w" * 16, NOW, MAC_KEY)
    assert vouches(word, b"w" * 16, (b"n" * 32, MAC_KEY), NOW)
    assert not vouches(word, b"x" * 16, (MAC_KEY,), NOW)
    assert not vouches(word, None, (MAC_KEY,), NOW)
    assert not vouches(None, b"w" * 16, (MAC_KEY,), NOW)
    assert not vouches(word, b"w" * 16, (b"n" * 32,), NOW)
    assert not vouches(word, b"w" * 16, (MAC_KEY,), UnixTime(NOW + 60))
    for index in range(len(word)):
        changed = word[:index] + bytes([word[index] ^ 1]) + word[index + 1 :]
        assert not vouches(changed, b"w" * 16, (MAC_KEY,), NOW)
