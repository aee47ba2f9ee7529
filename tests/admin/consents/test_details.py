"""The forms in which a stored consent is shown."""

import msgspec

from admin.consents.commands import consent_of
from admin.consents.details import cut_form, full_form
from admin.ledger.events import decode_personal
from tests.support.consents import CONSENT_ID, ONE_OFF_DETAILS, grant_form, granted, subject


def test_the_full_form_has_everything_but_the_person() -> None:
    state = subject(granted())
    assert state.personal is not None
    shown = msgspec.to_builtins(full_form(consent_of(state), decode_personal(state.personal)))
    assert shown == {
        "type": "https://ccs.example/rar/energy-consent/v1",
        "consent_id": CONSENT_ID,
        "dataset_id": "hh-electricity-import",
        "purpose": "Compare your tariff with others using your half-hourly use",
        "access_mode": "enduring",
        "consent_expires_at": "2027-05-22T09:00:00Z",
        "granted_at": "2026-11-22T09:30:00Z",
        "data_from": "2025-11-22T00:00:00Z",
        "meter_points": ("mpan:1000000000012",),
        "atp_declaration": "atp-decl-1",
        "locations": ("https://api.edp-1.example/hh",),
        "actions": ("read",),
        "atp_reference": "c-4471",
        "schema_version": "v1",
    }


def test_the_cut_form_leaves_out_what_a_token_must_not_carry() -> None:
    state = subject(granted(grant_form(authorization_details=ONE_OFF_DETAILS)))
    assert state.personal is not None
    shown = msgspec.to_builtins(cut_form(consent_of(state), decode_personal(state.personal)))
    assert shown == {
        "type": "https://ccs.example/rar/energy-consent/v1",
        "consent_id": CONSENT_ID,
        "dataset_id": "hh-electricity-import",
        "access_mode": "one_off",
        "consent_expires_at": "2026-11-23T09:30:00Z",
        "data_from": "2025-11-22T00:00:00Z",
        "data_to": "2026-11-22T00:00:00Z",
        "meter_points": ("mpan:1000000000012",),
    }
