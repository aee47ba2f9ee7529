"""What the head of a request for evaluations says: whether it may be read at all, and the form of answer it takes.

Pure, and remembered by the header tuple, as `media` does for introspections.
"""

from typing import Final

import msgspec

from engine.listener.evaluation_body import BadRequest
from engine.listener.http1 import Headers, Request
from engine.listener.media import FORWARDED, JSON, accepts, media_type
from engine.listener.refusals import INVALID_TOKEN, Refusal

SIGNED: Final = b"application/ccs-decision+jwt"
_KEPT: Final = 1024


class EvaluationHead(msgspec.Struct, frozen=True, gc=False):
    """asks_for_signed: it names the signed form; takes_signed: it would have it.

    forwards: see `media.Head`."""

    is_json: bool
    takes_json: bool
    takes_signed: bool
    asks_for_signed: bool
    has_credentials: bool
    forwards: bool


class HeadJudge:
    """Judges heads and remembers the judgements; emptied when full."""

    def __init__(self) -> None:
        self._heads: dict[Headers, EvaluationHead] = {}

    def judge(self, request: Request) -> EvaluationHead:
        """Rows 2, 4 and 5. Raises BadRequest, Refusal."""
        if request.method != b"POST":
            raise BadRequest("method not allowed", 405, allow=b"POST")
        head = self._heads.get(request.headers)
        if head is None:
            head = read_head(request.headers)
            if len(self._heads) >= _KEPT:
                self._heads.clear()
            if not head.has_credentials:
                self._heads[request.headers] = head
        if b"?" in request.target:  # what is asked about belongs into the body: targets end in logs
            raise BadRequest("no query is taken")
        if head.has_credentials:  # callers prove themselves by certificate
            raise Refusal(401, INVALID_TOKEN, (b"WWW-Authenticate", b'Bearer error="invalid_token"'))
        if not head.is_json:
            raise BadRequest("the content type must be application/json")
        return head


def read_head(headers: Headers) -> EvaluationHead:
    """Judge the header fields of a request (names in lower case)."""
    types = [value for name, value in headers if name == b"content-type"]
    accepted = [value for name, value in headers if name == b"accept"]
    takes_signed = accepts(accepted, SIGNED)
    names_signed = any(media_type(part) == SIGNED for field in accepted for part in field.split(b","))
    return EvaluationHead(
        is_json=len(types) == 1 and media_type(types[0]) == JSON,
        takes_json=accepts(accepted, JSON),
        takes_signed=takes_signed,
        asks_for_signed=takes_signed and names_signed,
        has_credentials=any(name == b"authorization" for name, _ in headers),
        forwards=any(name in FORWARDED for name, _ in headers),
    )
