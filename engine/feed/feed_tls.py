"""How a node proves itself to the feed service: files read once, before anything starts."""

import ssl

from engine.config import BadConfig, Feed


def feed_tls(settings: Feed) -> ssl.SSLContext:
    """Our certificate and the service's authority. Raises BadConfig when the files cannot be read or do not match."""
    try:
        tls = ssl.create_default_context(cafile=str(settings.ca_file))
    except (OSError, ssl.SSLError) as error:
        raise _unreadable(settings, error) from error
    tls.minimum_version = ssl.TLSVersion.TLSv1_2
    load_own_certificate(tls, settings)
    return tls


def load_own_certificate(tls: ssl.SSLContext, settings: Feed) -> None:
    """Also into a context that is in use: connections to come show the new one. Raises BadConfig."""
    try:
        tls.load_cert_chain(settings.certificate_file, settings.key_file)
    except (OSError, ssl.SSLError) as error:
        raise _unreadable(settings, error) from error


def _unreadable(settings: Feed, error: Exception) -> BadConfig:
    files = f"{settings.certificate_file}, {settings.key_file}, {settings.ca_file}"
    return BadConfig(f"feed: {files} cannot be read: {error}")
