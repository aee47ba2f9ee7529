"""Made consents for tests: forms, participants, acts and subjects as the ledger would hand them out."""

import json
from typing import Any, Final

from admin.consents.commands import grant
from admin.consents.forms import read_grant
from admin.ledger.events import Act, Initiator, Organisation, ParticipantEvent, ParticipantRegistered, Route
from admin.ledger.store import Append, StoredEvent, SubjectState
from engine.clock import UnixTime, parse_utc
from engine.consent.records import ClientId, ConsentId, ParticipantRecord, Role
from engine.feed.entries import Position

NOW: Final = parse_utc("2026-11-22T09:30:00Z")
METER_KEY: Final = bytes(range(32))
CONSENT_ID: Final = ConsentId("7f3c1b1e-5a0e-4a55-9a53-0d6c2f7c9b10")

GRANT: Final[dict[str, Any]] = {
    "client_id": "atp-1",
    "edps": ["edp-1"],
    "authorization_details": {
        "type": "https://ccs.example/rar/energy-consent/v1",
        "dataset_id": "hh-electricity-import",
        "purpose": "Compare your tariff with others using your half-hourly use",
        "access_mode": "enduring",
        "consent_expires_at": "2027-05-22T09:00:00Z",
        "data_from": "2025-11-22T00:00:00Z",
        "meter_points": ["mpan:1000000000012"],
        "atp_declaration": "atp-decl-1",
        "atp_reference": "c-4471",
    },
    "person": {"person_id": "person-77", "name": "Ann Made-Up", "address": "1 Nowhere Street"},
    "address_confirmed": True,
    "wording": "grant-1",
}
ONE_OFF_DETAILS: Final[dict[str, Any]] = {
    name: value for name, value in GRANT["authorization_details"].items() if name != "consent_expires_at"
} | {"access_mode": "one_off", "data_to": "2026-11-22T00:00:00Z"}


def grant_form(details: dict[str, Any] | None = None, **changes: Any) -> bytes:
    """The JSON of a grant; None takes a member away."""
    merged = GRANT | changes
    if details is not None:
        merged["authorization_details"] = GRANT["authorization_details"] | details
    return json.dumps({name: value for name, value in merged.items() if value is not None}).encode()


def participants(*, suspended: str = "", datasets: tuple[str, ...] = ("hh-electricity-import",)) -> Any:
    """atp-1, atp-2, edp-1 and edp-2, registered."""
    found: dict[ClientId, ParticipantEvent] = {}
    for client_id, role in (("atp-1", Role.ATP), ("atp-2", Role.ATP), ("edp-1", Role.EDP), ("edp-2", Role.EDP)):
        record = ParticipantRecord(ClientId(client_id), role, client_id == suspended, (), datasets)
        organisation = Organisation(client_id, (f"https://api.{client_id}.example/hh",) if role is Role.EDP else ())
        found[ClientId(client_id)] = ParticipantRegistered(record, organisation, act())
    return found


def act(initiator: Initiator = Initiator.CONSUMER, actor: str = "account-1", at: UnixTime = NOW) -> Act:
    return Act(initiator, actor, Route.PORTAL, at)


def by_atp(client_id: str = "atp-1") -> Act:
    return Act(Initiator.ATP, client_id, Route.ATP, NOW)


def granted(form: bytes | None = None, now: UnixTime = NOW, consent_id: ConsentId = CONSENT_ID) -> Append:
    return grant(
        read_grant(form or grant_form(), now),
        participants(),
        consent_id=consent_id,
        meter_key=METER_KEY,
        act=act(),
        now=now,
    )


def subject(append: Append, *, erased: bool = False) -> SubjectState:
    """The subject after an append, as a ledger would read it back."""
    version = append.expected_version + 1
    stored = StoredEvent(
        Position("0" * 16, version),
        append.subject,
        append.tag,
        version,
        NOW,
        append.body,
        None if append.personal is None else append.personal.person_id,
        None,
        append.feed,
        b"",
        b"",
    )
    personal = None if append.personal is None or erased else append.personal.plaintext
    return SubjectState(append.subject, version, stored, personal)
