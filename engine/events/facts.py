"""What a ledger event means to those that are told of it, before it is cut to one receiver.

A fact stays inside the house: it holds the reason and on whose behalf, which EDPs never learn. It names no person, no
meter point and no purpose. Stored as arrays with the outbox: fields are never reordered or removed, a new one goes to
the end and has a default.
"""

import enum
from typing import Any

import msgspec

from engine.clock import UnixTime
from engine.consent.records import ClientId, ConsentId
from engine.consent.states import State


class Change(enum.StrEnum):
    """What happened to a consent; the last part of its event type's URI is `consent-` and this."""

    GRANTED = "granted"
    RENEWED = "renewed"
    AMENDED = "amended"  # its window was cut
    REVOKED = "revoked"  # also: superseded by another consent, then `state` says so
    DISPUTED = "disputed"
    EXPIRED = "expired"
    CONSUMED = "consumed"


class InitiatingEntity(enum.StrEnum):
    """CAEP 1.0 section 2: on whose behalf. For the ATP's eyes only; of a dispute always `user`."""

    ADMIN = "admin"
    USER = "user"
    POLICY = "policy"
    SYSTEM = "system"


class ReasonCode(enum.StrEnum):
    """Why a consent ended or was cut. For the ATP's eyes only."""

    CONSUMER_WITHDREW = "consumer_withdrew"
    ATP_WITHDREW = "atp_withdrew"
    MOVED_OUT = "moved_out"
    DISPUTE = "dispute"
    TERM_ENDED = "term_ended"
    ADMIN = "admin"
    SUPERSEDED = "superseded"


class ConsentFact(msgspec.Struct, frozen=True, array_like=True, tag="consent"):
    """One change of one consent. Times: whole seconds since 1970."""

    change: Change
    consent_id: ConsentId
    consent_version: int
    state: State
    effective_at: UnixTime  # when it binds; earlier than `recorded_at` after a move-out reported late
    recorded_at: UnixTime  # commit time
    client_id: ClientId  # the ATP
    edps: tuple[ClientId, ...]
    initiating_entity: InitiatingEntity
    reason_code: ReasonCode | None = None
    expires_at: UnixTime | None = None  # of the consent; granted and renewed
    # RFC 9396 entry without meter points and purpose; granted, renewed and amended. One consent has one data set, and
    # each of its EDPs has published it, so that there is nothing to cut for one of them.
    authorization_details: tuple[dict[str, Any], ...] = ()
    dispute_ref: str | None = None
    respond_by: UnixTime | None = None  # by when the ATP answers a dispute


class PartyFact(msgspec.Struct, frozen=True, array_like=True, tag="party"):
    """An organisation's client was stopped as a whole, or may go on: told in place of a flood of single events."""

    client_id: ClientId  # the ATP
    version: int  # position of the event: grows with each change, and over restores of the ledger
    suspended: bool  # False: restored
    recorded_at: UnixTime


class VerificationFact(msgspec.Struct, frozen=True, array_like=True, tag="verification"):
    """SSF 1.0: somebody wants to see an event arrive. No `ccs_seq`.

    state: the receiver's own word, echoed; None: we began. challenge: ours, to be confirmed over mTLS by whoever
    receives it, before the stream's address is used.
    """

    stream_id: str
    asked_at: UnixTime
    state: str | None = None
    challenge: str | None = None


class StreamFact(msgspec.Struct, frozen=True, array_like=True, tag="stream"):
    """SSF 1.0: a stream's status was changed by us. No `ccs_seq`."""

    stream_id: str
    status: str  # enabled | paused | disabled
    changed_at: UnixTime
    reason: str | None = None


Fact = ConsentFact | PartyFact | VerificationFact | StreamFact
