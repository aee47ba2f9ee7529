"""What may be done to a consent: each command takes the consent as it stands and returns the one event to append.

Pure: time, ids and keys are passed in; the caller appends, and a `VersionConflict` there means that somebody was
faster. A command that does not fit raises a typed fault and nothing has happened.
"""

from collections.abc import Iterator, Mapping

import msgspec

from admin.consents.forms import OUTSIDE, Grant, GrantForm, InvalidForm, OccupancyForm, RenewForm, RevokeForm
from admin.disputes.answering import AnswerTerm
from admin.ledger.events import (
    Act,
    ConsentConsumed,
    ConsentDisputed,
    ConsentEvent,
    ConsentExpired,
    ConsentGranted,
    ConsentPersonal,
    ConsentRenewed,
    ConsentRevoked,
    ConsentWindowCut,
    Initiator,
    LeadOccupant,
    ParticipantEvent,
    Person,
    Terms,
    append_of,
    decode_personal,
    encode_personal,
    event_of,
)
from admin.ledger.store import Append, Personal, SubjectState
from engine.clock import UnixTime
from engine.consent.energy_consent import (
    ONE_OFF_SECONDS,
    Limits,
    instant,
    term_problems,
)
from engine.consent.meter_points import meter_digest
from engine.consent.reading import InvalidFields, Problem
from engine.consent.records import AccessMode, ClientId, ConsentId, ConsentRecord, Role, consent_key
from engine.consent.states import ENDED, Event, IllegalTransition, State, step
from engine.consent.windows import Window, cut_to_occupancy
from engine.errors import Fault, Kind


class UnknownConsent(Fault):
    """There is no such consent, or it is not this caller's: nobody learns which."""

    kind = Kind.NOT_FOUND


class PersonErased(Fault):
    """The person's data was erased: nothing that needs it can be done to the consent any more."""

    kind = Kind.CONFLICT


def grant(
    asked: Grant,
    participants: Mapping[ClientId, ParticipantEvent],
    *,
    consent_id: ConsentId,
    meter_key: bytes,
    act: Act,
    now: UnixTime,
) -> Append:
    """A new, active consent (CMS-01). participants: the newest event of each client that the form names, if any.

    consent_id: a fresh UUIDv4. Raises InvalidFields where a participant is unknown, suspended, of another role, or
    has not published the data set.
    """
    problems = list(_party_problems(asked.form, participants))
    if problems:
        raise InvalidFields(problems)
    form = asked.form
    lead = None if form.lead_occupant is None else LeadOccupant(now, now, form.lead_occupant.wording)
    event = ConsentGranted(
        consent_id,
        _granted_record(asked, consent_id, meter_key, now),
        _terms(form, participants),
        msgspec.structs.replace(act, wording=form.wording),
        lead,
    )
    return append_of(event, 0, encode_personal(_personal(form)))


def renew(state: SubjectState, form: RenewForm, *, act: Act, now: UnixTime, limits: Limits | None = None) -> Append:
    """The same scope for longer, while it is still active (CMS-24). A one-off is never renewed.

    It stays within the occupancy, and an ATP names evidence of what the consumer did. Raises IllegalTransition (ended,
    expired by the clock, or one-off), InvalidFields, UnknownConsent, PersonErased where an ATP renews.
    """
    before = consent_of(state, act)
    record = before.consent
    after = _living(before, Event.RENEWED, now)
    if record.access_mode is AccessMode.ONE_OFF:
        raise IllegalTransition("a one-off consent cannot be renewed")
    expires = instant(form.consent_expires_at)
    problems = [
        *_renewal_problems(form, record, expires, now, limits or Limits()),
        *_evidence_problems(form, act),
        *_occupancy_problems(state, expires, act),
    ]
    if problems or expires is None:
        raise InvalidFields(problems)
    changed = _next(state, record, after, expires_at=expires)
    event = ConsentRenewed(
        before.consent_id,
        changed,
        before.terms,
        msgspec.structs.replace(act, wording=form.wording),
        record.expires_at,
        now,
        form.evidence or "",
    )
    return append_of(event, state.version, _same_person(state))


def cut_window(state: SubjectState, form: OccupancyForm, *, act: Act, now: UnixTime) -> Append:
    """Cut the window to a corrected occupancy (CMS-07). A window only ever gets smaller.

    Raises IllegalTransition (ended, or nothing to cut), InvalidFields (nothing would be left: revoke instead),
    PersonErased, UnknownConsent.
    """
    before = consent_of(state, act)
    record = before.consent
    after = _living(before, Event.WINDOW_CUT, now)
    personal = _require_personal(state)
    person = msgspec.structs.replace(
        personal.person,
        moved_in=instant(form.moved_in) or personal.person.moved_in,
        moved_out=instant(form.moved_out) or personal.person.moved_out,
    )
    window = cut_to_occupancy(Window(record.data_from, record.data_to), person.moved_in, person.moved_out)
    if window is None:
        raise InvalidFields([Problem("", OUTSIDE)])
    if (window.start, window.end) == (record.data_from, record.data_to):
        raise IllegalTransition("the window lies inside the occupancy already")
    changed = _next(state, record, after, data_from=window.start, data_to=window.end)
    event = ConsentWindowCut(before.consent_id, changed, before.terms, act, record.data_from, record.data_to)
    return append_of(event, state.version, encode_personal(msgspec.structs.replace(personal, person=person)))


