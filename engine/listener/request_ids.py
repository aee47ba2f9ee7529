"""`X-Request-ID`: which of a caller's own ids is safe to send back and to log; any other is as if not there."""

import re
from typing import Final

from engine.listener.http1 import Headers

_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._~:-]{1,128}")


def echo_of(headers: Headers) -> Headers:
    """The header field to send back: none, or the only id there is. Names in lower case."""
    ids = [value for name, value in headers if name == b"x-request-id"]
    return ((b"X-Request-ID", ids[0]),) if len(ids) == 1 and _REQUEST_ID.fullmatch(ids[0]) else ()
