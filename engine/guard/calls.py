"""One call to one node, as a guard makes it: the words, and the port that everything above speaks through."""

import enum
from collections.abc import Awaitable, Callable
from typing import Final, Generic, Protocol, TypeVar

import msgspec

from engine.errors import Fault, Kind
from engine.guard.evidence_words import Failure

V = TypeVar("V")

MAX_BODY: Final = 65_536  # bytes of an answer, if the call does not say otherwise


class Call(msgspec.Struct, frozen=True):
    """What is sent. request_id: drawn anew for each call; a node repeats it, which ties its answer to this question.

    is_optional: a node need not offer it, so that 501 refuses the call, and is no failure of the node.
    """

    path: bytes
    body: bytes
    request_id: bytes
    content_type: bytes
    accept: bytes
    method: bytes = b"POST"
    max_body: int = MAX_BODY
    is_optional: bool = False


class Reply(msgspec.Struct, frozen=True):
    """What came back, whole. media_type: lower case, without parameters. retry_after: as it came."""

    status: int
    media_type: bytes = b""
    body: bytes = b""
    request_id: bytes = b""
    retry_after: bytes = b""


class CallFailed(Fault):
    """No whole reply came."""

    kind = Kind.UNAVAILABLE

    def __init__(self, failure: Failure, detail: str = "") -> None:
        super().__init__("the node did not answer", detail=detail)
        self.failure = failure


class Transport(Protocol):
    """Carries calls. Any task may call at any time and may be cancelled; nothing is lost or mixed up by that."""

    async def call(self, address: str, call: Call) -> Reply:
        """One attempt. address: an origin, `https://host:port`. Raises CallFailed.

        Connecting takes `retry.CONNECT` at most; the caller's own deadline bounds the whole.
        """

    async def aclose(self) -> None:
        """Close all connections."""


class Worth(enum.Enum):
    """What an answer is worth to whoever asked."""

    CURRENT = enum.auto()  # the node knew what was true two seconds before; or a no, which is a no
    LAST_KNOWN = enum.auto()  # an answer, to be taken if no other node has a better one


class Judged(msgspec.Struct, Generic[V], frozen=True):
    """A reply of status 200, read. freshness, as_of: as the node said; "" and None: it did not."""

    value: V
    worth: Worth
    freshness: str = ""
    as_of: float | None = None


Judge = Callable[[Reply], Awaitable[Judged[V] | None]]  # None: no answer
