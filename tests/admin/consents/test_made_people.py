"""Made people: repeatable, well formed, of addresses that do not exist."""

import re

from hypothesis import given
from hypothesis import strategies as st

from admin.consents.forms import read_grant
from admin.consents.made_people import made_grant, made_person
from engine.consent.meter_points import problem_with
from engine.consent.records import AccessMode
from tests.support.pki import NOW

NUMBERS = st.integers(min_value=0, max_value=2**41)


@given(NUMBERS)
def test_a_number_is_one_person_for_ever(number: int) -> None:
    assert made_person(number) == made_person(number)


def test_the_first_person_never_changes() -> None:
    """A seed of an older version must stay the same people."""
    first = made_person(0)
    assert (first.name, first.meter_point) == ("Beatrix Nolan", "mpan:1855510725342")


@given(NUMBERS)
def test_meter_points_are_well_formed_and_postcodes_do_not_exist(number: int) -> None:
    person = made_person(number)
    assert problem_with(person.meter_point) is None
    assert re.search(r", ZZ[0-9]{2} [1-9][A-Z]{2}$", person.address)


@given(NUMBERS)
def test_a_made_grant_passes_the_reader_of_real_ones(number: int) -> None:
    body = made_grant(number, atp="atp-1", edp="edp-1", dataset_id="hh-electricity-import", now=NOW)
    grant = read_grant(body, NOW)
    assert grant.requested.access_mode is AccessMode.ENDURING
    assert grant.window.end is None
    assert grant.window.start < NOW - 300 * 86_400


def test_neighbours_have_little_in_common() -> None:
    people = [made_person(number) for number in range(1_000)]
    assert len({person.meter_point for person in people}) == 1_000
    assert len({person.name for person in people}) > 700
    assert len({person.address for person in people}) > 990
