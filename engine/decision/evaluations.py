"""May this EDP share this? The question in OpenID AuthZEN's words (Authorization API 1.0), one item of many.

The verdict is that of `decide`, so that a batch and an introspection with the same share never differ; what is added
here is the second look at the ATP's certificate, the words for a no, and the JSON of a single decision. Whatever was
settled for the batch as a whole (the caller may ask, this node may answer) is not asked again for each item.
"""

import enum
from typing import Final

import msgspec

from engine.clock import UnixTime, format_utc
from engine.consent.meter_points import meter_digest
from engine.consent.records import ClientId, ConsentRecord
from engine.decision.decide import current_window, decide_served, furthest
from engine.decision.freshness import Freshness
from engine.decision.questions import Active, Ask, ClaimFirst, Inactive, Reason, Records, Share
from engine.tokens.claims import Grant, VerifiedToken


class Semantic(enum.StrEnum):
    """How a batch is run (Authorization API 1.0, section on evaluations semantic)."""

    EXECUTE_ALL = "execute_all"
    DENY_ON_FIRST_DENY = "deny_on_first_deny"
    PERMIT_ON_FIRST_PERMIT = "permit_on_first_permit"


class Outcome(enum.Enum):
    """What items are counted by."""

    PERMITTED = "permitted"
    DENIED = "denied"
    MALFORMED = "malformed"
    UNAVAILABLE = "unavailable"


class Flaw(enum.Enum):
    """Why an item of a batch is no question."""

    INCOMPLETE = "incomplete"  # subject, action or resource is neither in the item nor a default
    MALFORMED = "malformed"  # there, but not as our profile wants it


class Question(msgspec.Struct, frozen=True, gc=False):
    """A well-formed item. token_id: base64url of the token's SHA-256. x5t_s256: what the ATP showed the EDP."""

    token_id: str
    share: Share
    x5t_s256: str | None = None
    share_id: str | None = None


class Circumstances(msgspec.Struct, frozen=True):
    """What all items of a batch are judged under. meter_key: 32 bytes.

    explains: whether a no says which part of the consent the share does not lie in.
    """

    caller: ClientId
    freshness: Freshness
    now: UnixTime
    meter_key: bytes
    explains: bool = True


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """A decision. text: its JSON, which always ends with that of a `context`."""

    outcome: Outcome
    text: str

    @property
    def permits(self) -> bool:
        """The member `decision`."""
        return self.outcome is Outcome.PERMITTED


def _no(outcome: Outcome, context: str) -> Verdict:
    return Verdict(outcome, f'{{"decision":false,"context":{{{context}}}}}')


def _error(status: int, message: str) -> str:
    return f'"error":{{"status":{status},"message":"{message}"}}'


NOT_ACTIVE: Final = _no(Outcome.DENIED, f'"code":"{Reason.TOKEN}"')  # the same bytes, whatever the reason
ASK_AGAIN: Final = _no(Outcome.UNAVAILABLE, _error(503, "cannot be told now"))
ASK_WITH_TOKEN: Final = _no(Outcome.UNAVAILABLE, _error(503, "token not resolved: ask again with the token"))
NEEDS_SHARE_ID: Final = _no(Outcome.MALFORMED, _error(400, "a one-off consent needs context.share_id"))
FLAWED: Final = {
    Flaw.INCOMPLETE: _no(Outcome.MALFORMED, _error(400, "subject, action or resource is missing")),
    Flaw.MALFORMED: _no(Outcome.MALFORMED, '"code":"request_malformed"'),
}
_NOT_COVERED: Final = _no(Outcome.DENIED, '"code":"not_covered"')
_PERMITTED: Final = Outcome.PERMITTED


def ends_with(semantic: Semantic, verdict: Verdict) -> bool:
    """Whether this verdict decides a batch, so that what follows is not judged."""
    if semantic is Semantic.EXECUTE_ALL:
        return False
    return verdict.permits is (semantic is Semantic.PERMIT_ON_FIRST_PERMIT)


