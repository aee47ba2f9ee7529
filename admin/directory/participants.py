"""The directory's commands: what may be done with a participant, each a pure function to the event it appends.

A participant is a client of an organisation: an ATP, an EDP, an engine node, a pusher or an operator's console. Each
event carries the participant after it, whole, so that engines need nothing but the newest.
"""

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from admin.ledger.events import (
    Act,
    CertificatesReplaced,
    FallbackRestored,
    FallbackSuspended,
    Organisation,
    ParticipantEvent,
    ParticipantRegistered,
    ParticipantReinstated,
    ParticipantSuspended,
    ParticipantUpdated,
)
from engine.clock import UnixTime
from engine.consent.records import (
    Answers,
    Certificate,
    ClientId,
    FallbackSuspension,
    ParticipantRecord,
    Role,
    Thumbprint,
)
from engine.errors import Fault, Kind

MAX_CERTIFICATES: Final = 8  # an organisation's machines share few; rotation needs two at once
_CLIENT_ID: Final = re.compile(r"[a-z0-9-]{1,40}")
_DATASET: Final = re.compile(r"[a-z0-9][a-z0-9._-]{2,63}")

Owners = Mapping[Thumbprint, ClientId]  # who has registered which certificate


class ParticipantExists(Fault):
    """The client id is taken; it is unique in the ecosystem (DIR-02)."""

    kind = Kind.CONFLICT


class UnknownParticipant(Fault):
    """No participant of this id."""

    kind = Kind.NOT_FOUND


class InvalidParticipant(Fault):
    """What is asked breaks a rule of the directory."""

    kind = Kind.INVALID


class CertificateTaken(Fault):
    """A certificate names exactly one client, or the caller could not be told from it."""

    kind = Kind.CONFLICT


class NoChange(Fault):
    """The participant is in the state that was asked for already."""

    kind = Kind.CONFLICT


class OwnSuspension(Fault):
    """The last operator would lock everybody out."""

    kind = Kind.CONFLICT


class Standing(msgspec.Struct, frozen=True):
    """A participant as the ledger has it."""

    participant: ParticipantRecord
    organisation: Organisation


def register(
    participant: ParticipantRecord, organisation: Organisation, current: Standing | None, owners: Owners, act: Act
) -> ParticipantRegistered:
    """A new participant. Raises ParticipantExists, InvalidParticipant, CertificateTaken (DIR-02)."""
    if current is not None:
        raise ParticipantExists("a participant of this client_id is registered already")
    _check(participant, organisation)
    _check_certificates(participant, owners, act)
    fresh = msgspec.structs.replace(participant, suspended=False, fallback_suspended=None)
    return ParticipantRegistered(fresh, organisation, act)


def update(
    participant: ParticipantRecord, organisation: Organisation, current: Standing | None, act: Act
) -> ParticipantUpdated:
    """Other data sets, limits, form of answers or organisation; id, role, certificates and state stay as they are.

    Raises UnknownParticipant, InvalidParticipant, NoChange.
    """
    before = _standing(current)
    kept = before.participant
    after = msgspec.structs.replace(
        participant,
        client_id=kept.client_id,
        role=kept.role,
        suspended=kept.suspended,
        certificates=kept.certificates,
        fallback_suspended=kept.fallback_suspended,
    )
    _check(after, organisation)
    if Standing(after, organisation) == before:
        raise NoChange("the participant has these values already")
    return ParticipantUpdated(after, organisation, act)


def replace_certificates(
    certificates: tuple[Certificate, ...], current: Standing | None, owners: Owners, act: Act
) -> CertificatesReplaced:
    """Other transport certificates. Raises UnknownParticipant, InvalidParticipant, CertificateTaken, NoChange."""
    before = _standing(current)
    after = msgspec.structs.replace(before.participant, certificates=certificates)
    _check_certificates(after, owners, act)
    if after == before.participant:
        raise NoChange("these certificates are registered already")
    return CertificatesReplaced(after, before.organisation, act)


def suspend(current: Standing | None, act: Act) -> ParticipantSuspended:
    """Nothing it asks is answered from now on. Raises UnknownParticipant, NoChange, OwnSuspension."""
    before = _standing(current)
    if before.participant.client_id == act.actor:
        raise OwnSuspension("nobody suspends itself: it could not take that back")
    if before.participant.suspended:
        raise NoChange("the participant is suspended already")
    return ParticipantSuspended(_suspended(before, to=True), before.organisation, act)


