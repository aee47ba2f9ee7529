"""Mints access tokens: RFC 9068 claims for exactly one EDP, cut to what that EDP must know, bound to the ATP.

The purpose's words stay behind, a token never outlives a consent it speaks of, and one above 4 KiB is refused
rather than sent to servers that would cut it.
"""

import secrets
from collections.abc import Sequence
from typing import Final

import msgspec
import trio

from admin.pki.keys import TokenSigner
from engine.clock import Seconds, UnixTime, format_utc
from engine.consent.energy_consent import TYPE
from engine.consent.records import ClientId, ConsentId, ConsentRecord, ParticipantRecord, Role, Thumbprint
from engine.consent.states import State
from engine.errors import Fault, Kind
from engine.tokens.claims import MAX_TOKEN_BYTES, AccessToken, Confirmation, ConsentDetail
from engine.tokens.jws import encode_part
from engine.tokens.verify import token_digest

JTI_BYTES: Final = 32  # introspection section 10: at least 128 bits, 256 by our profile
SUBJECT_BYTES: Final = 16  # random per grant: two EDPs, or two grants, share no name for a person
_BATCH: Final = 256  # tokens signed in one visit to a thread: 80 ms of PS256, after which a cancelled caller is free


class CannotMint(Fault):
    """No token can be made for this: the consent, the ATP or the EDP does not allow it."""

    kind = Kind.CONFLICT


class TokenTooLarge(Fault):
    """The token would have more than 4 KiB: ask for fewer consents in one token."""

    kind = Kind.TOO_LARGE


class GrantedConsent(msgspec.Struct, frozen=True):
    """A consent as the issuer knows it. meter_points: in clear; they come from the ledger's encrypted part."""

    consent_id: ConsentId
    record: ConsentRecord
    meter_points: tuple[str, ...]
    locations: tuple[str, ...] = ()  # of this EDP's data set


class Order(msgspec.Struct, frozen=True):
    """One token to be minted. thumbprint: the certificate of the ATP's connection; None = its newest registered one."""

    atp: ParticipantRecord
    edp: ClientId
    consents: tuple[GrantedConsent, ...]
    thumbprint: Thumbprint | None = None
    sub: str | None = None  # of the grant; None draws a new one


class Minted(msgspec.Struct, frozen=True):
    """A signed token. token: ASCII; digest: SHA-256 over it; key_thumbprint: of the key that signed it (RFC 7638)."""

    token: bytes
    claims: AccessToken
    digest: bytes
    kid: str
    key_thumbprint: bytes

    def __repr__(self) -> str:
        """Without the token: what may stand in a log is the start of its digest."""
        return f"Minted({self.digest[:8].hex()})"


class Minter:
    """Makes tokens for one issuer with one key. lifetime: whole seconds at least, shortened to the consent's end."""

    def __init__(self, issuer: str, signer: TokenSigner, lifetime: Seconds) -> None:
        if lifetime < 1:
            raise ValueError("a token lives at least a second")
        self._issuer = issuer
        self._signer = signer
        self._kid = signer.public.kid
        self._key_thumbprint = signer.public.thumbprint()
        self._lifetime = int(lifetime)
        # One thread: signing lets go of the interpreter, but batches must not crowd out requests on other cores.
        self._limiter = trio.CapacityLimiter(1)

    def mint(self, order: Order, now: UnixTime) -> Minted:
        """Make one token; blocks for one signature (PS256: 0.3 ms). Raises CannotMint, TokenTooLarge."""
        claims = self.claims(order, now)
        token = self._signer.sign_token(claims)
        if len(token) > MAX_TOKEN_BYTES:
            raise TokenTooLarge(f"the token would have {len(token)} bytes, {MAX_TOKEN_BYTES} are the most")
        return Minted(token, claims, token_digest(token), self._kid, self._key_thumbprint)

    async def mint_many(self, orders: Sequence[Order], now: UnixTime) -> list[Minted]:
        """Make many, in order, in a worker thread. All or none. Raises as `mint` does."""
        minted: list[Minted] = []
        for start in range(0, len(orders), _BATCH):
            batch = orders[start : start + _BATCH]
            minted += await trio.to_thread.run_sync(self._mint_batch, batch, now, limiter=self._limiter)
        return minted

    def _mint_batch(self, orders: Sequence[Order], now: UnixTime) -> list[Minted]:
        return [self.mint(order, now) for order in orders]

    def claims(self, order: Order, now: UnixTime) -> AccessToken:
        """The claims of a token (RFC 9068 section 2.2). Raises CannotMint."""
        if not order.consents:
            raise CannotMint("a token speaks of at least one consent")
        if len({consent.consent_id for consent in order.consents}) != len(order.consents):
            raise CannotMint("a token names a consent once")
        for consent in order.consents:
            _check_consent(consent, order, now)
        ends = min(consent.record.expires_at for consent in order.consents)
        return AccessToken(
            iss=self._issuer,
            aud=order.edp,
            client_id=order.atp.client_id,
            sub=order.sub or encode_part(secrets.token_bytes(SUBJECT_BYTES)).decode(),
            jti=encode_part(secrets.token_bytes(JTI_BYTES)).decode(),
            iat=now,
            exp=min(now + self._lifetime, ends),
            cnf=Confirmation(x5t_s256=encode_part(_certificate_of(order, now)).decode()),
            authorization_details=tuple(_detail(consent) for consent in order.consents),
        )


def _check_consent(consent: GrantedConsent, order: Order, now: UnixTime) -> None:
    record = consent.record
    if record.state is not State.ACTIVE or record.expires_at <= now:
        raise CannotMint("the consent is not active")
    if record.atp != order.atp.client_id:
        raise CannotMint("the consent was given to another ATP")
    if order.edp not in record.edps:
        raise CannotMint("the EDP does not hold the data of this consent")
    if not consent.meter_points:
        raise CannotMint("the consent names no meter point any more")  # the person was erased


def _certificate_of(order: Order, now: UnixTime) -> Thumbprint:
    """The certificate the token is bound to: a registered one that is still valid."""
    if order.atp.role is not Role.ATP or order.atp.suspended:
        raise CannotMint("the client is no ATP in good standing")
    valid = [certificate for certificate in order.atp.certificates if certificate.not_after > now]
    if order.thumbprint is not None:
        valid = [certificate for certificate in valid if certificate.thumbprint == order.thumbprint]
    if not valid:
        raise CannotMint("the ATP has no valid certificate registered that the token could be bound to")
    return max(valid, key=lambda certificate: certificate.not_after).thumbprint


def _detail(consent: GrantedConsent) -> ConsentDetail:
    record = consent.record
    return ConsentDetail(
        type=TYPE,
        consent_id=consent.consent_id,
        dataset_id=record.dataset_id,
        access_mode=record.access_mode.name.lower(),
        consent_expires_at=format_utc(record.expires_at),
        data_from=format_utc(record.data_from),
        data_to=None if record.data_to is None else format_utc(record.data_to),
        meter_points=consent.meter_points,
        locations=consent.locations,
        purpose_code=record.purpose_code,
    )
