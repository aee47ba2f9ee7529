"""Strict reading: JSON with one meaning, all faults at once, no value quoted."""

import json
from typing import Annotated, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from engine.consent.energy_consent import Instant, MeterPointText, Midnight
from engine.consent.reading import InvalidFields, InvalidText, Problem, read_struct, strict_json


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    colour: Literal["red", "blue"]


class Outer(msgspec.Struct, forbid_unknown_fields=True):
    name: Annotated[str, Meta(pattern="^[a-z]+$")]
    inner: Inner | None = None
    tags: tuple[str, ...] = ()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"\xff",
        b'{"a":1,"a":1}',
        b'[{"b":{"a":1,"a":2}}]',
        b"NaN",
        b'{"a":Infinity}',
        b"[-Infinity]",
        b"[[[[[[[1]]]]]]]",
        b'{"a":[{"b":[{"c":[{"d":1}]}]}]}',
        b"[" * 10_000,
        b"[" * 100_000,
        b"[" * 8_000 + b"]" * 8_000,
        b'{"a":' * 2_000 + b"1" + b"}" * 2_000,
        b'["]", [[[[[[1]]]]]]]',
        b'["\\"]", [[[[[[1]]]]]]]',
        b'"' + b"x" * 16_384 + b'"',
    ],
)
def test_json_with_two_meanings_or_none_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidText):
        strict_json(text)


def test_six_levels_are_read() -> None:
    assert strict_json(b"[[[[[[1]]]]]]") == [[[[[[1]]]]]]


def test_brackets_in_strings_are_no_levels() -> None:
    texts = ["[" * 20, '\\"{{{{{{{{[', "\\"]
    assert strict_json(json.dumps(texts).encode()) == texts


def test_levels_beside_each_other_do_not_add_up() -> None:
    assert strict_json(b"[" + b",".join([b"{}"] * 50) + b"]") == [{}] * 50


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(text: bytes) -> None:
    try:
        found = strict_json(text)
    except InvalidText:
        return
    assert isinstance(found, str | int | float | list | dict | None)


def test_all_faults_are_told_at_once_by_their_paths() -> None:
    with pytest.raises(InvalidFields) as caught:
        read_struct({"name": 7, "inner": {"colour": "green", "size": 1}, "more": 1}, Outer, "0.")
    assert sorted(problem.field for problem in caught.value.problems) == [
        "0.inner.colour",
        "0.inner.size",
        "0.more",
        "0.name",
    ]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({}, Problem("name", "is missing")),
        ({"name": None}, Problem("name", "must not be null")),
        ({"name": "a\n"}, Problem("name", "must hold no control characters")),
        ({"name": "a", "tags": ["x", "x"]}, Problem("tags", "must hold no repeats")),
        ({"name": "a", "tags": ["\u202e"]}, Problem("tags", "must hold no control characters")),
        ({"name": "a", "inner": []}, Problem("inner", "must be an object")),
        ({"name": "a", "inner": {"colour": "secret"}}, Problem("inner.colour", "is not one of the allowed values")),
        ({"name": "a", "<script>": 1}, Problem("", "is not a member of this type")),
        ([], Problem("", "must be an object")),
        ("text", Problem("", "must be an object")),
    ],
)
def test_each_fault_has_its_place_and_no_value(value: object, problem: Problem) -> None:
    with pytest.raises(InvalidFields) as caught:
        read_struct(value, Outer)
    assert caught.value.problems == (problem,)


class Patterned(msgspec.Struct):
    at: Instant = "2026-01-01T00:00:00Z"
    from_: Midnight = "2026-01-01T00:00:00Z"
    meter_point: MeterPointText = "mprn:123456"
    odd: Annotated[str, Meta(pattern="^odd$")] = "odd"


@pytest.mark.parametrize(
    ("member", "said"),
    [
        ("at", "must be UTC to the second"),
        ("from_", "must be a midnight of London"),
        ("meter_point", "must be mpan: and 13 digits"),
        ("odd", "does not have the form"),
    ],
)
def test_a_pattern_is_told_in_words(member: str, said: str) -> None:
    with pytest.raises(InvalidFields) as caught:
        read_struct({member: "something else"}, Patterned)
    (problem,) = caught.value.problems
    assert problem.field == member
    assert problem.text.startswith(said)
    assert not {"^", "$", "`"} & set(problem.text)


def test_a_right_value_is_converted() -> None:
    value = {"name": "a", "inner": {"colour": "red"}, "tags": ["x", "y"]}
    assert read_struct(value, Outer) == Outer("a", Inner("red"), ("x", "y"))


class Renamed(msgspec.Struct, frozen=True):
    data_from: int = msgspec.field(name="from")


def test_members_go_by_their_names_on_the_wire() -> None:
    assert read_struct({"from": 7}, Renamed) == Renamed(7)
    with pytest.raises(InvalidFields) as caught:
        read_struct({"data_from": 7}, Renamed)
    assert caught.value.problems == (
        Problem("data_from", "is not a member of this type"),
        Problem("from", "is missing"),
    )


class Mapped(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    words: dict[str, dict[str, str]] = {}


@pytest.mark.parametrize(
    "words",
    [{"\x00": {}}, {"\ud800": {}}, {"a": {"b": "\x00"}}, {"a": {"\n": "b"}}],
    ids=["no database's key", "half a character", "a value", "a name within"],
)
def test_names_and_values_of_a_map_hold_no_control_characters_either(words: object) -> None:
    with pytest.raises(InvalidFields) as caught:
        read_struct({"words": words}, Mapped)
    assert caught.value.problems == (Problem("words", "must hold no control characters"),)
