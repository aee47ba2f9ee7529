"""What everyone may rely on from a Redis client of ours: one suite, to be run on each server and wrapper.

Subclass it with a `redis` fixture that gives a client whose link is up.
"""

import pytest
import trio

from engine.feed.redis_client import RedisClient
from engine.feed.redis_commands import (
    Script,
    StreamItem,
    delete,
    get,
    keys_matching,
    mget,
    ping,
    publish,
    put,
    raise_first_fault,
    run_script,
    xadd,
    xrange,
    xread,
)
from engine.feed.redis_faults import RedisNoScript, RedisRefused

KEY = b"{ccs}:contract"
EVERY_BYTE = bytes(range(256))


class RedisContract:
    async def test_a_value_comes_back_as_it_was_put(self, redis: RedisClient) -> None:
        await put(redis, KEY, EVERY_BYTE)
        assert await get(redis, KEY) == EVERY_BYTE

    async def test_keys_are_bytes_too(self, redis: RedisClient) -> None:
        await put(redis, KEY + EVERY_BYTE, b"x")
        assert await get(redis, KEY + EVERY_BYTE) == b"x"

    async def test_an_absent_key_is_none_and_an_empty_value_is_not(self, redis: RedisClient) -> None:
        await put(redis, KEY, b"")
        assert await mget(redis, [KEY, KEY + b"absent"]) == [b"", None]

    async def test_mget_of_nothing_is_nothing(self, redis: RedisClient) -> None:
        assert await mget(redis, []) == []

    async def test_big_values_pass_whole(self, redis: RedisClient) -> None:
        big = EVERY_BYTE * 32_768  # 8 MiB: many reads and writes of a socket
        await put(redis, KEY, big)
        assert await get(redis, KEY) == big

    async def test_a_life_is_set_in_milliseconds(self, redis: RedisClient) -> None:
        await put(redis, KEY, b"x", life_ms=60_000)
        assert 50_000 < await redis.execute("PTTL", KEY) <= 60_000

    async def test_delete_counts_what_was_there(self, redis: RedisClient) -> None:
        await put(redis, KEY, b"x")
        assert await delete(redis, KEY, KEY + b"absent") == 1

    async def test_keys_are_found_by_pattern_beyond_one_page(self, redis: RedisClient) -> None:
        keys = sorted(b"{ccs}:page:%d" % number for number in range(2500))
        raise_first_fault(await redis.execute_many([("SET", key, b"") for key in keys]))
        assert await keys_matching(redis, b"{ccs}:page:*") == keys

    async def test_a_batch_answers_in_order_with_its_faults_in_place(self, redis: RedisClient) -> None:
        replies = await redis.execute_many([("SET", KEY, "7"), ("XLEN", KEY), ("INCR", KEY), ("GET", KEY)])
        assert [replies[0], replies[2], replies[3]] == [b"OK", 8, b"8"]
        assert isinstance(replies[1], RedisRefused)
        assert replies[1].code == "WRONGTYPE"

    async def test_an_empty_batch_is_no_call(self, redis: RedisClient) -> None:
        assert await redis.execute_many([]) == []

    async def test_batches_of_many_callers_do_not_mix(self, redis: RedisClient) -> None:
        async def count_up(caller: int) -> None:
            key = KEY + b"%d" % caller
            replies = await redis.execute_many([("INCR", key)] * 50)
            assert replies == list(range(1, 51))

        async with trio.open_nursery() as callers:
            for caller in range(40):
                callers.start_soon(count_up, caller)
        assert redis.statistics().waiting == 0

    async def test_refusals_are_typed_and_leave_the_link_in_use(self, redis: RedisClient) -> None:
        await put(redis, KEY, b"text")
        with pytest.raises(RedisRefused) as refused:
            await xadd(redis, KEY, b"1-0", {b"e": b""})
        assert refused.value.code == "WRONGTYPE"
        await ping(redis)

    async def test_a_fault_shows_no_value(self, redis: RedisClient) -> None:
        with pytest.raises(RedisRefused) as refused:
            await redis.execute("SET", KEY, "secret-value", "NONSENSE")
        assert "secret-value" not in refused.value.text

    async def test_an_entry_not_above_the_last_is_refused(self, redis: RedisClient) -> None:
        assert await xadd(redis, KEY, b"5-0", {b"e": EVERY_BYTE}) == b"5-0"
        for late in (b"5-0", b"4-0"):
            with pytest.raises(RedisRefused):
                await xadd(redis, KEY, late, {b"e": b""})
        assert await xrange(redis, KEY) == [StreamItem(b"5-0", {b"e": EVERY_BYTE})]

    async def test_streams_are_read_each_after_its_own_id(self, redis: RedisClient) -> None:
        other = KEY + b":other"
        for seq in (b"1-0", b"2-0"):
            await xadd(redis, KEY, seq, {b"e": seq})
        await xadd(redis, other, b"9-0", {b"a": b"answer"})
        after_first = await xread(redis, {KEY: b"1-0", other: b"9-0"})
        assert after_first == {KEY: [StreamItem(b"2-0", {b"e": b"2-0"})]}
        assert await xread(redis, {KEY: b"2-0", other: b"9-0"}) == {}

    async def test_a_script_runs_though_the_server_has_not_seen_it(self, redis: RedisClient) -> None:
        script = Script("return {KEYS[1], ARGV[1], redis.call('INCR', KEYS[1])}")
        assert await run_script(redis, script, [KEY], EVERY_BYTE) == [KEY, EVERY_BYTE, 1]
        assert await redis.execute("EVALSHA", script.digest, 1, KEY, b"") == [KEY, b"", 2]

    async def test_an_unknown_digest_is_its_own_fault(self, redis: RedisClient) -> None:
        with pytest.raises(RedisNoScript):
            await redis.execute("EVALSHA", "0" * 40, 0)

    async def test_a_message_without_subscribers_is_heard_by_nobody(self, redis: RedisClient) -> None:
        assert await publish(redis, b"{ccs}:nobody", b"node-1") == 0
