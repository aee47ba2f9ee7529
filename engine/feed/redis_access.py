"""From the `[redis]` settings to clients: reads the secret files once and makes one client for each purpose.

A purpose gets a connection of its own: commands, blocking reads, subscriptions. Its name shows in the server's
`CLIENT LIST`.
"""

import ssl
from collections.abc import Callable, Sequence
from typing import Final

from engine.backoff import Backoff
from engine.clock import Seconds
from engine.config import BadConfig, Redis
from engine.feed.redis_client import RedisClient, Subscription
from engine.feed.redis_link import Credentials
from engine.feed.topology import Topology, is_over_tls, topology_of

PROMPT: Final = Backoff(Seconds(0.05), Seconds(1.0))  # of the few whose absence everybody notices
# Of nodes: a thousand lose a server in one instant and are not to come back in one. Nobody waits for them meanwhile, as
# the feed goes on over HTTPS; and if that is away, the first try still comes before the bound has run out.
ONE_OF_MANY: Final = Backoff(first=Seconds(0.5), limit=Seconds(3.0), spread=Seconds(1.0))


class RedisAccess:
    """Makes clients of one Redis. jitter: numbers in [0, 1), such as `random.random`. backoff: between dials.

    Raises BadConfig for a file that cannot be read, BadRedisAddress for an address that makes no sense.
    """

    def __init__(self, settings: Redis, *, jitter: Callable[[], float], backoff: Backoff = PROMPT) -> None:
        self._settings = settings
        self._backoff = backoff
        self._jitter = jitter
        self._credentials = Credentials(settings.username, _read_password(settings))
        self._tls = _tls_context(settings) if is_over_tls(settings.url, settings.ca_file) else None
        self._topology()

    def client(self, name: str) -> RedisClient:
        """For commands, and with a connection of its own for `xread_blocking`. Start its `run`."""
        return RedisClient(
            self._topology(),
            credentials=self._credentials,
            tls=self._tls,
            name=name,
            jitter=self._jitter,
            backoff=self._backoff,
        )

    def subscription(self, name: str, channels: Sequence[bytes]) -> Subscription:
        """For hints from pub/sub channels. Start its `run`."""
        return Subscription(
            self._topology(),
            channels,
            credentials=self._credentials,
            tls=self._tls,
            name=name,
            jitter=self._jitter,
            backoff=self._backoff,
        )

    def _topology(self) -> Topology:
        return topology_of(
            self._settings.url,
            sentinels=self._settings.sentinels,
            credentials=self._credentials,
            ca_file=self._settings.ca_file,
        )


def _read_password(settings: Redis) -> str:
    if settings.password_file is None:
        return ""
    try:
        return settings.password_file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadConfig(f"{settings.password_file}: the Redis password cannot be read") from error


def _tls_context(settings: Redis) -> ssl.SSLContext:
    """Certificates are checked against our authority, or the system's; names always."""
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise BadConfig(f"{settings.ca_file}: the authority of Redis cannot be read") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
