"""Commands on consents: what each appends, and each refusal."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from admin.consents.commands import (
    PersonErased,
    UnknownConsent,
    consent_of,
    consume,
    cut_window,
    dispute,
    expire,
    grant,
    renew,
    revoke,
)
from admin.consents.forms import OccupancyForm, RenewForm, RevokeForm, read_grant
from admin.disputes.answering import AnswerTerm
from admin.ledger.events import (
    ConsentConsumed,
    ConsentDisputed,
    ConsentGranted,
    ConsentRenewed,
    ConsentRevoked,
    ConsentWindowCut,
    Initiator,
    LeadOccupant,
    LedgerCreated,
    append_of,
    decode,
    decode_personal,
    encode,
    feed_record_of,
)
from admin.ledger.store import Append, SubjectState
from engine.clock import UnixTime, parse_utc
from engine.consent.meter_points import meter_digest
from engine.consent.reading import InvalidFields
from engine.consent.records import AccessMode, ClientId, ConsentRecord, consent_key
from engine.consent.states import TRANSITIONS, Event, IllegalTransition, State
from tests.support.consents import (
    CONSENT_ID,
    METER_KEY,
    NOW,
    ONE_OFF_DETAILS,
    act,
    by_atp,
    grant_form,
    granted,
    participants,
    subject,
)

REVOKE = RevokeForm(reason="withdrawn")
RENEW = RenewForm(consent_expires_at="2027-11-22T09:00:00Z", address_confirmed=True, wording="renew-1")


def fields(caught: pytest.ExceptionInfo[InvalidFields]) -> set[str]:
    return {problem.field for problem in caught.value.problems}


def record_in(append: Append) -> ConsentRecord:
    assert append.feed is not None
    return msgspec.msgpack.decode(append.feed.record, type=ConsentRecord)


def one_off() -> SubjectState:
    return subject(granted(grant_form(authorization_details=ONE_OFF_DETAILS)))


def ended() -> SubjectState:
    return subject(revoke(subject(granted()), REVOKE, act=act(), now=NOW))


# --- grant


def test_a_grant_appends_an_active_consent_whose_record_engines_get() -> None:
    append = granted()
    assert (append.subject, append.tag, append.expected_version) == (f"consent:{CONSENT_ID}", "consent.granted", 0)
    assert record_in(append) == ConsentRecord(
        State.ACTIVE,
        1,
        ClientId("atp-1"),
        "hh-electricity-import",
        AccessMode.ENDURING,
        NOW,
        parse_utc("2027-05-22T09:00:00Z"),
        parse_utc("2025-11-22T00:00:00Z"),
        None,
        (meter_digest(METER_KEY, consent_key(CONSENT_ID), "mpan:1000000000012"),),
        (ClientId("edp-1"),),
    )


def test_what_the_ledger_alone_keeps_is_in_the_event() -> None:
    event = decode(granted().body)
    assert isinstance(event, ConsentGranted)
    assert event.terms.purpose == "Compare your tariff with others using your half-hourly use"
    assert event.terms.schema_version == "https://ccs.example/rar/energy-consent/v1"
    assert (event.terms.atp_declaration, event.terms.atp_reference) == ("atp-decl-1", "c-4471")
    assert event.terms.locations == ("https://api.edp-1.example/hh",)
    assert event.act.wording == "grant-1"


def test_person_and_meter_points_stand_only_in_the_personal_part() -> None:
    append = granted()
    assert append.personal is not None
    assert append.feed is not None
    personal = decode_personal(append.personal.plaintext)
    assert (personal.person.name, personal.meter_points) == ("Ann Made-Up", ("mpan:1000000000012",))
    for marked in (b"Made-Up", b"Nowhere", b"1000000000012", b"person-77"):
        assert marked not in append.body
        assert marked not in append.feed.record


def test_a_one_off_ends_a_day_after_its_grant() -> None:
    record = consent_of(one_off()).consent
    assert record.expires_at == NOW + 86_400


def test_the_window_is_cut_to_the_occupancy() -> None:
    person = {"person_id": "p-1", "name": "Ann", "address": "1", "moved_in": "2026-06-20T11:00:00Z"}
    record = record_in(granted(grant_form(person=person)))
    assert record.data_from == parse_utc("2026-06-19T23:00:00Z")


def test_a_window_wholly_before_moving_in_is_refused() -> None:
    person = {"person_id": "p-1", "name": "Ann", "address": "1", "moved_in": "2026-11-22T00:00:00Z"}
    with pytest.raises(InvalidFields) as caught:
        granted(grant_form(person=person, authorization_details=ONE_OFF_DETAILS))
    assert fields(caught) == {"authorization_details.data_from"}


def test_both_confirmations_of_a_lead_occupant_are_kept() -> None:
    event = decode(granted(grant_form(lead_occupant={"authority": True, "agreement": True, "wording": "lead-2"})).body)
    assert isinstance(event, ConsentGranted)
    assert event.lead_occupant == LeadOccupant(NOW, NOW, "lead-2")


@pytest.mark.parametrize("boxes", [(True, False), (False, True), (False, False)])
def test_a_lead_occupant_who_does_not_confirm_both_grants_nothing(boxes: tuple[bool, bool]) -> None:
    lead = {"authority": boxes[0], "agreement": boxes[1], "wording": "lead-2"}
    with pytest.raises(InvalidFields) as caught:
        granted(grant_form(lead_occupant=lead))
    assert fields(caught) == {"lead_occupant"}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"address_confirmed": False}, "address_confirmed"),
        ({"client_id": "edp-1"}, "client_id"),
        ({"client_id": "nobody"}, "client_id"),
        ({"edps": ["nobody"]}, "edps.0"),
        ({"edps": ["edp-1", "atp-1"]}, "edps.1"),
        ({"edps": []}, "edps"),
        ({"edps": ["edp-1", "edp-1"]}, "edps"),
        ({"details": {"dataset_id": "hh-gas"}}, "authorization_details.dataset_id"),
        ({"details": {"meter_points": ["mpan:1000000000013"]}}, "authorization_details.meter_points"),
        ({"details": {"locations": ["https://elsewhere.example"]}}, "authorization_details.locations"),
        ({"details": {"renews": "7f3c1b1e-5a0e-4a55-9a53-0d6c2f7c9b10"}}, "authorization_details.renews"),
        ({"details": {"readings": [1.2, 3.4]}}, "authorization_details.readings"),
        ({"readings": {"2026-11-21": [0.1] * 48}}, "readings"),
        (
            {"person": {"person_id": "p", "name": "A", "address": "1", "moved_in": "2026-02-30T00:00:00Z"}},
            "person.moved_in",
        ),
        (
            {
                "person": {
                    "person_id": "p",
                    "name": "A",
                    "address": "1",
                    "moved_in": "2026-03-01T00:00:00Z",
                    "moved_out": "2026-02-01T00:00:00Z",
                }
            },
            "person.moved_out",
        ),
    ],
)
def test_a_wrong_grant_is_refused_by_field(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidFields) as caught:
        granted(grant_form(**changes))
    assert fields(caught) == {field}


def test_a_grant_names_its_meter_points() -> None:
    details = {name: value for name, value in ONE_OFF_DETAILS.items() if name != "meter_points"}
    with pytest.raises(InvalidFields) as caught:
        granted(grant_form(authorization_details=details))
    assert fields(caught) == {"authorization_details.meter_points"}


@pytest.mark.parametrize(("client_id", "field"), [("atp-1", "client_id"), ("edp-1", "edps.0")])
def test_a_suspended_participant_gets_no_new_consent(client_id: str, field: str) -> None:
    with pytest.raises(InvalidFields) as caught:
        grant(
            read_grant(grant_form(), NOW),
            participants(suspended=client_id),
            consent_id=CONSENT_ID,
            meter_key=METER_KEY,
            act=act(),
            now=NOW,
        )
    assert fields(caught) == {field}


# --- renew


def test_a_renewal_keeps_the_scope_and_moves_the_end() -> None:
    before = subject(granted())
    append = renew(before, RENEW, act=act(), now=NOW)
    event = decode(append.body)
    assert isinstance(event, ConsentRenewed)
    old = consent_of(before).consent
    expected = msgspec.structs.replace(old, consent_version=2, expires_at=parse_utc("2027-11-22T09:00:00Z"))
    assert event.consent == expected
    assert event.terms == consent_of(before).terms
    assert (event.previous_expires_at, event.address_confirmed_at, event.act.wording) == (
        old.expires_at,
        NOW,
        "renew-1",
    )
    assert (append.expected_version, append.personal) == (1, granted().personal)


@pytest.mark.parametrize(
    ("form", "field"),
    [
        (msgspec.structs.replace(RENEW, address_confirmed=False), "address_confirmed"),
        (msgspec.structs.replace(RENEW, consent_expires_at="2027-11-22T09:30:01Z"), "consent_expires_at"),
        (msgspec.structs.replace(RENEW, consent_expires_at="2027-05-22T09:00:00Z"), "consent_expires_at"),
        (msgspec.structs.replace(RENEW, consent_expires_at="2027-02-30T09:00:00Z"), "consent_expires_at"),
    ],
)
def test_a_wrong_renewal_is_refused_by_field(form: RenewForm, field: str) -> None:
    with pytest.raises(InvalidFields) as caught:
        renew(subject(granted()), form, act=act(), now=NOW)
    assert fields(caught) == {field}


def test_after_its_expiry_a_consent_is_not_renewed_even_if_no_event_ended_it() -> None:
    state = subject(granted())
    late = consent_of(state).consent.expires_at
    form = msgspec.structs.replace(RENEW, consent_expires_at="2028-01-01T09:00:00Z")
    with pytest.raises(IllegalTransition, match="reached its expiry"):
        renew(state, form, act=act(), now=late)


def test_a_one_off_is_not_renewed() -> None:
    with pytest.raises(IllegalTransition, match="one-off"):
        renew(one_off(), RENEW, act=act(), now=NOW)


# --- cut_window


def test_a_corrected_move_in_cuts_the_window_and_keeps_what_was() -> None:
    append = cut_window(subject(granted()), OccupancyForm(moved_in="2026-06-20T11:00:00Z"), act=act(), now=NOW)
    event = decode(append.body)
    assert isinstance(event, ConsentWindowCut)
    assert event.consent.data_from == parse_utc("2026-06-19T23:00:00Z")
    assert (event.consent.consent_version, event.previous_from) == (2, parse_utc("2025-11-22T00:00:00Z"))
    assert append.personal is not None
    assert decode_personal(append.personal.plaintext).person.moved_in == parse_utc("2026-06-20T11:00:00Z")


def test_a_window_is_never_widened() -> None:
    narrow = subject(cut_window(subject(granted()), OccupancyForm(moved_in="2026-06-20T11:00:00Z"), act=act(), now=NOW))
    with pytest.raises(IllegalTransition, match="already"):
        cut_window(narrow, OccupancyForm(moved_in="2025-01-01T00:00:00Z"), act=act(), now=NOW)


def test_an_occupancy_that_leaves_nothing_is_a_revocation_not_a_cut() -> None:
    with pytest.raises(InvalidFields, match="nothing of the window"):
        cut_window(subject(granted()), OccupancyForm(moved_out="2025-11-01T00:00:00Z"), act=act(), now=NOW)


def test_an_erased_person_s_window_cannot_be_cut() -> None:
    with pytest.raises(PersonErased):
        cut_window(subject(granted(), erased=True), OccupancyForm(moved_in="2026-06-20T11:00:00Z"), act=act(), now=NOW)


# --- ends


def test_a_revocation_ends_the_consent_and_says_why_and_since_when() -> None:
    form = RevokeForm(reason="moved_out", effective_from="2026-11-01T00:00:00Z")
    append = revoke(subject(granted()), form, act=by_atp(), now=NOW)
    event = decode(append.body)
    assert isinstance(event, ConsentRevoked)
    assert (event.act.reason, event.effective_from) == ("moved_out", parse_utc("2026-11-01T00:00:00Z"))
    record = record_in(append)
    assert (record.state, record.consent_version) == (State.REVOKED, 2)
    assert append.feed is not None
    assert b"moved_out" not in append.feed.record


@pytest.mark.parametrize("since", ["2026-11-23T00:00:00Z", "2026-02-30T00:00:00Z"])
def test_a_revocation_is_not_for_the_future(since: str) -> None:
    with pytest.raises(InvalidFields) as caught:
        revoke(subject(granted()), RevokeForm(reason="moved_out", effective_from=since), act=act(), now=NOW)
    assert fields(caught) == {"effective_from"}


def test_an_erased_person_s_consent_can_still_be_ended() -> None:
    append = revoke(subject(granted(), erased=True), REVOKE, act=act(), now=NOW)
    assert append.personal is None
    assert record_in(append).state is State.REVOKED


def test_a_dispute_ends_the_consent() -> None:
    append = dispute(subject(granted()), case_id="D-17", act=act(), now=NOW)
    assert record_in(append).state is State.TERMINATED_BY_DISPUTE


@pytest.mark.parametrize(
    ("term", "respond_by"),
    [(None, "2026-12-07T17:00:00Z"), (AnswerTerm(2), "2026-11-25T17:00:00Z")],
)
def test_a_dispute_says_by_when_its_atp_answers(term: AnswerTerm | None, respond_by: str) -> None:
    """Counted from now, a Sunday, and kept: a setting that is changed later changes no promise."""
    event = decode(dispute(subject(granted()), case_id="D-17", act=act(), now=NOW, term=term).body)
    assert isinstance(event, ConsentDisputed)
    assert event.respond_by == parse_utc(respond_by)


def test_by_when_a_dispute_is_answered_is_not_for_engines() -> None:
    event = decode(dispute(subject(granted()), case_id="D-17", act=act(), now=NOW).body)
    assert isinstance(event, ConsentDisputed)
    without = msgspec.structs.replace(event, respond_by=None)
    assert feed_record_of(event) == feed_record_of(without)


def test_a_dispute_is_not_for_third_parties() -> None:
    with pytest.raises(UnknownConsent):
        dispute(subject(granted()), case_id="D-17", act=by_atp(), now=NOW)


def test_a_one_off_is_consumed_by_a_share_of_its_provider() -> None:
    event = decode(consume(one_off(), edp=ClientId("edp-1"), share_id="s-9", act=act(), now=NOW).body)
    assert isinstance(event, ConsentConsumed)
    assert (event.consent.state, event.edp, event.share_id) == (State.CONSUMED, "edp-1", "s-9")


def test_only_a_one_off_is_consumed() -> None:
    with pytest.raises(IllegalTransition, match="one-off"):
        consume(subject(granted()), edp=ClientId("edp-1"), share_id="s-9", act=act(), now=NOW)


def test_a_one_off_is_not_consumed_by_another_provider() -> None:
    with pytest.raises(UnknownConsent):
        consume(one_off(), edp=ClientId("edp-2"), share_id="s-9", act=act(), now=NOW)


def test_a_consent_expires_at_its_expiry_and_not_before() -> None:
    state = subject(granted())
    at = consent_of(state).consent.expires_at
    with pytest.raises(IllegalTransition, match="not reached"):
        expire(state, act=act(Initiator.SYSTEM, "system"), now=UnixTime(at - 1))
    assert record_in(expire(state, act=act(Initiator.SYSTEM, "system"), now=at)).state is State.EXPIRED


def test_whatever_has_ended_stays_ended() -> None:
    over = ended()
    late = consent_of(over).consent.expires_at
    with pytest.raises(IllegalTransition):
        revoke(over, REVOKE, act=act(), now=NOW)
    with pytest.raises(IllegalTransition):
        renew(over, RENEW, act=act(), now=NOW)
    with pytest.raises(IllegalTransition):
        cut_window(over, OccupancyForm(moved_in="2026-06-20T11:00:00Z"), act=act(), now=NOW)
    with pytest.raises(IllegalTransition):
        dispute(over, case_id="D-17", act=act(), now=NOW)
    with pytest.raises(IllegalTransition):
        consume(over, edp=ClientId("edp-1"), share_id="s-9", act=act(), now=NOW)
    with pytest.raises(IllegalTransition):
        expire(over, act=act(), now=late)


# --- whose it is


def test_a_third_party_reaches_its_own_consents_only() -> None:
    state = subject(granted())
    assert consent_of(state, by_atp("atp-1")).consent_id == CONSENT_ID
    with pytest.raises(UnknownConsent) as foreign:
        revoke(state, REVOKE, act=by_atp("atp-2"), now=NOW)
    with pytest.raises(UnknownConsent) as foreign_and_ended:
        revoke(ended(), REVOKE, act=by_atp("atp-2"), now=NOW)
    assert foreign.value.text == foreign_and_ended.value.text == "there is no such consent"


def test_a_subject_that_is_no_consent_is_unknown() -> None:
    other = subject(append_of(LedgerCreated("sandbox", "0" * 16, NOW), 0))
    with pytest.raises(UnknownConsent):
        consent_of(other)


CHANGES: dict[Event, Callable[[SubjectState], Append]] = {
    Event.RENEWED: lambda state: renew(state, RENEW, act=act(), now=NOW),
    Event.WINDOW_CUT: lambda state: cut_window(
        state, OccupancyForm(moved_in="2026-02-01T00:00:00Z"), act=act(), now=NOW
    ),
    Event.EXPIRED: lambda state: expire(state, act=act(), now=consent_of(state).consent.expires_at),
    Event.REVOKED: lambda state: revoke(state, REVOKE, act=act(), now=NOW),
    Event.DISPUTED: lambda state: dispute(state, case_id="D-1", act=act(), now=NOW),
    Event.CONSUMED: lambda state: consume(state, edp=ClientId("edp-1"), share_id="share-1", act=act(), now=NOW),
}


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", CHANGES)
def test_the_state_table_alone_says_what_may_happen_to_a_consent(event: Event, state: State) -> None:
    form = grant_form(authorization_details=ONE_OFF_DETAILS) if event is Event.CONSUMED else None
    made = granted(form)
    before = decode(made.body)
    assert isinstance(before, ConsentGranted)
    record = msgspec.structs.replace(before.consent, state=state)
    stands = msgspec.structs.replace(made, body=encode(msgspec.structs.replace(before, consent=record)))
    allowed = TRANSITIONS.get(state, {}).get(event)
    if allowed is not None:
        assert record_in(CHANGES[event](subject(stands))).state is allowed
        return
    with pytest.raises(IllegalTransition) as caught:
        CHANGES[event](subject(stands))
    assert caught.value.text.startswith(f"the consent is {state.name.lower().replace('_', ' ')}: it cannot be ")
    assert "_" not in caught.value.text


# --- after a restore


def after_expiry(state: SubjectState) -> UnixTime:
    return UnixTime(consent_of(state).consent.expires_at + 1)


@pytest.mark.parametrize(
    "change",
    [
        lambda state: renew(state, RENEW, act=act(), now=NOW),
        lambda state: cut_window(state, OccupancyForm(moved_in="2026-06-20T11:00:00Z"), act=act(), now=NOW),
        lambda state: revoke(state, REVOKE, act=act(), now=NOW),
        lambda state: dispute(state, case_id="case-1", act=act(), now=NOW),
        lambda state: expire(state, act=act(Initiator.SYSTEM, "system"), now=after_expiry(state)),
        lambda state: consume(one_off_at(state.floor), edp=ClientId("edp-1"), share_id="s-9", act=act(), now=NOW),
    ],
)
def test_whatever_changes_a_consent_after_a_restore_stands_above_what_was_lost(
    change: Callable[[SubjectState], Append],
) -> None:
    """floor: where the ledger began anew; above every version that it had given before."""
    for floor, version in ((0, 2), (7_000, 7_000)):
        assert record_in(change(msgspec.structs.replace(subject(granted()), floor=floor))).consent_version == version


def one_off_at(floor: int) -> SubjectState:
    return msgspec.structs.replace(one_off(), floor=floor)
