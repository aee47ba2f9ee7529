"""Where a receiver takes events: its registered address, and the bytes that begin each request to it. Pure."""

import re
from typing import Final
from urllib.parse import urlsplit

import msgspec

from engine.consent.records import Thumbprint
from engine.errors import Fault, Kind

MEDIA_TYPE: Final = b"application/secevent+jwt"  # RFC 8935 section 2
_HOST: Final = re.compile(r"[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]")
_TARGET: Final = re.compile(r"[\x21-\x7e]{0,2048}")


class BadTarget(Fault):
    """Not an address that we call: not https, with a user or a fragment, or with what no HTTP head may hold."""

    kind = Kind.INVALID


class Target(msgspec.Struct, frozen=True):
    """host: the name that the certificate must carry. head: the request's bytes up to the content's length.

    thumbprints: the server's certificate must be one of these.
    """

    host: str
    port: int
    head: bytes
    thumbprints: frozenset[Thumbprint]


def target_of(url: str, thumbprints: frozenset[Thumbprint]) -> Target:
    """Read a registered address. Raises BadTarget."""
    try:
        parts = urlsplit(url)
        port = parts.port or 443
    except ValueError as error:
        raise BadTarget("this is no address") from error
    host = parts.hostname or ""
    written = f"[{host}]" if ":" in host else host
    if parts.scheme != "https" or "@" in parts.netloc or parts.fragment or not _HOST.fullmatch(written):
        raise BadTarget("only https addresses without user and fragment are called")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not _TARGET.fullmatch(path):
        raise BadTarget("the address holds what no request line may")
    authority = written if port == 443 else f"{written}:{port}"
    head = (
        b"POST %b HTTP/1.1\r\nHost: %b\r\nContent-Type: %b\r\nAccept: application/json\r\nUser-Agent: ccs-pusher\r\n"
        b"Content-Length: "
    ) % (path.encode(), authority.encode(), MEDIA_TYPE)
    return Target(host, port, head, thumbprints)
