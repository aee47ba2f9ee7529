"""Security events that asking about tokens gives rise to: what a person should look at. A port; a log or the feed's
reports stand behind it. No token is in them, only the first bytes of its digest.
"""

import enum
from typing import Final, Protocol

import msgspec

from engine.consent.records import ClientId

DIGEST_SHOWN: Final = 8  # bytes: enough to find a token by, too few to be one


class SecurityEventKind(enum.StrEnum):
    """Retired kinds stay listed."""

    FORGED_TOKEN = "forged_token"  # noqa: S105 - a name. Bad signature, forbidden algorithm or header (rows 24, 26, 27)
    PROBE = "probe"  # a participant that is no EDP asks about a token (row 5)
    BAD_FORWARDED_CERTIFICATE = "bad_forwarded_certificate"  # RFC 9440: by no pinned proxy, unreadable or untrusted
    STRAY_FORWARDED_CERTIFICATE = "stray_forwarded_certificate"  # RFC 9440 where no proxy is expected: ignored
    WRONG_CLIENT = "wrong_client"  # a certificate with another participant's client_id (row 3)


class SecurityEvent(msgspec.Struct, frozen=True):
    """caller: whose certificate it was. token_digest: hexadecimal, DIGEST_SHOWN bytes, or empty."""

    kind: SecurityEventKind
    caller: ClientId
    token_digest: str = ""
    detail: str = ""


class SecurityEvents(Protocol):
    """Takes events. Must not block or raise; an overload is counted and dropped."""

    def record(self, event: SecurityEvent) -> None: ...
