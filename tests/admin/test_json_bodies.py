"""Bodies are read strictly, and nothing but InvalidBody comes out of bad ones."""

from typing import Annotated

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from admin.json_bodies import FieldError, InvalidBody, read_body


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    size: Annotated[int, Meta(ge=1)]


class Body(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    parts: tuple[Inner, ...] = ()


def test_a_right_body_is_read() -> None:
    assert read_body(b'{"name": "x", "parts": [{"size": 2}]}', Body) == Body("x", (Inner(2),))


@pytest.mark.parametrize(
    ("raw", "pointer"),
    [
        (b"{}", "#/name"),
        (b'{"name": 5}', "#/name"),
        (b'{"name": "x", "colour": 1}', "#/colour"),
        (b'{"name": "x", "a/b~c": 1}', "#/a~1b~0c"),
        (b'{"name": "x", "parts": [{"size": 0}]}', "#/parts/0/size"),
        (b'{"name": "x", "parts": [{"size": 1}, {}]}', "#/parts/1/size"),
        (b'{"name": "x", "name": "y"}', "#/name"),
        (b'{"name": "x", "parts": [{"size": 1, "size": 1}]}', "#/size"),
        (b"[]", "#"),
    ],
)
def test_a_fault_is_told_with_its_place(raw: bytes, pointer: str) -> None:
    with pytest.raises(InvalidBody) as caught:
        read_body(raw, Body)
    assert [error.pointer for error in caught.value.errors] == [pointer]


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b'{"name": NaN}', b'{"name": "\xff"}', b'{"name": "x"} {}', "{}".encode("utf-16"), b"[" * 60_000],
)
def test_what_is_not_json_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidBody) as caught:
        read_body(raw, Body)
    assert caught.value.text == "the body is not valid JSON"


def test_the_detail_names_what_was_expected() -> None:
    with pytest.raises(InvalidBody) as caught:
        read_body(b'{"name": 5}', Body)
    assert caught.value.errors == (FieldError("#/name", "Expected `str`, got `int`"),)


@given(st.binary(max_size=200))
def test_no_bytes_bring_out_another_exception(raw: bytes) -> None:
    try:
        read = read_body(raw, Body)
    except InvalidBody:
        return
    assert isinstance(read, Body)
