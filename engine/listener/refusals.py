"""Answers that end a request before anything is decided about its token, in the form of RFC 6749 section 5.2."""

from typing import Final

import msgspec

from engine.decision.questions import Unavailable
from engine.listener.http1 import Headers, Response

INVALID_REQUEST: Final = b'{"error":"invalid_request"}'
INVALID_CLIENT: Final = b'{"error":"invalid_client"}'
INVALID_TOKEN: Final = b'{"error":"invalid_token"}'
TRY_LATER: Final = b'{"error":"temporarily_unavailable"}'


class Refusal(Exception):
    """Raised inside the endpoint, answered by it; never leaves it."""

    def __init__(self, status: int, body: bytes, *headers: tuple[bytes, bytes], close: bool = False) -> None:
        super().__init__(status)
        self.response = Response(status, body, headers=headers, close=close)


def unavailable(answer: Unavailable) -> Refusal:
    """503 with `Retry-After` in whole seconds, at least one (row 30)."""
    return Refusal(503, TRY_LATER, (b"Retry-After", b"%d" % max(1, round(answer.retry_after))))


def too_many() -> Refusal:
    """429: the caller has sent more than its allowance; in a second there is room again (row 29)."""
    return Refusal(429, TRY_LATER, (b"Retry-After", b"1"))


def with_headers(response: Response, more: Headers) -> Response:
    """The same answer with header fields added."""
    return msgspec.structs.replace(response, headers=response.headers + more) if more else response
