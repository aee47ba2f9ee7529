"""What engines know of the world: one record per consent, revoked token, participant and policy value.

These structs are stored: in Redis, in replicas, inside ledger events. Fields are never reordered, renamed or
removed; a new one goes to the end and has a default. Where that is not enough, make a new kind of record.
Nothing here names a person; a meter point appears only as a keyed digest (`meter_points.meter_digest`).
"""

import enum
import re
from typing import Final, NewType

import msgspec

from engine.clock import Seconds, UnixTime
from engine.consent.states import State

ClientId = NewType("ClientId", str)  # of an ATP, EDP, node or operator; an EDP's is also its audience
ConsentId = NewType("ConsentId", str)  # UUIDv4 text, lower case
ConsentKey = NewType("ConsentKey", bytes)  # the same UUID as 16 bytes
Thumbprint = NewType("Thumbprint", bytes)  # SHA-256 of a certificate's DER (x5t#S256 before base64url)

_UUID_4: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def consent_key(consent_id: ConsentId) -> ConsentKey:
    """The 16 bytes of a consent id. Raises ValueError unless it is a UUIDv4 in lower-case text (RFC 9562, 5.4)."""
    if not _UUID_4.fullmatch(consent_id):
        raise ValueError("not a UUIDv4 in lower-case text")
    return ConsentKey(bytes.fromhex(consent_id.replace("-", "")))


class AccessMode(enum.IntEnum):
    """`access_mode` on the wire is the lower-case name."""

    ONE_OFF = 1
    ENDURING = 2


class ConsentRecord(msgspec.Struct, frozen=True, array_like=True):
    """A consent as engines see it; key = `ConsentKey`. Windows are half-open [data_from, data_to)."""

    state: State
    consent_version: int
    atp: ClientId
    dataset_id: str
    access_mode: AccessMode
    granted_at: UnixTime
    expires_at: UnixTime
    data_from: UnixTime
    data_to: UnixTime | None  # None: open until the consent ends
    meter_digests: tuple[bytes, ...]  # 16 bytes each
    edps: tuple[ClientId, ...]  # who holds the data; nobody else is answered
    purpose_code: str | None = None


class TokenRevocation(msgspec.Struct, frozen=True, array_like=True):
    """A token ended before its time; key = first 16 bytes of SHA-256 over its `jti`."""

    expires_at: UnixTime  # forgotten after this


class Role(enum.IntEnum):
    """What a participant may do here."""

    ATP = 1
    EDP = 2
    NODE = 3
    OPERATOR = 4
    PUSHER = 5  # brings signed events to ATPs and EDPs


class Certificate(msgspec.Struct, frozen=True, array_like=True):
    """A registered transport certificate."""

    thumbprint: Thumbprint
    not_after: UnixTime


class Answers(enum.IntEnum):
    """The form of introspection answer an EDP is registered for."""

    PLAIN = 1
    SIGNED = 2


class FallbackSuspension(msgspec.Struct, frozen=True, array_like=True):
    """An EDP's right to fall back rests: it has not been told for too long what has ended."""

    at: UnixTime  # when that was found
    oldest_seq: int  # position of the oldest event that it had not been told by then


class ParticipantRecord(msgspec.Struct, frozen=True, array_like=True):
    """An organisation's client; key = UTF-8 of its `client_id`."""

    client_id: ClientId
    role: Role
    suspended: bool
    certificates: tuple[Certificate, ...]
    datasets: tuple[str, ...] = ()  # of an EDP: what it has published
    answers: Answers = Answers.PLAIN
    handles_last_known: bool = False  # an EDP that may be given answers flagged `last_known`
    max_connections: int = 100
    max_requests_per_second: int = 50
    fallback_suspended: FallbackSuspension | None = None  # of an EDP that is a day behind with its events

    @property
    def may_fall_back(self) -> bool:
        """Whether it may be given answers flagged `last_known`, and act on what it knew in an outage."""
        return self.handles_last_known and self.fallback_suspended is None


class OnSilence(enum.IntEnum):
    """What a node does while it is `last_known` (architecture: freshness)."""

    CONTINUE = 1
    HALT = 2


class PolicyRecord(msgspec.Struct, frozen=True, array_like=True):
    """The service's policy values; key = b"policy"."""

    on_silence: OnSilence = OnSilence.CONTINUE
    outage_cap: Seconds = Seconds(86_400.0)


POLICY_KEY: Final = b"policy"


class RestoreRecord(msgspec.Struct, frozen=True, array_like=True):
    """The ledger was restored from a backup; key = ASCII of the incarnation that ended with it."""

    restored_seq: int  # of the last event that was kept, under the incarnation that ended
    reported_seq: int  # the highest position of it known to have been reported
    gap_from: UnixTime  # when the last event that was kept was recorded
    gap_to: UnixTime  # nothing was written under that incarnation after this


class LiveRecord(msgspec.Struct, frozen=True, array_like=True):
    """An operator let the ledger go live after a restore; key = b"live"."""

    at: UnixTime


class DoubtRecord(msgspec.Struct, frozen=True, array_like=True):
    """Something was told about a consent that a restored ledger had lost; key = `ConsentKey`."""

    at: UnixTime  # when it was told


LIVE_KEY: Final = b"live"