def consume(state: SubjectState, *, edp: ClientId, share_id: str, act: Act, now: UnixTime) -> Append:
    """A one-off was used by a share of this EDP (CMS-05). Raises IllegalTransition, UnknownConsent."""
    before = consent_of(state, act)
    after = _living(before, Event.CONSUMED, now)
    if before.consent.access_mode is not AccessMode.ONE_OFF:
        raise IllegalTransition("only a one-off consent is consumed")
    if edp not in before.consent.edps:
        raise UnknownConsent("there is no such consent")
    event = ConsentConsumed(before.consent_id, _next(state, before.consent, after), before.terms, act, edp, share_id)
    return append_of(event, state.version, _same_person(state))


def expire(state: SubjectState, *, act: Act, now: UnixTime) -> Append:
    """Its time is over (CMS-25). Raises IllegalTransition also when it is not over yet."""
    before = consent_of(state, act)
    after = _after(before, Event.EXPIRED)
    if now < before.consent.expires_at:
        raise IllegalTransition("the consent has not reached its expiry")
    event = ConsentExpired(before.consent_id, _next(state, before.consent, after), before.terms, act)
    return append_of(event, state.version, _same_person(state))


def revoke(state: SubjectState, form: RevokeForm, *, act: Act, now: UnixTime) -> Append:
    """Take a consent back. effective_from in the past is recorded as said (CMS-23); the end itself is now.

    Raises IllegalTransition when it has ended already, InvalidFields, UnknownConsent.
    """
    return _revoked(state, form, act, now)


def invalidate(state: SubjectState, form: InvalidForm, *, act: Act, now: UnixTime) -> Append:
    """End a consent that turned out to be no longer valid, whatever its granter wants (CMS-23). Raises as `revoke`."""
    return _revoked(state, form, act, now)


def _revoked(state: SubjectState, form: RevokeForm | InvalidForm, act: Act, now: UnixTime) -> Append:
    before = consent_of(state, act)
    after = _after(before, Event.REVOKED)
    since = now if form.effective_from is None else instant(form.effective_from)
    if since is None or since > now:
        raise InvalidFields([Problem("effective_from", "must be a date that exists and not lie in the future")])
    told = msgspec.structs.replace(act, reason=form.reason)
    record = _next(state, before.consent, after)
    event = ConsentRevoked(before.consent_id, record, before.terms, told, since, form.evidence or "")
    return append_of(event, state.version, _same_person(state))


def dispute(state: SubjectState, *, case_id: str, act: Act, now: UnixTime, term: AnswerTerm | None = None) -> Append:
    """End a consent at once because somebody disputes it. The consumer's and the operator's alone, never an ATP's.

    term: how long its ATP has to answer, from now. Raises IllegalTransition when it has ended already, UnknownConsent.
    """
    before = consent_of(state, act)
    if act.initiator is Initiator.ATP:
        raise UnknownConsent("there is no such consent")
    after = _after(before, Event.DISPUTED)
    record, respond_by = _next(state, before.consent, after), (term or AnswerTerm()).respond_by(now)
    event = ConsentDisputed(before.consent_id, record, before.terms, act, case_id, respond_by)
    return append_of(event, state.version, _same_person(state))


def consent_of(state: SubjectState, act: Act | None = None) -> ConsentEvent:
    """The newest event of a consent. act: by whom; an ATP sees its own consents only. Raises UnknownConsent."""
    event = event_of(state.event)
    if not isinstance(event, ConsentEvent):
        raise UnknownConsent("there is no such consent")
    if act is not None and act.initiator is Initiator.ATP and act.actor != event.consent.atp:
        raise UnknownConsent("there is no such consent", detail=f"{act.actor} reached for another's consent")
    return event


def _living(before: ConsentEvent, event: Event, now: UnixTime) -> State:
    """The state after an event that only a consent within its time may have."""
    after, expires = _after(before, event), before.consent.expires_at
    if now >= expires:
        raise IllegalTransition(
            f"the consent has reached its expiry: it cannot be {event.value}", state=State.EXPIRED, since=expires
        )
    return after


def _after(before: ConsentEvent, event: Event) -> State:
    """The state after an event; whoever comes too late is told how it ended, and when."""
    try:
        return step(before.consent.state, event)
    except IllegalTransition as fault:
        since = before.act.at if before.consent.state in ENDED else None
        raise IllegalTransition(fault.text, state=fault.state, since=since) from None


