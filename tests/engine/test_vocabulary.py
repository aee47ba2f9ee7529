"""The small shared vocabulary: instants on the wire, faults, waiting between tries."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.backoff import Backoff
from engine.clock import Seconds, UnixTime, format_utc, parse_utc
from engine.errors import Fault, Kind


@given(st.integers(min_value=0, max_value=253_402_300_799))
def test_an_instant_survives_the_wire(at: int) -> None:
    assert parse_utc(format_utc(UnixTime(at))) == at


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-22T09:00:00+00:00", "2026-11-22T09:00:00", "2026-11-22 09:00:00Z", "2026-11-22T09:00:00.5Z",
        "2027-02-30T00:00:00Z", "2026-11-22T24:00:00Z", "2026-11-22T09:00:00Z\n", "٢٠٢٦-11-22T09:00:00Z", "",
    ],
)  # fmt: skip
def test_other_forms_of_an_instant_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_utc(text)


@given(failures=st.integers(0, 10_000), jitter=st.floats(0, 1, exclude_max=True))
def test_a_wait_never_exceeds_its_limit_nor_falls_below_half_the_step(failures: int, jitter: float) -> None:
    backoff = Backoff(first=Seconds(0.1), limit=Seconds(5.0))
    step = min(5.0, 0.1 * 2 ** max(0, min(failures, 1000) - 2))
    wait = backoff.delay(failures, jitter)
    assert wait == 0.0 if failures <= 1 else step / 2 <= wait <= step


def test_a_fault_keeps_its_detail_out_of_its_text() -> None:
    fault = Fault("shown to callers", detail="only for the log")
    assert (str(fault), fault.kind) == ("shown to callers", Kind.BROKEN)
