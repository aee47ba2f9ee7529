"""Chunked bodies: what ends them cannot also say where the message ends or whom it is for."""

import pytest

from engine.listener.chunks import BadChunk, ChunkedBody


@pytest.mark.parametrize("field", [b"Content-Length: 3", b"transfer-encoding: chunked", b"HOST: x"])
def test_a_trailer_that_frames_or_routes_is_refused(field: bytes) -> None:
    with pytest.raises(BadChunk, match="frames or routes"):
        ChunkedBody(10, 100).read(b"0\r\n" + field + b"\r\n\r\n", 0)


def test_any_other_trailer_is_dropped() -> None:
    body = ChunkedBody(10, 100)
    raw = b"1\r\na\r\n0\r\nHostess: x\r\n\r\nGET"
    assert body.read(raw, 0) == (len(raw) - 3, True)
    assert body.content == b"a"
