"""Sealed entries one after the other in a byte stream: a four-byte length, most significant byte first, then
the bytes.

`FrameReader` takes the stream in pieces cut anywhere and hands out whole frames; it holds at most one piece
and one unfinished frame. What is inside a frame is not its business.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from engine.errors import Fault, Kind

LENGTH_BYTES: Final = 4
MAX_FRAME: Final = 1 << 20  # an entry is some hundred bytes; a participant with 10,000 data sets stays below this


class BrokenFrames(Fault):
    """The stream is not a row of frames: a frame too long, or an end in the middle of one."""

    kind = Kind.BROKEN


def frame(payload: bytes) -> bytes:
    """One frame. Raises ValueError for a payload above MAX_FRAME: that is our own mistake."""
    if len(payload) > MAX_FRAME:
        raise ValueError("payload too long for a frame")
    return len(payload).to_bytes(LENGTH_BYTES, "big") + payload


def frames(payloads: Iterable[bytes]) -> bytes:
    """Many frames in one piece."""
    return b"".join([frame(payload) for payload in payloads])


class FrameReader:
    """An incremental reader. limit: the longest payload taken, in bytes."""

    def __init__(self, limit: int = MAX_FRAME) -> None:
        self._limit = limit
        self._held = bytearray()

    def feed(self, piece: bytes) -> list[bytes]:
        """Take the next piece; returns the payloads that are whole now, in order. Raises BrokenFrames."""
        self._held += piece
        end, whole = 0, []
        for start, end in self._spans():
            whole.append(bytes(self._held[start:end]))
        del self._held[:end]
        return whole

    def finish(self) -> None:
        """Say that the stream has ended. Raises BrokenFrames if it ended inside a frame."""
        if self._held:
            raise BrokenFrames("the stream of entries was cut off", detail=f"{len(self._held)} bytes left over")

    def _spans(self) -> Iterator[tuple[int, int]]:
        at, size = 0, len(self._held)
        while size - at >= LENGTH_BYTES:
            length = int.from_bytes(self._held[at : at + LENGTH_BYTES], "big")
            if length > self._limit:
                raise BrokenFrames("a frame is too long", detail=f"{length} bytes, {self._limit} allowed")
            start = at + LENGTH_BYTES
            at = start + length
            if at > size:
                return
            yield start, at
