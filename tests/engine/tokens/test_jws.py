"""base64url in one spelling, and headers of three members."""

import base64
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.tokens.jws import Compact, Header, HeaderFault, decode_part, encode_part, read_header, split, strict_object

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

_STRICT = bytes.maketrans(b"-_+/=", b"+/!!!")  # base64url to base64, and what only base64 knows to what nobody does


@given(st.binary(max_size=200))
def test_what_was_encoded_is_decoded(raw: bytes) -> None:
    assert decode_part(encode_part(raw)) == raw


@given(st.binary(max_size=40))
def test_every_text_is_refused_or_the_one_spelling_of_its_bytes(text: bytes) -> None:
    raw = decode_part(text)
    assert raw is None or encode_part(raw) == text


@given(st.binary(min_size=1, max_size=900), st.data())
def test_long_texts_are_read_as_the_standard_library_reads_them(raw: bytes, data: st.DataObject) -> None:
    """One letter changed, anywhere: in the middle of a long text another decoder is at work than at its ends."""
    text = bytearray(encode_part(raw))
    text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    try:
        expected = base64.b64decode(bytes(text).translate(_STRICT) + b"=" * (-len(text) % 4), validate=True)
    except ValueError:
        expected = None
    assert decode_part(bytes(text)) in (expected, None)
    if expected is not None and encode_part(expected) == text:
        assert decode_part(bytes(text)) == expected


def test_of_all_short_texts_exactly_the_canonical_ones_are_taken() -> None:
    texts = ["".join(letters) for length in (2, 3) for letters in itertools.product(LETTERS, repeat=length)]
    taken = {text for text in texts if decode_part(text.encode()) is not None}
    canonical = {
        encode_part(bytes(raw)).decode() for length in (1, 2) for raw in itertools.product(range(256), repeat=length)
    }
    assert taken == canonical


@pytest.mark.parametrize(
    "text", [b"A", b"AAAAA", b"AB", b"AAB", b"AA==", b"AA=", b"=", b"AA\n", b" AA", b"A+A", b"A/A", b"A.A"]
)
def test_other_spellings_are_refused(text: bytes) -> None:
    assert decode_part(text) is None


def test_token_is_cut_at_its_dots() -> None:
    assert split(b"aGVhZA.Ym9keQ.c2ln") == Compact(b"aGVhZA", b"Ym9keQ", b"sig", b"aGVhZA.Ym9keQ")


@given(st.binary(max_size=100) | st.text(max_size=100).map(str.encode))
def test_reading_raises_nothing(raw: bytes) -> None:
    assert split(raw) is None or isinstance(split(raw), Compact)
    assert isinstance(read_header(raw), (Header, HeaderFault))
    assert isinstance(read_header(encode_part(raw)), (Header, HeaderFault))
    assert strict_object(raw) is None or isinstance(strict_object(raw), dict)


def test_header_is_what_it_says() -> None:
    part = base64.urlsafe_b64encode(b'{"typ":"at+jwt","alg":"ES256","kid":"k"}').rstrip(b"=")
    assert read_header(part) == Header("ES256", "k")
