"""The decision: may this caller act on this token, for this share, now?

It starts from no: only a caller that is a working EDP, a token for this very caller, a working ATP, a live consent
that names both, and a fresh enough view can earn an `Active`. Each check runs before the ones that would tell more:
the audience before any consent is looked at, the claim of a one-off last, because it uses the consent up.
`Unavailable` is for what cannot be known here and now; it is never said for what is known to be a no.
"""

from typing import Final

import msgspec

from engine.clock import Seconds, UnixTime
from engine.consent.records import AccessMode, ClientId, ConsentKey, ConsentRecord, ParticipantRecord, Role
from engine.consent.states import State
from engine.decision.freshness import SERVED, Freshness, FreshnessState
from engine.decision.questions import (
    Active,
    Ask,
    ClaimFirst,
    ClaimResult,
    Inactive,
    LookFurther,
    Miss,
    Reason,
    Records,
    Share,
    Step,
    Unavailable,
)
from engine.tokens.claims import AccessToken, Grant, VerifiedToken

CLOCK_SKEW: Final = 10  # seconds that `nbf` and `iat` may lie ahead (FAPI 2.0 Security Profile 5.3.2.1-13)
# A token and its consent may reach a node by different ways. Once the node's view is this much newer than the token,
# a consent that it does not have does not exist. Whole seconds: one for each side's rounding.
SETTLED_AFTER: Final = 2
# Beyond this nobody need look further for it either: whoever waits for Redis could be told from whoever does not, and
# only clocks that are half a minute apart could hide a consent that was given meanwhile.
LONG_AGO: Final = 30

NO: Final = Inactive()
ASK_AGAIN: Final = Unavailable(Seconds(1.0))  # one consent or claim could not be looked at
NOT_SERVING: Final = Unavailable(Seconds(5.0))  # the node as a whole cannot answer this caller

_REFUSED_AS_ONE: Final = {reason: Inactive(reason) for reason in Reason}
# How far a share came before it was refused; the furthest is the one that helps the EDP.
_DEPTH: Final = {Reason.DATASET: 0, Reason.METER_POINT: 1, Reason.WINDOW: 2, Reason.PURPOSE: 3}

# Members by name: the hot path saves the 0.1 us that Python 3.11 takes to look one up in its class.
_ACTIVE: Final = State.ACTIVE
_ONE_OFF: Final = AccessMode.ONE_OFF
_UNREAD: Final = Miss.UNREAD
_UNKNOWN: Final = Miss.UNKNOWN
_CURRENT: Final = FreshnessState.CURRENT
_BLIND: Final = FreshnessState.BLIND
_EDP: Final = Role.EDP
_ATP: Final = Role.ATP
_TOKEN: Final = Reason.TOKEN

Shown = tuple[Grant, ConsentRecord]


def decide(ask: Ask, token: VerifiedToken | None, records: Records, freshness: Freshness, now: UnixTime) -> Step:
    """Answer one introspection (RFC 7662 section 2.2). Pure: no clock, no I/O, no logging. Raises nothing.

    token: None = it was no token of ours, or its signature is not right. now: whole seconds, read after the
    request's last byte. A `LookFurther` or `ClaimFirst` is performed by the caller, who then decides again with
    what was found in `records`, the rest of it unchanged.
    """
    refusal = refusal_of_caller(ask.caller, records, freshness)
    if refusal is not None or records.edp is None:
        return refusal or NO
    return decide_served(ask, token, records, freshness_for(records.edp, freshness), now)


def decide_served(ask: Ask, token: VerifiedToken | None, records: Records, freshness: Freshness, now: UnixTime) -> Step:
    """The same for a caller whom `refusal_of_caller` does not refuse: a batch asks that once for all its items."""
    if token is None or not _is_good(ask.caller, token.claims, records, now):
        return NO
    if records.atp is None:
        return NO if _is_settled(token, freshness) else ASK_AGAIN
    if records.atp.client_id != token.claims.client_id or not _is_working(records.atp, _ATP):
        return NO
    return _consider_consents(ask, token, records, freshness, now)


def current_window(grant: Grant, record: ConsentRecord) -> tuple[UnixTime, UnixTime]:
    """What both the token and the consent as it stands allow: half-open [start, end), empty where end <= start.

    An open window ends with the consent.
    """
    end = current_expiry(grant, record)
    if grant.data_to is not None or record.data_to is not None:
        end = min(to for to in (grant.data_to, record.data_to) if to is not None)
    return max(grant.data_from, record.data_from), end


def current_expiry(grant: Grant, record: ConsentRecord) -> UnixTime:
    """When the consent ends, as far as this token goes: a renewal does not lengthen a token that came before it."""
    return min(grant.expires_at, record.expires_at)


