"""Records of tokens in a real Redis: there as long as the token, sealed, and missed by nobody when lost."""

import pytest
import trio

from admin.authorization.token_records import RedisTokenRecords
from engine.clock import Seconds, UnixTime
from engine.feed.redis_client import RedisClient
from engine.feed.redis_names import token_key
from engine.tokens.keys import KeySet
from engine.tokens.token_records import ForgedTokenRecord, token_record, unseal_token_record
from engine.tokens.verify import VerifiedToken, verify
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
