"""Comparison of what is asked with what was granted (sheet, section 3.4)."""

from typing import Any

import msgspec
import pytest

from engine.consent.energy_consent import TYPE
from engine.consent.narrowing import EnergyConsent, Narrowing, covers, uncovered
from engine.consent.records import ConsentId

GRANTED = EnergyConsent(
    type=TYPE,
    consent_id=ConsentId("7f3c1b1e-5a0e-4a55-9a53-0d6c2f7c9b10"),
    dataset_id="hh-electricity-import",
    purpose="Compare your tariff with others",
    access_mode="enduring",
    consent_expires_at="2027-05-22T09:00:00Z",
    granted_at="2026-11-22T09:30:00Z",
    data_from="2026-06-19T23:00:00Z",
    meter_points=("mpan:1000000000012", "mpan:2000000000024"),
    atp_declaration="atp-decl-1",
    locations=("https://api.edp7.example/hh", "https://api.edp8.example/hh"),
    atp_reference="c-4471",
)
CLOSED = msgspec.structs.replace(GRANTED, data_to="2027-01-01T00:00:00Z")


def asked(**changes: Any) -> Narrowing:
    base = {
        "type": TYPE,
        "dataset_id": GRANTED.dataset_id,
        "access_mode": "enduring",
        "data_from": GRANTED.data_from,
        "purpose": GRANTED.purpose,
        "atp_declaration": "atp-decl-1",
    }
    return Narrowing(**(base | changes))


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"consent_id": GRANTED.consent_id, "granted_at": GRANTED.granted_at, "schema_version": "v1"},
        {"meter_points": ("mpan:2000000000024",)},
        {"meter_points": ("mpan:2000000000024", "mpan:1000000000012")},
        {"locations": ("https://api.edp8.example/hh",), "actions": ("read",)},
        {"data_from": "2026-07-01T23:00:00Z", "data_to": "2027-01-01T00:00:00Z"},
        {"consent_expires_at": "2027-05-22T09:00:00Z"},
        {"atp_reference": "c-4471"},
    ],
)
def test_less_or_the_same_is_covered(change: dict[str, Any]) -> None:
    assert covers(GRANTED, asked(**change))


@pytest.mark.parametrize(
    ("change", "member"),
    [
        ({"type": TYPE + "x"}, "type"),
        ({"dataset_id": "hh-gas"}, "dataset_id"),
        ({"purpose": "Compare your tariff with others "}, "purpose"),
        ({"purpose_code": "advice"}, "purpose_code"),
        ({"access_mode": "one_off"}, "access_mode"),
        ({"atp_declaration": "atp-decl-2"}, "atp_declaration"),
        ({"consent_id": "c0ffee00-1111-4222-8333-444455556666"}, "consent_id"),
        ({"atp_reference": "other"}, "atp_reference"),
        ({"schema_version": "v2"}, "schema_version"),
        ({"meter_points": ("mpan:1000000000012", "mprn:1234567810")}, "meter_points"),
        ({"meter_points": ()}, "meter_points"),
        ({"locations": ("https://api.edp9.example/hh",)}, "locations"),
        ({"actions": ("read", "write")}, "actions"),
        ({"data_from": "2026-06-18T23:00:00Z"}, "data_from"),
        ({"data_from": "tomorrow"}, "data_from"),
        ({"data_from": "2027-05-22T23:00:00Z"}, "data_from"),
        ({"data_to": "2027-05-22T23:00:00Z"}, "data_to"),
        ({"data_to": "2027-02-30T00:00:00Z"}, "data_to"),
        ({"data_from": "2026-12-01T00:00:00Z", "data_to": "2026-12-01T00:00:00Z"}, "data_from"),
        ({"consent_expires_at": "2027-05-22T09:00:01Z"}, "consent_expires_at"),
    ],
)
def test_more_is_named(change: dict[str, Any], member: str) -> None:
    assert uncovered(GRANTED, asked(**change)) == (member,)


def test_a_closed_window_covers_nothing_after_it() -> None:
    assert covers(CLOSED, asked(data_to="2027-01-01T00:00:00Z"))
    assert uncovered(CLOSED, asked(data_to="2027-01-02T00:00:00Z")) == ("data_to",)
    assert uncovered(CLOSED, asked(data_from="2027-01-01T00:00:00Z")) == ("data_from",)


def test_unknown_members_are_refused_when_read() -> None:
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.convert(msgspec.to_builtins(asked()) | {"more": 1}, Narrowing)
