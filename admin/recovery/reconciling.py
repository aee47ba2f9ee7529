"""One telling against the ledger: which events it leads to. Pure; doing it twice changes nothing.

    the ledger has the consent active, the telling is an end         -> told, and the end itself: every node hears of it
    … the telling is a narrower window, and says which               -> told, and the cut
    … anything else that the ledger has not                          -> told: in doubt until somebody does it again
    the ledger has ended it                                          -> nothing
    the ledger does not know it, and it was granted or changed       -> told: lost, to be granted again
    … and it had ended                                               -> nothing: no node can call it active

An end is believed, because to believe a false one costs a consumer a click and to doubt a true one breaks a promise.
What would allow more than the ledger knows is never written: nobody's telling is a consumer's yes. ATPs and EDPs speak
of their own consents only; what is not theirs looks to them as if it did not exist.
"""

from typing import Final

import msgspec

from admin.consents.commands import next_version
from admin.disputes.answering import AnswerTerm
from admin.ledger.events import (
    Act,
    Change,
    ConsentConsumed,
    ConsentDisputed,
    ConsentEvent,
    ConsentPersonal,
    ConsentRevoked,
    ConsentWindowCut,
    Initiator,
    RecoveryTold,
    Route,
    append_of,
    decode_personal,
    encode_personal,
    event_of,
)
from admin.ledger.store import Append, Personal, SubjectState
from admin.recovery.tellings import ENDS, Result, Teller, Telling
from engine.clock import UnixTime
from engine.consent.records import AccessMode, ClientId, ConsentRecord, Role
from engine.consent.states import ENDED, Event, State, step

REASON: Final = "restored_gap"  # of the acts that follow from what was told
_UNKNOWN_CASE: Final = "told-after-restore"  # a dispute's or share's own reference is lost
_NOT_GRANTED: Final = frozenset({State.REQUESTED, State.DECLINED, State.ABANDONED})


class Outcome(msgspec.Struct, frozen=True):
    """What the teller is told, and what is appended; nothing is: the ledger has it all."""

    result: Result
    appends: tuple[Append, ...] = ()


def reconcile(
    telling: Telling,
    teller: Teller,
    consent: SubjectState | None,
    told: SubjectState | None,
    since: int,
    term: AnswerTerm | None = None,
) -> Outcome:
    """consent, told: the consent's newest event, and what was last told of it, if any. since: position of the restore.

    term: how long an ATP has to answer a dispute, from the telling on: by when it was to answer was lost.
    Raises UnreadableEvent where the ledger's own events cannot be read.
    """
    event = None if consent is None else event_of(consent.event)
    if consent is None or not isinstance(event, ConsentEvent):
        return _of_lost(telling, teller, told, since)
    record = event.consent
    if not _is_party(teller, record):
        return Outcome(Result.UNKNOWN if telling.change in ENDS else Result.IN_DOUBT)
    if record.state in _NOT_GRANTED:
        return _of_lost(telling, teller, told, since)
    return _of_known(telling, teller, event, consent, told, since, term or AnswerTerm())


def _of_known(
    telling: Telling,
    teller: Teller,
    event: ConsentEvent,
    consent: SubjectState,
    told: SubjectState | None,
    since: int,
    term: AnswerTerm,
) -> Outcome:
    record = event.consent
    if record.state in ENDED:
        return Outcome(Result.ENDED if _was_told(told, since) else Result.KNOWN)
    if telling.change in ENDS:
        return _end(telling, teller, event, consent, told, term)
    if consent.event.position.seq > since or _adds_nothing(telling, record):
        return Outcome(Result.RESTRICTED if _was_cut(event, since, consent) else Result.KNOWN)
    return _touch(telling, teller, event, consent, told, since)


def _of_lost(telling: Telling, teller: Teller, told: SubjectState | None, since: int) -> Outcome:
    """A consent that the ledger does not have, or not as granted."""
    if telling.change in ENDS:
        return Outcome(Result.UNKNOWN)
    if _was_told(told, since):
        return Outcome(Result.IN_DOUBT)
    change = Change.GRANTED if telling.change is None else telling.change
    return Outcome(Result.IN_DOUBT, (_told(telling, change, teller, telling.parties, told),))


def _end(
    telling: Telling,
    teller: Teller,
    event: ConsentEvent,
    consent: SubjectState,
    told: SubjectState | None,
    term: AnswerTerm,
) -> Outcome:
    record = event.consent
    if telling.change is Change.CONSUMED and record.access_mode is not AccessMode.ONE_OFF:
        return Outcome(Result.NOT_ONE_OFF)
    if telling.change is Change.EXPIRED and record.expires_at <= teller.at:
        return Outcome(Result.KNOWN)  # by its own date; nothing has to be written for it
    noted = _told(telling, telling.change or Change.REVOKED, teller, _parties(record), told)
    ending = append_of(_ending(telling, teller, event, consent, term), consent.version, _same_person(consent))
    return Outcome(Result.ENDED, (noted, ending))


