"""Where the primary is that holds our keys: a fixed address, or what Sentinel or the cluster says now.

All our keys share one hash slot, so even a cluster is one server to us: the primary of that slot. Discovery is
rare and made of several blocking calls, so it runs redis-py in a worker thread, each step with a time-out.
"""

import abc
import urllib.parse
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
from engine.errors import Kind
from engine.feed.redis_faults import RedisFault, RedisUnavailable
from engine.feed.redis_link import Credentials, Endpoint
from engine.feed.redis_names import HASH_TAG

T = TypeVar("T")

SLOT: Final = redis.crc.key_slot(HASH_TAG)  # of everything with {ccs} in its name
STEP_TIMEOUT: Final = Seconds(1.0)  # one call to one sentinel or node: they answer from memory
DEFAULT_PORT: Final = 6379
SENTINEL_PORT: Final = 26_379

_DISCOVERED: Final = ("sentinel", "cluster")


class BadRedisAddress(RedisFault):
    """The configured address cannot be read."""

    kind = Kind.INVALID


class Topology(abc.ABC):
    """The port: who is the primary now? Asked before every dial."""

    @abc.abstractmethod
    async def find_primary(self) -> Endpoint:
        """Raises RedisUnavailable when nobody can tell."""


class FixedAddress(Topology):
    """One server, or a proxy that always leads to the primary."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def find_primary(self) -> Endpoint:
        return self._endpoint


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


def topology_of(
    url: str, *, sentinels: Sequence[str] = (), credentials: Credentials, ca_file: Path | None = None
) -> Topology:
    """Read a configured address. Raises BadRedisAddress with one sentence.

    `unix:///path` · `redis://host:port` · `rediss://host:port` (TLS) · `sentinel://name` with `sentinels` ·
    `cluster://host:port,host:port`. The last two speak TLS when there is a ca_file, or when written
    `sentinel+tls://`, `cluster+tls://`; sentinels are signed in to with the same credentials.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or not rest:
        raise BadRedisAddress(f"the Redis address has no scheme or no place: {scheme!r}")
    if "@" in rest:
        raise BadRedisAddress("the Redis address must not carry a password: use password-file")
    tls = is_over_tls(url, ca_file)
    if scheme == "unix":
        return FixedAddress(Endpoint(path=rest))
    if scheme in ("redis", "rediss"):
        if ca_file is not None and not tls:
            raise BadRedisAddress("the Redis address has an authority but no TLS: write rediss://")
        host, port = _host_port(rest.rstrip("/"), DEFAULT_PORT)
        return FixedAddress(Endpoint(host=host, port=port, tls=tls))
    kind, _, security = scheme.partition("+")
    if kind not in _DISCOVERED or security not in ("", "tls"):
        raise BadRedisAddress(f"the Redis address has an unknown scheme: {scheme}")
    connecting = Connecting(credentials, tls=tls, ca_file=ca_file)
    if kind == "cluster":
        return ClusterTopology([_host_port(node, DEFAULT_PORT) for node in rest.split(",")], connecting)
    if not sentinels:
        raise BadRedisAddress("a sentinel:// address needs `sentinels`, host:port of each")
    return SentinelTopology(rest, [_host_port(sentinel, SENTINEL_PORT) for sentinel in sentinels], connecting)


def is_over_tls(url: str, ca_file: Path | None) -> bool:
    """Whether connections to an address are to be TLS, and so need a context."""
    scheme = url.partition("://")[0]
    return scheme == "rediss" or scheme.endswith("+tls") or (scheme in _DISCOVERED and ca_file is not None)


def _host_port(place: str, default: int) -> tuple[str, int]:
    try:
        parts = urllib.parse.urlsplit(f"//{place}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise BadRedisAddress(f"not a host and port: {place!r}") from error
    if not host or parts.path or parts.query:
        raise BadRedisAddress(f"not a host and port: {place!r}")
    return host, port if port is not None else default