def next_version(state: SubjectState, record: ConsentRecord) -> int:
    """The version of a consent's next event: above any that anybody was ever told of it.

    One more than before; the first one after a restore is the position where the ledger began anew, or a later one.
    Versions that were lost are below it: a consent's version is at most the position of its event, because each
    version costs a position, and a restore begins above every position ever given (docs/decisions/0018).
    """
    return max(record.consent_version + 1, state.floor)


def _next(state: SubjectState, record: ConsentRecord, after: State, **changes: UnixTime | None) -> ConsentRecord:
    """The record after an event; each event is a version."""
    return msgspec.structs.replace(record, state=after, consent_version=next_version(state, record), **changes)


def _same_person(state: SubjectState) -> Personal | None:
    """The personal part unchanged; None once the person was erased: an end must still be possible."""
    return None if state.personal is None else encode_personal(decode_personal(state.personal))


def _require_personal(state: SubjectState) -> ConsentPersonal:
    if state.personal is None:
        raise PersonErased("the person's data was erased")
    return decode_personal(state.personal)


def _renewal_problems(
    form: RenewForm, record: ConsentRecord, expires: UnixTime | None, now: UnixTime, limits: Limits
) -> Iterator[Problem]:
    if not form.address_confirmed:
        yield Problem("address_confirmed", "must be confirmed")
    if expires is None:
        yield Problem("consent_expires_at", "is not a date that exists")
    elif expires <= record.expires_at:
        yield Problem("consent_expires_at", "must be later than before")
    else:
        yield from term_problems(expires, now, limits)


def _evidence_problems(form: RenewForm, act: Act) -> Iterator[Problem]:
    if act.initiator is Initiator.ATP and form.evidence is None:
        yield Problem("evidence", "is missing: your reference to what the consumer did with you")


def _occupancy_problems(state: SubjectState, expires: UnixTime | None, act: Act) -> Iterator[Problem]:
    """Nobody consents for after they have moved out. Raises PersonErased where an ATP renews and nobody knows."""
    if state.personal is None and act.initiator is not Initiator.ATP:
        return
    moved_out = _require_personal(state).person.moved_out
    if expires is not None and moved_out is not None and expires > moved_out:
        yield Problem("consent_expires_at", "must not be later than the end of the occupancy")


def _party_problems(form: GrantForm, participants: Mapping[ClientId, ParticipantEvent]) -> Iterator[Problem]:
    if not in_good_standing(participants.get(ClientId(form.client_id)), Role.ATP):
        yield Problem("client_id", "is not a third party that is registered and in good standing")
    dataset_id = form.authorization_details.dataset_id
    for index, edp in enumerate(form.edps):
        event = participants.get(ClientId(edp))
        if event is None or not in_good_standing(event, Role.EDP):
            yield Problem(f"edps.{index}", "is not a data provider that is registered and in good standing")
        elif dataset_id not in event.participant.datasets:
            yield Problem("authorization_details.dataset_id", "is not published by every data provider named")
    offered = set(_locations(form, participants))
    if not offered.issuperset(form.authorization_details.locations or ()):
        yield Problem("authorization_details.locations", "is not an address of the data providers named")


def in_good_standing(event: ParticipantEvent | None, role: Role) -> bool:
    """Whether there is such a participant, of this role and not suspended."""
    return event is not None and event.participant.role is role and not event.participant.suspended


def _locations(form: GrantForm, participants: Mapping[ClientId, ParticipantEvent]) -> tuple[str, ...]:
    found = (participants.get(ClientId(edp)) for edp in form.edps)
    return tuple(location for event in found if event is not None for location in event.organisation.locations)


def _granted_record(asked: Grant, consent_id: ConsentId, meter_key: bytes, now: UnixTime) -> ConsentRecord:
    entry, key = asked.requested.entry, consent_key(consent_id)
    expires = asked.requested.expires_at
    return ConsentRecord(
        state=step(None, Event.GRANTED),
        consent_version=1,
        atp=ClientId(asked.form.client_id),
        dataset_id=entry.dataset_id,
        access_mode=asked.requested.access_mode,
        granted_at=now,
        expires_at=UnixTime(now + ONE_OFF_SECONDS) if expires is None else expires,
        data_from=asked.window.start,
        data_to=asked.window.end,
        meter_digests=tuple(meter_digest(meter_key, key, point) for point in entry.meter_points or ()),
        edps=tuple(ClientId(edp) for edp in asked.form.edps),
        purpose_code=entry.purpose_code,
    )


def _terms(form: GrantForm, participants: Mapping[ClientId, ParticipantEvent]) -> Terms:
    entry = form.authorization_details
    return Terms(
        schema_version=entry.type,
        purpose=entry.purpose,
        atp_declaration=entry.atp_declaration,
        atp_reference=entry.atp_reference,
        locations=entry.locations or _locations(form, participants),
    )


def _personal(form: GrantForm) -> ConsentPersonal:
    person = form.person
    occupancy = instant(person.moved_in), instant(person.moved_out)
    points = form.authorization_details.meter_points or ()
    return ConsentPersonal(Person(person.person_id, person.name, person.address, *occupancy), points)