def refusal_of_caller(caller: ClientId, records: Records, freshness: Freshness) -> Inactive | Unavailable | None:
    """Why this caller is not answered by this node; looks at nothing that a token says. None: it is."""
    edp = records.edp
    if freshness.state is _BLIND:
        return NOT_SERVING
    if edp is None or edp.client_id != caller or not _is_working(edp, _EDP):
        return NO
    if freshness.state is _CURRENT:  # as the table says, without looking it up on the hot path
        return None
    return None if SERVED[freshness.state, records.policy.on_silence, edp.may_fall_back] else NOT_SERVING


def freshness_for(edp: ParticipantRecord, freshness: Freshness) -> Freshness:
    """As an EDP is told it: one whose right to fall back rests may keep no answer for an outage."""
    if edp.fallback_suspended is None:
        return freshness
    return msgspec.structs.replace(freshness, last_known_until=freshness.as_of)


def settled(edp: ClientId, token: VerifiedToken, records: Records, now: UnixTime) -> tuple[Shown, ...]:
    """The live consents of a token, where nothing but the share is left to be asked; empty: it is not so simple.

    For an EDP that `refusal_of_caller` does not refuse. Holds while the records are the same, from `now` on until the
    first of these consents, or the token, ends; then `decide_served` says yes to a share that lies in one of them.
    """
    atp = records.atp
    if atp is None or not _is_good(edp, token.claims, records, now) or len(records.consents) != len(token.grants):
        return ()
    if atp.client_id != token.claims.client_id or not _is_working(atp, _ATP):
        return ()
    shown, unread, is_missing = _sort_out(token, records, edp, now)
    has_one_off = any(grant.access_mode is _ONE_OFF for grant, _ in shown)
    return () if unread or is_missing or has_one_off else tuple(shown)


def furthest(
    share: Share, token: VerifiedToken, records: Records, edp: ClientId, now: UnixTime
) -> tuple[Grant, ConsentRecord] | None:
    """The live consent that a refused share came furthest with; None: no consent is live. For explaining a no.

    Among windows that end a share's way, one whose purpose fits is taken before one that would fail there next.
    """
    shown, _, _ = _sort_out(token, records, edp, now)
    return max(shown, key=lambda pair: _way(share, *pair)) if shown else None


def _way(share: Share, grant: Grant, record: ConsentRecord) -> tuple[int, bool, bool]:
    refusal = refusal_of_share(share, grant, record)
    start, end = current_window(grant, record)
    overlaps = max(start, share.data_from) < min(end, share.data_to)
    fits = share.purpose_code in (None, record.purpose_code)
    return _DEPTH.get(refusal, -1) if refusal is not None else -1, overlaps and fits, overlaps


def _is_good(caller: ClientId, claims: AccessToken, records: Records, now: UnixTime) -> bool:
    """Whether the token is good here, whatever it stands for; the audience comes first."""
    return claims.aud == caller and not records.token_revoked and _is_in_time(claims, now)


def _is_working(participant: ParticipantRecord, role: Role) -> bool:
    return participant.role is role and not participant.suspended


def _is_in_time(claims: AccessToken, now: UnixTime) -> bool:
    latest = now + CLOCK_SKEW
    return now < claims.exp and claims.iat <= latest and (claims.nbf is None or claims.nbf <= latest)


def _is_settled(token: VerifiedToken, freshness: Freshness) -> bool:
    """Whether what this token rests on must have reached this node by now."""
    return token.claims.iat + SETTLED_AFTER < freshness.as_of


def _consider_consents(ask: Ask, token: VerifiedToken, records: Records, freshness: Freshness, now: UnixTime) -> Step:
    if len(records.consents) != len(token.grants):
        return ASK_AGAIN  # not the records of this token: nothing can be said from them
    shown, unread, is_missing = _sort_out(token, records, ask.caller, now)
    if unread and token.claims.iat + LONG_AGO >= freshness.as_of:
        return LookFurther(tuple(unread))
    is_missing = is_missing or bool(unread)
    refusal = _TOKEN
    if ask.share is not None and shown:
        shown, refusal = _covering(ask.share, shown)
    if is_missing and (not shown or ask.share is None) and not _is_settled(token, freshness):
        return ASK_AGAIN  # the one that is missing may be the one that allows it
    if not shown:
        return _REFUSED_AS_ONE[refusal]
    one_offs = [grant for grant, _ in shown if grant.access_mode is _ONE_OFF]
    if one_offs:
        return _claim(one_offs[0], ask, token, records, freshness, shown)
    return _answer(token, shown, freshness)


