"""A stored consent as its parties see it: the full form for ATP and consumer, the cut form for tokens."""

from admin.ledger.events import ConsentEvent, ConsentPersonal
from engine.clock import format_utc
from engine.consent.energy_consent import SCHEMA_VERSION
from engine.consent.narrowing import EnergyConsent
from engine.tokens.claims import ConsentDetail


def full_form(event: ConsentEvent, personal: ConsentPersonal) -> EnergyConsent:
    """Everything that was granted; purpose and reference included, the person never."""
    record, terms = event.consent, event.terms
    return EnergyConsent(
        type=terms.schema_version,
        consent_id=event.consent_id,
        dataset_id=record.dataset_id,
        purpose=terms.purpose,
        access_mode=record.access_mode.name.lower(),
        consent_expires_at=format_utc(record.expires_at),
        granted_at=format_utc(record.granted_at),
        data_from=format_utc(record.data_from),
        data_to=None if record.data_to is None else format_utc(record.data_to),
        meter_points=personal.meter_points,
        locations=terms.locations,
        purpose_code=record.purpose_code,
        atp_declaration=terms.atp_declaration,
        atp_reference=terms.atp_reference,
        schema_version=SCHEMA_VERSION,
    )


def cut_form(event: ConsentEvent, personal: ConsentPersonal) -> ConsentDetail:
    """What a token carries: without the purpose's words, the declaration and the addresses (sheet, section 3.7)."""
    record = event.consent
    return ConsentDetail(
        type=event.terms.schema_version,
        consent_id=event.consent_id,
        dataset_id=record.dataset_id,
        access_mode=record.access_mode.name.lower(),
        consent_expires_at=format_utc(record.expires_at),
        data_from=format_utc(record.data_from),
        data_to=None if record.data_to is None else format_utc(record.data_to),
        meter_points=personal.meter_points,
        purpose_code=record.purpose_code,
    )
