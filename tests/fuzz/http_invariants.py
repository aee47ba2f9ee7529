"""What must hold for any bytes that arrive on a connection, whoever sent them.

h11 is the second opinion: what we take, it reads the same; what we refuse though it would take it is refused for a
reason that is written down here.
"""

import random
import re
import zlib
from collections.abc import Callable, Iterator

import h11

from engine.listener.http1 import Event, HeadLimits, HeadMemo, Refused, Request, ServerConnection, Signal

LIMITS = HeadLimits(max_head=512, max_body=256)
LONGEST = 4096  # bytes of an input
_HELD = LIMITS.max_head + LIMITS.max_body + 1024  # bytes a connection may hold between two arrivals
_STATUSES = {400, 413, 414, 417, 431, 501, 505}
_ID = re.compile(rb"[A-Za-z0-9._~:-]{1,128}")

Canonical = tuple[bytes, bytes, list[tuple[bytes, bytes]], bytes, bytes]


def check_connection(raw: bytes) -> None:
    """Raise AssertionError where reading raw breaks a rule."""
    raw = raw[:LONGEST]
    chance = random.Random(zlib.crc32(raw))  # noqa: S311 - a repeatable cut, no secret
    whole = events_of([raw])
    read = list(_bytewise(raw))
    assert [event for _, event in read] == whole, "one byte at a time it means something else"
    assert events_of(_cut(raw, chance)) == whole, "cut elsewhere it means something else"
    _check_memo(raw, whole, chance)
    _check_second_opinion(raw, read)


def events_of(pieces: list[bytes], memo: HeadMemo | None = None) -> list[Event]:
    """All events but NEED_DATA, up to the end of the conversation as the server sees it."""
    return [event for _, event in _events(pieces, memo)]


def canonical(request: Request) -> Canonical:
    """Method, target, other headers, body, and the id to be sent back, wherever the request keeps it.

    h11 writes the one transfer coding there is in lower case.
    """
    fields = [(name, value.lower() if name == b"transfer-encoding" else value) for name, value in request.headers]
    others = [field for field in fields if field[0] != b"x-request-id"]
    ids = [value for name, value in request.headers if name == b"x-request-id"]
    only = ids[0] if len(ids) == 1 and _ID.fullmatch(ids[0]) else b""
    return request.method, request.target, others, request.body, getattr(request, "request_id", b"") or only


def _events(pieces: list[bytes], memo: HeadMemo | None) -> Iterator[tuple[int, Event]]:
    """Each event with the number of bytes that had arrived. No memo: nothing is remembered."""
    connection = ServerConnection(LIMITS, HeadMemo(max_head=0) if memo is None else memo)
    arrived = 0
    for piece in pieces:
        arrived += len(piece)
        connection.receive_data(piece)
        while (event := connection.next_event()) is not Signal.NEED_DATA:
            yield arrived, event
            if isinstance(event, Refused):
                return _check_refusal(connection, event)
            if isinstance(event, Request):
                assert len(event.body) <= LIMITS.max_body
                if not event.keep_alive:
                    return None
        assert _held(connection) <= _HELD + len(piece), "it holds too much"
    return None


