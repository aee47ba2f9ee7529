"""From an event of the ledger to what ATPs and EDPs are told of it. Pure; it names no person and no meter point.

Every kind of event has its place in one `match`, so that a new one cannot be forgotten: mypy refuses a union that is
not covered. On whose behalf and why is told in CAEP's words and those of the sheet (revocation-push, section 6).
"""

from typing import Any, Final, assert_never

import msgspec

from admin.ledger.events import (
    Act,
    CertificateBound,
    CertificateReleased,
    CertificatesReplaced,
    ConsentAbandoned,
    ConsentConsumed,
    ConsentDeclined,
    ConsentDisputed,
    ConsentEvent,
    ConsentExpired,
    ConsentGranted,
    ConsentRenewed,
    ConsentRequested,
    ConsentRevoked,
    ConsentSuperseded,
    ConsentWindowCut,
    FallbackRestored,
    FallbackSuspended,
    Initiator,
    IssuerKeysPublished,
    LedgerCreated,
    LedgerEvent,
    LedgerRestored,
    LedgerWentLive,
    ParticipantRegistered,
    ParticipantReinstated,
    ParticipantSuspended,
    ParticipantUpdated,
    PolicyChanged,
    RecoveryReported,
    RecoveryTold,
    StreamChanged,
    TokenRevoked,
)
from engine.clock import UnixTime, format_utc
from engine.consent.records import Role
from engine.events.facts import Change, ConsentFact, InitiatingEntity, PartyFact, ReasonCode

_ENTITIES: Final[dict[Initiator, InitiatingEntity]] = {
    Initiator.CONSUMER: InitiatingEntity.USER,
    Initiator.ATP: InitiatingEntity.SYSTEM,  # the ATP's own machine; `reason_code` says that it was the ATP
    Initiator.EDP: InitiatingEntity.SYSTEM,  # it ends no consent today; a telling after a restore may come to that
    Initiator.OPERATOR: InitiatingEntity.ADMIN,
    Initiator.SYSTEM: InitiatingEntity.SYSTEM,
}
_WITHDRAWN_BY: Final[dict[Initiator, ReasonCode]] = {
    Initiator.CONSUMER: ReasonCode.CONSUMER_WITHDREW,
    Initiator.ATP: ReasonCode.ATP_WITHDREW,
    Initiator.EDP: ReasonCode.ADMIN,
    Initiator.OPERATOR: ReasonCode.ADMIN,
    Initiator.SYSTEM: ReasonCode.ADMIN,
}
_MOVED_OUT: Final = "moved_out"  # of the published list of reasons of a revocation


def fact_of(event: LedgerEvent, seq: int, recorded_at: UnixTime) -> ConsentFact | PartyFact | None:  # noqa: PLR0911 - one for each kind
    """What is told of an event; None: nothing. seq: its position."""
    match event:
        case ConsentGranted():
            return _of_live(event, Change.GRANTED, event.consent.granted_at, recorded_at)
        case ConsentRenewed():
            return _of_live(event, Change.RENEWED, recorded_at, recorded_at)
        case ConsentWindowCut():
            return _of_cut(event, recorded_at)
        case ConsentRevoked() | ConsentSuperseded() | ConsentDisputed() | ConsentExpired() | ConsentConsumed():
            return _of_ended(event, recorded_at)
        case ParticipantSuspended() | ParticipantReinstated():
            return _of_party(event, seq, recorded_at)
        case ConsentRequested() | ConsentDeclined() | ConsentAbandoned():
            return None  # it never came to a consent
        case ParticipantRegistered() | ParticipantUpdated() | CertificatesReplaced() | CertificateBound():
            return None
        case FallbackSuspended() | FallbackRestored():
            return None  # engines know it by the participant, and tell its EDP with each answer
        case CertificateReleased() | TokenRevoked() | PolicyChanged() | IssuerKeysPublished() | StreamChanged():
            return None
        case LedgerCreated() | LedgerRestored() | LedgerWentLive() | RecoveryTold() | RecoveryReported():
            return None
    assert_never(event)


def party_version(seq: int, floor: int = 0) -> int:
    """The number that orders what is told of a party. seq: position of its newest event.

    floor: of a party as it stands, where the ledger's own newest event is newer (`SubjectState.floor`): whatever was
    heard of before a restore and was lost by it is older than how the party stands now (docs/decisions/0032).
    """
    return max(seq, floor)


