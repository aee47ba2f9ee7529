"""Who may ask the sidecar: programs of this machine that know the secret, and never a browser. Pure.

A page from anywhere can make a browser on this machine send requests to loopback. Two things give it away: it sends
`Origin` or `Sec-Fetch-Site`, and a name that its owner bent to loopback (DNS rebinding) stands in `Host`.
"""

import hmac
import re
from typing import Final

import msgspec

from engine.listener.http1 import Headers, Response

MIN_SECRET: Final = 32  # characters; 16 random bytes in hexadecimal

_OF_BROWSERS: Final = (b"origin", b"sec-fetch-site")
_NAMES: Final = (b"localhost", b"127.0.0.1", b"[::1]")
_SECRET: Final = re.compile(rb"[A-Za-z0-9._~+/-]+=*")  # token68 of RFC 9110 section 11.2
_BEARER: Final = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr] +([A-Za-z0-9._~+/-]+=*)")

BROWSER: Final = Response(403, b'{"error":"no_browsers"}')
OTHER_HOST: Final = Response(403, b'{"error":"other_host"}')
NO_SECRET: Final = Response(401, b'{"error":"no_secret"}', headers=((b"WWW-Authenticate", b"Bearer"),))
WRONG_SECRET: Final = Response(
    401, b'{"error":"wrong_secret"}', headers=((b"WWW-Authenticate", b'Bearer error="invalid_token"'),)
)


class Door(msgspec.Struct, frozen=True):
    """One way in. hosts: what may stand in `Host`; None: anything, as on a unix socket. secret: None: none is asked."""

    hosts: frozenset[bytes] | None = None
    secret: bytes | None = None

    def refusal(self, headers: Headers) -> Response | None:
        """The answer to somebody who may not ask; None: come in. headers: names in lower case."""
        return self.strange(headers) or self._unproven(headers)

    def strange(self, headers: Headers) -> Response | None:
        """The same, of those who ask for nothing that needs the secret."""
        if any(name in _OF_BROWSERS for name, _ in headers):
            return BROWSER
        if self.hosts is None:
            return None
        hosts = [value.lower() for name, value in headers if name == b"host"]
        return None if len(hosts) == 1 and hosts[0] in self.hosts else OTHER_HOST

    def _unproven(self, headers: Headers) -> Response | None:
        if self.secret is None:
            return None
        given = [value for name, value in headers if name == b"authorization"]
        if not given:
            return NO_SECRET
        found = _BEARER.fullmatch(given[0])
        if len(given) > 1 or found is None or not hmac.compare_digest(found[1], self.secret):
            return WRONG_SECRET
        return None


def loopback_hosts(port: int) -> frozenset[bytes]:
    """What `Host` says of a request to this machine. Without a port only where it is HTTP's own."""
    with_port = {b"%b:%d" % (name, port) for name in _NAMES}
    return frozenset(with_port | set(_NAMES) if port == 80 else with_port)


def is_secret(text: bytes) -> bool:
    """Whether it is long enough, and of characters that `Authorization` can carry."""
    return len(text) >= MIN_SECRET and _SECRET.fullmatch(text) is not None