def _ending(
    telling: Telling, teller: Teller, event: ConsentEvent, consent: SubjectState, term: AnswerTerm
) -> ConsentEvent:
    act, at = _act(teller), teller.at
    if telling.change is Change.DISPUTED:
        after = _after(consent, event.consent, Event.DISPUTED)
        case = telling.evidence or _UNKNOWN_CASE
        return ConsentDisputed(event.consent_id, after, event.terms, act, case, term.respond_by(at))
    if telling.change is Change.CONSUMED:
        after = _after(consent, event.consent, Event.CONSUMED)
        edp = teller.client_id if teller.role is Role.EDP else event.consent.edps[0]
        share = telling.share_id or _UNKNOWN_CASE
        return ConsentConsumed(event.consent_id, after, event.terms, act, edp, share)
    after = _after(consent, event.consent, Event.REVOKED)
    return ConsentRevoked(event.consent_id, after, event.terms, act, min(telling.happened_at or at, at))


def _touch(
    telling: Telling,
    teller: Teller,
    event: ConsentEvent,
    consent: SubjectState,
    told: SubjectState | None,
    since: int,
) -> Outcome:
    record, window = event.consent, _narrower(telling, event.consent)
    if window is not None:
        noted = _told(telling, Change.WINDOW_CUT, teller, _parties(record), told)
        after = msgspec.structs.replace(
            _after(consent, record, Event.WINDOW_CUT), data_from=window[0], data_to=window[1]
        )
        cut = ConsentWindowCut(event.consent_id, after, event.terms, _act(teller), record.data_from, record.data_to)
        return Outcome(Result.RESTRICTED, (noted, append_of(cut, consent.version, _same_person(consent))))
    if _was_told(told, since):
        return Outcome(Result.IN_DOUBT)
    change = Change.RENEWED if telling.change is None else telling.change
    return Outcome(Result.IN_DOUBT, (_told(telling, change, teller, _parties(record), told),))


def _adds_nothing(telling: Telling, record: ConsentRecord) -> bool:
    """A grant that the ledger has; or a consent just as the ledger has it."""
    if telling.change is Change.GRANTED:
        return True
    same = (telling.expires_at, telling.window) == (record.expires_at, (record.data_from, record.data_to))
    return telling.change is None and same


def _narrower(telling: Telling, record: ConsentRecord) -> tuple[UnixTime, UnixTime | None] | None:
    """The window that both allow, where it is smaller than the ledger's and not empty."""
    if telling.window is None:
        return None
    start = max(record.data_from, telling.window[0])
    ends = [end for end in (record.data_to, telling.window[1]) if end is not None]
    end = min(ends, default=None)
    is_empty = end is not None and end <= start
    return None if is_empty or (start, end) == (record.data_from, record.data_to) else (start, end)


def _is_party(teller: Teller, record: ConsentRecord) -> bool:
    return teller.role is Role.NODE or teller.client_id in _parties(record)


def _parties(record: ConsentRecord) -> tuple[ClientId, ...]:
    return (record.atp, *record.edps)


def _was_told(told: SubjectState | None, since: int) -> bool:
    return told is not None and told.event.position.seq > since


def _was_cut(event: ConsentEvent, since: int, consent: SubjectState) -> bool:
    return isinstance(event, ConsentWindowCut) and event.act.reason == REASON and consent.event.position.seq > since


def _told(
    telling: Telling, change: Change, teller: Teller, parties: tuple[ClientId, ...], before: SubjectState | None
) -> Append:
    event = RecoveryTold(
        telling.consent_id,
        change,
        teller.client_id,
        teller.role,
        teller.at,
        telling.happened_at,
        telling.evidence,
        telling.position,
        parties,
    )
    return append_of(event, 0 if before is None else before.version)


def _act(teller: Teller) -> Act:
    return Act(Initiator.SYSTEM, teller.client_id, Route.API, teller.at, reason=REASON)


def _after(consent: SubjectState, record: ConsentRecord, event: Event) -> ConsentRecord:
    version = next_version(consent, record)  # above that of what was lost, which receivers may have
    return msgspec.structs.replace(record, state=step(record.state, event), consent_version=version)


def _same_person(state: SubjectState) -> Personal | None:
    """The personal part unchanged; None once the person was erased: an end must still be possible."""
    personal: ConsentPersonal | None = None if state.personal is None else decode_personal(state.personal)
    return None if personal is None else encode_personal(personal)
