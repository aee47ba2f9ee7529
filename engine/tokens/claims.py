"""The access token's claims (RFC 9068 section 2.2) and the consent details inside them.

Wire names are those of the energy-consent type; the cut form: without the purpose's words.
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from engine.clock import UnixTime
from engine.consent.records import AccessMode, ClientId, ConsentId, ConsentKey

MAX_TOKEN_BYTES: Final = 4096  # what our issuer keeps to
MAX_PRESENTED_BYTES: Final = 8192  # longer than this is not looked at (introspection, row 18)

# What a claim may look like at all. Everything is bounded, so that a token is refused before it is compared.
Instant = Annotated[int, Meta(ge=0, le=253_402_300_799)]  # until the end of the year 9999
Identifier = Annotated[str, Meta(min_length=1, max_length=255)]
Sha256Text = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]\Z")]  # base64url of 32 bytes
UtcText = Annotated[str, Meta(min_length=20, max_length=20)]  # parsed in full by `grants.parse_grant`
MeterPointText = Annotated[str, Meta(pattern=r"\A(?:mpan:[0-9]{13}|mprn:[0-9]{6,10})\Z")]

# gc=False: these structs hold no cycles, and a worker remembers a hundred thousand of them; the collector
# would walk them all.


class Confirmation(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """`cnf`: what the token is bound to (RFC 8705 section 3.1, RFC 9449 section 6.1)."""

    x5t_s256: Sha256Text | None = msgspec.field(default=None, name="x5t#S256")
    jkt: Sha256Text | None = None


class ConsentDetail(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, gc=False):
    """One entry of `authorization_details`, cut to one EDP. Times are RFC 3339 UTC text with Z.

    Unknown members are refused: one that we do not understand may be a restriction.
    """

    type: str
    consent_id: ConsentId
    dataset_id: Identifier
    access_mode: str
    consent_expires_at: UtcText
    data_from: UtcText
    meter_points: Annotated[tuple[MeterPointText, ...], Meta(min_length=1, max_length=10)]
    data_to: UtcText | None = None
    actions: tuple[str, ...] = ("read",)
    locations: Annotated[tuple[Identifier, ...], Meta(max_length=10)] = ()
    purpose_code: Identifier | None = None


class AccessToken(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Claims of a token for exactly one EDP (`aud`: one string, never an array, not even of one).

    Claims that are not listed are ignored (RFC 7519 section 4), so that a newer issuer can add one.
    """

    iss: Identifier
    aud: Annotated[ClientId, Meta(min_length=1, max_length=255)]
    client_id: Annotated[ClientId, Meta(min_length=1, max_length=255)]
    sub: Identifier
    jti: Identifier
    iat: Instant
    exp: Instant
    cnf: Confirmation
    authorization_details: Annotated[tuple[ConsentDetail, ...], Meta(min_length=1, max_length=20)]
    nbf: Instant | None = None
    grant_id: Identifier | None = None


class PresentedClaims(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """The same claims, the details left as they were written: whoever knows those bytes need not read them again."""

    iss: Identifier
    aud: Annotated[ClientId, Meta(min_length=1, max_length=255)]
    client_id: Annotated[ClientId, Meta(min_length=1, max_length=255)]
    sub: Identifier
    jti: Identifier
    iat: Instant
    exp: Instant
    cnf: Confirmation
    authorization_details: msgspec.Raw
    nbf: Instant | None = None
    grant_id: Identifier | None = None


class Grant(msgspec.Struct, frozen=True, gc=False):
    """A `ConsentDetail` parsed once: what decisions compare with."""

    detail: ConsentDetail
    key: ConsentKey
    access_mode: AccessMode
    expires_at: UnixTime
    data_from: UnixTime
    data_to: UnixTime | None
    meter_digests: tuple[bytes, ...]  # in the order of detail.meter_points


class VerifiedToken(msgspec.Struct, frozen=True, gc=False):
    """A token whose signature was verified. Whether it is still good is decided on every request."""

    claims: AccessToken
    kid: str
    digest: bytes  # SHA-256 over the token's ASCII
    revocation_key: bytes  # first 16 bytes of SHA-256 over `jti`
    grants: tuple[Grant, ...]
    key_thumbprint: bytes = b""  # RFC 7638 SHA-256 of the key that verified it; the memo takes no token without
