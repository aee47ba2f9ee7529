"""The feed client of a node's process, its files checked before anything starts."""

from engine.config import BadConfig, Feed
from engine.feed.https import FeedBroken, FeedClient


def feed_client(settings: Feed) -> FeedClient:
    """Raises BadConfig when the certificate, key or authority cannot be read."""
    try:
        return FeedClient.of(settings)
    except FeedBroken as fault:
        files = f"{settings.certificate_file}, {settings.key_file}, {settings.ca_file}"
        raise BadConfig(f"{files}: {fault.detail}") from fault
