"""Reading a chunked body (RFC 9112 section 7.1), strictly. Pure.

Extensions and trailers are checked for shape and dropped. Every line ends in CRLF and nothing else, because a
reader that takes a bare LF can be made to see another message than its neighbour does.
"""

import enum
import re
from typing import Final

_MAX_LINE: Final = 256  # a size and its extensions; honest clients send no extensions at all
_SIZE_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,8})(?:[ \t]*;[\t\x20-\x7e]*)?")
_TRAILER: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[\t\x20-\x7e\x80-\xff]*")
_NO_TRAILERS: Final = frozenset((b"content-length", b"host", b"transfer-encoding"))  # RFC 9110 section 6.5.1


class _Part(enum.Enum):
    SIZE = "size"
    DATA = "data"
    DATA_END = "data end"
    TRAILER = "trailer"


class BadChunk(Exception):
    """The framing is broken; nothing after this point can be trusted."""


class BodyTooLarge(Exception):
    """A chunk was announced that would lead beyond the limit."""


class ChunkedBody:
    """One body being gathered. max_body: bytes of content; max_trailers: bytes of all trailer lines."""

    def __init__(self, max_body: int, max_trailers: int) -> None:
        self._max_body = max_body
        self._trailers_left = max_trailers
        self._part = _Part.SIZE
        self._left = 0
        self._content = bytearray()

    @property
    def content(self) -> bytes:
        """What was gathered so far."""
        return bytes(self._content)

    def read(self, buffer: bytes, at: int) -> tuple[int, bool]:
        """Take what can be taken from buffer[at:]; returns (position reached, whether the body is complete).

        Raises BadChunk and BodyTooLarge.
        """
        while True:
            if self._part is _Part.DATA:
                taken = buffer[at : at + self._left]
                self._content += taken
                self._left -= len(taken)
                at += len(taken)
                if self._left:
                    return at, False
                self._part = _Part.DATA_END
            line, after = self._line(buffer, at)
            if line is None:
                return at, False
            at = after
            if self._took(line):
                return at, True

    def _line(self, buffer: bytes, at: int) -> tuple[bytes | None, int]:
        limit = 0 if self._part is _Part.DATA_END else _MAX_LINE
        if self._part is _Part.TRAILER:
            limit = self._trailers_left
        end = buffer.find(b"\n", at, at + limit + 2)
        if end < 0:
            if len(buffer) - at >= limit + 2:
                raise BadChunk("a line of the chunked framing is too long")
            return None, at
        if end == at or buffer[end - 1] != 0x0D:
            raise BadChunk("a line of the chunked framing does not end in CRLF")
        return buffer[at : end - 1], end + 1

    def _took(self, line: bytes) -> bool:
        """Digest one framing line; True when it was the body's last."""
        if self._part is _Part.DATA_END:
            self._part = _Part.SIZE
        elif self._part is _Part.SIZE:
            self._announced(line)
        elif line:
            self._trailer(line)
        else:
            return True
        return False

    def _announced(self, line: bytes) -> None:
        match = _SIZE_LINE.fullmatch(line)
        if match is None:
            raise BadChunk("not a chunk size")
        self._left = int(match[1], 16)
        if len(self._content) + self._left > self._max_body:
            raise BodyTooLarge
        self._part = _Part.DATA if self._left else _Part.TRAILER

    def _trailer(self, line: bytes) -> None:
        match = _TRAILER.fullmatch(line)
        if match is None:
            raise BadChunk("not a trailer field")
        if match[1].lower() in _NO_TRAILERS:
            raise BadChunk("a trailer field that frames or routes")
        self._trailers_left -= len(line) + 2
        if self._trailers_left < 0:
            raise BadChunk("too many trailer fields")