def reinstate(current: Standing | None, act: Act) -> ParticipantReinstated:
    """The suspension is over. Raises UnknownParticipant, NoChange."""
    before = _standing(current)
    if not before.participant.suspended:
        raise NoChange("the participant is not suspended")
    return ParticipantReinstated(_suspended(before, to=False), before.organisation, act)


def suspend_fallback(current: Standing | None, oldest_seq: int, oldest_at: UnixTime, act: Act) -> FallbackSuspended:
    """An EDP was not told for too long what has ended. Raises UnknownParticipant, NoChange.

    oldest_seq, oldest_at: of the oldest event that it was not told. Whether it handles `last_known` does not matter:
    should it be registered for that tomorrow, it still does not know what has ended.
    """
    before = _standing(current)
    if before.participant.fallback_suspended is not None:
        raise NoChange("its right to fall back is suspended already")
    suspension = FallbackSuspension(act.at, oldest_seq)
    after = msgspec.structs.replace(before.participant, fallback_suspended=suspension)
    return FallbackSuspended(after, before.organisation, act, oldest_at)


def restore_fallback(current: Standing | None, act: Act) -> FallbackRestored:
    """It has caught up. Raises UnknownParticipant, NoChange."""
    before = _standing(current)
    suspension = before.participant.fallback_suspended
    if suspension is None:
        raise NoChange("its right to fall back is not suspended")
    after = msgspec.structs.replace(before.participant, fallback_suspended=None)
    return FallbackRestored(after, before.organisation, act, suspension.at)


def is_client_id(text: str) -> bool:
    """Whether a participant may be named so. Ask before the ledger is asked: a path can hold what no database takes."""
    return _CLIENT_ID.fullmatch(text) is not None


def standing_after(event: ParticipantEvent) -> Standing:
    """The participant after an event."""
    return Standing(event.participant, event.organisation)


def _standing(current: Standing | None) -> Standing:
    if current is None:
        raise UnknownParticipant("no participant of this client_id is registered")
    return current


def _suspended(before: Standing, *, to: bool) -> ParticipantRecord:
    return msgspec.structs.replace(before.participant, suspended=to)


def _check(participant: ParticipantRecord, organisation: Organisation) -> None:
    if not is_client_id(participant.client_id):
        raise InvalidParticipant("client_id: 1 to 40 of a-z, 0-9 and hyphen")
    if not organisation.name.strip():
        raise InvalidParticipant("the organisation has no name")
    if not all(location.startswith("https://") for location in organisation.locations):
        raise InvalidParticipant("locations: only https addresses (DIR-03)")
    if participant.max_connections < 1 or participant.max_requests_per_second < 1:
        raise InvalidParticipant("limits are at least 1")
    _check_edp_members(participant, organisation)


def _check_edp_members(participant: ParticipantRecord, organisation: Organisation) -> None:
    if participant.role is Role.EDP:
        if not all(_DATASET.fullmatch(dataset) for dataset in participant.datasets):
            raise InvalidParticipant("datasets: 3 to 64 of a-z, 0-9, dot, underscore and hyphen")
        if len(set(participant.datasets)) != len(participant.datasets):
            raise InvalidParticipant("datasets: a data set stands twice")
    elif (
        participant.datasets
        or organisation.locations
        or participant.handles_last_known
        or participant.answers is not Answers.PLAIN
    ):
        raise InvalidParticipant("datasets, locations, answers and handles_last_known are an EDP's alone")


def _check_certificates(participant: ParticipantRecord, owners: Owners, act: Act) -> None:
    certificates = participant.certificates
    if not 1 <= len(certificates) <= MAX_CERTIFICATES:
        raise InvalidParticipant(f"certificates: 1 to {MAX_CERTIFICATES}")
    if len({certificate.thumbprint for certificate in certificates}) != len(certificates):
        raise InvalidParticipant("certificates: one stands twice")
    if any(certificate.not_after <= act.at for certificate in certificates):
        raise InvalidParticipant("certificates: one has expired")
    if any(owners.get(c.thumbprint, participant.client_id) != participant.client_id for c in certificates):
        raise CertificateTaken("a certificate is registered for another client")