def _check_refusal(connection: ServerConnection, refused: Refused) -> None:
    assert refused.status in _STATUSES
    assert refused.reason.isprintable()
    assert sum(len(name) + len(value) for name, value in refused.headers) <= LIMITS.max_head
    connection.receive_data(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert connection.next_event() is refused, "something came after a refusal"


def _held(thing: object) -> int:
    """Bytes in the attributes of a connection and of what it is made of, whatever they are called."""
    if isinstance(thing, (bytes, bytearray)):
        return len(thing)
    ours = any(kind.__module__.startswith("engine.") for kind in type(thing).__mro__)
    if ours and not isinstance(thing, HeadMemo):
        names = getattr(thing, "__struct_fields__", None) or getattr(thing, "__slots__", None) or vars(thing)
        return sum(_held(getattr(thing, name, None)) for name in names)
    if isinstance(thing, tuple):
        return sum(map(_held, thing))
    return 0


def _bytewise(raw: bytes) -> Iterator[tuple[int, Event]]:
    return _events([raw[place : place + 1] for place in range(len(raw))], None)


def _cut(raw: bytes, chance: random.Random) -> list[bytes]:
    places = sorted(chance.randrange(len(raw) + 1) for _ in range(chance.randrange(1, 6)))
    return [raw[start:end] for start, end in zip([0, *places], [*places, len(raw)], strict=True)]


# --- what is remembered -----------------------------------------------------------------------------------------------


def _check_memo(raw: bytes, whole: list[Event], chance: random.Random) -> None:
    """A memo that has seen this input and its like gives what none would give."""
    memo = HeadMemo()
    for variant in (raw, *_id_variants(raw, chance), raw):
        plain = whole if variant is raw else events_of([variant])
        assert events_of([variant], memo) == plain, "a remembered head means something else"


def _id_variants(raw: bytes, chance: random.Random) -> Iterator[bytes]:
    """Heads that differ in their request ids only share what is remembered; so do, wrongly, heads that nearly do."""
    lines = raw.split(b"\r\n")
    name = chance.choice(
        [b"X-Request-ID: ", b"x-request-id: ", b"X-Request-Id: ", b"X-REQUEST-ID:", b"X-Request-ID : "]
    )
    value = chance.choice([b"a", b"another-id", b"", b"a b", b"a" * 129, b"a\tb", b"a\r", b" a"])
    place = chance.randrange(len(lines) + 1)
    yield b"\r\n".join([*lines[:place], name + value, *lines[place:]])
    yield b"\r\n".join([*lines[:1], name + b"b", *lines[1:]])
    yield b"\r\n".join([line for line in lines if not line.lower().startswith(b"x-request-id")])
    yield re.sub(rb"(?i)(x-request-id: ?)[^\r\n]*", lambda found: found[1] + value, raw)


# --- the second opinion -----------------------------------------------------------------------------------------------


def _check_second_opinion(raw: bytes, read: list[tuple[int, Event]]) -> None:
    start = 0
    for end, event in read:
        if isinstance(event, Request):
            # one empty line may come first (RFC 9112 section 2.2); h11 does not take it
            taken = _read_by_h11(raw[start:end].removeprefix(b"\r\n"))
            assert taken is not None, f"h11 does not take {raw[start:end]!r}"
            assert taken == (canonical(event), b""), f"h11 reads another request: {taken}"
            start = end
        elif isinstance(event, Refused) and _read_by_h11(raw[start:]) is not None:
            assert reasons_to_be_stricter(raw[start:], event), f"refused without need: {event.reason}"


def _read_by_h11(raw: bytes) -> tuple[Canonical, bytes] | None:
    """One whole request and what follows it; None: h11 refuses it or waits for more."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=2 * LONGEST)
    connection.receive_data(raw)
    request, body = None, b""
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError:
            return None
        if isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage) and request is not None:
            read = Request(request.method, request.target, tuple(request.headers), body, keep_alive=True)
            return canonical(read), connection.trailing_data[0]
        else:
            return None


def reasons_to_be_stricter(raw: bytes, refused: Refused) -> list[str]:
    """The deliberate differences that these bytes show. raw: from the start of the request that was refused."""
    return [name for name, applies in STRICTER.items() if applies(raw, refused)]


def _lines(raw: bytes) -> list[bytes]:
    return raw.partition(b"\r\n\r\n")[0].removeprefix(b"\r\n").split(b"\r\n")


def _values(raw: bytes, wanted: bytes) -> list[bytes]:
    fields = [line.partition(b":") for line in _lines(raw)[1:]]
    return [value.strip(b" \t") for name, _, value in fields if name.lower() == wanted]


def _version(raw: bytes) -> bytes:
    return _lines(raw)[0][-8:]


def _method(raw: bytes) -> bytes:
    return _lines(raw)[0].partition(b" ")[0]


def _target(raw: bytes) -> bytes:
    return _lines(raw)[0].partition(b" ")[2].partition(b" ")[0]


def _body(raw: bytes) -> bytes:
    return b"\r\n" + raw.partition(b"\r\n\r\n")[2]


_TOO_LONG = "a line of the chunked framing is too long"
_METHODS = {b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE"}
_ORDINARY_TARGET = re.compile(rb"\*|/[!-~]*|https?://[A-Za-z0-9.:\[\]-]+(?:[/?][!-~]*)?")
_HOST = re.compile(rb"[A-Za-z0-9._~%!$&'()*+,;=:\[\]-]*")

Judgement = Callable[[bytes, Refused], bool]
STRICTER: dict[str, Judgement] = {
    "a line ends in a bare LF": lambda raw, _: re.search(rb"(?<!\r)\n", raw) is not None,
    "empty lines come before the request": lambda raw, _: raw.startswith((b"\r\n\r", b"\r\n\n", b"\n", b"\r")),
    "a line is folded": lambda raw, _: any(line.startswith((b" ", b"\t")) for line in _lines(raw)[1:]),
    "the head or the target is too large": lambda raw, told: (
        told.status in {414, 431} and raw.find(b"\r\n\r\n", 0, LIMITS.max_head) < 0
    ),
    "the body is too large": lambda raw, told: told.status == 413 and len(_body(raw)) > LIMITS.max_body,
    "the method is none of the eight": lambda raw, told: told.status == 501 and _method(raw) not in _METHODS,
    "the version is neither 1.0 nor 1.1": lambda raw, told: (
        told.status == 505 and _version(raw) not in {b"HTTP/1.0", b"HTTP/1.1"}
    ),
    "the target has none of the forms": lambda raw, told: (
        told.status == 400 and _ORDINARY_TARGET.fullmatch(_target(raw)) is None
    ),
    "the length comes twice, as a list or overlong": lambda raw, told: (
        told.status == 400
        and (len(lengths := _values(raw, b"content-length")) > 1 or re.fullmatch(rb"\d{1,18}", *lengths[:1]) is None)
        if _values(raw, b"content-length")
        else False
    ),
    "a length stands beside a coding": lambda raw, told: (
        told.status == 400 and bool(_values(raw, b"content-length")) and bool(_values(raw, b"transfer-encoding"))
    ),
    "a coding with a tab beside it": lambda raw, told: (
        told.status == 400 and re.search(rb"(?i)\r\ntransfer-encoding:[^\r]*\t", raw) is not None
    ),
    "a coding in HTTP/1.0": lambda raw, told: (
        told.status == 400 and _version(raw) == b"HTTP/1.0" and bool(_values(raw, b"transfer-encoding"))
    ),
    "the host is none, or comes twice": lambda raw, told: (
        told.status == 400 and (len(hosts := _values(raw, b"host")) != 1 or _HOST.fullmatch(hosts[0]) is None)
    ),
    "an expectation that we do not meet": lambda raw, told: (
        told.status == 417 and [value.lower() for value in _values(raw, b"expect")] != [b"100-continue"]
    ),
    "a control character in a field": lambda raw, told: (
        told.status == 400 and re.search(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", b"".join(_lines(raw)[1:])) is not None
    ),
    "a chunk size with more than eight digits, or an extension that is long or not ASCII": lambda raw, told: (
        told.reason in {"not a chunk size", _TOO_LONG} and re.search(rb"\r\n[0-9A-Fa-f]{9}|;", _body(raw)) is not None
    ),
    "a trailer is folded, or no text": lambda raw, told: (
        told.reason == "not a trailer field"
        and re.search(rb"\r\n[ \t]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", _body(raw)) is not None
    ),
    "a trailer frames or routes": lambda raw, told: (
        told.status == 400 and re.search(rb"(?i)\r\n(content-length|transfer-encoding|host):", _body(raw)) is not None
    ),
    "the trailers are too large": lambda raw, told: (
        told.reason in {"too many trailer fields", _TOO_LONG} and len(_body(raw)) > LIMITS.max_head
    ),
}
