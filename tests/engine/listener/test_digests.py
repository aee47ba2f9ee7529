"""Token records in a real Redis as a worker finds them: resolved, absent for good, lost, or forged."""

import pytest
import trio

from admin.authorization.token_records import RedisTokenRecords
from engine.clock import Seconds
from engine.feed.redis_client import RedisClient
from engine.feed.redis_faults import RedisUnavailable
from engine.feed.redis_names import TOKENS_VOUCHED, TOKENS_WITNESS, token_key
from engine.listener import digests
from engine.listener.digests import RedisTokenLookups
from engine.listener.forgeries import Forgeries
from engine.telemetry.host import SystemClock
from engine.tokens.vouching import seal_word
from tests.support.pki import METER_KEY, NOW, MakeToken
from tests.support.valkey import Valkey, client_of

MAC_KEY = b"m" * 32
UNKNOWN = b"u" * 32


@pytest.fixture
def lookups(redis_client: RedisClient, monkeypatch: pytest.MonkeyPatch) -> RedisTokenLookups:
    monkeypatch.setattr(digests, "LINK_AGE", Seconds(0.0))
    return RedisTokenLookups(redis_client, (MAC_KEY,), SystemClock(), one_issuer=True)


@pytest.fixture
def vouched(valkey: Valkey) -> Valkey:
    """The issuer's word, as it stands between two of its renewals."""
    valkey.call("SET", TOKENS_WITNESS, b"w" * 16)
    valkey.call("SET", TOKENS_VOUCHED, seal_word(b"w" * 16, SystemClock().now(), MAC_KEY))
    return valkey


async def test_record_is_found_and_absence_is_told_by_the_issuers_word(
    lookups: RedisTokenLookups, redis_client: RedisClient, vouched: Valkey, make_token: MakeToken
) -> None:
    minted = make_token()
    await RedisTokenRecords(redis_client, mac_key=MAC_KEY, meter_key=METER_KEY).keep([minted], NOW)
    found = await lookups.find([minted.digest, UNKNOWN])
    assert list(found.records) == [minted.digest]
    assert found.absent_means_none
    vouched.call("DEL", TOKENS_VOUCHED)
    assert not (await lookups.find([UNKNOWN])).absent_means_none


async def test_a_record_put_under_another_tokens_digest_is_in_doubt_and_counted(
    redis_client: RedisClient, vouched: Valkey, make_token: MakeToken
) -> None:
    minted, forged = make_token(), Forgeries()
    await RedisTokenRecords(redis_client, mac_key=MAC_KEY, meter_key=METER_KEY).keep([minted], NOW)
    vouched.call("SET", token_key(UNKNOWN), vouched.call("GET", token_key(minted.digest)))
    lookups = RedisTokenLookups(redis_client, (MAC_KEY,), SystemClock(), one_issuer=True, forged=forged)
    found = await lookups.find([UNKNOWN])
    assert (found.records, found.in_doubt, forged.total) == ({}, frozenset({UNKNOWN}), 1)


async def test_emptied_redis_says_nothing_even_where_an_old_word_is_put_back(
    lookups: RedisTokenLookups, vouched: Valkey
) -> None:
    word = vouched.call("GET", TOKENS_VOUCHED)
    vouched.call("FLUSHALL")
    assert not (await lookups.find([UNKNOWN])).absent_means_none
    vouched.call("SET", TOKENS_VOUCHED, word)
    assert not (await lookups.find([UNKNOWN])).absent_means_none


async def test_word_counts_only_where_there_is_one_issuer_and_over_a_settled_link(
    redis_client: RedisClient, vouched: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert vouched.call("EXISTS", TOKENS_VOUCHED) == 1
    monkeypatch.setattr(digests, "LINK_AGE", Seconds(0.0))
    several = RedisTokenLookups(redis_client, (MAC_KEY,), SystemClock(), one_issuer=False)
    assert not (await several.find([UNKNOWN])).absent_means_none
    monkeypatch.setattr(digests, "LINK_AGE", Seconds(3600.0))
    settled = RedisTokenLookups(redis_client, (MAC_KEY,), SystemClock(), one_issuer=True)
    assert not (await settled.find([UNKNOWN])).absent_means_none


async def test_forged_record_is_in_doubt_and_not_absent(lookups: RedisTokenLookups, vouched: Valkey) -> None:
    vouched.call("SET", token_key(UNKNOWN), b"forged")
    found = await lookups.find([UNKNOWN])
    assert (found.records, found.in_doubt) == ({}, {UNKNOWN})


async def test_redis_that_is_gone_is_a_fault(doomed_valkey: Valkey, nursery: trio.Nursery) -> None:
    client = client_of(doomed_valkey.url)
    await nursery.start(client.run)
    doomed_valkey.kill()
    await client.wait_down()
    assert client.up_for == 0.0
    with pytest.raises(RedisUnavailable):
        await RedisTokenLookups(client, (MAC_KEY,), SystemClock(), one_issuer=True).find([UNKNOWN])
