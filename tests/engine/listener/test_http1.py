"""HTTP/1.1 requests however they are cut, and the refusal of everything that could be read in two ways."""

import random

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.listener.http1 import (
    Event,
    HeadLimits,
    HeadMemo,
    Refused,
    Request,
    Response,
    ServerConnection,
    Signal,
    refusal_response,
    render_response,
)

LIMITS = HeadLimits(max_head=512, max_body=256)


def events_of(pieces: list[bytes], limits: HeadLimits = LIMITS, memo: HeadMemo | None = None) -> list[Event]:
    """All events but NEED_DATA, up to the first refusal."""
    connection = ServerConnection(limits, memo)
    events: list[Event] = []
    for piece in pieces:
        connection.receive_data(piece)
        while (event := connection.next_event()) is not Signal.NEED_DATA:
            events.append(event)
            if isinstance(event, Refused):
                return events
    return events


def only_event(raw: bytes, limits: HeadLimits = LIMITS) -> Event:
    (event,) = events_of([raw], limits)
    return event


def bytewise(raw: bytes) -> list[bytes]:
    return [raw[i : i + 1] for i in range(len(raw))]


def cut(raw: bytes, seed: int) -> list[bytes]:
    chance = random.Random(seed)  # noqa: S311 - a repeatable cut, no secret
    places = sorted(chance.sample(range(len(raw)), min(len(raw), chance.randrange(8))))
    return [raw[a:b] for a, b in zip([0, *places], [*places, len(raw)], strict=True)]


POST = b"POST /introspect HTTP/1.1\r\nHost: localhost:8440\r\nContent-Length: 7\r\n\r\ntoken=a"


def test_request_is_read_whole() -> None:
    assert only_event(POST) == Request(
        method=b"POST",
        target=b"/introspect",
        headers=((b"host", b"localhost:8440"), (b"content-length", b"7")),
        body=b"token=a",
        keep_alive=True,
    )


def test_pipelined_requests_come_in_order() -> None:
    second = b"GET /b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    first, last = events_of([POST + second])
    assert isinstance(first, Request)
    assert first.target == b"/introspect"
    assert isinstance(last, Request)
    assert (last.target, last.keep_alive) == (b"/b", False)


