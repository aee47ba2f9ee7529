"""HTTP/1.1 for one server connection, without any I/O: bytes in, whole requests out (RFC 9112).

`receive_data` only stores, `next_event` thinks, `render_response` returns bytes. Heads are gathered whole and
then read by llhttp (httptools), so that a request means the same however the network cut it; what could be read
in two ways (smuggling) is refused. Clients repeat their heads: a head read once is remembered.
"""

import enum
import re
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

import httptools
import msgspec

from engine.listener.chunks import BadChunk, BodyTooLarge, ChunkedBody

Headers = tuple[tuple[bytes, bytes], ...]

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

_REQUEST_LINE: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])")
_HOST: Final = re.compile(rb"[A-Za-z0-9._~%!$&'()*+,;=:\[\]-]*")
_LENGTH: Final = re.compile(rb"[0-9]{1,18}")
_BARE_LF: Final = re.compile(rb"(?<!\r)\n")
_METHODS: Final = frozenset(
    (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE"),
)
_CHUNKED: Final = -1


class Request(msgspec.Struct, frozen=True, gc=False):
    """A whole request. headers: in order, names in lower case, values without outer white space.

    request_id: the caller's `X-Request-ID`, where there is exactly one that is safe to send back; it is then not
    among the headers. Everything else that goes by that name stays there, and is as if not sent.
    """

    method: bytes
    target: bytes
    headers: Headers
    body: bytes
    keep_alive: bool
    request_id: bytes = b""


class Response(msgspec.Struct, frozen=True, gc=False):
    """A whole answer. headers: beyond Content-Type, Content-Length, Cache-Control, Date and Connection."""

    status: int
    body: bytes
    content_type: bytes = b"application/json"
    headers: Headers = ()
    close: bool = False


class Refused(msgspec.Struct, frozen=True, gc=False):
    """Not a request we read: answer with this status and close, for what follows cannot be trusted.

    status: 400, 413, 414, 417, 431, 501 or 505. reason: for the log. headers: as far as they were there; nobody has
    checked them.
    """

    status: int
    reason: str
    headers: Headers = ()


class Signal(enum.Enum):
    """Events that carry nothing."""

    NEED_DATA = "need data"
    SEND_CONTINUE = "send continue"  # the client waits for `CONTINUE` before it sends the body


class HeadLimits(msgspec.Struct, frozen=True):
    """Bytes. max_head: request line and fields with their line ends; max_body: content.

    takes_body: whether a body is waited for after such fields, names in lower case; None: always. If not, the request
    comes without it and is its connection's last: nothing of what follows is kept, however long it is.
    """

    max_head: int = 16_384
    max_body: int = 16_384
    takes_body: Callable[[Headers], bool] | None = None


class _Head(msgspec.Struct, frozen=True):
    method: bytes
    target: bytes
    headers: Headers
    keep_alive: bool
    body_length: int  # _CHUNKED: not known beforehand
    expects_continue: bool


class _Refusal(Exception):
    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.refused = Refused(status, reason)


class HeadMemo:
    """Heads already read, by their bytes less the line of the request's id; shared by the connections of one process.

    Only heads that llhttp has accepted are kept, without credentials and of ordinary size. The id's line is left out
    because it is new each time; what takes its place is held to characters that can end neither line nor head, so
    the rest means what it meant. When full it is emptied: clients whose heads never repeat cost one insertion each.
    """

    def __init__(self, size: int = 1024, max_head: int = 1024) -> None:
        self._size = size
        self._max_head = max_head
        self._heads: dict[bytes, _Head] = {}
        self.get = self._heads.get

    def __len__(self) -> int:
        return len(self._heads)

    def remember(self, raw: bytes, head: _Head) -> None:
        if len(raw) > self._max_head or any(name in _NOT_KEPT for name, _ in head.headers):
            return
        if len(self._heads) >= self._size:
            self._heads.clear()
        self._heads[raw] = head


_NOT_KEPT: Final = frozenset((b"authorization", b"proxy-authorization", b"cookie", b"dpop", b"x-request-id"))
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._~:-]{1,128}")
_ID_LINES: Final = (b"\r\nX-Request-ID: ", b"\r\nx-request-id: ", b"\r\nX-Request-Id: ")  # as clients write it
_ID_LINE: Final = len(_ID_LINES[0])


