"""How a node proves itself to the feed service, and whom it believes to be that: from files, read as a whole."""

import ssl

from engine.config import BadConfig, Feed


def feed_tls(settings: Feed) -> ssl.SSLContext:
    """Our certificate and the service's authority. Raises BadConfig when the files cannot be read or do not match."""
    try:
        tls = ssl.create_default_context(cafile=str(settings.ca_file))
        tls.load_cert_chain(settings.certificate_file, settings.key_file)
    except (OSError, ssl.SSLError) as error:
        files = f"{settings.certificate_file}, {settings.key_file}, {settings.ca_file}"
        raise BadConfig(f"feed: {files} cannot be read: {error}") from error
    tls.minimum_version = ssl.TLSVersion.TLSv1_2
    return tls
