"""Check digits by the values of the domain facts (sections 1 and 2) and of the sheet (section 3.3)."""

import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.consent.meter_points import is_shaped, meter_digest, mpan_check_digit, problem_with, warning_about
from engine.consent.records import ConsentId, consent_key

MPANS = [
    "1312345678907",
    "1200021234560",
    "2000000654320",
    "1100012345674",
    "1400055555555",
    "1001234567898",
    "2287654321092",
    "1900000000013",
    "1000000000012",
    "2000000000024",
    "1299999999990",
    "1012345678903",
]
MPRNS = ["3938424403", "1234567810", "8800123408", "7412345608", "9876543209", "0000000101", "9999999007"]
CONSENT = consent_key(ConsentId("7f3c1b1e-5a0e-4a55-9a53-0d6c2f7c9b10"))


@pytest.mark.parametrize("number", MPANS)
def test_a_right_mpan_is_taken(number: str) -> None:
    assert problem_with(f"mpan:{number}") is None
    assert warning_about(f"mpan:{number}") is None


@pytest.mark.parametrize("number", ["1312345678908", "2000000654321", "1000012345674", "1000000000013"])
def test_a_wrong_check_digit_of_an_mpan_is_refused(number: str) -> None:
    assert problem_with(f"mpan:{number}") == "the check digit of the MPAN is wrong"


@pytest.mark.parametrize("number", MPANS)
def test_a_changed_first_digit_is_noticed(number: str) -> None:
    changed = f"{(int(number[0]) + 1) % 10}{number[1:]}"
    assert problem_with(f"mpan:{changed}") is not None


@pytest.mark.parametrize(
    "text",
    [
        "120002123456",
        "mpan:120002123456",
        "mpan:12000212345600",
        "mpan:1O01234567898",
        "mpan:14000 5555 5555",
        "mpan:1200021234560\n",
        " mpan:1200021234560",
        "MPAN:1200021234560",
        "mpan:١٢٠٠٠٢١٢٣٤٥٦٠",
        "mprn:12345",
        "mprn:12345678901",
        "mprn:",
        "",
    ],
)
def test_what_has_not_the_form_is_refused(text: str) -> None:
    assert not is_shaped(text)
    assert problem_with(text) == "must be mpan: and 13 digits, or mprn: and 6 to 10 digits"


@pytest.mark.parametrize("number", MPRNS)
def test_a_right_mprn_raises_no_warning(number: str) -> None:
    assert problem_with(f"mprn:{number}") is None
    assert warning_about(f"mprn:{number}") is None


@pytest.mark.parametrize("number", ["3938424404", "1234567811", "123456"])
def test_wrong_check_digits_of_an_mprn_only_warn(number: str) -> None:
    assert problem_with(f"mprn:{number}") is None
    assert warning_about(f"mprn:{number}") == "the check digits of the MPRN look wrong"


def test_a_digest_is_bound_to_key_consent_and_meter_point() -> None:
    key, other = bytes(32), bytes([1]) * 32
    digest = meter_digest(key, CONSENT, "mpan:1000000000012")
    assert digest.hex() == "1f6c172240edefa94a861b32c6811855"
    another = consent_key(ConsentId("c0ffee00-1111-4222-8333-444455556666"))
    others = [
        meter_digest(other, CONSENT, "mpan:1000000000012"),
        meter_digest(key, another, "mpan:1000000000012"),
        meter_digest(key, CONSENT, "mpan:2000000000024"),
    ]
    assert len({digest, *others}) == 4


@given(key=st.binary(min_size=1, max_size=100), point=st.text(max_size=100))
def test_the_digest_is_the_hmac_that_it_says_it_is(key: bytes, point: str) -> None:
    assert meter_digest(key, CONSENT, point) == hmac.digest(key, CONSENT + point.encode(), "sha256")[:16]


@given(st.text("0123456789", min_size=12, max_size=12))
def test_the_check_digit_is_the_sum_of_digits_times_primes(leading: str) -> None:
    weights = (3, 5, 7, 13, 17, 19, 23, 29, 31, 37, 41, 43)
    total = sum(int(digit) * weight for digit, weight in zip(leading, weights, strict=True))
    assert mpan_check_digit(leading) == str(total % 11 % 10)
