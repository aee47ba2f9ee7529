"""A corrected occupancy is read as strictly as every other form."""

import pytest

from admin.consents.forms import OccupancyForm, read_occupancy
from engine.consent.reading import InvalidFields


def test_an_absent_end_stays_as_it_was() -> None:
    form = read_occupancy(b'{"moved_in": "2026-06-20T11:00:00Z"}')
    assert form == OccupancyForm(moved_in="2026-06-20T11:00:00Z", moved_out=None)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"moved_in": "2027-02-30T00:00:00Z"}', "moved_in"),
        (b'{"moved_in": "2026-06-20T00:00:00Z", "moved_out": "2026-06-20T00:00:00Z"}', "moved_out"),
        (b'{"readings": []}', "readings"),
    ],
)
def test_a_wrong_occupancy_is_refused_by_its_field(body: bytes, field: str) -> None:
    with pytest.raises(InvalidFields) as caught:
        read_occupancy(body)
    assert [problem.field for problem in caught.value.problems] == [field]