def _without_id(raw: bytes) -> tuple[bytes, bytes]:
    """A head less the line of its request id, and that id; the head as it is, and nothing, where that cannot be told.

    A second such line would stay in what is left, and heads with one are never remembered.
    """
    for line in _ID_LINES:
        start = raw.find(line)
        if start > 0:
            end = raw.find(b"\r\n", start + _ID_LINE)
            request_id = raw[start + _ID_LINE : end]
            if _REQUEST_ID.fullmatch(request_id):
                return raw[:start] + raw[end:], request_id
            break
    return raw, b""


def request_id_of(headers: Headers) -> bytes:
    """The one id that is safe to send back and to log; b"" = none, or none that is. Names in lower case."""
    ids = [value for name, value in headers if name == b"x-request-id"]
    return ids[0] if len(ids) == 1 and _REQUEST_ID.fullmatch(ids[0]) else b""


Event = Request | Refused | Signal


class ServerConnection:
    """The reading side of one connection."""

    def __init__(self, limits: HeadLimits, memo: HeadMemo | None = None) -> None:
        self._limits = limits
        self._memo = HeadMemo() if memo is None else memo
        self._buffer = b""
        self._at = 0
        self._head: _Head | None = None  # read, its body is awaited
        self._request_id = b""  # of that head
        self._chunks: ChunkedBody | None = None
        self._skipped_line = False
        self._refused: Refused | None = None

    @property
    def idle(self) -> bool:
        """Whether nothing of a next request has arrived."""
        return self._head is None and self._at == len(self._buffer)

    def receive_data(self, data: bytes) -> None:
        """Store bytes from the peer."""
        self._buffer = data if self._at == len(self._buffer) else self._buffer[self._at :] + data
        self._at = 0

    def next_event(self) -> Event:
        """The next request, refusal or signal in what was stored; a refusal stays the last event."""
        if self._refused is not None:
            return self._refused
        try:
            if self._head is None:
                return self._read_head()
            return self._read_body(self._head)
        except _Refusal as refusal:
            self._refused = msgspec.structs.replace(refusal.refused, headers=self._headers_at_hand())
            return self._refused

    def _headers_at_hand(self) -> Headers:
        """Of the request that is refused: as read, or else the whole lines of its head, up to a wrong line end."""
        if self._head is not None:
            if self._request_id:
                return ((b"x-request-id", self._request_id), *self._head.headers)
            return self._head.headers
        head, end, _ = self._buffer[self._at : self._at + self._limits.max_head].partition(b"\r\n\r\n")
        if head.startswith(b"\r"):
            return ()
        sound, *rest = _BARE_LF.split(head, maxsplit=1)
        lines = sound.split(b"\r\n")[1 : None if end and not rest else -1]  # the last one may have been cut
        fields = [line.partition(b":") for line in lines]
        return tuple((name.lower(), value.strip(b" \t")) for name, _, value in fields)

    def _read_head(self) -> Event:
        buffer, at = self._buffer, self._at
        end = buffer.find(b"\r\n\r\n", at, at + self._limits.max_head) + 4
        if end > 3:
            raw, request_id = _without_id(buffer[at:end])
            head = self._memo.get(raw)
            if head is not None:
                self._at = end
                self._request_id = request_id
                return self._begin(head)
        return self._read_new_head(end)

    def _read_new_head(self, end: int) -> Event:
        if self._skip_empty_line():
            return self._read_head()
        start = self._buffer[self._at : end if end > 3 else self._at + self._limits.max_head]
        if not start or start == b"\r":
            return Signal.NEED_DATA
        if start.count(b"\n") != start.count(b"\r\n"):
            raise _Refusal(400, "a line does not end in CRLF")
        if end <= 3:
            return self._await_head(start)
        head = _parse_head(start, self._limits.max_body)
        self._request_id = request_id_of(head.headers)
        if self._request_id:
            others = tuple([field for field in head.headers if field[0] != b"x-request-id"])
            head = msgspec.structs.replace(head, headers=others)
        raw, request_id = _without_id(start)
        if request_id == self._request_id:
            self._memo.remember(raw, head)
        self._at = end
        return self._begin(head)

    def _skip_empty_line(self) -> bool:
        """One empty line before a request is ignored (RFC 9112 section 2.2), a second is not."""
        if self._buffer[self._at : self._at + 1] != b"\r":
            return False
        if self._skipped_line:
            raise _Refusal(400, "empty lines before the request")
        if self._buffer[self._at : self._at + 2] != b"\r\n":
            return False
        self._at += 2
        self._skipped_line = True
        return True

    def _await_head(self, start: bytes) -> Event:
        if len(start) < self._limits.max_head:
            return Signal.NEED_DATA
        if b"\r\n" in start:
            raise _Refusal(431, "the head is too large")
        raise _Refusal(414, "the request target is too long")

    def _begin(self, head: _Head) -> Event:
        self._skipped_line = False
        if head.body_length == 0:
            return Request(head.method, head.target, head.headers, b"", head.keep_alive, self._request_id)
        if self._limits.takes_body is not None and not self._limits.takes_body(head.headers):
            return Request(head.method, head.target, head.headers, b"", keep_alive=False, request_id=self._request_id)
        self._head = head
        if head.body_length == _CHUNKED:
            self._chunks = ChunkedBody(self._limits.max_body, self._limits.max_head)
        if head.expects_continue:
            return Signal.SEND_CONTINUE
        return self._read_body(head)

    def _read_body(self, head: _Head) -> Event:
        if self._chunks is not None:
            return self._read_chunks(head, self._chunks)
        end = self._at + head.body_length
        if len(self._buffer) < end:
            return Signal.NEED_DATA
        body = self._buffer[self._at : end]
        self._at = end
        self._head = None
        return Request(head.method, head.target, head.headers, body, head.keep_alive, self._request_id)

    def _read_chunks(self, head: _Head, chunks: ChunkedBody) -> Event:
        try:
            self._at, complete = chunks.read(self._buffer, self._at)
        except BadChunk as error:
            raise _Refusal(400, str(error)) from error
        except BodyTooLarge as error:
            raise _Refusal(413, "the body is too large") from error
        if not complete:
            return Signal.NEED_DATA
        self._head = self._chunks = None
        return Request(head.method, head.target, head.headers, chunks.content, head.keep_alive, self._request_id)


