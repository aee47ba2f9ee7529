"""Reading the answer to a push: HTTP/1.1 of a server that others run, in bounded size. Pure.

Only the status decides, and of a 400 the `err` in it. So an answer whose head is there counts, whatever becomes of its
content; but its connection is used again only when it was whole and nothing came behind it.
"""

from typing import Final

import httptools
import msgspec

from engine.errors import Fault, Kind
from engine.pusher.schedule import Reply

MAX_HEAD: Final = 16_384  # bytes, interim answers included
MAX_BODY: Final = 16_384  # an error of RFC 8935 has a hundred
_MAX_ERR: Final = 64


class BrokenReply(Fault):
    """What came is not an HTTP/1.1 answer, or its head is too large."""

    kind = Kind.BROKEN


class _Error(msgspec.Struct):
    """RFC 8935 section 2.3; what else it holds is of no use here."""

    err: str = ""


_error: Final = msgspec.json.Decoder(_Error)


class ReplyReader:
    """The answer to one request. status: 0 = its head is not there yet."""

    def __init__(self) -> None:
        self.status = 0
        self.is_whole = False  # nothing more is needed: all of it is there, or more than anybody reads
        self.is_reusable = False
        self._keep_alive = False
        self._retry_after = ""
        self._body = b""
        self._read = 0
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        """More bytes; may be cut anywhere. Raises BrokenReply."""
        if self.is_whole:
            self.is_reusable = False
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.is_reusable = False
            if not self.status:
                raise BrokenReply("this is no HTTP answer", detail=str(error)) from error
            self.is_whole = True
        self._read += len(data)
        if not self.status and self._read > MAX_HEAD:
            raise BrokenReply("the head of the answer is too large")
        if self._read > MAX_HEAD + MAX_BODY:
            self.is_whole, self.is_reusable = True, False

    def let_go(self) -> None:
        """Nothing more will be fed. Reader and parser hold each other: both would wait for the garbage collector."""
        del self._parser

    def reply(self) -> Reply:
        """What it says; when `status` is there."""
        return Reply(self.status, self._err() if self.status == 400 else "", self._retry_after)

    def _err(self) -> str:
        try:
            return _error.decode(self._body).err[:_MAX_ERR]
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):  # the last: nested a thousand deep
            return ""

    # What httptools calls.

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"retry-after":
            self._retry_after = value.decode("latin-1").strip()[:64]

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200 and not self.is_whole:
            self.status = status
            self._keep_alive = self._parser.should_keep_alive()  # llhttp forgets it once the answer is complete

    def on_body(self, body: bytes) -> None:
        self._body = (self._body + body)[:MAX_BODY]

    def on_message_begin(self) -> None:
        if self.is_whole:  # a second answer, which nobody asked for
            self.is_reusable = False

    def on_message_complete(self) -> None:
        if self.status and not self.is_whole:
            self.is_whole = True
            self.is_reusable = self._keep_alive
