"""When a share may be made on what was known, because nobody can be asked. Pure: one table, read from the top.

Two questions. *Is it an outage?* Only if every configured address has failed by transport, timeout or 5xx; one TLS
alert, one refusal, one answer that is none, or one address that says nothing but 429, and it is not. *May this share be
made?* Only for a token that was introspected here as active, bound to the certificate that is shown now, for a consent
that covers it, is no one-off, has not ended as far as anybody has told, and within every limit of time.

Last-known may be used until the earliest of: the consent's own end, `last_known_until` as the node said, the cap of the
outage counted from the first exhausted retry, and, where the policy says so, the token's `exp`. What was known when a
node said that the right to fall back rests is past its `last_known_until` from then on.
"""

import hmac
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from engine.clock import Seconds, UnixTime
from engine.guard.config import OnOutage, Policy
from engine.guard.covering import covers
from engine.guard.evidence_words import Failure
from engine.guard.retry import counts_as_outage, is_retried, is_slow_down
from engine.guard.shares import KnownConsent, KnownNo, KnownToken, Reason, Share

FRESH: Final = Seconds(60.0)  # a failure that is older says nothing about an address any more


class Outage(msgspec.Struct, frozen=True):
    """What a share is judged under. now: whole seconds; never before the outage began, even if a clock was set back.

    lasts: seconds since the first exhausted retry, by a clock that nobody sets. missing_since, rested_at: see `Memory`.
    """

    now: UnixTime
    lasts: Seconds
    policy: Policy
    missing_since: UnixTime | None
    rested_at: UnixTime = UnixTime(0)


class Fallback(msgspec.Struct, frozen=True):
    """The judgement. consent: the one that covers the share, also where something else forbids it."""

    reason: Reason
    consent: KnownConsent | None = None

    @property
    def allowed(self) -> bool:
        """Whether the share may be made."""
        return self.reason is Reason.LAST_KNOWN


def verdict_on_run(failures: Iterable[Failure], by_address: Mapping[str, Failure | None]) -> Reason | None:
    """What an exhausted run of attempts means; None = an outage.

    failures: of the run's attempts, hedges included. by_address: for each configured address its newest failure; None:
    it has not been asked lately, or has answered since.
    """
    failures = tuple(failures)
    if any(not is_retried(failure) for failure in failures):
        return Reason.REFUSED_CALLER
    if any(failure in (Failure.TLS, Failure.NO_ANSWER) for failure in failures):
        return Reason.NO_ANSWER
    if is_slow_down(failures):
        return Reason.SLOW_DOWN
    if all(failure is not None and counts_as_outage(failure) for failure in by_address.values()):
        return None
    return Reason.UNANSWERED


def judge_in_outage(share: Share, known: KnownToken | None, outage: Outage, no: KnownNo | None = None) -> Fallback:
    """May this share be made although nobody can be asked? known: what memory has of the token; no: that it is over.

    A no that was heard stays one, whatever an outage is: it is decided before all that an outage forbids.
    """
    if known is None and no is not None:
        return Fallback(Reason.NOT_ACTIVE)
    refusal = _refusal_of_all(outage) or _refusal_of_token(share, known, outage)
    if refusal is not None or known is None:
        return Fallback(refusal or Reason.UNKNOWN_IN_OUTAGE)
    judged = [
        Fallback(_reason_by(consent, known, outage), consent)
        for consent in known.consents
        if covers(share, consent.entry)
    ]
    return max(judged, key=_by_worth, default=Fallback(Reason.NOT_COVERED))


def _refusal_of_all(outage: Outage) -> Reason | None:
    """What forbids every share."""
    if outage.policy.on_outage is OnOutage.HALT or outage.policy.outage_cap <= 0:
        return Reason.HALTED
    return Reason.OUTAGE_TOO_LONG if outage.lasts >= outage.policy.outage_cap else None


def _refusal_of_token(share: Share, known: KnownToken | None, outage: Outage) -> Reason | None:
    if known is None or not known.consents:
        return Reason.UNKNOWN_IN_OUTAGE
    if not hmac.compare_digest(known.thumbprint, share.thumbprint):
        return Reason.WRONG_CERTIFICATE
    if not outage.policy.beyond_token_exp and outage.now >= known.token_expires_at:
        return Reason.NOT_ACTIVE
    return None


def _reason_by(consent: KnownConsent, known: KnownToken, outage: Outage) -> Reason:
    """What one consent that covers the share makes of it."""
    if outage.now >= consent.expires_at:
        return Reason.NOT_ACTIVE
    if consent.one_off:
        return Reason.ONE_OFF
    as_of = consent.as_of or known.as_of
    if outage.missing_since is not None and as_of <= outage.missing_since:
        return Reason.DEGRADED
    if as_of <= outage.rested_at or outage.now >= (consent.last_known_until or known.last_known_until):
        return Reason.OUTAGE_TOO_LONG
    return Reason.LAST_KNOWN


def _by_worth(judged: Fallback) -> bool:
    """A consent that allows the share before those that do not; else the first."""
    return judged.allowed