def _of_party(event: ParticipantSuspended | ParticipantReinstated, seq: int, recorded_at: UnixTime) -> PartyFact | None:
    participant = event.participant
    if participant.role is not Role.ATP:
        return None  # an EDP that is stopped gets no answers; nobody else has to act on it
    return PartyFact(participant.client_id, party_version(seq), participant.suspended, recorded_at)


def _of_live(
    event: ConsentGranted | ConsentRenewed, change: Change, at: UnixTime, recorded_at: UnixTime
) -> ConsentFact:
    fact = _fact(event, change, at, recorded_at, None)
    return msgspec.structs.replace(
        fact, expires_at=event.consent.expires_at, authorization_details=(entry_without_meter_points(event),)
    )


def _of_cut(event: ConsentWindowCut, recorded_at: UnixTime) -> ConsentFact:
    ends_sooner = event.consent.data_to != event.previous_to
    reason = ReasonCode.MOVED_OUT if ends_sooner else _cut_reason(event.act)
    fact = _fact(event, Change.AMENDED, recorded_at, recorded_at, reason)
    return msgspec.structs.replace(fact, authorization_details=(entry_without_meter_points(event),))


def _cut_reason(act: Act) -> ReasonCode | None:
    """Of a move-in that was corrected: no code says so."""
    return None if act.initiator in (Initiator.CONSUMER, Initiator.ATP) else ReasonCode.ADMIN


def _of_ended(
    event: ConsentRevoked | ConsentSuperseded | ConsentDisputed | ConsentExpired | ConsentConsumed,
    recorded_at: UnixTime,
) -> ConsentFact:
    match event:
        case ConsentRevoked():
            return _fact(event, Change.REVOKED, event.effective_from, recorded_at, _revoked_reason(event))
        case ConsentSuperseded():
            return _fact(event, Change.REVOKED, recorded_at, recorded_at, ReasonCode.SUPERSEDED)
        case ConsentDisputed():  # always `user`, and never which: the ATP must not learn who lives there
            fact = _fact(event, Change.DISPUTED, recorded_at, recorded_at, ReasonCode.DISPUTE)
            return msgspec.structs.replace(
                fact,
                initiating_entity=InitiatingEntity.USER,
                dispute_ref=event.case_id,
                respond_by=event.respond_by,
            )
        case ConsentExpired():
            return _fact(event, Change.EXPIRED, event.consent.expires_at, recorded_at, ReasonCode.TERM_ENDED)
        case ConsentConsumed():
            return _fact(event, Change.CONSUMED, recorded_at, recorded_at, None)


def _revoked_reason(event: ConsentRevoked) -> ReasonCode:
    act = event.act
    if act.reason == _MOVED_OUT:
        return ReasonCode.MOVED_OUT
    if act.initiator is Initiator.SYSTEM and act.actor == event.consent.atp:  # told by the ATP after a restore
        return ReasonCode.ATP_WITHDREW
    return _WITHDRAWN_BY[act.initiator]


def _fact(
    event: ConsentEvent, change: Change, effective_at: UnixTime, recorded_at: UnixTime, reason: ReasonCode | None
) -> ConsentFact:
    consent = event.consent
    return ConsentFact(
        change=change,
        consent_id=event.consent_id,
        consent_version=consent.consent_version,
        state=consent.state,
        effective_at=effective_at,
        recorded_at=recorded_at,
        client_id=consent.atp,
        edps=consent.edps,
        initiating_entity=_ENTITIES[event.act.initiator],
        reason_code=reason,
    )


def entry_without_meter_points(event: ConsentEvent) -> dict[str, Any]:
    """The `authorization_details` entry as a token has it (RFC 9396), but for the meter points."""
    record = event.consent
    entry: dict[str, Any] = {
        "type": event.terms.schema_version,
        "consent_id": event.consent_id,
        "dataset_id": record.dataset_id,
        "access_mode": record.access_mode.name.lower(),
        "consent_expires_at": format_utc(record.expires_at),
        "data_from": format_utc(record.data_from),
        "actions": ["read"],
    }
    if record.data_to is not None:
        entry["data_to"] = format_utc(record.data_to)
    if record.purpose_code is not None:
        entry["purpose_code"] = record.purpose_code
    return entry