class _Gatherer:
    """httptools' callbacks. It hands a target over in pieces; fields come whole."""

    def __init__(self) -> None:
        self.target = b""
        self.headers: list[tuple[bytes, bytes]] = []

    def on_url(self, piece: bytes) -> None:
        self.target += piece

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value.strip(b" \t")))


def _parse_head(raw: bytes, max_body: int) -> _Head:
    minor = _check_request_line(raw[: raw.index(b"\r\n")])
    gatherer = _Gatherer()
    parser = httptools.HttpRequestParser(gatherer)
    try:
        parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass  # an offer to change protocols is ignored (RFC 9110 section 7.8)
    except httptools.HttpParserError as error:
        _refuse_unknown_coding(gatherer.headers)
        raise _Refusal(400, str(error)) from error
    headers = tuple(gatherer.headers)
    _check_host(headers, minor)
    return _Head(
        method=parser.get_method(),
        target=gatherer.target,
        headers=headers,
        keep_alive=minor == 1 and not _asks_to_close(headers),
        body_length=_body_length(headers, minor, max_body),
        expects_continue=_expects_continue(headers, minor),
    )


def _check_request_line(line: bytes) -> int:
    """Returns the minor version."""
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise _Refusal(400, "not a request line")
    if match[3] != b"1" or match[4] not in (b"0", b"1"):
        raise _Refusal(505, "not HTTP/1.0 or HTTP/1.1")
    if match[1] not in _METHODS:
        raise _Refusal(501, "unknown method")
    return int(match[4])


def _values(headers: Headers | list[tuple[bytes, bytes]], wanted: bytes) -> list[bytes]:
    return [value for name, value in headers if name == wanted]


