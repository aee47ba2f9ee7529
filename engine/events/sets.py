"""What a Security Event Token says to one receiver (RFC 8417, SSF 1.0 section 4.1), made from a fact.

The only place where a fact is cut: why a consent ended, on whose behalf, and what a dispute is about go to its ATP
alone; meter points, purposes and references of the ATP's own go to nobody. No `sub`, no `exp`, no token and no `jti`
of one. The same fact has the same `jti` for a receiver for ever, so that it can tell a repeat from something new.
"""

import hashlib
from typing import Annotated, Any, Final, Literal, Protocol

import msgspec
from msgspec import Meta

from engine.clock import UnixTime
from engine.consent.records import ClientId, Role
from engine.consent.states import State
from engine.errors import Fault, Kind
from engine.events.facts import (
    Change,
    ConsentFact,
    Fact,
    InitiatingEntity,
    PartyFact,
    ReasonCode,
    StreamFact,
    VerificationFact,
)
from engine.tokens.claims import Identifier, Instant
from engine.tokens.jws import encode_part

CONSENT_TYPES: Final = "https://schemas.ccs.example/secevent/consent/event-type/"
FRAMEWORK_TYPES: Final = "https://schemas.openid.net/secevent/ssf/event-type/"  # SSF 1.0 section 8.1.4
CONSENT_TYPE: Final[dict[Change, str]] = {change: f"{CONSENT_TYPES}consent-{change.value}" for change in Change}
PARTY_SUSPENDED: Final = CONSENT_TYPES + "party-suspended"
PARTY_RESTORED: Final = CONSENT_TYPES + "party-restored"
VERIFICATION: Final = FRAMEWORK_TYPES + "verification"
STREAM_UPDATED: Final = FRAMEWORK_TYPES + "stream-updated"

# What a receiver may ask for; framework events come whether they were asked for or not.
SUPPORTED: Final = (*CONSENT_TYPE.values(), PARTY_SUSPENDED, PARTY_RESTORED)

_ENDS_OR_NARROWS: Final = frozenset(Change) - {Change.GRANTED, Change.RENEWED}
_WITH_EXPIRY: Final = frozenset({Change.GRANTED, Change.RENEWED})
_WITH_DETAILS: Final = frozenset({Change.GRANTED, Change.RENEWED, Change.AMENDED})
# Of an `authorization_details` entry. Named, not left out by name: a member that comes later stays inside.
_SHOWN: Final[tuple[str, ...]] = (
    "type", "consent_id", "dataset_id", "access_mode", "consent_expires_at", "data_from", "data_to", "actions",
    "locations", "purpose_code",
)  # fmt: skip

_INT64: Final = 2**63 - 1  # what databases hold
Version = Annotated[int, Meta(ge=1, le=_INT64)]
Position = Annotated[int, Meta(ge=0, le=_INT64)]
Word = Annotated[str, Meta(max_length=1024)]  # of the receiver's or ours, echoed: no use of it needs more


class NotForReceiver(Fault):
    """The event does not concern this receiver: a fault of routing, and nothing was made."""

    kind = Kind.FORBIDDEN


