"""A poll as it is sent: whatever a receiver says of an event it refuses, what it acknowledges is taken."""

import unicodedata

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from admin.directory.stream_forms import MAX_ACKS, MAX_DESCRIPTION, read_poll
from engine.consent.reading import InvalidFields, strict_json


def refusing(words: object, jti: str = "c1.x") -> dict[str, object]:
    """A poll that acknowledges one event and refuses another."""
    return {"ack": ["c1.a"], "setErrs": {jti: {"err": "invalid_request", "description": words}}}


def read_description(words: str) -> str:
    form = read_poll(refusing(words))
    assert form.ack == ("c1.a",)
    return form.set_errs["c1.x"].description


@pytest.mark.parametrize(
    ("said", "taken"),
    [
        ("no JSON", "no JSON"),
        ("line 1\nline 2", "line 1 line 2"),
        ("tab\tNUL\x00 end\r\n", "tab NUL  end  "),
        ("\u202egnp.exe\u2028\x85", " gnp.exe  "),
        ("d" * MAX_DESCRIPTION + "e", "d" * MAX_DESCRIPTION),
        ("", ""),
    ],
    ids=["words", "a line break", "others", "of Unicode", "too long", "none"],
)
def test_words_are_made_plain(said: str, taken: str) -> None:
    assert read_description(said) == taken


def test_half_a_surrogate_pair_is_no_reason_to_refuse_either() -> None:
    text = msgspec.json.encode(refusing("HALF")).replace(b"HALF", rb"half \ud83d")
    form = read_poll(strict_json(text))
    assert form.set_errs["c1.x"].description == "half  "


@given(st.text(st.characters(), max_size=2 * MAX_DESCRIPTION))
def test_any_words_are_taken_and_hold_no_control_characters(words: str) -> None:
    taken = read_description(words)
    assert len(taken) == min(len(words), MAX_DESCRIPTION)
    assert not any(unicodedata.category(one) in ("Cc", "Cs", "Zl", "Zp") for one in taken)


def test_who_acknowledges_an_event_twice_has_acknowledged_it_and_what_is_beside_it() -> None:
    """By push and by poll it came twice; RFC 8936 asks nobody to count."""
    assert read_poll({"ack": ["c1.a", "c1.b", "c1.a"]}).ack == ("c1.a", "c1.b")
    assert len(read_poll({"ack": ["c1.a"] * (MAX_ACKS + 1)}).ack) == 1


@pytest.mark.parametrize("most", [0, 2**31 - 1, 2**53 - 1, 2**63 - 1])
def test_any_number_of_events_may_be_wanted(most: int) -> None:
    assert read_poll({"maxEvents": most}).max_events == most


@pytest.mark.parametrize(
    "bad",
    [
        [],
        {"ack": "c1.a"},
        {"ack": [["c1.a"], ["c1.a"]]},
        {"ack": [None]},
        {"ack": [f"c1.{number}" for number in range(MAX_ACKS + 1)]},
        {"maxEvents": -1},
        {"maxEvents": 1.5},
        {"maxEvents": True},
        {"maxEvents": 2**63},
        {"setErrs": []},
        {"setErrs": {"c1.x": "bad"}},
        {"setErrs": {"c1.x": {"description": "no\ncode"}}},
        {"setErrs": {"c1.x": {"err": "invalid\nrequest", "description": "x"}}},
        {"setErrs": {"c1.x": {"err": "invalid_request", "description": "x", "more": "\n"}}},
        refusing(None),
        refusing(["x"]),
        refusing("x", jti="c1.\n"),
    ],
    ids=[
        "no object", "no list", "lists", "null in it", "too many", "less than none", "half of one", "a truth",
        "more than 64 bits", "a list", "an error in words alone", "no code", "a code of two lines", "an unknown member",
        "null", "no text", "a name of two lines",
    ],
)  # fmt: skip
def test_everything_else_is_read_as_strictly_as_ever(bad: object) -> None:
    with pytest.raises(InvalidFields):
        read_poll(bad)
