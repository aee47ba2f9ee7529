"""One request entry: the sheet's example, its rules (3.2, 3.3) and its negative matrix (3.9)."""

import json
from typing import Any

import pytest

from engine.clock import UnixTime, parse_utc
from engine.consent.energy_consent import Limits, read_details, read_entry
from engine.consent.reading import InvalidFields, InvalidText
from engine.consent.records import AccessMode
from engine.consent.windows import Window

NOW = parse_utc("2026-11-22T09:30:00Z")
EXAMPLE: dict[str, Any] = {
    "type": "https://ccs.example/rar/energy-consent/v1",
    "dataset_id": "hh-electricity-import",
    "purpose": "Compare your tariff with others using your half-hourly use",
    "access_mode": "enduring",
    "consent_expires_at": "2027-05-22T09:00:00Z",
    "data_from": "2025-11-22T00:00:00Z",
    "meter_points": ["mpan:1000000000012"],
    "atp_declaration": "atp-decl-1",
    "atp_reference": "c-4471",
}
ONE_OFF = {name: value for name, value in EXAMPLE.items() if name != "consent_expires_at"} | {
    "access_mode": "one_off",
    "data_to": "2026-11-22T00:00:00Z",
}


def changed(base: dict[str, Any], **members: object) -> dict[str, Any]:
    """The entry with some members changed; None takes one away."""
    merged = base | members
    return {name: value for name, value in merged.items() if value is not None}


def fields(value: object, now: UnixTime = NOW, limits: Limits | None = None) -> set[str]:
    with pytest.raises(InvalidFields) as caught:
        read_entry(value, now, limits)
    return {problem.field for problem in caught.value.problems}


def test_the_sheet_s_example_is_read() -> None:
    requested = read_entry(EXAMPLE, NOW)
    assert requested.access_mode is AccessMode.ENDURING
    assert requested.window == Window(parse_utc("2025-11-22T00:00:00Z"), None)
    assert requested.expires_at == parse_utc("2027-05-22T09:00:00Z")
    assert requested.entry.atp_reference == "c-4471"


def test_a_one_off_is_read() -> None:
    requested = read_entry(ONE_OFF, NOW)
    assert (requested.access_mode, requested.expires_at) == (AccessMode.ONE_OFF, None)


@pytest.mark.parametrize(
    "member", ["type", "dataset_id", "purpose", "access_mode", "data_from", "atp_declaration", "consent_expires_at"]
)
def test_each_mandatory_member_is_missed_by_name(member: str) -> None:
    assert fields(changed(EXAMPLE, **{member: None})) == {member}


@pytest.mark.parametrize("member", ["purpose_code", "atp_reference", "meter_points", "locations", "actions"])
def test_optional_members_may_be_absent_but_not_null(member: str) -> None:
    assert read_entry(changed(EXAMPLE, **{member: None}), NOW).entry.dataset_id == "hh-electricity-import"
    assert fields(EXAMPLE | {member: None}) == {member}


WRONG: list[tuple[str, object]] = [
    ("type", "https://ccs.example/rar/energy-consent/v2"),
    ("type", 1),
    ("dataset_id", "HH"),
    ("dataset_id", "hh-electricity-import\n"),
    ("dataset_id", "x" * 65),
    ("purpose", ""),
    ("purpose", " " * 12),
    ("purpose", "x" * 9),
    ("purpose", "x" * 501),
    ("purpose", "Compare your tariff\x07"),
    ("purpose", "Compare your tariff\nwith others"),
    ("purpose", "Compare <b>your</b> tariff"),
    ("purpose", "Compare &lt;your&gt; tariff"),
    ("purpose", "Compare \u202eyour tariff"),
    ("purpose_code", "Upper"),
    ("access_mode", "forever"),
    ("consent_expires_at", "2026-11-22T09:30:00Z"),
    ("consent_expires_at", "2025-05-22T09:00:00Z"),
    ("consent_expires_at", "2027-12-22T09:00:00Z"),
    ("consent_expires_at", "2027-11-22T09:30:01Z"),
    ("consent_expires_at", "2027-05-22T09:00:00+00:00"),
    ("consent_expires_at", "2027-05-22T09:00:00.5Z"),
    ("consent_expires_at", "2027-02-30T09:00:00Z"),
    ("consent_expires_at", "9999-12-31T23:00:00Z"),
    ("consent_expires_at", 1795341600),
    ("data_from", "2026-06-20T00:00:00Z"),
    ("data_from", "2026-11-21T23:00:00Z"),
    ("data_from", "2026-02-30T00:00:00Z"),
    ("data_from", "0001-01-01T00:00:00Z"),
    ("data_from", "2026-11-22T00:00:00Z\n"),
    ("data_to", "2025-11-22T00:00:00Z"),
    ("data_to", "2025-11-21T00:00:00Z"),
    ("data_to", "2027-05-23T23:00:00Z"),
    ("data_to", "2026-06-20T00:00:00Z"),
    ("data_to", "9999-12-31T23:00:00Z"),
    ("meter_points", []),
    ("meter_points", ["mpan:100000000001"]),
    ("meter_points", ["mpan:1000000000013"]),
    ("meter_points", ["1000000000012"]),
    ("meter_points", [1000000000012]),
    ("meter_points", ["mpan:١٠٠٠٠٠٠٠٠٠٠١٢"]),
    ("meter_points", ["mpan:1000000000012", "mpan:1000000000012"]),
    ("meter_points", [f"mprn:{n:010}" for n in range(11)]),
    ("meter_points", "mpan:1000000000012"),
    ("meter_points", ["mpan:1000000000012\n"]),
    ("locations", ["http://api.edp7.example/hh"]),
    ("locations", []),
    ("locations", ["https://" + "x" * 300]),
    ("actions", ["write"]),
    ("actions", ["read", "write"]),
    ("actions", []),
    ("lawful_basis", "contract"),
    ("atp_declaration", "Not An Id"),
    ("atp_reference", "x" * 65),
    ("atp_reference", "a b"),
    ("renews", "short"),
    ("consent_id", "7f3c1b1e-5a0e-4a55-9a53-0d6c2f7c9b10"),
    ("granted_at", "2026-11-22T09:30:00Z"),
    ("schema_version", "v1"),
    ("readings", [1.5]),
]


