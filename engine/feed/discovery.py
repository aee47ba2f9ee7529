"""Asking Sentinel or the cluster who the primary is, by redis-py.

All our keys share one hash slot, so even a cluster is one server to us: the primary of that slot. Discovery is
rare and made of several blocking calls, so it runs redis-py in a worker thread, each step with a time-out. A module
of its own, because redis-py takes a quarter of a process's start and a fixed address needs none of it.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import redis
import redis.crc
import redis.exceptions
import redis.sentinel
import trio
from redis.backoff import NoBackoff
from redis.retry import Retry

from engine.clock import Seconds
from engine.feed.redis_faults import RedisUnavailable
from engine.feed.redis_link import Credentials, Endpoint
from engine.feed.redis_names import HASH_TAG
from engine.feed.topology import Topology

T = TypeVar("T")

SLOT: Final = redis.crc.key_slot(HASH_TAG)  # of everything with {ccs} in its name
STEP_TIMEOUT: Final = Seconds(1.0)  # one call to one sentinel or node: they answer from memory


class Connecting:
    """What redis-py needs to reach sentinels and cluster nodes. ca_file: for TLS; None: the system's authorities."""

    def __init__(self, credentials: Credentials, *, tls: bool, ca_file: Path | None) -> None:
        self.tls = tls
        self.options: dict[str, Any] = {
            "socket_timeout": STEP_TIMEOUT,
            "socket_connect_timeout": STEP_TIMEOUT,
            "retry": Retry(NoBackoff(), 0),  # the owner of the link tries again, by its own back-off
            "username": credentials.username or None,
            "password": credentials.password or None,
        }
        if tls:
            self.options |= {"ssl": True, "ssl_check_hostname": True, "ssl_ca_certs": ca_file and str(ca_file)}


class SentinelTopology(Topology):
    """Asks the sentinels in turn for the primary of a name."""

    def __init__(self, name: str, sentinels: Sequence[tuple[str, int]], connecting: Connecting) -> None:
        self._name = name
        self._sentinels = list(sentinels)
        self._connecting = connecting

    async def find_primary(self) -> Endpoint:
        host, port = await _in_thread(self._discover)
        return Endpoint(host=host, port=port, tls=self._connecting.tls)

    def _discover(self) -> tuple[str, int]:
        finder = redis.sentinel.Sentinel(self._sentinels, sentinel_kwargs=self._connecting.options)  # type: ignore[no-untyped-call]  # redis-py's lack
        try:
            host, port = finder.discover_master(self._name)  # type: ignore[no-untyped-call]  # redis-py's lack
            return str(host), int(port)
        finally:
            for sentinel in finder.sentinels:
                sentinel.close()


class ClusterTopology(Topology):
    """Asks the known nodes in turn which primary holds our slot."""

    def __init__(self, seeds: Sequence[tuple[str, int]], connecting: Connecting) -> None:
        self._seeds = list(seeds)
        self._connecting = connecting

    async def find_primary(self) -> Endpoint:
        return await _in_thread(self._discover)

    def _discover(self) -> Endpoint:
        trouble: Exception | None = None
        for host, port in self._seeds:
            node = redis.Redis(host=host, port=port, protocol=2, **self._connecting.options)
            try:
                slots = node.execute_command("CLUSTER SLOTS")  # type: ignore[no-untyped-call]  # redis-py's lack
                return self._holder(slots, asked=host)
            except (redis.exceptions.RedisError, OSError, LookupError) as error:
                trouble = error
            finally:
                node.close()
        raise RedisUnavailable("no node of the Redis cluster can say who holds our keys", detail=repr(trouble))

    def _holder(self, slots: list[Any], *, asked: str) -> Endpoint:
        for first, last, primary, *_ in slots:
            if first <= SLOT <= last:
                host = primary[0].decode() if isinstance(primary[0], bytes) else str(primary[0] or "")
                return Endpoint(host=host or asked, port=int(primary[1]), tls=self._connecting.tls)
        raise LookupError(f"slot {SLOT} has no holder")


async def _in_thread(discover: Callable[[], T]) -> T:
    try:
        # Abandoned, the thread ends by itself: every step in it has a time-out, and it changes nothing of ours.
        return await trio.to_thread.run_sync(discover, abandon_on_cancel=True)
    except (redis.exceptions.RedisError, OSError) as error:
        raise RedisUnavailable("the primary of Redis cannot be found", detail=repr(error)) from error
