"""What an EDP asks its guard, and what the guard says: the words of the library and of the sidecar alike. Pure."""

import enum

import msgspec

from engine.clock import UnixTime
from engine.consent.records import Thumbprint


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """One share that is about to be made. token: as the ATP showed it, never logged or stored.

    thumbprint: SHA-256 over the DER of the certificate that the ATP presented to *you*. Data from `data_from` until
    before `data_to`, whole seconds since 1970. mpxn: `mpan:` and 13 digits, or `mprn:` and 6 to 10.
    """

    token: str
    thumbprint: Thumbprint
    dataset_id: str
    mpxn: str
    data_from: UnixTime
    data_to: UnixTime
    purpose_code: str | None = None
    share_id: str | None = None  # your idempotency key; a one-off consent is claimed for it
    # RFC 7638 thumbprint, base64url, of the DPoP key whose proof *you* have checked; None: there was no proof
    dpop_jkt: str | None = None


class Reason(enum.StrEnum):
    """Why. The first two share; every other one does not."""

    CONSENTED = "consented"  # by an answer to this question
    LAST_KNOWN = "last_known"  # nobody can be asked: by what was known, within the rules of an outage
    NOT_ACTIVE = "not_active"  # the token is good for nothing here: 401 `invalid_token` to the ATP
    NOT_COVERED = "not_covered"  # the consent does not cover this share: 403 `insufficient_scope`
    WRONG_CERTIFICATE = "wrong_certificate"  # the token is bound to another certificate: 401
    BAD_REQUEST = "bad_request"  # the question is wrong; asking again does not help
    REFUSED_CALLER = "refused_caller"  # the service does not take *our* certificate: an operator must act
    SLOW_DOWN = "slow_down"  # nothing but 429: no outage
    NO_ANSWER = "no_answer"  # what came was no answer (signature, issuer, audience, TLS): an alarm, no outage
    UNANSWERED = "unanswered"  # this question was not answered, and it is no outage (yet): ask again
    UNKNOWN_IN_OUTAGE = "unknown_in_outage"  # nobody can be asked, and no word about this was ever heard
    OUTAGE_TOO_LONG = "outage_too_long"  # the cap of the outage has been reached
    DEGRADED = "degraded"  # nobody can be asked who knows what is true now, and pushed events are missing or lost
    ONE_OFF = "one_off"  # nobody can be asked, and a one-off consent is never shared on what was known
    HALTED = "halted"  # policy: no sharing in an outage at all


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """May this share be made, once. evidence_id: under which the guard can show later what it did."""

    allowed: bool
    reason: Reason
    evidence_id: str
    freshness: str = ""  # `current` or `last_known` as a node said; "" = no node answered
    as_of: UnixTime | None = None  # what the verdict rests on was true then
    consent_id: str | None = None
    consent_version: int | None = None
    retry_after: float | None = None  # seconds; with SLOW_DOWN, and with outages until the next probe


class KnownNo(msgspec.Struct, frozen=True):
    """A token was refused, or all its consents have ended, or its ATP is stopped. as_of: true then; None: untold."""

    as_of: UnixTime | None


class KnownConsent(msgspec.Struct, frozen=True, array_like=True):
    """One consent as an active answer showed it. entry: the JSON of its `authorization_details` entry."""

    consent_id: str
    consent_version: int
    expires_at: UnixTime  # of the consent
    one_off: bool
    entry: bytes
    # Where a newer answer about the token showed other consents of it: what this one rests on, and until when it may
    # be used; 0: as the token says
    as_of: UnixTime = UnixTime(0)
    last_known_until: UnixTime = UnixTime(0)


class KnownToken(msgspec.Struct, frozen=True, array_like=True):
    """The newest active answer about a token. as_of: what it rests on was true then."""

    digest: bytes  # SHA-256 of the whole token
    client_id: str  # the ATP
    thumbprint: Thumbprint  # the certificate that the token is bound to
    token_expires_at: UnixTime
    answered_at: UnixTime
    as_of: UnixTime
    last_known_until: UnixTime  # as the node said
    consents: tuple[KnownConsent, ...]
    answer: bytes = b""  # as it came, signed where it was signed: evidence

    def find(self, consent_id: str | None) -> KnownConsent | None:
        """A consent that an answer about the token has shown; nearly always it is the first."""
        for consent in self.consents:
            if consent.consent_id == consent_id:
                return consent
        return None
