"""Reading a consent through from Redis: on a real server, and never more than what is sealed, ours and newer."""

import msgspec
import pytest

from engine.consent.records import ConsentKey
from engine.errors import Fault
from engine.feed.entries import Entry, EntryKind, seal
from engine.feed.redis_client import RedisClient
from engine.feed.redis_commands import put
from engine.feed.redis_names import record_key
from engine.listener.forgeries import Forgeries
from engine.listener.read_through import NoReadThrough, RedisReadThrough, newer_consent
from tests.support.replicas import INCARNATION, MAC_KEY, OTHER_INCARNATION, bound, consent, consent_entry, consent_key

KEY = consent_key(1)


async def keep(redis: RedisClient, entry: Entry, *, mac_key: bytes = MAC_KEY, under: ConsentKey = KEY) -> None:
    await put(redis, record_key(EntryKind.CONSENT, under), seal(entry, mac_key))


async def test_a_sealed_record_is_found_and_the_absent_is_absent(redis_client: RedisClient) -> None:
    await keep(redis_client, consent_entry(5, 1))
    found = await RedisReadThrough(redis_client, (MAC_KEY,)).find([KEY, consent_key(2)])
    assert found == {KEY: consent_entry(5, 1)}


async def test_an_older_mac_key_is_still_taken(redis_client: RedisClient) -> None:
    await keep(redis_client, consent_entry(5, 1), mac_key=b"o" * 32)
    assert KEY in await RedisReadThrough(redis_client, (MAC_KEY, b"o" * 32)).find([KEY])


async def test_what_is_not_sealed_by_us_counts_as_absent(redis_client: RedisClient) -> None:
    await keep(redis_client, consent_entry(5, 1), mac_key=b"x" * 32)
    forged = Forgeries()
    assert await RedisReadThrough(redis_client, (MAC_KEY,), forged).find([KEY]) == {}
    assert forged.total == 1


async def test_a_record_moved_under_another_key_counts_as_absent(redis_client: RedisClient) -> None:
    await keep(redis_client, consent_entry(5, 2), under=KEY)
    forged = Forgeries()
    assert await RedisReadThrough(redis_client, (MAC_KEY,), forged).find([KEY]) == {}
    assert forged.total == 1


async def test_another_kind_of_record_counts_as_absent(redis_client: RedisClient) -> None:
    await keep(redis_client, Entry(INCARNATION, 5, EntryKind.TOKEN_REVOCATION, KEY, b"\x91\x00"))
    assert await RedisReadThrough(redis_client, (MAC_KEY,)).find([KEY]) == {}


async def test_without_redis_nobody_can_be_asked() -> None:
    with pytest.raises(Fault):
        await NoReadThrough().find([KEY])


def test_a_newer_record_of_the_same_incarnation_is_used() -> None:
    assert newer_consent({KEY: consent_entry(6, 1)}, KEY, bound(5)) == consent()


@pytest.mark.parametrize(
    "entry",
    [
        consent_entry(5, 1),  # the transaction has applied it, and has nothing: it was forgotten since
        consent_entry(4, 1),
        consent_entry(6, 1, incarnation=OTHER_INCARNATION),
        Entry(INCARNATION, 6, EntryKind.CONSENT, KEY, b"not a record"),
        Entry(INCARNATION, 6, EntryKind.CONSENT, KEY, msgspec.msgpack.encode(["short"])),
    ],
)
def test_any_other_record_is_not(entry: Entry) -> None:
    assert newer_consent({KEY: entry}, KEY, bound(5)) is None


def test_without_a_replica_nothing_is_newer() -> None:
    assert newer_consent({KEY: consent_entry(6, 1)}, KEY, None) is None
