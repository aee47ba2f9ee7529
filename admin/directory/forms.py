"""The directory on the wire: what is sent to register a participant, and how one is shown."""

import re
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from admin.directory.certificates import EncodedCertificate, certificate_of
from admin.directory.participants import MAX_CERTIFICATES, Standing
from admin.ledger.events import Organisation
from admin.writing import Place
from engine.clock import format_utc
from engine.consent.reading import InvalidFields, Problem
from engine.consent.records import Answers, Certificate, ClientId, ParticipantRecord, Role

ClientText = Annotated[str, Meta(pattern="^[a-z0-9-]{1,40}$")]
DatasetId = Annotated[str, Meta(pattern="^[a-z0-9][a-z0-9._-]{2,63}$")]
Location = Annotated[str, Meta(pattern="^https://", max_length=300)]
Limit = Annotated[int, Meta(ge=1, le=1_000_000)]
EncodedCertificates = Annotated[tuple[EncodedCertificate, ...], Meta(min_length=1, max_length=MAX_CERTIFICATES)]
RoleName = Literal["atp", "edp", "node", "operator", "pusher"]
AnswersName = Literal["plain", "signed"]
MAX_DATASETS: Final = 50
MAX_LOCATIONS: Final = 10
DEFAULT_PAGE: Final = 50
MAX_PAGE: Final = 200  # each participant is read on its own, for its organisation
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,2}")
_CLIENT_ID: Final = re.compile(r"[a-z0-9-]{1,40}")


class OrganisationForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who stands behind the client. locations: an EDP's data APIs."""

    name: Annotated[str, Meta(min_length=1, max_length=200)]
    locations: Annotated[tuple[Location, ...], Meta(max_length=MAX_LOCATIONS)] = ()


class UpdateForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What may change of a participant; what is left out takes its default."""

    organisation: OrganisationForm
    datasets: Annotated[tuple[DatasetId, ...], Meta(max_length=MAX_DATASETS)] = ()
    answers: AnswersName = "plain"
    handles_last_known: bool = False
    max_connections: Limit = 100
    max_requests_per_second: Limit = 50


class ParticipantForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A new participant. certificates: base64 of DER each, as in `x5c`."""

    client_id: ClientText
    role: RoleName
    certificates: EncodedCertificates
    organisation: OrganisationForm
    datasets: Annotated[tuple[DatasetId, ...], Meta(max_length=MAX_DATASETS)] = ()
    answers: AnswersName = "plain"
    handles_last_known: bool = False
    max_connections: Limit = 100
    max_requests_per_second: Limit = 50


class CertificatesForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The certificates that stand for the client from now on; the others no longer do."""

    certificates: EncodedCertificates


class CertificateView(msgspec.Struct, frozen=True):
    """A registered certificate, by the name that token bindings use (RFC 8705 section 3.1)."""

    thumbprint: Annotated[str, Meta(pattern="^[A-Za-z0-9_-]{43}$")]
    not_after: str


class ParticipantView(msgspec.Struct, frozen=True):
    """A participant as it stands after the event at `position`."""

    client_id: str
    role: RoleName
    suspended: bool
    organisation: OrganisationForm
    certificates: tuple[CertificateView, ...]
    datasets: tuple[str, ...]
    answers: AnswersName
    handles_last_known: bool
    max_connections: int
    max_requests_per_second: int
    version: int
    position: Place
    fallback_suspended_at: str = ""  # since when an EDP may not fall back, being a day behind; "" = it may


class ListQuery(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which page. after: the last client_id of the page before; limit: how many at most."""

    after: ClientText = ""
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE)] = DEFAULT_PAGE


class ParticipantsView(msgspec.Struct, frozen=True, omit_defaults=True):
    """A page of participants, ordered by client_id. next: what to send as `after` for the page behind it, if any."""

    participants: tuple[ParticipantView, ...]
    next: str = ""


_ROLES: Final[dict[Role, RoleName]] = {
    Role.ATP: "atp",
    Role.EDP: "edp",
    Role.NODE: "node",
    Role.OPERATOR: "operator",
    Role.PUSHER: "pusher",
}
_ANSWERS: Final[dict[Answers, AnswersName]] = {Answers.PLAIN: "plain", Answers.SIGNED: "signed"}


def read_list_query(given: Mapping[str, list[str]]) -> ListQuery:
    """Read the query of a page; each parameter once at most. Raises InvalidFields."""
    after, limit = given.get("after", []), given.get("limit", [])
    problems = []
    if len(after) > 1 or not all(_CLIENT_ID.fullmatch(text) for text in after):
        problems.append(Problem("after", "must be one client_id"))
    if len(limit) > 1 or not all(_NUMBER.fullmatch(text) and int(text) <= MAX_PAGE for text in limit):
        problems.append(Problem("limit", f"must be one number from 1 to {MAX_PAGE}"))
    if problems:
        raise InvalidFields(problems)
    return ListQuery(after[0] if after else "", int(limit[0]) if limit else DEFAULT_PAGE)


def record_of(form: ParticipantForm) -> ParticipantRecord:
    """The record that a registration asks for. Raises InvalidCertificate."""
    role = Role[form.role.upper()]
    return _record(ClientId(form.client_id), role, certificates_of(form.certificates), form)


def record_of_update(form: UpdateForm) -> ParticipantRecord:
    """The changeable members of a record; id, role and certificates are filled in by the command."""
    return _record(ClientId(""), Role.EDP, (), form)


def organisation_of(form: OrganisationForm) -> Organisation:
    """As the ledger stores it."""
    return Organisation(form.name, form.locations)


def certificates_of(encoded: tuple[str, ...]) -> tuple[Certificate, ...]:
    """Read all of them. Raises InvalidCertificate."""
    return tuple(certificate_of(one) for one in encoded)


def view_of(standing: Standing, version: int, position: Place) -> ParticipantView:
    """A participant as it is shown to those who may see it."""
    shown = standing.participant
    return ParticipantView(
        client_id=shown.client_id,
        role=_ROLES[shown.role],
        suspended=shown.suspended,
        organisation=OrganisationForm(name=standing.organisation.name, locations=standing.organisation.locations),
        certificates=tuple(_certificate_view(certificate) for certificate in shown.certificates),
        datasets=shown.datasets,
        answers=_ANSWERS[shown.answers],
        handles_last_known=shown.handles_last_known,
        max_connections=shown.max_connections,
        max_requests_per_second=shown.max_requests_per_second,
        version=version,
        position=position,
        fallback_suspended_at="" if shown.fallback_suspended is None else format_utc(shown.fallback_suspended.at),
    )


def _record(
    client_id: ClientId, role: Role, certificates: tuple[Certificate, ...], form: ParticipantForm | UpdateForm
) -> ParticipantRecord:
    return ParticipantRecord(
        client_id=client_id,
        role=role,
        suspended=False,
        certificates=certificates,
        datasets=form.datasets,
        answers=Answers[form.answers.upper()],
        handles_last_known=form.handles_last_known,
        max_connections=form.max_connections,
        max_requests_per_second=form.max_requests_per_second,
    )


def _certificate_view(certificate: Certificate) -> CertificateView:
    thumbprint = urlsafe_b64encode(certificate.thumbprint).rstrip(b"=").decode()
    return CertificateView(thumbprint, format_utc(certificate.not_after))
