"""Whether a guard's verdict was right, by what was known before it was asked for; and what a true answer is. Pure.

Beside the promises that any answer is held to (`judge`), a guard is held to P4: once the end of a consent has reached
it, it shares no more, whoever can be asked.
"""

import enum

import msgspec

from tests.chaos.judge import CURRENT, SILENCE, Consent, Violation

TAKING = 1.0  # seconds from an event's being kept, which is what a guard tells of, to its being applied
CONSENTED, LAST_KNOWN = "consented", "last_known"
# A no of these kinds says something about the consent. The others say that there is no answer.
DECIDED = ("not_active", "not_covered", "wrong_certificate")
NEVER_RIGHT = ("bad_request", "refused_caller", "halted", "outage_too_long", "one_off")  # in a run like this one


class Verdict(msgspec.Struct, frozen=True):
    """One verdict, or what came in place of one. Times as in `Answer`.

    told_seq: up to which position of the ledger the guard had said to have everything, TAKING before it was asked.
    """

    guard: str
    token_expires_at: float
    sent: float
    received: float
    sent_wall: float
    received_wall: float
    told_seq: int
    status: int = 200
    allowed: bool = False
    reason: str = ""
    freshness: str = ""
    as_of: float = 0.0


class Said(enum.StrEnum):
    """What a guard's asker got."""

    CONSENTED = "shared, consented"
    LAST_KNOWN = "shared, last known"
    DENIED = "denied"
    UNDECIDED = "denied, undecided"  # nobody could say, or the guard knows too little
    NOTHING = "no verdict"  # the guard itself did not answer


class GuardJudge:
    """Judges verdicts as they come."""

    def __init__(self) -> None:
        self.violations: list[Violation] = []
        self.judged = 0
        self.asked_after_told = 0  # the questions that P4 is about
        self.fallback_shares = 0
        self.exposed = 0  # shared after the revocation was effective, on what was known: lawful, and worth counting

    def judge(self, consent: Consent, verdict: Verdict) -> list[Violation]:
        """What this verdict breaks; it is kept as well. consent: as it was known when the verdict had come."""
        self.judged += 1
        self.asked_after_told += _was_told(consent, verdict)
        if verdict.status != 200:
            found = [("an answer nobody should get", f"status {verdict.status}")] if verdict.status != 503 else []
        elif verdict.allowed:
            self.fallback_shares += verdict.reason == LAST_KNOWN
            self.exposed += verdict.sent > consent.effective
            found = _sharing_faults(consent, verdict)
        else:
            found = _denial_faults(consent, verdict)
        where = f"{verdict.guard} about {consent.consent_id}"
        said = [Violation(rule, verdict.received_wall, f"{where}: {why}") for rule, why in found]
        self.violations += said
        return said


def said_by(verdict: Verdict) -> Said:
    """The kind of a verdict that came."""
    if verdict.status != 200:
        return Said.NOTHING
    if verdict.allowed:
        return Said.LAST_KNOWN if verdict.reason == LAST_KNOWN else Said.CONSENTED
    return Said.DENIED if verdict.reason in DECIDED else Said.UNDECIDED


def is_decided(said: Said) -> bool:
    """Whether the check was answered: with an allow or a deny, by the service or by what the guard knows."""
    return said in (Said.CONSENTED, Said.LAST_KNOWN, Said.DENIED)


def is_true(consent: Consent, asked: Verdict, *, yes: bool) -> bool:
    """Whether a yes or a no agrees with the consent as it stood, in doubt it does: while its end is becoming effective
    either is true. asked: any question, for its times."""
    expires_at = min(consent.expires_at, asked.token_expires_at)
    if yes:
        return asked.sent <= consent.effective and asked.sent_wall < consent.expires_at
    return asked.received >= consent.revoking or asked.received_wall >= expires_at


def _was_told(consent: Consent, verdict: Verdict) -> bool:
    return 0 < consent.end_seq <= verdict.told_seq


def _sharing_faults(consent: Consent, verdict: Verdict) -> list[tuple[str, str]]:
    found = []
    if verdict.reason not in (CONSENTED, LAST_KNOWN):
        found.append(("an answer nobody should get", f"shared by {verdict.reason}"))
    if _was_told(consent, verdict):
        said = f"shared by {verdict.reason}, though the guard had event {verdict.told_seq}, and it ended"
        found.append(("P4 told", f"{said} at {consent.end_seq}"))
    if verdict.freshness == CURRENT and verdict.sent > consent.effective:
        found.append(("P1 guard", f"shared, asked {verdict.sent - consent.effective:.3f} s after it was effective"))
    if verdict.freshness == CURRENT and verdict.sent > consent.recorded + SILENCE:
        found.append(("P1 guard", f"shared, asked {verdict.sent - consent.recorded:.3f} s after it was recorded"))
    if verdict.as_of > consent.recorded_wall:
        late = verdict.as_of - consent.recorded_wall
        found.append(("P6 guard", f"shared as of a moment {late:.3f} s after its end was recorded"))
    if verdict.sent_wall >= consent.expires_at:
        found.append(("P6 guard", f"shared, asked {verdict.sent_wall - consent.expires_at:.3f} s after it expired"))
    return found


def _denial_faults(consent: Consent, verdict: Verdict) -> list[tuple[str, str]]:
    """A no that says something wrong about the consent, or that no guard in order gives."""
    if verdict.reason in NEVER_RIGHT:
        return [("wrong inactive", f"denied: {verdict.reason}")]
    if verdict.reason in DECIDED and not is_true(consent, verdict, yes=False):
        return [("wrong inactive", f"denied: {verdict.reason}, though it stands")]
    return []