def _sort_out(
    token: VerifiedToken, records: Records, edp: ClientId, now: UnixTime
) -> tuple[list[Shown], list[ConsentKey], bool]:
    """The live consents, the keys still to be looked for, and whether one was looked for in vain."""
    shown: list[Shown] = []
    unread: list[ConsentKey] = []
    is_missing = False
    for grant, found in zip(token.grants, records.consents, strict=True):
        if found is _UNREAD:
            unread.append(grant.key)
        elif found is _UNKNOWN:
            is_missing = True
        elif _is_live(grant, found, token.claims.client_id, edp, now):
            shown.append((grant, found))
    return shown, unread, is_missing


def _is_live(grant: Grant, record: ConsentRecord, atp: ClientId, edp: ClientId, now: UnixTime) -> bool:
    """Whether a consent as it stands bears this grant out, for this ATP at this EDP."""
    return (
        record.state is _ACTIVE
        and now < record.expires_at
        and now < grant.expires_at
        and edp in record.edps
        and record.atp == atp
        and record.dataset_id == grant.detail.dataset_id
        and record.access_mode is grant.access_mode
        and grant.detail.purpose_code in (None, record.purpose_code)  # the cut form may leave it out
        and _names_known_meters(grant.meter_digests, record.meter_digests)
        and _is_open(grant, record)
    )


def _is_open(grant: Grant, record: ConsentRecord) -> bool:
    start, end = current_window(grant, record)
    return start < end


def _names_known_meters(of_grant: tuple[bytes, ...], of_record: tuple[bytes, ...]) -> bool:
    """Whether every meter point of the token is the consent's; a token that names none is good for none."""
    return len(of_grant) > 0 and (of_grant == of_record or set(of_grant) <= set(of_record))


def _covering(share: Share, shown: list[Shown]) -> tuple[list[Shown], Reason]:
    """The one consent that the whole share lies in: never stitched together of two. None: how far it came.

    Where several would do, an enduring one is taken before a one-off is used up.
    """
    refusals = [refusal_of_share(share, grant, record) for grant, record in shown]
    covering = [pair for pair, refusal in zip(shown, refusals, strict=True) if refusal is None]
    if covering:
        return [min(covering, key=_enduring_first)], _TOKEN
    return [], max((refusal for refusal in refusals if refusal is not None), key=_DEPTH.__getitem__)


def _enduring_first(pair: Shown) -> bool:
    return pair[0].access_mode is _ONE_OFF


def refusal_of_share(share: Share, grant: Grant, record: ConsentRecord) -> Reason | None:
    """Why a share does not lie inside this consent, for services and guards alike; None = it does."""
    if share.dataset_id != grant.detail.dataset_id:
        return Reason.DATASET
    if share.meter_point not in grant.detail.meter_points and not _names_by_digest(share, grant):
        return Reason.METER_POINT
    start, end = current_window(grant, record)
    if not start <= share.data_from < share.data_to <= end:
        return Reason.WINDOW
    if share.purpose_code is not None and share.purpose_code != record.purpose_code:
        return Reason.PURPOSE
    return None


def _names_by_digest(share: Share, grant: Grant) -> bool:
    """Whether a token that is known without its words names this meter point."""
    return share.meter_digests is not None and share.meter_digests.get(grant.key) in grant.meter_digests


def _claim(
    one_off: Grant, ask: Ask, token: VerifiedToken, records: Records, freshness: Freshness, shown: list[Shown]
) -> Step:
    """A one-off is active only for the share that holds it. Of several, only the first is offered: one claim a call."""
    result = _result_for(one_off.key, token, records)
    if result is ClaimResult.UNASKED:
        return ClaimFirst(one_off.key, ask.caller, ask.share_id or token.claims.jti)
    if result is ClaimResult.UNREACHABLE:
        return ASK_AGAIN
    held = one_off if result is ClaimResult.HELD else None
    shown = [pair for pair in shown if pair[0].access_mode is AccessMode.ENDURING or pair[0] is held]
    return _answer(token, shown, freshness) if shown else NO


def _result_for(key: ConsentKey, token: VerifiedToken, records: Records) -> ClaimResult:
    """What was said of this very consent. A result for another one never counts."""
    if records.claimed == key:
        return records.claim
    alone = sum(grant.access_mode is _ONE_OFF for grant in token.grants) == 1
    return records.claim if records.claimed is None and alone else ClaimResult.UNASKED


def _answer(token: VerifiedToken, shown: list[Shown], freshness: Freshness) -> Active:
    ends_at = min([current_expiry(grant, record) for grant, record in shown])
    expires_at = UnixTime(min(token.claims.exp, ends_at))
    return Active(token, tuple(shown), expires_at, ends_at, shown[0][1].consent_version, freshness)
