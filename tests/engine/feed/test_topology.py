"""Finding the primary: addresses are read strictly, a failover and a moved slot are followed."""

from pathlib import Path

import pytest
import trio

from admin.cli.free_ports import free_ports
from engine.feed.discovery import SLOT
from engine.feed.redis_client import RedisClient
from engine.feed.redis_commands import get, put
from engine.feed.redis_faults import RedisMoved, RedisReadOnly, RedisUnavailable
from engine.feed.redis_link import Credentials, Endpoint
from engine.feed.topology import BadRedisAddress, FixedAddress, is_over_tls, topology_of
from tests.support.valkey import LOOPBACK, PATIENCE, Cluster, SentinelGroup, client_of

KEY = b"{ccs}:topology"


async def put_until_taken(client: RedisClient, value: bytes) -> None:
    """What every writer of ours does: try again when the link is back."""
    while True:
        await client.wait_up()
        try:
            await put(client, KEY, value)
        except RedisUnavailable:
            await client.wait_down()
        else:
            return


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("unix:///run/redis.sock", Endpoint(path="/run/redis.sock")),
        ("redis://cache:7000", Endpoint(host="cache", port=7000)),
        ("redis://cache", Endpoint(host="cache", port=6379)),
        ("rediss://[::1]:7000/", Endpoint(host="::1", port=7000, tls=True)),
    ],
)
async def test_a_fixed_address_is_read(url: str, endpoint: Endpoint) -> None:
    topology = topology_of(url, credentials=Credentials())
    assert isinstance(topology, FixedAddress)
    assert await topology.find_primary() == endpoint


@pytest.mark.parametrize(
    "url",
    [
        "",
        "redis:/",
        "redis://",
        "http://cache",
        "redis://user:pass@cache",
        "redis://cache:seventy",
        "redis://cache:99999",
        "redis://cache/0",
        "redis://cache?db=1",
        "sentinel://name",
        "sentinel+ssl://name",
        "unix+tls:///run/redis.sock",
        "cluster://a:1,,b:2",
    ],
)
def test_a_bad_address_is_refused_in_a_sentence(url: str) -> None:
    with pytest.raises(BadRedisAddress) as refused:
        topology_of(url, credentials=Credentials())
    assert "pass" not in refused.value.text or "password-file" in refused.value.text


@pytest.mark.parametrize(
    ("url", "ca_file", "tls"),
    [
        ("redis://cache", None, False),
        ("rediss://cache", None, True),
        ("rediss://cache", Path("ca.pem"), True),
        ("sentinel://ccs", None, False),
        ("sentinel://ccs", Path("ca.pem"), True),
        ("sentinel+tls://ccs", None, True),
        ("cluster://a:1,b:2", Path("ca.pem"), True),
        ("cluster+tls://a:1", None, True),
        ("unix:///run/redis.sock", Path("ca.pem"), False),
    ],
)
def test_an_address_says_whether_it_is_over_tls(url: str, ca_file: Path | None, tls: bool) -> None:
    assert is_over_tls(url, ca_file) is tls
    assert topology_of(url, sentinels=["s:1"], credentials=Credentials(), ca_file=ca_file) is not None


def test_an_authority_without_tls_is_refused_rather_than_left_unused() -> None:
    with pytest.raises(BadRedisAddress, match="rediss"):
        topology_of("redis://cache", credentials=Credentials(), ca_file=Path("ca.pem"))


async def test_unreachable_sentinels_are_a_fault_and_no_hang() -> None:
    (port,) = free_ports(LOOPBACK, 1)
    topology = topology_of("sentinel://ccs", sentinels=[f"{LOOPBACK}:{port}"], credentials=Credentials())
    with trio.fail_after(PATIENCE), pytest.raises(RedisUnavailable):
        await topology.find_primary()


async def test_an_unreachable_cluster_is_a_fault_and_no_hang() -> None:
    (port,) = free_ports(LOOPBACK, 1)
    topology = topology_of(f"cluster://{LOOPBACK}:{port}", credentials=Credentials())
    with trio.fail_after(PATIENCE), pytest.raises(RedisUnavailable):
        await topology.find_primary()


async def test_a_failover_by_sentinel_is_followed(sentinel_group: SentinelGroup, nursery: trio.Nursery) -> None:
    client = client_of(sentinel_group.topology())
    with trio.fail_after(30):
        await nursery.start(client.run)
        await client.wait_up()
        assert client.statistics().endpoint == f"redis://{LOOPBACK}:{sentinel_group.primary.port}"
        sentinel_group.primary.kill()
        await client.wait_down()
        await put_until_taken(client, b"after")
    assert client.statistics().endpoint == f"redis://{LOOPBACK}:{sentinel_group.replica.port}"
    assert sentinel_group.replica.call("GET", KEY) == b"after"


async def test_a_replica_is_not_taken_for_a_primary(sentinel_group: SentinelGroup, nursery: trio.Nursery) -> None:
    client = client_of(f"redis://{LOOPBACK}:{sentinel_group.replica.port}")
    with trio.fail_after(PATIENCE):
        await nursery.start(client.run)
    assert client.statistics().last_fault == "Redis is a read-only copy here"
    with pytest.raises(RedisUnavailable):
        await get(client, KEY)


async def test_a_demoted_primary_costs_its_link(sentinel_group: SentinelGroup, nursery: trio.Nursery) -> None:
    client = client_of(f"redis://{LOOPBACK}:{sentinel_group.primary.port}")
    with trio.fail_after(PATIENCE):
        await nursery.start(client.run)
        await client.wait_up()
        for sentinel in sentinel_group.sentinels:
            sentinel.kill()
        # The demoted server closes no connections of its clients: only READONLY tells.
        sentinel_group.primary.call("REPLICAOF", LOOPBACK, sentinel_group.replica.port)
        with pytest.raises(RedisReadOnly):
            await put(client, KEY, b"x")
        await client.wait_down()


async def test_the_holder_of_our_slot_is_found_in_a_cluster(valkey_cluster: Cluster, nursery: trio.Nursery) -> None:
    client = client_of(valkey_cluster.topology())
    with trio.fail_after(PATIENCE):
        await nursery.start(client.run)
        await put_until_taken(client, b"x")
    assert client.statistics().endpoint == f"redis://{LOOPBACK}:{valkey_cluster.holder(SLOT).port}"


async def test_a_moved_slot_is_followed(valkey_cluster: Cluster, nursery: trio.Nursery) -> None:
    client = client_of(valkey_cluster.topology())
    old = valkey_cluster.holder(SLOT)
    new = next(node for node in valkey_cluster.nodes if node is not old)
    new_id = new.call("CLUSTER", "MYID").decode()
    with trio.fail_after(20):
        await nursery.start(client.run)
        await client.wait_up()
        for node in (new, old):  # the slot is empty: handing it over is telling both
            node.call("CLUSTER", "SETSLOT", SLOT, "NODE", new_id)
        with pytest.raises(RedisMoved) as moved:
            await put(client, KEY, b"x")
        assert moved.value.port == new.port
        await client.wait_down()
        await put_until_taken(client, b"moved")
    assert client.statistics().endpoint == f"redis://{LOOPBACK}:{new.port}"
    assert new.call("GET", KEY) == b"moved"