def judge(
    question: Question, token: VerifiedToken | None, records: Records, under: Circumstances
) -> Verdict | ClaimFirst:
    """Answer one item. Pure, raises nothing. token: None = the digest is of no token that could be good.

    A `ClaimFirst` is performed by the caller, who then judges anew with what came of it in `records`.
    """
    if token is None or question.x5t_s256 not in (None, token.claims.cnf.x5t_s256):
        return NOT_ACTIVE
    share = question.share if _has_words(token) else _by_digest(question.share, token, under.meter_key)
    ask = Ask(under.caller, share, question.share_id)
    step = decide_served(ask, token, records, under.freshness, under.now)
    if type(step) is Active:
        return _permit(step)
    if type(step) is Inactive:
        return _refuse(step.reason, share, token, records, under)
    if type(step) is ClaimFirst:
        return NEEDS_SHARE_ID if question.share_id is None else step
    return ASK_AGAIN


def _has_words(token: VerifiedToken) -> bool:
    return bool(token.grants) and bool(token.grants[0].detail.meter_points)


def _by_digest(share: Share, token: VerifiedToken, meter_key: bytes) -> Share:
    digests = {grant.key: meter_digest(meter_key, grant.key, share.meter_point) for grant in token.grants}
    return msgspec.structs.replace(share, meter_digests=digests)


def _permit(answer: Active) -> Verdict:
    grant, _ = answer.grants[0]
    until = answer.freshness.last_known_until
    ends_at = answer.consent_ends_at  # no outage lengthens a consent
    return Verdict(
        _PERMITTED,
        f'{{"decision":true,"context":{{"consent_id":"{grant.detail.consent_id}","ccs_consent_version":'
        f'{answer.consent_version},"ccs_last_known_until":{until if until < ends_at else ends_at}}}}}',
    )


def _refuse(reason: Reason, share: Share, token: VerifiedToken, records: Records, under: Circumstances) -> Verdict:
    """A no. What the consent is about shows only after the token was found good for this very caller."""
    if reason is Reason.TOKEN:
        return NOT_ACTIVE
    if not under.explains:
        return _NOT_COVERED
    found = furthest(share, token, records, under.caller, under.now)
    if found is None:
        return NOT_ACTIVE
    grant, record = found
    allowed = _allowed(share, grant, record) if reason is Reason.WINDOW else ""
    return _no(Outcome.DENIED, f'"code":"{reason}","ccs_consent_version":{record.consent_version}{allowed}')


def _allowed(share: Share, grant: Grant, record: ConsentRecord) -> str:
    """The part of the window that is consented, if any: a hint for asking again, never a yes to it."""
    start, end = current_window(grant, record)
    start, end = max(start, share.data_from), min(end, share.data_to)
    return f',"allowed":{{"from":"{format_utc(start)}","to":"{format_utc(end)}"}}' if start < end else ""


class Evidence(msgspec.Struct, frozen=True):
    """What an EDP keeps of an answer beside its decisions."""

    decision_id: str  # drawn anew for each answer; letters, digits and `_`
    evaluated_at: UnixTime  # of the snapshot that all items were judged against
    freshness: Freshness

    def _members(self) -> str:
        return (
            f'"decision_id":"{self.decision_id}","evaluated_at":{self.evaluated_at},'
            f'"ccs_freshness":"{self.freshness.state.value}","ccs_as_of":{self.freshness.as_of}'
        )

    def render_batch(self, verdicts: list[Verdict]) -> bytes:
        """The answer to a batch, in the order of its items."""
        items = ",".join([verdict.text for verdict in verdicts])
        return f'{{"evaluations":[{items}],"context":{{{self._members()}}}}}'.encode()

    def render_single(self, verdict: Verdict) -> bytes:
        """The answer to a single evaluation: everything in its one context."""
        return f"{verdict.text[:-2]},{self._members()}}}}}".encode()
