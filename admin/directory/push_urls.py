"""Which addresses a receiver may name for its push stream (RFC 8935), by their text alone. Pure.

What a name resolves to is looked at when something is sent there, by whoever sends it: here is refused what can be
told from the address itself, so that a receiver learns at once that it would never be used.
"""

import ipaddress
import re
from typing import Final
from urllib.parse import urlsplit

MAX_URL: Final = 500  # characters; nobody's needs more, and it stands in every event of the stream
_ALLOWED: Final = re.compile(r"[A-Za-z0-9\-._~:/?@!$&'()*+,;=%\[\]]+")  # RFC 3986, without `#`
_LITERAL: Final = re.compile(r"\[[0-9A-Fa-f:.]+\](?::[0-9]*)?")  # an IPv6 address, without a zone
_NAME: Final = re.compile(r"(?=.{1,253}\Z)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")
_ORDINARY: Final = "must name a host by its full name, or by an ordinary IP address"
_HERE: Final = ("localhost", "local", "internal", "localdomain", "home.arpa")  # last labels of names that stay inside


def push_url_problem(url: str, *, private_allowed: bool) -> str | None:
    """What is wrong with an address, in words for its owner; None = nothing that can be told from it.

    private_allowed: in a sandbox, whose receivers live on the same machine.
    """
    if not 0 < len(url) <= MAX_URL or not _ALLOWED.fullmatch(url):
        return f"must be an address of at most {MAX_URL} characters, without spaces and fragment"
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname or ""
    except ValueError:
        return "is not an address"
    if parts.scheme != "https" or not host:
        return "must begin with https:// and a host"
    if "@" in parts.netloc:
        return "must name no user"
    if port == 0:
        return "must name a port that exists"
    other_brackets = "[" in parts.netloc and not _LITERAL.fullmatch(parts.netloc)  # RFC 3986 has some, we call none
    return _ORDINARY if other_brackets else _host_problem(host, private_allowed=private_allowed)


def _host_problem(host: str, *, private_allowed: bool) -> str | None:
    try:
        literal = ipaddress.ip_address(host)
    except ValueError:
        return _name_problem(host, private_allowed=private_allowed)
    if private_allowed or _is_public(literal):
        return None
    return "must not be an address of a private network"


def _name_problem(host: str, *, private_allowed: bool) -> str | None:
    """A name's last label begins with a letter: `0x7f000001`, `2130706433` and `127.1` are addresses in disguise."""
    if not _NAME.fullmatch(host):
        return _ORDINARY
    if private_allowed or ("." in host and not any(host == end or host.endswith(f".{end}") for end in _HERE)):
        return None
    return "must not be a name of a private network"


def _is_public(literal: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if isinstance(literal, ipaddress.IPv6Address):
        inner = literal.ipv4_mapped or literal.sixtofour or (literal.teredo[1] if literal.teredo else None)
        if inner is not None and not _is_public(inner):
            return False
    return literal.is_global and not literal.is_multicast
