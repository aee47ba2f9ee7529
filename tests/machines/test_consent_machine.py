"""No order of events revives an ended consent, and no command makes a consent say more than was granted.

The machine drives the real commands on one consent, in any order, at any later time, by anybody; the model is the
set of things that may never change back.
"""

from collections.abc import Callable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from admin.consents.commands import UnknownConsent, consent_of, consume, cut_window, dispute, expire, renew, revoke
from admin.consents.forms import OccupancyForm, RenewForm, RevokeForm
from admin.ledger.events import Act, decode, feed_record_of
from admin.ledger.store import Append, SubjectState
from engine.clock import UnixTime, format_utc
from engine.consent.reading import InvalidFields
from engine.consent.records import AccessMode, ClientId, ConsentRecord
from engine.consent.states import ENDED, IllegalTransition, State
from tests.support.consents import NOW, ONE_OFF_DETAILS, act, by_atp, grant_form, granted, subject

DAY = 86_400
REFUSALS = (IllegalTransition, InvalidFields, UnknownConsent)
DAYS = st.integers(-500, 800)
ACTS = st.sampled_from([act(), by_atp(), by_atp("atp-2")])


class ConsentMachine(RuleBasedStateMachine):
    """One consent, from its grant on."""

    @initialize(is_one_off=st.booleans())
    def grant(self, is_one_off: bool) -> None:
        form = grant_form(authorization_details=ONE_OFF_DETAILS) if is_one_off else grant_form()
        self.now = NOW
        self.state: SubjectState = subject(granted(form))
        self.first = consent_of(self.state).consent
        self.ended_as: State | None = None
        self.versions = [1]

    @property
    def record(self) -> ConsentRecord:
        return consent_of(self.state).consent

    def attempt(self, command: Callable[[], Append]) -> None:
        before = self.record
        try:
            append = command()
        except REFUSALS:
            return
        assert before.state not in ENDED, f"{append.tag} was taken by a consent that has ended"
        assert append.expected_version == self.state.version
        self.state = subject(append)
        self.versions.append(self.record.consent_version)
        assert append.feed == feed_record_of(decode(append.body))
        if self.record.state in ENDED:
            self.ended_as = self.record.state

    @rule(days=st.integers(0, 200))
    def time_passes(self, days: int) -> None:
        self.now = UnixTime(self.now + days * DAY)

    @rule(by=ACTS, days=DAYS)
    def is_revoked(self, by: Act, days: int) -> None:
        since = format_utc(UnixTime(self.now + days * DAY))
        form = RevokeForm(reason="moved_out", effective_from=since)
        self.attempt(lambda: revoke(self.state, form, act=by, now=self.now))

    @rule(by=ACTS)
    def is_disputed(self, by: Act) -> None:
        self.attempt(lambda: dispute(self.state, case_id="D-1", act=by, now=self.now))

    @rule()
    def expires(self) -> None:
        self.attempt(lambda: expire(self.state, act=act(), now=self.now))

    @rule(edp=st.sampled_from(["edp-1", "edp-2"]))
    def is_consumed(self, edp: str) -> None:
        self.attempt(lambda: consume(self.state, edp=ClientId(edp), share_id="s", act=act(), now=self.now))

    @rule(by=ACTS, days=DAYS, confirmed=st.booleans(), evidence=st.sampled_from([None, "case-7"]))
    def is_renewed(self, by: Act, days: int, confirmed: bool, evidence: str | None) -> None:
        until = format_utc(UnixTime(self.now + days * DAY))
        form = RenewForm(consent_expires_at=until, address_confirmed=confirmed, wording="renew-1", evidence=evidence)
        self.attempt(lambda: renew(self.state, form, act=by, now=self.now))

    @rule(days_in=st.none() | DAYS, days_out=st.none() | DAYS)
    def occupancy_is_corrected(self, days_in: int | None, days_out: int | None) -> None:
        texts = [None if days is None else format_utc(UnixTime(NOW + days * DAY)) for days in (days_in, days_out)]
        form = OccupancyForm(moved_in=texts[0], moved_out=texts[1])
        self.attempt(lambda: cut_window(self.state, form, act=act(), now=self.now))

    @invariant()
    def an_ended_consent_stays_as_it_ended(self) -> None:
        if self.ended_as is not None:
            assert self.record.state is self.ended_as

    @invariant()
    def the_scope_never_grows(self) -> None:
        record, first = self.record, self.first
        same = ("atp", "dataset_id", "access_mode", "meter_digests", "edps", "purpose_code", "granted_at")
        assert all(getattr(record, name) == getattr(first, name) for name in same)
        assert record.data_from >= first.data_from
        assert first.data_to is None or (record.data_to is not None and record.data_to <= first.data_to)

    @invariant()
    def no_consent_is_longer_than_a_year_from_now(self) -> None:
        assert self.record.expires_at <= self.now + 366 * DAY
        if self.record.access_mode is AccessMode.ONE_OFF:
            assert self.record.expires_at == self.first.expires_at

    @invariant()
    def versions_count_up(self) -> None:
        assert self.versions == list(range(1, len(self.versions) + 1))


TestConsentMachine = ConsentMachine.TestCase
TestConsentMachine.settings = settings(max_examples=120, stateful_step_count=25, deadline=None)
