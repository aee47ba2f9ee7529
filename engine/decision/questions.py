"""What is asked, what is known, and the closed set of answers."""

import enum
from collections.abc import Mapping

import msgspec

from engine.clock import Seconds, UnixTime
from engine.consent.records import ClientId, ConsentKey, ConsentRecord, ParticipantRecord, PolicyRecord
from engine.decision.freshness import Freshness
from engine.tokens.claims import Grant, VerifiedToken


class Share(msgspec.Struct, frozen=True):
    """What an EDP is about to release (the `ccs_` parameters, mode B). The window is half-open.

    meter_digests: the meter point's digest under each consent of a token that is known by digests only
    (`tokens.token_records`); None: the token has its own words.
    """

    dataset_id: str
    meter_point: str
    data_from: UnixTime
    data_to: UnixTime
    purpose_code: str | None = None
    meter_digests: Mapping[ConsentKey, bytes] | None = None


class Ask(msgspec.Struct, frozen=True):
    """One introspection by an authenticated caller."""

    caller: ClientId
    share: Share | None = None
    share_id: str | None = None  # the EDP's idempotency key; claims a one-off consent


class Miss(enum.Enum):
    """Why a consent record is not at hand."""

    UNREAD = "unread"  # not in the replica; nobody has looked further yet
    UNKNOWN = "unknown"  # looked further: nothing newer was to be had, or nobody could be asked


class ClaimResult(enum.Enum):
    """What the feed service said of a one-off claim."""

    UNASKED = "unasked"
    HELD = "held"  # this share holds the consent, now or before
    TAKEN = "taken"  # another share does
    UNREACHABLE = "unreachable"


class Records(msgspec.Struct, frozen=True):
    """What one read transaction of the replica knows of the parties and consents at hand."""

    edp: ParticipantRecord | None
    atp: ParticipantRecord | None
    consents: tuple[ConsentRecord | Miss, ...]  # in the order of the token's grants
    token_revoked: bool
    policy: PolicyRecord
    claim: ClaimResult = ClaimResult.UNASKED
    claimed: ConsentKey | None = None  # the consent that `claim` is about; None: the token's only one-off


class Active(msgspec.Struct, frozen=True):
    """The token is good here, and what was asked about is consented."""

    token: VerifiedToken
    grants: tuple[tuple[Grant, ConsentRecord], ...]  # what this caller may see, at least one
    expires_at: UnixTime  # min(token, earliest consent shown)
    consent_ends_at: UnixTime  # the earliest end of a consent shown
    consent_version: int  # of the first grant shown, as its record stands
    freshness: Freshness


class Reason(enum.StrEnum):
    """Why not. TOKEN never leaves the house; the others may, in signed answers, if switched on."""

    TOKEN = "token_not_active"  # noqa: S105 - a reason, not a secret
    DATASET = "dataset_not_consented"
    METER_POINT = "mpxn_not_consented"
    WINDOW = "window_outside_consent"
    PURPOSE = "purpose_not_consented"


class Inactive(msgspec.Struct, frozen=True):
    """No."""

    reason: Reason = Reason.TOKEN


class Unavailable(msgspec.Struct, frozen=True):
    """Not to be decided here and now: 503, never a no."""

    retry_after: Seconds


class LookFurther(msgspec.Struct, frozen=True):
    """Read these through from Redis, then decide again with what was found or Miss.UNKNOWN."""

    keys: tuple[ConsentKey, ...]


class ClaimFirst(msgspec.Struct, frozen=True):
    """A one-off consent: claim it for this share, then decide again with the result."""

    consent: ConsentKey
    edp: ClientId
    share_id: str


Answer = Active | Inactive | Unavailable
Step = Answer | LookFurther | ClaimFirst
