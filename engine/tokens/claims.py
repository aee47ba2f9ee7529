"""The access token's claims (RFC 9068 section 2.2) and the consent details inside them.

Wire names are those of the energy-consent type; the cut form: without the purpose's words.
"""

from typing import Final

import msgspec

from engine.clock import UnixTime
from engine.consent.records import AccessMode, ClientId, ConsentId, ConsentKey

MAX_TOKEN_BYTES: Final = 4096  # what our issuer keeps to
MAX_PRESENTED_BYTES: Final = 8192  # longer than this is not looked at (introspection, row 18)


class Confirmation(msgspec.Struct, frozen=True, omit_defaults=True):
    """`cnf`: what the token is bound to (RFC 8705 section 3.1, RFC 9449 section 6.1)."""

    x5t_s256: str | None = msgspec.field(default=None, name="x5t#S256")
    jkt: str | None = None


class ConsentDetail(msgspec.Struct, frozen=True, omit_defaults=True):
    """One entry of `authorization_details`, cut to one EDP. Times are RFC 3339 UTC text with Z."""

    type: str
    consent_id: ConsentId
    dataset_id: str
    access_mode: str
    consent_expires_at: str
    data_from: str
    meter_points: tuple[str, ...]
    data_to: str | None = None
    actions: tuple[str, ...] = ("read",)
    locations: tuple[str, ...] = ()
    purpose_code: str | None = None


class AccessToken(msgspec.Struct, frozen=True, omit_defaults=True):
    """Claims of a token for exactly one EDP (`aud`)."""

    iss: str
    aud: ClientId
    client_id: ClientId
    sub: str
    jti: str
    iat: int
    exp: int
    cnf: Confirmation
    authorization_details: tuple[ConsentDetail, ...]
    nbf: int | None = None
    grant_id: str | None = None


class Grant(msgspec.Struct, frozen=True):
    """A `ConsentDetail` parsed once: what decisions compare with."""

    detail: ConsentDetail
    key: ConsentKey
    access_mode: AccessMode
    expires_at: UnixTime
    data_from: UnixTime
    data_to: UnixTime | None
    meter_digests: tuple[bytes, ...]  # in the order of detail.meter_points


class VerifiedToken(msgspec.Struct, frozen=True):
    """A token whose signature was verified. Whether it is still good is decided on every request."""

    claims: AccessToken
    kid: str
    digest: bytes  # SHA-256 over the token's ASCII
    revocation_key: bytes  # first 16 bytes of SHA-256 over `jti`
    grants: tuple[Grant, ...]