@pytest.mark.parametrize(("member", "value"), WRONG, ids=lambda value: repr(value)[:40])
def test_a_wrong_member_is_named(member: str, value: object) -> None:
    assert fields(EXAMPLE | {member: value}) == {member}


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (changed(ONE_OFF, consent_expires_at="2027-05-22T09:00:00Z"), "consent_expires_at"),
        (changed(ONE_OFF, data_to=None), "data_to"),
        (changed(ONE_OFF, data_to="2026-11-23T00:00:00Z"), "data_to"),
    ],
)
def test_a_one_off_has_past_data_and_no_expiry(value: object, field: str) -> None:
    assert fields(value) == {field}


def test_a_whole_year_is_the_longest_term() -> None:
    read_entry(changed(EXAMPLE, consent_expires_at="2027-11-22T09:30:00Z"), NOW)
    assert fields(changed(EXAMPLE, consent_expires_at="2027-05-22T09:00:00Z"), limits=Limits(term_months=3)) == {
        "consent_expires_at"
    }


def test_the_window_may_reach_to_the_midnight_after_the_expiry() -> None:
    requested = read_entry(changed(EXAMPLE, data_to="2027-05-22T23:00:00Z"), NOW)
    assert requested.window.end == parse_utc("2027-05-22T23:00:00Z")


def test_a_limit_of_history_is_kept_where_one_is_set() -> None:
    assert fields(EXAMPLE, limits=Limits(history_months=6)) == {"data_from"}
    assert read_entry(EXAMPLE, NOW, Limits(history_months=13)).window.end is None


def test_wrong_check_digits_of_a_gas_meter_are_no_reason_to_refuse() -> None:
    assert read_entry(EXAMPLE | {"meter_points": ["mprn:1234567811"]}, NOW).entry.meter_points == ("mprn:1234567811",)


def test_all_faults_of_all_entries_are_told() -> None:
    bad = json.dumps([EXAMPLE, EXAMPLE | {"purpose": "", "access_mode": "forever"}, "text"]).encode()
    with pytest.raises(InvalidFields) as caught:
        read_details(bad, NOW)
    assert {problem.field for problem in caught.value.problems} == {"1.purpose", "1.access_mode", "2"}


@pytest.mark.parametrize("text", [b"not json", b"{}", b"[]", b'"text"', b'[{"type":"a","type":"b"}]'])
def test_what_is_no_array_of_entries_is_no_request(text: bytes) -> None:
    with pytest.raises(InvalidText):
        read_details(text, NOW)


def test_twenty_one_entries_are_too_many() -> None:
    with pytest.raises(InvalidFields, match="at most 20"):
        read_details(json.dumps([1] * 21).encode(), NOW)


def test_the_same_thing_twice_is_refused() -> None:
    twice = json.dumps([EXAMPLE, EXAMPLE | {"data_from": "2026-01-01T00:00:00Z"}]).encode()
    with pytest.raises(InvalidFields, match="repeats"):
        read_details(twice, NOW)


@pytest.mark.parametrize(
    "difference",
    [
        {"dataset_id": "hh-gas"},
        {"purpose": "Tell you where your energy goes"},
        {"meter_points": ["mpan:2000000000024"]},
        {"data_from": "2024-11-22T00:00:00Z", "data_to": "2025-11-22T00:00:00Z"},
    ],
)
def test_entries_that_differ_are_two_requests(difference: dict[str, Any]) -> None:
    assert len(read_details(json.dumps([EXAMPLE, EXAMPLE | difference]).encode(), NOW)) == 2
