"""What a guard keeps opens in the place that it was sealed for, under the key of that use and that EDP."""

import msgspec
import pytest

from engine.guard.sealing import Place, Sort, StoreKey, Unsealed

RAW = bytes(range(32))
PLACE = Place(b"k" * 16, 1, 7)
KEY = StoreKey(RAW, "edp-1", "memory")


@pytest.mark.parametrize(
    ("sort", "place"),
    [
        (Sort.TOKEN, msgspec.structs.replace(PLACE, key=b"l" * 16)),
        (Sort.TOKEN, msgspec.structs.replace(PLACE, rank=2)),
        (Sort.TOKEN, msgspec.structs.replace(PLACE, due=8)),
        (Sort.CONSENT, PLACE),
    ],
    ids=["name", "rank", "due", "kind"],
)
def test_a_record_opens_in_one_place_alone(sort: Sort, place: Place) -> None:
    sealed = KEY.seal(Sort.TOKEN, PLACE, b"what was known")
    assert KEY.open(Sort.TOKEN, PLACE, sealed) == b"what was known"
    with pytest.raises(Unsealed):
        KEY.open(sort, place, sealed)


@pytest.mark.parametrize(
    "other",
    [StoreKey(RAW[::-1], "edp-1", "memory"), StoreKey(RAW, "edp-2", "memory"), StoreKey(RAW, "edp-1", "evidence")],
    ids=["key", "EDP", "use"],
)
def test_a_record_opens_under_one_key_alone(other: StoreKey) -> None:
    sealed = KEY.seal(Sort.TOKEN, PLACE, b"what was known")
    with pytest.raises(Unsealed):
        other.open(Sort.TOKEN, PLACE, sealed)
    assert other.hidden(Sort.TOKEN, b"name") != KEY.hidden(Sort.TOKEN, b"name")
