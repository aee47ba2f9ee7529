"""One telling against the ledger: ends are written, permissions never, and doing it twice changes nothing."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from admin.consents.commands import grant, renew, revoke
from admin.consents.forms import RenewForm, RevokeForm, read_grant
from admin.disputes.answering import AnswerTerm
from admin.ledger.events import (
    Act,
    Change,
    ConsentConsumed,
    ConsentDisputed,
    ConsentEvent,
    ConsentRevoked,
    ConsentWindowCut,
    Initiator,
    RecoveryTold,
    Route,
    decode,
)
from admin.ledger.store import Append, SubjectState
from admin.recovery.reconciling import REASON, Outcome, reconcile
from admin.recovery.tellings import ENDS, Result, Teller, Telling, told_by_node
from engine.clock import UnixTime, parse_utc
from engine.consent.records import ClientId, ConsentRecord, Role
from engine.consent.states import ENDED, State
from engine.feed.entries import Position
from engine.feed.gap_reports import TouchedConsent
from tests.support.consents import CONSENT_ID, METER_KEY, NOW, ONE_OFF_DETAILS, act, grant_form, granted, participants
from tests.support.consents import subject as subject_of

SINCE = 100  # position of the restore
LATER = UnixTime(NOW + 600)
EDP = Teller(ClientId("edp-1"), Role.EDP, LATER)
ATP = Teller(ClientId("atp-1"), Role.ATP, LATER)
NODE = Teller(ClientId("node-1"), Role.NODE, LATER)
STRANGERS = [Teller(ClientId("edp-2"), Role.EDP, LATER), Teller(ClientId("atp-2"), Role.ATP, LATER)]


def at(state: SubjectState, seq: int) -> SubjectState:
    position = Position("0" * 16, seq)
    return msgspec.structs.replace(state, event=msgspec.structs.replace(state.event, position=position))


def active(form: bytes | None = None) -> SubjectState:
    return at(subject_of(granted(form)), 50)


def one_off() -> SubjectState:
    append = grant(
        read_grant(grant_form(authorization_details=ONE_OFF_DETAILS), NOW),
        participants(),
        consent_id=CONSENT_ID,
        meter_key=METER_KEY,
        act=act(),
        now=NOW,
    )
    return at(subject_of(append), 50)


def record_of(state: SubjectState) -> ConsentRecord:
    event = decode(state.event.body)
    assert isinstance(event, ConsentEvent)
    return event.consent


def telling(change: Change | None, **members: object) -> Telling:
    base = Telling(CONSENT_ID, change, UnixTime(NOW + 60), "set-1", parties=(ClientId("atp-1"),))
    return msgspec.structs.replace(base, **members)


def events(outcome: Outcome) -> list[object]:
    return [decode(append.body) for append in outcome.appends]


def after(outcome: Outcome, before: SubjectState | None) -> tuple[SubjectState | None, SubjectState | None]:
    """The consent and what was told of it, once the outcome is appended behind the restore."""
    consent, told = before, None
    for seq, append in enumerate(outcome.appends, SINCE + 1):
        state = at(subject_of(append), seq)
        if append.subject.startswith("told:"):
            told = state
        else:
            consent = state
    return consent, told


@pytest.mark.parametrize("teller", [EDP, ATP, NODE])
def test_a_told_revocation_becomes_a_real_one_with_its_evidence(teller: Teller) -> None:
    outcome = reconcile(telling(Change.REVOKED), teller, active(), None, SINCE)
    told, ended = events(outcome)
    assert outcome.result is Result.ENDED
    assert isinstance(told, RecoveryTold)
    assert (told.teller, told.evidence, told.happened_at) == (teller.client_id, "set-1", NOW + 60)
    assert told.parties == ("atp-1", "edp-1")
    assert isinstance(ended, ConsentRevoked)
    assert (ended.consent.state, ended.consent.consent_version) == (State.REVOKED, 2)
    assert (ended.act.actor, ended.act.reason, ended.effective_from) == (teller.client_id, REASON, NOW + 60)
    assert outcome.appends[1].personal is not None


def test_a_told_dispute_ends_as_a_dispute() -> None:
    _, ended = events(reconcile(telling(Change.DISPUTED), EDP, active(), None, SINCE))
    assert isinstance(ended, ConsentDisputed)
    assert (ended.consent.state, ended.case_id) == (State.TERMINATED_BY_DISPUTE, "set-1")


@pytest.mark.parametrize("teller", [EDP, ATP, NODE])
@pytest.mark.parametrize(("days", "respond_by"), [(None, "2026-12-07T17:00:00Z"), (1, "2026-11-24T17:00:00Z")])
def test_a_told_dispute_is_to_be_answered_from_the_telling_on(
    teller: Teller, days: int | None, respond_by: str
) -> None:
    """By when it was to be answered was lost: its ATP gets the whole term again, whenever it says that it was."""
    term = None if days is None else AnswerTerm(days)
    long_ago = telling(Change.DISPUTED, happened_at=UnixTime(NOW - 30 * 86_400))
    _, ended = events(reconcile(long_ago, teller, active(), None, SINCE, term))
    assert isinstance(ended, ConsentDisputed)
    assert ended.respond_by == parse_utc(respond_by)


def test_a_consumed_one_off_is_consumed_by_the_share_that_is_told() -> None:
    outcome = reconcile(telling(Change.CONSUMED, share_id="s-1"), EDP, one_off(), None, SINCE)
    _, ended = events(outcome)
    assert isinstance(ended, ConsentConsumed)
    assert (ended.edp, ended.share_id) == ("edp-1", "s-1")


def test_an_enduring_consent_is_not_consumed() -> None:
    assert reconcile(telling(Change.CONSUMED), EDP, active(), None, SINCE) == Outcome(Result.NOT_ONE_OFF)


def test_a_consent_that_is_over_by_its_own_date_needs_no_telling() -> None:
    late = msgspec.structs.replace(NODE, at=UnixTime(record_of(active()).expires_at))
    assert reconcile(telling(Change.EXPIRED), late, active(), None, SINCE) == Outcome(Result.KNOWN)


@pytest.mark.parametrize("teller", STRANGERS)
def test_to_strangers_a_consent_looks_as_if_it_did_not_exist(teller: Teller) -> None:
    for change in Change:
        foreign = reconcile(telling(change), teller, active(), None, SINCE)
        nowhere = reconcile(telling(change), teller, None, None, SINCE)
        assert foreign.result is nowhere.result
        assert foreign.appends == ()


def test_what_is_told_of_a_consent_that_the_ledger_lost_is_listed_and_never_granted() -> None:
    outcome = reconcile(telling(Change.GRANTED), ATP, None, None, SINCE)
    (told,) = events(outcome)
    assert (outcome.result, type(told)) == (Result.IN_DOUBT, RecoveryTold)
    assert reconcile(telling(Change.REVOKED), ATP, None, None, SINCE) == Outcome(Result.UNKNOWN)


def test_a_told_renewal_leaves_the_consent_as_it_is_and_in_doubt() -> None:
    outcome = reconcile(telling(Change.RENEWED), ATP, active(), None, SINCE)
    (told,) = events(outcome)
    assert (outcome.result, type(told)) == (Result.IN_DOUBT, RecoveryTold)


def test_what_was_done_again_since_the_restore_is_known() -> None:
    state = active()
    form = RenewForm(consent_expires_at="2027-06-22T09:00:00Z", address_confirmed=True, wording="renew-1")
    again = at(subject_of(renew(state, form, act=act(), now=NOW)), SINCE + 5)
    assert reconcile(telling(Change.RENEWED), ATP, again, None, SINCE) == Outcome(Result.KNOWN)


def test_an_end_is_believed_even_of_a_consent_that_was_written_since() -> None:
    again = at(active(), SINCE + 5)
    assert reconcile(telling(Change.REVOKED), EDP, again, None, SINCE).result is Result.ENDED


def test_a_narrower_window_of_an_old_replica_is_cut_and_a_wider_one_is_not() -> None:
    state = active()
    record = record_of(state)
    cut = (UnixTime(record.data_from + 60), UnixTime(record.data_from + 86_400))
    outcome = reconcile(telling(None, window=cut, expires_at=record.expires_at), NODE, state, None, SINCE)
    _, written = events(outcome)
    assert isinstance(written, ConsentWindowCut)
    assert (written.consent.data_from, written.consent.data_to) == cut
    wider = (UnixTime(record.data_from - 60), None)
    assert reconcile(telling(None, window=wider), NODE, state, None, SINCE).result is Result.IN_DOUBT


def test_a_node_that_knows_the_consent_just_as_the_ledger_does_adds_nothing() -> None:
    record = record_of(active())
    same = telling(None, window=(record.data_from, record.data_to), expires_at=record.expires_at)
    assert reconcile(same, NODE, active(), None, SINCE) == Outcome(Result.KNOWN)


def test_an_ended_consent_is_known_and_ended_by_what_was_told_if_it_was() -> None:
    gone = at(subject_of(revoke(active(), RevokeForm(reason="withdrawn"), act=act(), now=NOW)), 60)
    assert reconcile(telling(Change.REVOKED), EDP, gone, None, SINCE) == Outcome(Result.KNOWN)


@pytest.mark.parametrize("state", ["revoked", "terminated_by_dispute", "active", "a_newer_programs"])
def test_what_a_node_holds_is_read(state: str) -> None:
    touched = TouchedConsent(CONSENT_ID, state, 7, 2_000, 10, None, ("atp-1", "edp-1"))
    read = told_by_node(touched)
    assert read.change == (Change(state) if state in {c.value for c in ENDS} else None)
    assert (read.window, read.expires_at, read.position) == ((10, None), 2_000, 7)


STATES = st.sampled_from(["active", "none", "revoked", "one_off"])


@given(st.sampled_from([*Change, None]), st.sampled_from([EDP, ATP, NODE, *STRANGERS]), STATES, st.booleans())
def test_whatever_is_told_gives_no_permission_and_once_is_as_good_as_twice(
    change: Change | None, teller: Teller, which: str, since_written: bool
) -> None:
    before = _consent(which)
    if before is not None and since_written:
        before = at(before, SINCE + 50)
    outcome = reconcile(telling(change), teller, before, None, SINCE)
    consent, told = after(outcome, before)
    if consent is not None:
        now, then = record_of(consent), record_of(consent if before is None else before)
        assert before is not None  # nobody's telling makes a consent
        assert now.expires_at <= then.expires_at
        assert now.data_from >= then.data_from
        assert then.state is State.ACTIVE or now.state is then.state
    again = reconcile(telling(change), teller, consent, told, SINCE)
    assert (again.result, again.appends) == (outcome.result, ())


@given(st.sampled_from(sorted(ENDS - {Change.EXPIRED, Change.CONSUMED})), st.sampled_from([EDP, ATP, NODE]))
def test_an_end_told_by_a_party_always_ends(change: Change, teller: Teller) -> None:
    consent, _ = after(reconcile(telling(change), teller, active(), None, SINCE), active())
    assert consent is not None
    assert record_of(consent).state in ENDED


def _consent(which: str) -> SubjectState | None:
    match which:
        case "active":
            return active()
        case "one_off":
            return one_off()
        case "revoked":
            return at(subject_of(revoke(active(), RevokeForm(reason="withdrawn"), act=act(), now=NOW)), 60)
        case _:
            return None


def test_an_erased_persons_consent_still_ends() -> None:
    erased = msgspec.structs.replace(active(), personal=None)
    outcome = reconcile(telling(Change.REVOKED), NODE, erased, None, SINCE)
    assert outcome.result is Result.ENDED
    assert [append.personal for append in outcome.appends] == [None, None]


def test_what_follows_is_marked_as_the_services_own_act() -> None:
    _, ended = events(reconcile(telling(Change.REVOKED), ATP, active(), None, SINCE))
    assert isinstance(ended, ConsentRevoked)
    assert ended.act == Act(Initiator.SYSTEM, "atp-1", Route.API, LATER, reason=REASON)


def test_appends_continue_the_subjects_versions() -> None:
    consent, told = after(reconcile(telling(Change.RENEWED), ATP, active(), None, SINCE), active())
    outcome = reconcile(telling(Change.REVOKED), EDP, consent, told, SINCE)
    versions: list[Append] = list(outcome.appends)
    assert [append.expected_version for append in versions] == [1, 1]
