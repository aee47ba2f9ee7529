"""What a ledger must hold before anybody can speak to the service: the first participants and the issuer's keys."""

from collections.abc import Sequence
from contextlib import suppress

import msgspec
from cryptography import x509

from admin.authorization.rotation import check_rotation, publication_of
from admin.config import Bootstrap, Issuer
from admin.keys import Secrets
from admin.ledger.events import (
    Act,
    CertificateBound,
    Initiator,
    IssuerKeysPublished,
    LedgerEvent,
    Organisation,
    ParticipantRegistered,
    Route,
    append_of,
    event_of,
)
from admin.ledger.store import Append, Ledger, VersionConflict
from admin.pki.authority import registered
from engine.clock import UnixTime
from engine.config import BadConfig
from engine.consent.records import ClientId, ParticipantRecord, Role

ACTOR = "bootstrap"


def first_participants(bootstrap: Sequence[Bootstrap], now: UnixTime) -> list[Append]:
    """The registrations that the settings name. Raises BadConfig where a certificate cannot be read."""
    act = Act(Initiator.SYSTEM, ACTOR, Route.SYSTEM, now)
    return [append_of(event, 0) for one in bootstrap for event in _registration(_record(one), act)]


async def register_first(ledger: Ledger, appends: Sequence[Append]) -> None:
    """Write the first participants into a ledger that holds nothing but its creation; all of them or none."""
    if appends and (await ledger.head()).position.seq == 1:
        with suppress(VersionConflict):  # another instance is starting on the same ledger
            await ledger.append(appends)


async def publish_keys(ledger: Ledger, secrets: Secrets, config: Issuer, now: UnixTime) -> None:
    """Tell engines that the issuer's keys are other ones than before, if they are.

    Raises RotationTooEarly where that would refuse good tokens, unless the settings drop keys at once.
    """
    state = await ledger.subject("issuer")
    before = None if state is None else event_of(state.event)
    if isinstance(before, IssuerKeysPublished):
        if (before.issuer, before.jwks) == (secrets.issuer, secrets.jwks):
            return
        if not config.drop_keys_at_once:
            kids = [signer.public.kid for signer in secrets.token_signers]
            check_rotation(publication_of(before.at, before.jwks), kids, config.token_lifetime, now)
    version = 0 if state is None else state.version
    with suppress(VersionConflict):
        await ledger.append([append_of(IssuerKeysPublished(secrets.issuer, secrets.jwks, now), version)])


def _registration(participant: ParticipantRecord, act: Act) -> list[LedgerEvent]:
    bound = [CertificateBound(one.thumbprint, participant.client_id, act) for one in participant.certificates]
    return [*bound, ParticipantRegistered(participant, Organisation(participant.client_id), act)]


def _record(one: Bootstrap) -> ParticipantRecord:
    try:
        certificate = x509.load_pem_x509_certificate(one.certificate_file.read_bytes())
    except OSError as error:
        raise BadConfig(f"{one.certificate_file}: {error.strerror}") from error
    except ValueError as error:
        raise BadConfig(f"{one.certificate_file}: holds no PEM certificate") from error
    role = Role[one.role.upper()]
    record = ParticipantRecord(ClientId(one.client_id), role, suspended=False, certificates=(registered(certificate),))
    # Whoever bootstraps also seeds and measures: the limits of an ordinary participant would be in its way.
    return msgspec.structs.replace(record, max_connections=1_000, max_requests_per_second=100_000)
