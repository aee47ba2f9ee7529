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
from engine.decision.decide import current_expiry, current_window, decide_served, furthest, settled
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


class Asked(msgspec.Struct, frozen=True, gc=False):
    """What is to be shared of a meter point, as many items have it in common. The window is half-open."""

    dataset_id: str
    data_from: UnixTime
    data_to: UnixTime
    purpose_code: str | None = None


class Question(msgspec.Struct, frozen=True, gc=False):
    """A well-formed item. token_id: base64url of the token's SHA-256. x5t_s256: what the ATP showed the EDP."""

    token_id: str
    meter_point: str
    asked: Asked
    x5t_s256: str | None = None
    share_id: str | None = None

    @property
    def share(self) -> Share:
        """The same in the words of `decide`."""
        asked = self.asked
        return Share(asked.dataset_id, self.meter_point, asked.data_from, asked.data_to, asked.purpose_code)


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


class Cover(msgspec.Struct, frozen=True, gc=False):
    """One live consent as a token may use it. words: a yes by it, up to the time until which it may be relied on."""

    dataset_id: str
    meter_points: tuple[str, ...]
    start: UnixTime
    end: UnixTime
    purpose_code: str | None
    ends_at: UnixTime
    words: str


class Standing(msgspec.Struct, frozen=True, gc=False):
    """What a token stands for while its records are the same: from `since` until before `until`."""

    covers: tuple[Cover, ...]
    x5t_s256: str | None
    since: UnixTime
    until: UnixTime


def standing(token: VerifiedToken, records: Records, under: Circumstances) -> Standing | None:
    """Worked out once for many questions about a token; None: each must go the long way, `judge`."""
    shown = settled(under.caller, token, records, under.now) if _has_words(token) else ()
    if not shown:
        return None
    covers = tuple([_cover(grant, record) for grant, record in shown])
    until = min(token.claims.exp, *[cover.ends_at for cover in covers])
    return Standing(covers, token.claims.cnf.x5t_s256, under.now, UnixTime(until))


def _cover(grant: Grant, record: ConsentRecord) -> Cover:
    start, end = current_window(grant, record)
    detail = grant.detail
    ends_at = current_expiry(grant, record)
    words = _words_of_yes(detail.consent_id, record.consent_version)
    return Cover(detail.dataset_id, detail.meter_points, start, end, record.purpose_code, ends_at, words)


def quick_yes(question: Question, known: Standing, under: Circumstances) -> Verdict | None:
    """The yes that `judge` would come to; None: it may be a no, and must be judged."""
    if not known.since <= under.now < known.until or question.x5t_s256 not in (None, known.x5t_s256):
        return None
    asked = question.asked
    for cover in known.covers:
        if (
            asked.dataset_id == cover.dataset_id
            and question.meter_point in cover.meter_points
            and cover.start <= asked.data_from < asked.data_to <= cover.end
            and (asked.purpose_code is None or asked.purpose_code == cover.purpose_code)
        ):
            until = under.freshness.last_known_until
            return Verdict(_PERMITTED, f"{cover.words}{until if until < cover.ends_at else cover.ends_at}}}}}")
    return None


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
    until = min(answer.freshness.last_known_until, answer.consent_ends_at)  # no outage lengthens a consent
    return Verdict(_PERMITTED, f"{_words_of_yes(grant.detail.consent_id, answer.consent_version)}{until}}}}}")


def _words_of_yes(consent_id: str, version: int) -> str:
    return (
        f'{{"decision":true,"context":{{"consent_id":"{consent_id}","ccs_consent_version":{version},'
        '"ccs_last_known_until":'
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