def test_http_1_0_closes_even_when_it_asks_to_stay() -> None:
    event = only_event(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert isinstance(event, Request)
    assert not event.keep_alive


def test_absolute_form_is_taken() -> None:
    event = only_event(b"GET https://ccs.example/introspect HTTP/1.1\r\nHost: ccs.example\r\n\r\n")
    assert isinstance(event, Request)
    assert event.target == b"https://ccs.example/introspect"


def test_offer_to_upgrade_is_ignored() -> None:
    event = only_event(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n")
    assert isinstance(event, Request)


def test_one_empty_line_before_a_request_is_ignored() -> None:
    assert isinstance(only_event(b"\r\n" + POST), Request)


def test_expectation_is_answered_before_the_body() -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    assert events_of([head]) == [Signal.SEND_CONTINUE]
    (signal, request) = events_of([head + b"ab"])
    assert signal is Signal.SEND_CONTINUE
    assert isinstance(request, Request)
    assert request.body == b"ab"


def test_expectation_of_an_empty_body_needs_no_signal() -> None:
    assert isinstance(only_event(b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\r\n"), Request)


CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_chunked_body_is_gathered() -> None:
    event = only_event(CHUNKED + b"3\r\nabc\r\nA;ext=1\r\n0123456789\r\n0\r\nTrailer: t\r\n\r\n")
    assert isinstance(event, Request)
    assert event.body == b"abc0123456789"


def test_request_after_a_chunked_one_is_read() -> None:
    events = events_of([CHUNKED + b"1\r\na\r\n0\r\n\r\n" + POST])
    assert [event.body for event in events if isinstance(event, Request)] == [b"a", b"token=a"]


def test_idle_is_between_requests_only() -> None:
    connection = ServerConnection(LIMITS)
    assert connection.idle
    connection.receive_data(POST[:-1])
    assert connection.next_event() is Signal.NEED_DATA
    assert not connection.idle
    connection.receive_data(POST[-1:])
    assert isinstance(connection.next_event(), Request)
    assert connection.idle


def head(*lines: bytes) -> bytes:
    return b"\r\n".join((*lines, b"", b""))


START = b"POST / HTTP/1.1"
HOST = b"Host: x"
REFUSED = {
    "both lengths": (400, head(START, HOST, b"Content-Length: 3", b"Transfer-Encoding: chunked")),
    "both lengths, other order": (400, head(START, HOST, b"Transfer-Encoding: chunked", b"Content-Length: 3")),
    "repeated length": (400, head(START, HOST, b"Content-Length: 3", b"Content-Length: 3")),
    "list of lengths": (400, head(START, HOST, b"Content-Length: 3, 3")),
    "signed length": (400, head(START, HOST, b"Content-Length: +3")),
    "hexadecimal length": (400, head(START, HOST, b"Content-Length: 0x3")),
    "empty length": (400, head(START, HOST, b"Content-Length:")),
    "enormous length": (400, head(START, HOST, b"Content-Length: " + b"9" * 30)),
    "bare LF after the request line": (400, b"GET / HTTP/1.1\nHost: x\r\n\r\n"),
    "bare LF after a field": (400, b"GET / HTTP/1.1\r\nHost: x\nA: b\r\n\r\n"),
    "bare LF everywhere": (400, b"GET / HTTP/1.1\nHost: x\n\n"),
    "bare CR": (400, head(START, HOST, b"A: b\rc")),
    "obs-fold": (400, head(START, HOST, b"A: b", b" c")),
    "fold of the first field": (400, head(START, b" Host: x")),
    "NUL in a value": (400, head(START, HOST, b"A: b\x00c")),
    "NUL in a name": (400, head(START, HOST, b"A\x00: b")),
    "space before the colon": (400, head(START, HOST, b"A : b")),
    "no colon": (400, head(START, HOST, b"nonsense")),
    "empty name": (400, head(START, HOST, b": b")),
    "no Host": (400, head(START)),
    "two Hosts": (400, head(START, HOST, HOST)),
    "Host with a path": (400, head(START, b"Host: x/y")),
    "Host with a user": (400, head(START, b"Host: a@x")),
    "two Hosts in HTTP/1.0": (400, head(b"GET / HTTP/1.0", HOST, HOST)),
    "two spaces": (400, head(b"GET  / HTTP/1.1", HOST)),
    "space in the target": (400, head(b"GET /a b HTTP/1.1", HOST)),
    "byte beyond ASCII in the target": (400, head(b"GET /\x80 HTTP/1.1", HOST)),
    "relative target": (400, head(b"GET foo HTTP/1.1", HOST)),
    "no version": (400, head(b"GET /", HOST)),
    "another protocol": (400, head(b"GET / RTSP/1.0", HOST)),
    "a TLS hello": (400, b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n"),
    "two empty lines": (400, b"\r\n\r\n" + POST),
    "lone CR": (400, b"\rGET / HTTP/1.1\r\nHost: x\r\n\r\n"),
    "coding in HTTP/1.0": (400, head(b"POST / HTTP/1.0", HOST, b"Transfer-Encoding: chunked")),
    "chunk without size": (400, CHUNKED + b"\r\nabc"),
    "chunk size with a sign": (400, CHUNKED + b"+3\r\nabc\r\n"),
    "chunk size with a prefix": (400, CHUNKED + b"0x3\r\nabc\r\n"),
    "chunk size line ends in LF": (400, CHUNKED + b"3\nabc\r\n"),
    "LF hidden in an extension": (400, CHUNKED + b"3;a\nabc\r\n"),
    "chunk longer than said": (400, CHUNKED + b"3\r\nabcd\r\n"),
    "chunk ends in LF": (400, CHUNKED + b"3\r\nabc\n0\r\n\r\n"),
    "endless chunk extension": (400, CHUNKED + b"3;" + b"a" * 300),
    "endless trailers": (400, CHUNKED + b"0\r\n" + b"a: b\r\n" * 200),
    "bad trailer": (400, CHUNKED + b"0\r\nnonsense\r\n\r\n"),
    "body too large": (413, head(START, HOST, b"Content-Length: 257")),
    "chunked body too large": (413, CHUNKED + b"80\r\n" + b"a" * 128 + b"\r\n81\r\n"),
    "target too long": (414, b"GET /" + b"a" * 600),
    "head too large": (431, b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 600),
    "head too large though complete": (431, head(b"GET / HTTP/1.1", HOST, b"A: " + b"a" * 600)),
    "unknown expectation": (417, head(START, HOST, b"Expect: the unexpected", b"Content-Length: 1")),
    "unknown method": (501, head(b"BREW / HTTP/1.1", HOST)),
    "lower-case method": (501, head(b"get / HTTP/1.1", HOST)),
    "CONNECT": (501, head(b"CONNECT x:1 HTTP/1.1", HOST)),
    "compressed coding": (501, head(START, HOST, b"Transfer-Encoding: gzip")),
    "compressed and chunked": (501, head(START, HOST, b"Transfer-Encoding: gzip, chunked")),
    "two codings in two fields": (501, head(START, HOST, b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked")),
    "HTTP/2 preface": (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "HTTP/1.2": (505, head(b"GET / HTTP/1.2", HOST)),
    "HTTP/0.9 by number": (505, head(b"GET / HTTP/0.9", HOST)),
}


@pytest.mark.parametrize(("status", "raw"), REFUSED.values(), ids=REFUSED.keys())
def test_ambiguous_or_oversized_input_is_refused(status: int, raw: bytes) -> None:
    event = events_of([raw])[-1]
    assert isinstance(event, Refused)
    assert event.status == status, event.reason


@pytest.mark.parametrize("raw", [raw for _, raw in REFUSED.values()], ids=REFUSED.keys())
def test_refusal_does_not_depend_on_the_cut(raw: bytes) -> None:
    assert events_of(bytewise(raw)) == events_of([raw])


def test_nothing_is_read_after_a_refusal() -> None:
    connection = ServerConnection(LIMITS)
    connection.receive_data(b"GET / HTTP/1.1\n\n")
    refused = connection.next_event()
    connection.receive_data(POST)
    assert connection.next_event() is refused


# --- properties -------------------------------------------------------------------------------------------------------

token = st.text("abcdefghijklmnopqrstuvwxyzABC-", min_size=1, max_size=12).map(str.encode)
value = st.text("abc ,;=/\t\"'0", max_size=20).map(lambda text: text.strip(" \t").encode())
reserved = {b"host", b"content-length", b"transfer-encoding", b"connection", b"expect", b"upgrade"}
fields = st.lists(st.tuples(token, value).filter(lambda f: f[0].lower() not in reserved), max_size=4)


@st.composite
def valid_requests(draw: st.DrawFn) -> bytes:
    method = draw(st.sampled_from([b"GET", b"POST", b"PUT", b"HEAD", b"DELETE"]))
    target = b"/" + draw(st.text("abc/?=&%20", max_size=20)).encode()
    lines = [method + b" " + target + b" HTTP/1.1", b"Host: localhost"]
    lines += [name + b": " + text for name, text in draw(fields)]
    body = draw(st.binary(max_size=60))
    if draw(st.booleans()):
        pieces = [body[:20], body[20:]] if len(body) > 20 else [body] if body else []
        lines.append(b"Transfer-Encoding: chunked")
        body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    elif body or draw(st.booleans()):
        lines.append(b"Content-Length: %d" % len(body))
    return head(*lines) + body


def read_by_h11(raw: bytes) -> list[tuple[bytes, bytes, list[tuple[bytes, bytes]], bytes]]:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(raw)
    read = []
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            read.append((event.method, event.target, list(event.headers), b""))
        elif isinstance(event, h11.Data):
            read[-1] = (*read[-1][:3], read[-1][3] + bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            connection.send(h11.Response(status_code=204, headers=[]))
            connection.send(h11.EndOfMessage())
            connection.start_next_cycle()
        else:
            return read


@given(st.lists(valid_requests(), min_size=1, max_size=3))
@settings(max_examples=150)
def test_valid_requests_are_read_as_h11_reads_them(requests: list[bytes]) -> None:
    limits = HeadLimits(max_head=4096, max_body=4096)
    events = events_of([b"".join(requests)], limits)
    ours = [(e.method, e.target, list(e.headers), e.body) for e in events if isinstance(e, Request)]
    assert ours == read_by_h11(b"".join(requests))


mutations = st.lists(
    st.tuples(st.integers(0, 400), st.sampled_from([b"", b"\n", b"\r", b"\0", b" ", b":", b"\r\n", b"0"]))
)


@given(st.lists(valid_requests(), min_size=1, max_size=3), mutations, st.integers())
@settings(max_examples=300)
def test_events_do_not_depend_on_the_cut(requests: list[bytes], changes: list[tuple[int, bytes]], seed: int) -> None:
    raw = b"".join(requests)
    for place, piece in changes[:3]:
        raw = raw[:place] + piece + raw[place + 1 :]
    whole = events_of([raw])
    assert events_of(bytewise(raw)) == whole
    assert events_of(cut(raw, seed)) == whole


# --- memo -------------------------------------------------------------------------------------------------------------


def test_head_read_before_gives_the_same_request() -> None:
    memo = HeadMemo()
    assert events_of([POST], LIMITS, memo) == events_of([POST], LIMITS, memo)
    assert len(memo) == 1


@pytest.mark.parametrize("field", [b"Authorization: Bearer x", b"Cookie: a=b", b"DPoP: x"])
def test_head_with_credentials_is_not_kept(field: bytes) -> None:
    memo = HeadMemo()
    events_of([head(b"GET / HTTP/1.1", HOST, field)], LIMITS, memo)
    assert len(memo) == 0


def test_memo_is_bounded() -> None:
    memo = HeadMemo(size=4)
    for number in range(50):
        events_of([head(b"GET /%d HTTP/1.1" % number, HOST)], LIMITS, memo)
    assert len(memo) <= 4


# --- answers ----------------------------------------------------------------------------------------------------------


def test_answer_has_length_and_is_not_stored() -> None:
    raw = render_response(Response(200, b'{"active":false}'), keep_alive=True)
    assert raw == (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nCache-Control: no-store\r\n"
        b'Content-Length: 16\r\n\r\n{"active":false}'
    )


def read_answer(raw: bytes, method: str = "POST") -> tuple[int, dict[bytes, bytes], bytes]:
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(raw)
    start, body = client.next_event(), b""
    assert isinstance(start, h11.Response)
    while isinstance(event := client.next_event(), h11.Data):
        body += bytes(event.data)
    assert isinstance(event, h11.EndOfMessage)
    return start.status_code, dict(start.headers), body


def test_answer_is_read_by_h11() -> None:
    response = Response(405, b"{}", headers=((b"Allow", b"POST"),), close=True)
    date = b"Date: Sun, 22 Nov 2026 12:00:00 GMT\r\n"
    status, headers, body = read_answer(render_response(response, keep_alive=True, date=date))
    assert (status, body) == (405, b"{}")
    assert headers[b"allow"] == b"POST"
    assert headers[b"connection"] == b"close"
    assert headers[b"date"].endswith(b"GMT")


def test_answer_to_head_has_no_body() -> None:
    raw = render_response(Response(200, b"1234"), keep_alive=True, head_only=True)
    status, headers, body = read_answer(raw, "HEAD")
    assert (status, headers[b"content-length"], body) == (200, b"4", b"")


def test_unknown_status_has_an_empty_phrase() -> None:
    assert render_response(Response(599, b""), keep_alive=False).startswith(b"HTTP/1.1 599 \r\n")


def test_refusal_closes() -> None:
    response = refusal_response(Refused(431, "the head is too large"))
    assert (response.status, response.close, response.body) == (431, True, b'{"error":"invalid_request"}')


SANE_IDS = [b"5f1b0f5e-8c0a-4b3e-9a39-30f8d4d9f6b0", b"a", b"x" * 128, b"trace:1.2~3_4"]
ODD_IDS = [b"", b"x" * 129, b"a b", b"a\tb", b"<script>", b"a,b", b"\xc3\xa9"]
ID_NAMES = [b"X-Request-ID", b"x-request-id", b"X-Request-Id", b"X-REQUEST-ID"]


def read_with_id(memo: HeadMemo, *fields: bytes) -> Request:
    connection = ServerConnection(HeadLimits(), memo)
    connection.receive_data(b"GET / HTTP/1.1\r\n" + b"".join(line + b"\r\n" for line in fields) + b"\r\n")
    request = connection.next_event()
    assert isinstance(request, Request)
    return request


@pytest.mark.parametrize("sane", SANE_IDS)
@pytest.mark.parametrize("name", ID_NAMES)
def test_a_sane_request_id_is_told_apart_from_the_headers(name: bytes, sane: bytes) -> None:
    memo = HeadMemo()
    for request_id in (sane, b"first", sane):  # the second and third may come from the memo
        request = read_with_id(memo, b"Host: a", name + b": " + request_id, b"Odd: b")
        assert request.request_id == request_id
        assert request.headers == ((b"host", b"a"), (b"odd", b"b"))


@pytest.mark.parametrize("odd", ODD_IDS)
def test_any_other_request_id_stays_a_header(odd: bytes) -> None:
    request = read_with_id(HeadMemo(), b"Host: a", b"X-Request-ID: " + odd)
    assert request.request_id == b""
    assert request.headers == ((b"host", b"a"), (b"x-request-id", odd))


@pytest.mark.parametrize("second", ID_NAMES)
@pytest.mark.parametrize("first", ID_NAMES)
def test_two_request_ids_are_none_whatever_was_read_before(first: bytes, second: bytes) -> None:
    memo = HeadMemo()
    for name in (first, second):
        assert read_with_id(memo, b"Host: a", name + b": b").request_id == b"b"
    request = read_with_id(memo, b"Host: a", first + b": a", second + b": b")
    assert request.request_id == b""
    assert request.headers[1:] == ((b"x-request-id", b"a"), (b"x-request-id", b"b"))


def test_heads_that_differ_in_their_id_alone_are_remembered_as_one() -> None:
    memo = HeadMemo()
    for number in range(5):
        read_with_id(memo, b"Host: a", b"X-Request-ID: %d" % number)
    assert len(memo) == 1


def test_an_id_cannot_bring_a_line_into_a_remembered_head() -> None:
    memo = HeadMemo()
    read_with_id(memo, b"Host: a", b"X-Request-ID: a")
    connection = ServerConnection(HeadLimits(), memo)
    connection.receive_data(b"GET / HTTP/1.1\r\nHost: a\r\nX-Request-ID: a\nContent-Length: 5\r\n\r\n")
    assert isinstance(connection.next_event(), Refused)
