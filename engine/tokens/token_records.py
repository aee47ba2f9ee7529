"""What a token's digest stands for, as the issuer leaves it in Redis for batch decisions, which carry no tokens.

A record holds what a decision needs and nothing that names a person: no `sub`, no `jti`, meter points only as
digests. It is sealed like a feed entry, and the seal covers the token's digest, so that nobody in Redis can make a
record, change one, or put one token's record in another's place.
"""

import hashlib
import hmac
import sys
import uuid
from typing import Final

import msgspec

from engine.clock import UnixTime
from engine.consent.records import AccessMode, ClientId, ConsentId, ConsentKey
from engine.errors import Fault, Kind
from engine.feed.entries import MAC_BYTES
from engine.tokens.claims import AccessToken, Confirmation, ConsentDetail, Grant, VerifiedToken

_LABEL: Final = b"ccs.token.record\x00"


class TokenGrant(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A `Grant` without its words. Stored: fields are only ever added, at the end, with a default."""

    key: ConsentKey
    dataset_id: str
    access_mode: AccessMode
    expires_at: UnixTime
    data_from: UnixTime
    data_to: UnixTime | None
    meter_digests: tuple[bytes, ...]
    purpose_code: str | None = None


class TokenRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A token whose signature needs no checking, because its issuer vouches for the record. Stored, as above.

    key_thumbprint: of the key that signed the token; when that key has left the set, so has the token.
    """

    edp: ClientId
    client_id: ClientId
    issued_at: UnixTime
    expires_at: UnixTime
    revocation_key: bytes
    key_thumbprint: bytes
    grants: tuple[TokenGrant, ...]
    x5t_s256: str | None = None  # what the token is bound to, as in its `cnf`
    jkt: str | None = None
    not_before: UnixTime | None = None


class ForgedTokenRecord(Fault):
    """Bytes that no key of ours has sealed for this digest."""

    kind = Kind.BROKEN


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(TokenRecord).decode


def token_record(token: VerifiedToken) -> TokenRecord:
    """The record of a token."""
    claims = token.claims
    return TokenRecord(
        claims.aud,
        claims.client_id,
        UnixTime(claims.iat),
        UnixTime(claims.exp),
        token.revocation_key,
        token.key_thumbprint,
        tuple(_without_words(grant) for grant in token.grants),
        claims.cnf.x5t_s256,
        claims.cnf.jkt,
        None if claims.nbf is None else UnixTime(claims.nbf),
    )


def restored_token(record: TokenRecord, digest: bytes) -> VerifiedToken:
    """The token that a record speaks of, as decisions need it, without its words.

    It has no issuer, subject or `jti`, and its details name no meter points: those are compared by digest
    (`Share.meter_digests`). It must not be shown to anybody, nor enter the memo of verified tokens.
    """
    claims = AccessToken(
        iss="",
        aud=record.edp,
        client_id=record.client_id,
        sub="",
        jti="",
        iat=record.issued_at,
        exp=record.expires_at,
        cnf=Confirmation(record.x5t_s256, record.jkt),
        authorization_details=(),
        nbf=record.not_before,
    )
    grants = tuple(_restored_grant(grant) for grant in record.grants)
    return VerifiedToken(claims, "", digest, record.revocation_key, grants, record.key_thumbprint)


def seal_token_record(record: TokenRecord, digest: bytes, key: bytes) -> bytes:
    """Encode a record and put its MAC in front. digest: SHA-256 of the token; key: at least 32 bytes."""
    body = _encode(record)
    return _mac(digest, body, key) + body


def unseal_token_record(sealed: bytes, digest: bytes, keys: tuple[bytes, ...]) -> TokenRecord:
    """Check and decode the record found under a digest. keys: newest first. Raises ForgedTokenRecord."""
    mac, body = sealed[:MAC_BYTES], sealed[MAC_BYTES:]
    if not any(hmac.compare_digest(mac, _mac(digest, body, key)) for key in keys):
        raise ForgedTokenRecord("a token record failed its check")
    try:
        return _decode(body)
    except msgspec.MsgspecError as error:
        raise ForgedTokenRecord("a token record could not be read", detail=str(error)) from error


def _mac(digest: bytes, body: bytes, key: bytes) -> bytes:
    return hmac.digest(key, _LABEL + digest + body, hashlib.sha256)[:MAC_BYTES]


def _restored_grant(grant: TokenGrant) -> Grant:
    detail = ConsentDetail(
        type="",
        consent_id=ConsentId(str(uuid.UUID(bytes=grant.key))),
        dataset_id=sys.intern(grant.dataset_id),
        access_mode=grant.access_mode.name.lower(),
        consent_expires_at="",
        data_from="",
        meter_points=(),
        purpose_code=grant.purpose_code,
    )
    return Grant(
        detail,
        grant.key,
        grant.access_mode,
        grant.expires_at,
        grant.data_from,
        grant.data_to,
        grant.meter_digests,
    )


def _without_words(grant: Grant) -> TokenGrant:
    return TokenGrant(
        grant.key,
        grant.detail.dataset_id,
        grant.access_mode,
        grant.expires_at,
        grant.data_from,
        grant.data_to,
        grant.meter_digests,
        grant.detail.purpose_code,
    )
