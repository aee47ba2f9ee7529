"""Whether an answer was right, judged by what its asker knew before it asked: the promises as seen from outside.

All times of one run come from one process on one machine, so that they can be compared: `sent`, `received` and what
is known of consents are on its monotonic clock; `ccs_as_of`, expiries and `sent_wall` are wall times. In doubt an
answer is right: what is reported here is wrong for sure. Pure.
"""

import math

import msgspec

# Written down again, not imported: what the code under test believes must not be what it is held to.
OUTAGE_CAP = 86_400.0  # seconds; the policy of a new ledger
SILENCE = 2.0 * 1.01  # and the margin for clock rates
CURRENT, LAST_KNOWN = "current", "last_known"
NEVER = math.inf


class Consent(msgspec.Struct):
    """What is known of a consent. revoking: when the first attempt to revoke it was sent.

    recorded: when its revocation was known to stand in the ledger; effective: when it was reported so. end_seq: its
    position there, 0 = not known.
    """

    consent_id: str
    expires_at: float
    revoking: float = NEVER
    recorded: float = NEVER
    recorded_wall: float = NEVER
    effective: float = NEVER
    end_seq: int = 0


class Answer(msgspec.Struct, frozen=True):
    """One answer that was read whole. state, as_of, until: `ccs_freshness` and its times, of an active one only."""

    node: str
    edp: str
    handles_last_known: bool
    token_expires_at: float
    sent: float
    received: float
    sent_wall: float
    received_wall: float
    status: int
    active: bool = False
    state: str = ""
    as_of: float = 0.0
    until: float = 0.0


class Violation(msgspec.Struct, frozen=True):
    """A promise that was broken. at: wall time, by which logs tell more; 0 = found at the end."""

    rule: str
    at: float
    says: str


class Judge:
    """Judges answers as they come; remembers which node has said no to what."""

    def __init__(self) -> None:
        self.violations: list[Violation] = []
        self.judged = 0
        self.asked_after_effect = 0  # the questions that P1 is about
        self.exposed = 0  # active in `last_known` after the revocation was effective: lawful, and worth counting
        self._denied: dict[tuple[str, str], float] = {}

    def judge(self, consent: Consent, answer: Answer) -> list[Violation]:
        """What this answer breaks; it is kept as well. consent: as it was known when the answer had come."""
        self.judged += 1
        self.asked_after_effect += answer.sent > consent.effective
        if answer.status not in (200, 503):
            found = [("an answer nobody should get", f"status {answer.status}")]
        elif answer.status == 503:
            found = []
        elif answer.active:
            self.exposed += answer.state == LAST_KNOWN and answer.sent > consent.effective
            found = [*_freshness_faults(answer), *_consent_faults(consent, answer), *self._forgotten(consent, answer)]
        else:
            found = self._denial_faults(consent, answer)
        where = f"{answer.node} to {answer.edp} about {consent.consent_id}"
        said = [Violation(rule, answer.received_wall, f"{where}: {why}") for rule, why in found]
        self.violations += said
        return said

    def _denial_faults(self, consent: Consent, answer: Answer) -> list[tuple[str, str]]:
        """A no before anybody had begun to end the consent."""
        if answer.received_wall >= min(consent.expires_at, answer.token_expires_at):
            return []
        if answer.received < consent.revoking:
            return [("wrong inactive", "inactive, though it stands")]
        self._denied.setdefault((answer.node, consent.consent_id), answer.received)
        return []

    def _forgotten(self, consent: Consent, answer: Answer) -> list[tuple[str, str]]:
        denied = self._denied.get((answer.node, consent.consent_id), NEVER)
        if answer.sent > denied:
            return [
                ("P6 forgotten", f"active, {answer.sent - denied:.3f} s after the same node knew that it had ended")
            ]
        return []


def _consent_faults(consent: Consent, answer: Answer) -> list[tuple[str, str]]:
    found = []
    if answer.state == CURRENT and answer.sent > consent.effective:
        found.append(("P1 effective", f"active, asked {answer.sent - consent.effective:.3f} s after it was effective"))
    if answer.state == CURRENT and answer.sent > consent.recorded + SILENCE:
        found.append(("P1 committed", f"active, asked {answer.sent - consent.recorded:.3f} s after it was recorded"))
    if answer.as_of > consent.recorded_wall:
        late = answer.as_of - consent.recorded_wall
        found.append(("P6 heard", f"active as of a moment {late:.3f} s after its end was recorded"))
    if answer.sent_wall >= consent.expires_at:
        found.append(("P6 period", f"active, asked {answer.sent_wall - consent.expires_at:.3f} s after it expired"))
    if answer.until > consent.expires_at:
        found.append(("P6 period", f"to be known until {answer.until:.0f}, beyond its end at {consent.expires_at:.0f}"))
    return found


def _freshness_faults(answer: Answer) -> list[tuple[str, str]]:
    age = answer.sent_wall - answer.as_of
    if answer.state == CURRENT:
        # `ccs_as_of` is cut to a whole second: its question was asked up to one second later.
        return [("P2", f"current as of {age:.3f} s before it was asked")] if age > SILENCE + 1 else []
    if answer.state != LAST_KNOWN:
        return [("an answer nobody should get", f"freshness {answer.state!r}")]
    found = []
    if not answer.handles_last_known:
        found.append(("P6 unasked", "last known, to an EDP that does not handle it"))
    if age > OUTAGE_CAP or answer.until > answer.as_of + OUTAGE_CAP or answer.sent_wall > answer.until:
        found.append(("P6 cap", f"as of {age:.3f} s before it was asked, to be known until {answer.until:.0f}"))
    return found
