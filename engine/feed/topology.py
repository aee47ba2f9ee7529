"""Where the primary is that holds our keys: a fixed address, or what Sentinel or the cluster says now.

What has to be discovered is discovered by `engine.feed.discovery`, which is loaded only where an address needs it.
"""

import abc
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from engine.errors import Kind
from engine.feed.redis_faults import RedisFault
from engine.feed.redis_link import Credentials, Endpoint

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
    from engine.feed.discovery import ClusterTopology, Connecting, SentinelTopology  # noqa: PLC0415 - redis-py is slow to load

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