def _asks_to_close(headers: Headers) -> bool:
    # llhttp forgets this once the message is complete, so it is read here (RFC 9112 section 9.6)
    options = b",".join(_values(headers, b"connection")).lower().split(b",")
    return any(option.strip(b" \t") == b"close" for option in options)


def _check_host(headers: Headers, minor: int) -> None:
    hosts = _values(headers, b"host")
    if len(hosts) > 1 or (minor == 1 and not hosts):
        raise _Refusal(400, "not exactly one Host field")
    if hosts and _HOST.fullmatch(hosts[0]) is None:
        raise _Refusal(400, "not a host")


def _refuse_unknown_coding(headers: Headers | list[tuple[bytes, bytes]]) -> None:
    codings = _values(headers, b"transfer-encoding")
    if codings and b",".join(codings).lower() != b"chunked":
        raise _Refusal(501, "unknown transfer coding")


def _body_length(headers: Headers, minor: int, max_body: int) -> int:
    lengths = _values(headers, b"content-length")
    if _values(headers, b"transfer-encoding"):
        if lengths or minor == 0:  # RFC 9112 sections 6.1 and 6.3: the mark of a smuggler
            raise _Refusal(400, "Transfer-Encoding beside Content-Length or in HTTP/1.0")
        _refuse_unknown_coding(headers)
        return _CHUNKED
    if not lengths:
        return 0
    if len(lengths) > 1 or _LENGTH.fullmatch(lengths[0]) is None:
        raise _Refusal(400, "not exactly one valid Content-Length")
    length = int(lengths[0])
    if length > max_body:
        raise _Refusal(413, "the body is too large")
    return length


def _expects_continue(headers: Headers, minor: int) -> bool:
    expectations = _values(headers, b"expect")
    if not expectations or minor == 0:  # RFC 9110 section 10.1.1: ignored in HTTP/1.0
        return False
    if len(expectations) > 1 or expectations[0].lower() != b"100-continue":
        raise _Refusal(417, "unknown expectation")
    return True


def refusal_response(refused: Refused) -> Response:
    """The answer to a refusal: the error form of RFC 6749 section 5.2, then the connection is closed."""
    return Response(refused.status, b'{"error":"invalid_request"}', close=True)


def _status_line(status: int) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode()


_STATUS_LINES: Final = {status.value: _status_line(status.value) for status in HTTPStatus}
_first_parts: dict[tuple[int, bytes, bool], bytes] = {}  # few: statuses times media types times two


def _first_part(status: int, content_type: bytes, keep_alive: bool) -> bytes:
    part = (
        (_STATUS_LINES.get(status) or _status_line(status))
        + b"Content-Type: "
        + content_type
        + b"\r\nCache-Control: no-store\r\n"
        + (b"" if keep_alive else b"Connection: close\r\n")
        + b"Content-Length: "
    )
    _first_parts[(status, content_type, keep_alive)] = part
    return part


def render_response(
    response: Response,
    keep_alive: bool,
    *,
    date: bytes = b"",
    head_only: bool = False,
    request_id: bytes = b"",
) -> bytes:
    """The answer's bytes: always with Content-Length and `Cache-Control: no-store`.

    date: a whole `Date: …` line with its CRLF, as the caller owns the clock. head_only: the request was HEAD.
    request_id: sent back as `X-Request-ID`. A handler's content types are a small closed set; header names and
    values must hold no CR or LF.
    """
    body = response.body
    keep_alive = keep_alive and not response.close
    first = _first_parts.get((response.status, response.content_type, keep_alive)) or _first_part(
        response.status, response.content_type, keep_alive
    )
    length, body = len(body), b"" if head_only else body
    if request_id:
        date = b"%bX-Request-ID: %b\r\n" % (date, request_id)
    if not response.headers:
        return b"%b%d\r\n%b\r\n%b" % (first, length, date, body)
    more = b"".join([b"%b: %b\r\n" % field for field in response.headers])
    return b"%b%d\r\n%b%b\r\n%b" % (first, length, date, more, body)
