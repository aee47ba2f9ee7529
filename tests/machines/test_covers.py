"""Comparison as mathematics: `covers` is an order, and no wildcard hides in it."""

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from engine.clock import UnixTime, format_utc, parse_utc
from engine.consent.energy_consent import TYPE
from engine.consent.narrowing import EnergyConsent, Narrowing, covers
from engine.consent.records import ConsentId

START = parse_utc("2026-01-01T00:00:00Z")
POINTS = ("mpan:1000000000012", "mpan:2000000000024", "mprn:1234567810")
DAYS = st.integers(0, 6)


def day(number: int) -> str:
    return format_utc(UnixTime(START + number * 86_400))


def subsets(items: tuple[str, ...]) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(items), min_size=1, unique=True).map(tuple)


@st.composite
def consents(draw: st.DrawFn) -> EnergyConsent:
    start = draw(st.integers(0, 5))
    return EnergyConsent(
        type=TYPE,
        consent_id=ConsentId("7f3c1b1e-5a0e-4a55-9a53-0d6c2f7c9b10"),
        dataset_id=draw(st.sampled_from(["hh-electricity-import", "hh-gas"])),
        purpose="Compare your tariff",
        access_mode=draw(st.sampled_from(["enduring", "one_off"])),
        consent_expires_at=day(draw(st.integers(6, 9))),
        granted_at=day(0),
        data_from=day(start),
        data_to=draw(st.none() | st.integers(start + 1, 9).map(day)),
        meter_points=draw(subsets(POINTS)),
        atp_declaration="atp-decl-1",
        purpose_code=draw(st.sampled_from([None, "advice"])),
    )


def asking_for(consent: EnergyConsent) -> Narrowing:
    """The consent itself, as a request that leaves nothing to be filled in."""
    members: dict[str, Any] = {name: getattr(consent, name) for name in Narrowing.__struct_fields__}
    whole = consent.data_to or consent.consent_expires_at
    return Narrowing(**members | {"locations": consent.locations or None, "data_to": whole})


@given(consents())
def test_a_consent_covers_itself(consent: EnergyConsent) -> None:
    assert covers(consent, asking_for(consent))


@given(consents(), consents(), consents())
def test_what_covers_what_covers_covers(one: EnergyConsent, two: EnergyConsent, three: EnergyConsent) -> None:
    if covers(one, asking_for(two)) and covers(two, asking_for(three)):
        assert covers(one, asking_for(three))


@given(consents(), consents())
def test_covering_means_nothing_outside(granted: EnergyConsent, asked: EnergyConsent) -> None:
    """Member by member, computed apart from the code under test: every instant and every meter point."""
    inside = {
        (point, number)
        for point in granted.meter_points
        for number in range(10)
        if granted.data_from <= day(number) < (granted.data_to or granted.consent_expires_at)
    }
    wanted = {
        (point, number)
        for point in asked.meter_points
        for number in range(10)
        if asked.data_from <= day(number) < (asked.data_to or asked.consent_expires_at)
    }
    same = all(getattr(granted, name) == getattr(asked, name) for name in ("dataset_id", "access_mode", "purpose_code"))
    expected = same and wanted <= inside and bool(wanted) and asked.consent_expires_at <= granted.consent_expires_at
    assert covers(granted, asking_for(asked)) == expected


@given(consents(), st.sampled_from(["type", "dataset_id", "purpose", "access_mode", "atp_declaration"]))
def test_one_letter_more_in_a_text_is_something_else(consent: EnergyConsent, member: str) -> None:
    asked = asking_for(consent)
    assert not covers(consent, msgspec.structs.replace(asked, **{member: getattr(asked, member) + " "}))


@given(consents(), st.sampled_from(["meter_points", "data_to", "consent_expires_at", "actions", "consent_id"]))
def test_what_is_left_out_is_as_granted(consent: EnergyConsent, member: str) -> None:
    assert covers(consent, msgspec.structs.replace(asking_for(consent), **{member: None}))
