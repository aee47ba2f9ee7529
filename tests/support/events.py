"""Facts of made-up consents, and the signed events that tell of them."""

import functools
import json
from typing import Any

import msgspec

from engine.clock import UnixTime
from engine.consent.records import ClientId, ConsentId, Role
from engine.consent.states import State
from engine.events.facts import Change, ConsentFact, Fact, InitiatingEntity, PartyFact, ReasonCode
from engine.events.sets import EventClaims, event_claims, event_jti
from engine.events.signing import PemEventSigner, new_event_key
from engine.tokens.keys import KeySet

ISSUER = "https://ccs.example"
ATP = ClientId("atp-42")
EDP = ClientId("edp-7")
CONSENT = ConsentId("7f3c1b1e-5a0e-4a55-9a53-0d6c2f7c9b10")
NOW = UnixTime(1_795_341_600)  # 2026-11-22T10:00:00Z
DETAIL = {
    "type": "https://ccs.example/rar/energy-consent/v1",
    "consent_id": CONSENT,
    "dataset_id": "hh-electricity-import",
    "access_mode": "enduring",
    "consent_expires_at": "2027-02-01T00:00:00Z",
    "data_from": "2026-01-01T00:00:00Z",
    "actions": ["read"],
}
STATES = {
    Change.GRANTED: State.ACTIVE,
    Change.RENEWED: State.ACTIVE,
    Change.AMENDED: State.ACTIVE,
    Change.REVOKED: State.REVOKED,
    Change.DISPUTED: State.TERMINATED_BY_DISPUTE,
    Change.EXPIRED: State.EXPIRED,
    Change.CONSUMED: State.CONSUMED,
}


@functools.cache
def signer() -> PemEventSigner:
    """One event key for all tests."""
    return PemEventSigner.from_pem(new_event_key())


def key_set(*signers: PemEventSigner) -> KeySet:
    return KeySet.from_jwks(jwks(*signers), ISSUER)


def jwks(*signers: PemEventSigner) -> bytes:
    return msgspec.json.encode({"keys": [one.public for one in signers or (signer(),)]})


def consent_fact(change: Change = Change.REVOKED, version: int = 4, **members: Any) -> ConsentFact:
    """A change of CONSENT with all that an ATP may be told."""
    fact = ConsentFact(
        change=change,
        consent_id=CONSENT,
        consent_version=version,
        state=STATES[change],
        effective_at=UnixTime(NOW - 1),
        recorded_at=UnixTime(NOW - 1),
        client_id=ATP,
        edps=(EDP,),
        initiating_entity=InitiatingEntity.USER,
        reason_code=ReasonCode.CONSUMER_WITHDREW,
        expires_at=UnixTime(NOW + 70 * 86_400),
        authorization_details=(DETAIL,),
        dispute_ref="case-1",
        respond_by=UnixTime(NOW + 86_400),
    )
    return msgspec.structs.replace(fact, **members)


def party_fact(version: int = 3, *, suspended: bool = True) -> PartyFact:
    return PartyFact(ATP, version, suspended, UnixTime(NOW - 1))


def claims_of(fact: Fact, *, receiver: ClientId = EDP, seq: int = 91_822, prev: int = 91_807) -> EventClaims:
    """As the pusher makes them."""
    role = Role.ATP if receiver == ATP else Role.EDP
    jti = event_jti(fact, ISSUER, receiver) if isinstance(fact, ConsentFact | PartyFact) else "c2.made-up"
    return event_claims(fact, receiver=receiver, role=role, issuer=ISSUER, jti=jti, seq=seq, prev=prev, txn="8b1f")


def members_of(claims: EventClaims) -> dict[str, Any]:
    """As they stand on the wire."""
    members: dict[str, Any] = json.loads(msgspec.json.encode(claims))
    return members