class SubjectId(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """RFC 9493 section 3.2.5. id: of a consent, of an ATP, or of the stream."""

    format: Literal["opaque"]
    id: Identifier


class ConsentPayload(msgspec.Struct, frozen=True, omit_defaults=True):
    """One change of one consent. Times: whole seconds since 1970."""

    consent_version: Version
    state: str  # after the event, as on the wire: `active`, `terminated_by_dispute`
    effective_at: Instant
    event_timestamp: Instant
    client_id: Identifier  # the ATP
    expires_at: Instant | None = None
    authorization_details: tuple[dict[str, Any], ...] = ()
    initiating_entity: InitiatingEntity | None = None  # to the ATP only, as what follows
    reason_code: ReasonCode | None = None
    dispute_ref: Identifier | None = None
    respond_by: Instant | None = None


class PartyPayload(msgspec.Struct, frozen=True, omit_defaults=True):
    """An ATP as a whole was stopped, or may go on."""

    party_version: Version
    effective_at: Instant
    event_timestamp: Instant
    client_id: Identifier
    initiating_entity: InitiatingEntity | None = None  # to the ATP only


class VerificationPayload(msgspec.Struct, frozen=True, omit_defaults=True):
    """SSF 1.0 section 8.1.4.1. state: the receiver's word; left out when we began."""

    state: Word | None = None


class StreamPayload(msgspec.Struct, frozen=True, omit_defaults=True):
    """SSF 1.0 section 8.1.5."""

    status: Literal["enabled", "paused", "disabled"]
    reason: Word | None = None


class SignedCheckpoint(Protocol):
    """The newest signed checkpoint of the ledger; hash and signature are base64url."""

    @property
    def incarnation(self) -> str: ...
    @property
    def seq(self) -> int: ...
    @property
    def hash(self) -> str: ...
    @property
    def kid(self) -> str: ...
    @property
    def signature(self) -> str: ...


class CheckpointMember(msgspec.Struct, frozen=True):
    """`ccs_checkpoint`."""

    incarnation: Identifier
    seq: Position
    hash: Identifier
    kid: Identifier
    signature: Identifier


Payload = ConsentPayload | PartyPayload | VerificationPayload | StreamPayload


class EventClaims(msgspec.Struct, frozen=True, omit_defaults=True):
    """The claims of one SET. Members that begin with `ccs_` are ours (SSF 1.0 section 4.1 allows them)."""

    iss: str
    aud: ClientId
    iat: UnixTime
    jti: str
    sub_id: SubjectId
    events: dict[str, Payload]
    txn: str | None = None
    ccs_seq: int | None = None
    ccs_prev: int | None = None
    ccs_last_seq: int | None = None
    ccs_checkpoint: CheckpointMember | None = None
    ccs_challenge: str | None = None


def ends_or_narrows(fact: Fact) -> bool:
    """Whether it goes before everything ordinary: ends and cuts of consents; stops of a party, and their ends."""
    return isinstance(fact, PartyFact) or (isinstance(fact, ConsentFact) and fact.change in _ENDS_OR_NARROWS)


def event_type(fact: Fact) -> str:
    """The URI that names the event."""
    match fact:
        case ConsentFact():
            return CONSENT_TYPE[fact.change]
        case PartyFact():
            return PARTY_SUSPENDED if fact.suspended else PARTY_RESTORED
        case VerificationFact():
            return VERIFICATION
        case StreamFact():
            return STREAM_UPDATED


def subject(fact: Fact) -> str:
    """Whom or what the event is about, by a name that says nothing to others."""
    match fact:
        case ConsentFact():
            return fact.consent_id
        case PartyFact():
            return fact.client_id
        case VerificationFact() | StreamFact():
            return fact.stream_id


def issued_at(fact: Fact) -> UnixTime:
    """The `iat` of the event: when it was written down, however often and however late it is signed.

    A restored ledger's outbox signs a week of events anew; under the same `jti` they must say the same.
    """
    match fact:
        case ConsentFact() | PartyFact():
            return fact.recorded_at
        case VerificationFact():
            return fact.asked_at
        case StreamFact():
            return fact.changed_at


def event_jti(fact: ConsentFact | PartyFact, issuer: str, audience: ClientId) -> str:
    """The event's id for this receiver: the same in every process, at any time, on both of its streams."""
    version = fact.consent_version if isinstance(fact, ConsentFact) else fact.version
    parts = ("ccs-set-v1", issuer, audience, event_type(fact), subject(fact), str(version))
    return "c1." + encode_part(hashlib.sha256("\n".join(parts).encode()).digest()).decode()


def drawn_jti(draw: bytes) -> str:
    """The id of a framework event, which no version tells apart. draw: at least 16 random bytes."""
    if len(draw) < 16:
        raise ValueError("an id needs 16 random bytes")
    return "c2." + encode_part(draw).decode()


def event_claims(
    fact: Fact,
    *,
    receiver: ClientId,
    role: Role,
    issuer: str,
    jti: str,
    seq: int = 0,
    prev: int = 0,
    txn: str | None = None,
) -> EventClaims:
    """The claims for one receiver. seq 0: a framework event. Raises NotForReceiver."""
    _refuse_strangers(fact, receiver, role)
    framework = isinstance(fact, VerificationFact | StreamFact)
    return EventClaims(
        iss=issuer,
        aud=receiver,
        iat=issued_at(fact),
        jti=jti,
        sub_id=SubjectId("opaque", subject(fact)),
        events={event_type(fact): _payload(fact, receiver)},
        txn=txn,
        ccs_seq=None if framework else seq,
        ccs_prev=None if framework else prev,
        ccs_challenge=fact.challenge if isinstance(fact, VerificationFact) else None,
    )


def heartbeat_claims(
    *,
    stream_id: str,
    receiver: ClientId,
    issuer: str,
    jti: str,
    iat: UnixTime,
    last_seq: int,
    checkpoint: SignedCheckpoint | None,
) -> EventClaims:
    """A verification event that nobody asked for. last_seq: of this receiver's newest event; 0: it has none."""
    return EventClaims(
        iss=issuer,
        aud=receiver,
        iat=iat,
        jti=jti,
        sub_id=SubjectId("opaque", stream_id),
        events={VERIFICATION: VerificationPayload()},
        ccs_last_seq=last_seq,
        ccs_checkpoint=None if checkpoint is None else _checkpoint(checkpoint),
    )


def _refuse_strangers(fact: Fact, receiver: ClientId, role: Role) -> None:
    if not _concerns(fact, receiver, role):
        raise NotForReceiver("this event is not for this receiver", detail=f"{event_type(fact)} to {receiver}")


def _concerns(fact: Fact, receiver: ClientId, role: Role) -> bool:
    if role not in {Role.ATP, Role.EDP}:
        return False
    if isinstance(fact, VerificationFact | StreamFact):
        return True
    if role is Role.ATP:
        return receiver == fact.client_id
    return isinstance(fact, PartyFact) or receiver in fact.edps


def _payload(fact: Fact, receiver: ClientId) -> Payload:
    match fact:
        case ConsentFact():
            return _of_consent(fact, to_atp=receiver == fact.client_id)
        case PartyFact():
            by = InitiatingEntity.ADMIN if receiver == fact.client_id else None
            return PartyPayload(fact.version, fact.recorded_at, fact.recorded_at, fact.client_id, by)
        case VerificationFact():
            return VerificationPayload(fact.state)
        case StreamFact():
            return StreamPayload(fact.status, fact.reason)  # type: ignore[arg-type]  # one of the three, by the fact


def _of_consent(fact: ConsentFact, *, to_atp: bool) -> ConsentPayload:
    details = tuple({name: entry[name] for name in _SHOWN if name in entry} for entry in fact.authorization_details)
    payload = ConsentPayload(
        consent_version=fact.consent_version,
        state=wire_state(fact.state),
        effective_at=fact.effective_at,
        event_timestamp=fact.recorded_at,
        client_id=fact.client_id,
        expires_at=fact.expires_at if fact.change in _WITH_EXPIRY else None,
        authorization_details=details if fact.change in _WITH_DETAILS else (),
    )
    return _with_reason(payload, fact) if to_atp else payload


def _with_reason(payload: ConsentPayload, fact: ConsentFact) -> ConsentPayload:
    disputed = fact.change is Change.DISPUTED
    return msgspec.structs.replace(
        payload,
        # Never which user: another occupant's dispute must not tell the ATP who lives there.
        initiating_entity=InitiatingEntity.USER if disputed else fact.initiating_entity,
        reason_code=fact.reason_code if fact.change in _ENDS_OR_NARROWS else None,
        dispute_ref=fact.dispute_ref if disputed else None,
        respond_by=fact.respond_by if disputed else None,
    )


def _checkpoint(checkpoint: SignedCheckpoint) -> CheckpointMember:
    return CheckpointMember(
        checkpoint.incarnation, checkpoint.seq, checkpoint.hash, checkpoint.kid, checkpoint.signature
    )


def wire_state(state: State) -> str:
    """A consent's state as it is written in events and answers."""
    return state.name.lower()
