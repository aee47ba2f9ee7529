"""What the guard keeps so that it can show later what it did while nobody could be asked.

Recorded before a share is made on what was known, and told to the service once it can be reached again. A claimed
outage that the service's own logs do not show is a security event there, hence the attempts with their times. No
token, and no person: a token's digest and a consent's id. Stored as arrays: fields are never reordered or removed, a
new one goes to the end and has a default.
"""

import enum
from collections.abc import Sequence
from typing import Protocol

import msgspec

from engine.clock import UnixTime
from engine.guard.shares import Reason


class Failure(enum.StrEnum):
    """How an attempt failed. The first group counts towards an outage where nothing of the second came."""

    CONNECT = "connect"  # refused, unreachable, no such name
    TIMEOUT = "timeout"
    RESET = "reset"  # the connection broke before an answer was whole
    SERVER = "server"  # 500, 502, 503, 504 and other 5xx

    TLS = "tls"  # alert, certificate failure: never an outage
    TOO_MANY = "too_many"  # 429
    REFUSED = "refused"  # other 4xx, a redirect
    NO_ANSWER = "no_answer"  # came, but is no answer: signature, issuer, audience, form
    BUSY = "busy"  # all our own connections were in use


class Attempt(msgspec.Struct, frozen=True, array_like=True):
    """One call that failed. address: origin of the node. at: when it began, seconds since 1970; seconds: it took."""

    address: str
    at: float
    seconds: float
    failure: Failure
    status: int = 0  # of the HTTP answer; 0: none came


class ShareEvidence(msgspec.Struct, frozen=True, array_like=True, tag="share"):
    """One share that was judged in an outage, made or not. digest: SHA-256 of the token."""

    at: float  # when it was judged, seconds since 1970
    digest: bytes
    allowed: bool
    reason: Reason
    outage_since: float  # the first exhausted retry, seconds since 1970
    client_id: str = ""  # the ATP; "": not known
    consent_id: str = ""
    consent_version: int = 0
    dataset_id: str = ""
    data_from: UnixTime = UnixTime(0)
    data_to: UnixTime = UnixTime(0)
    share_id: str = ""
    answered_at: UnixTime = UnixTime(0)  # `iat` of the answer that it rests on; 0: on none
    as_of: UnixTime = UnixTime(0)  # what that answer rests on was true then
    answer: bytes = b""  # that answer as it came, where it was signed
    attempts: tuple[Attempt, ...] = ()  # the newest ones of the outage


class OutageEvidence(msgspec.Struct, frozen=True, array_like=True, tag="outage"):
    """An outage as the guard saw it. ended_at: 0 = it has just begun."""

    began_at: float  # seconds since 1970
    ended_at: float
    attempts: tuple[Attempt, ...]
    shares: int = 0  # made on what was known, since the start of the process that tells of the end
    # Outages told as one, for want of room, from the begin of the first to the end of the last; 0: it is one
    folded: int = 0


Entry = ShareEvidence | OutageEvidence


class Evidence(Protocol):
    """Where entries are kept until the service has them. Returns within microseconds, never waits for a network."""

    def record(self, entry: Entry) -> str:
        """Keep an entry; its evidence id. It survives kill -9 of the process once this has returned.

        Raises `engine.guard.memory.MemoryFull`: then no share may be made on it.
        """

    def record_all(self, entries: Sequence[Entry]) -> list[str]:
        """Keep several, all or none, with one wait for the disk; their ids. Raises as `record`."""

    def open_outage(self) -> float | None:
        """When the newest outage on record began, if its end is not on record: a restart must not lengthen it."""

    def outage_noted(self) -> float:
        """The newest time that is on record of that outage, by `record` or `note_outage`; 0: there is none."""

    def note_outage(self, at: float) -> None:
        """The outage still lasts. On disk, through a loss of power too, when this returns. Raises as `record`."""
