"""Frames come out as they went in, wherever the stream is cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.feed.frames import LENGTH_BYTES, MAX_FRAME, BrokenFrames, FrameReader, frame, frames

payloads = st.lists(st.binary(max_size=300), max_size=12)


@given(payloads)
def test_a_whole_stream_gives_every_payload(sent: list[bytes]) -> None:
    reader = FrameReader()
    assert reader.feed(frames(sent)) == sent
    reader.finish()


@given(payloads)
def test_a_stream_cut_into_single_bytes_gives_every_payload(sent: list[bytes]) -> None:
    reader = FrameReader()
    stream = frames(sent)
    assert [got for i in range(len(stream)) for got in reader.feed(stream[i : i + 1])] == sent
    reader.finish()


@given(payloads, st.data())
def test_a_stream_cut_anywhere_gives_every_payload(sent: list[bytes], data: st.DataObject) -> None:
    stream = frames(sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    reader = FrameReader()
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert [got for piece in pieces for got in reader.feed(piece)] == sent
    reader.finish()


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=5), st.data())
def test_an_end_inside_a_frame_is_noticed(sent: list[bytes], data: st.DataObject) -> None:
    stream = frames(sent)
    boundaries = {0}
    for payload in sent:
        boundaries.add(max(boundaries) + LENGTH_BYTES + len(payload))
    cut = data.draw(st.sampled_from(sorted(set(range(len(stream) + 1)) - boundaries)))
    reader = FrameReader()
    reader.feed(stream[:cut])
    with pytest.raises(BrokenFrames, match="cut off"):
        reader.finish()


@given(st.binary(max_size=200))
def test_arbitrary_bytes_give_frames_or_the_one_fault(noise: bytes) -> None:
    reader = FrameReader(limit=64)
    try:
        got = reader.feed(noise)
        reader.finish()
    except BrokenFrames:
        return
    assert frames(got) == noise


def test_a_frame_above_the_limit_is_refused_before_it_is_held() -> None:
    reader = FrameReader(limit=10)
    with pytest.raises(BrokenFrames, match="too long"):
        reader.feed((11).to_bytes(LENGTH_BYTES, "big"))


def test_a_frame_at_the_limit_is_taken() -> None:
    assert FrameReader(limit=10).feed(frame(b"x" * 10)) == [b"x" * 10]


def test_a_payload_above_the_bound_is_never_framed() -> None:
    with pytest.raises(ValueError, match="too long"):
        frame(bytes(MAX_FRAME + 1))


def test_the_length_stands_in_front_most_significant_byte_first() -> None:
    assert frame(b"abc") == b"\x00\x00\x00\x03abc"
