"""What the vectors cannot say: claims about another consent, records of another token, and properties of any world."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.clock import UnixTime
from engine.consent.records import AccessMode, ConsentKey, ConsentRecord, FallbackSuspension, ParticipantRecord
from engine.consent.states import State
from engine.decision.decide import CLOCK_SKEW, decide
from engine.decision.freshness import Freshness, FreshnessState
from engine.decision.questions import (
    Active,
    Ask,
    ClaimFirst,
    ClaimResult,
    Inactive,
    LookFurther,
    Miss,
    Records,
    Share,
    Step,
    Unavailable,
)
from engine.tokens.claims import VerifiedToken
from engine.tokens.verify import CLOCK_SKEW as SKEW_OF_VERIFICATION
from tests.support.decision_vectors import METER_KEY, NOW, Case, cases

BY_NAME = {case.name: case for case in cases()}
PLAIN = BY_NAME["the provider that the token is for is told what it may release"]
BOTH = BY_NAME["two consents are both shown, in the token's order"]
HELD = BY_NAME["the share that holds the one-off is told yes"]


def given_by(case: Case) -> tuple[Ask, VerifiedToken, Records]:
    token = case.verified(NOW, METER_KEY)
    assert token is not None
    return case.question(NOW), token, case.records(NOW, METER_KEY)


def two_one_offs() -> tuple[Ask, VerifiedToken, Records]:
    """A token with two one-off consents."""
    ask, token, records = given_by(BOTH)
    grants = tuple(msgspec.structs.replace(grant, access_mode=AccessMode.ONE_OFF) for grant in token.grants)
    found = [record for record in records.consents if isinstance(record, ConsentRecord)]
    one_offs = tuple(msgspec.structs.replace(record, access_mode=AccessMode.ONE_OFF) for record in found)
    return ask, msgspec.structs.replace(token, grants=grants), msgspec.structs.replace(records, consents=one_offs)


def test_of_two_one_offs_the_first_is_claimed_and_the_second_not_shown() -> None:
    ask, token, records = two_one_offs()
    fresh = BOTH.freshness(NOW)
    first = token.grants[0]
    assert decide(ask, token, records, fresh, NOW) == ClaimFirst(first.key, ask.caller, token.claims.jti)
    held = msgspec.structs.replace(records, claim=ClaimResult.HELD, claimed=first.key)
    answer = decide(ask, token, held, fresh, NOW)
    assert isinstance(answer, Active)
    assert [grant.key for grant, _ in answer.grants] == [first.key]


def test_a_claim_of_another_consent_counts_for_nothing() -> None:
    ask, token, records = two_one_offs()
    fresh = BOTH.freshness(NOW)
    of_the_second = msgspec.structs.replace(records, claim=ClaimResult.HELD, claimed=token.grants[1].key)
    assert isinstance(decide(ask, token, of_the_second, fresh, NOW), ClaimFirst)
    of_nobody = msgspec.structs.replace(records, claim=ClaimResult.HELD)
    assert isinstance(decide(ask, token, of_nobody, fresh, NOW), ClaimFirst)


def test_a_lost_claim_of_the_first_never_shows_the_second() -> None:
    ask, token, records = two_one_offs()
    lost = msgspec.structs.replace(records, claim=ClaimResult.TAKEN, claimed=token.grants[0].key)
    assert decide(ask, token, lost, BOTH.freshness(NOW), NOW) == Inactive()


def test_whose_right_to_fall_back_rests_gets_nothing_for_an_outage_and_nothing_in_one() -> None:
    ask, token, records = given_by(PLAIN)
    assert records.edp is not None
    handling = msgspec.structs.replace(records.edp, handles_last_known=True)
    late = msgspec.structs.replace(handling, fallback_suspended=FallbackSuspension(NOW, 7))
    fresh = PLAIN.freshness(NOW)
    stale = msgspec.structs.replace(fresh, state=FreshnessState.LAST_KNOWN)

    def answer(edp: ParticipantRecord, freshness: Freshness) -> Step:
        return decide(ask, token, msgspec.structs.replace(records, edp=edp), freshness, NOW)

    usual, told = answer(handling, fresh), answer(late, fresh)
    assert isinstance(usual, Active)
    assert isinstance(told, Active)
    assert usual.freshness.last_known_until > NOW
    assert told.freshness.last_known_until == told.freshness.as_of == fresh.as_of
    assert msgspec.structs.replace(told, freshness=fresh) == usual
    assert isinstance(answer(handling, stale), Active)
    assert isinstance(answer(late, stale), Unavailable)


def test_records_of_another_token_decide_nothing() -> None:
    ask, token, _ = given_by(PLAIN)
    _, _, of_two = given_by(BOTH)
    assert isinstance(decide(ask, token, of_two, PLAIN.freshness(NOW), NOW), Unavailable)


def test_a_participant_record_of_somebody_else_is_not_believed() -> None:
    ask, token, records = given_by(PLAIN)
    stranger = msgspec.structs.replace(
        records, edp=BY_NAME["another provider's token is not active here"].records(NOW, METER_KEY).edp
    )
    assert decide(ask, token, stranger, PLAIN.freshness(NOW), NOW) == Inactive()


def test_a_consent_without_meter_points_allows_nothing() -> None:
    ask, token, records = given_by(PLAIN)
    empty = msgspec.structs.replace(
        token, grants=tuple(msgspec.structs.replace(grant, meter_digests=()) for grant in token.grants)
    )
    assert decide(ask, empty, records, PLAIN.freshness(NOW), NOW) == Inactive()


def test_the_skew_is_that_of_verification() -> None:
    assert CLOCK_SKEW == SKEW_OF_VERIFICATION


def test_the_memory_of_a_verified_token_does_not_outlive_its_exp() -> None:
    ask, token, records = given_by(PLAIN)
    assert isinstance(decide(ask, token, records, PLAIN.freshness(NOW), NOW), Active)
    assert decide(ask, token, records, PLAIN.freshness(NOW), UnixTime(token.claims.exp)) == Inactive()


OFFSETS = st.integers(-400, 400).map(lambda days: UnixTime(NOW + days * 43_200))


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Ask, VerifiedToken, Records]:
    """Any state, window, expiry, freshness of knowledge and share around two consents."""
    _, token, records = given_by(BOTH)
    grants, found = [], []
    for grant, record in zip(token.grants, records.consents, strict=True):
        assert isinstance(record, ConsentRecord)
        mode = draw(st.sampled_from(AccessMode))
        grants.append(
            msgspec.structs.replace(
                grant,
                access_mode=mode,
                data_from=draw(OFFSETS),
                data_to=draw(st.none() | OFFSETS),
                expires_at=draw(OFFSETS),
            )
        )
        as_it_stands = msgspec.structs.replace(
            record,
            state=draw(st.sampled_from(State)),
            access_mode=draw(st.sampled_from([mode, mode, AccessMode.ENDURING])),
            data_from=draw(OFFSETS),
            data_to=draw(st.none() | OFFSETS),
            expires_at=draw(OFFSETS),
        )
        found.append(draw(st.sampled_from([as_it_stands, as_it_stands, as_it_stands, Miss.UNKNOWN, Miss.UNREAD])))
    start, end = sorted(draw(st.tuples(OFFSETS, OFFSETS)))
    first = BOTH.consents["c1"]
    share = Share(first.dataset_id, first.meter_points[0], start, UnixTime(end + 1))
    asked = Ask(BOTH.question(NOW).caller, draw(st.none() | st.just(share)))
    claimed: ConsentKey | None = draw(st.sampled_from([None, *(grant.key for grant in grants)]))
    given_records = msgspec.structs.replace(
        records, consents=tuple(found), claim=draw(st.sampled_from(ClaimResult)), claimed=claimed
    )
    return asked, msgspec.structs.replace(token, grants=tuple(grants)), given_records


@given(worlds())
def test_whatever_is_shown_is_live_ours_and_covers_the_share(world: tuple[Ask, VerifiedToken, Records]) -> None:
    ask, token, records = world
    answer = decide(ask, token, records, BOTH.freshness(NOW), NOW)
    if not isinstance(answer, Active):
        return
    assert answer.grants
    assert answer.expires_at > NOW
    for grant, record in answer.grants:
        assert record is records.consents[token.grants.index(grant)]
        assert record.state is State.ACTIVE
        assert ask.caller in record.edps
        assert answer.expires_at <= min(record.expires_at, grant.expires_at, token.claims.exp)
        if ask.share is not None:
            assert max(grant.data_from, record.data_from) <= ask.share.data_from
            assert all(end is None or ask.share.data_to <= end for end in (grant.data_to, record.data_to))
        if record.access_mode is AccessMode.ONE_OFF:
            assert records.claim is ClaimResult.HELD
            assert records.claimed in (None, grant.key)


@given(worlds(), st.sampled_from([State.REVOKED, State.TERMINATED_BY_DISPUTE, State.EXPIRED, State.CONSUMED]))
def test_ending_every_consent_at_hand_never_leaves_a_yes(
    world: tuple[Ask, VerifiedToken, Records], ended: State
) -> None:
    ask, token, records = world
    over = tuple(
        msgspec.structs.replace(found, state=ended) if isinstance(found, ConsentRecord) else found
        for found in records.consents
    )
    step = decide(ask, token, msgspec.structs.replace(records, consents=over), BOTH.freshness(NOW), NOW)
    assert isinstance(step, Inactive | LookFurther | Unavailable)


@given(worlds())
def test_the_steps_come_to_an_answer(world: tuple[Ask, VerifiedToken, Records]) -> None:
    """Whoever performs what is asked for, in vain or not, has an answer after three decisions at most."""
    ask, token, records = world
    records = msgspec.structs.replace(records, claim=ClaimResult.UNASKED, claimed=None)
    for _ in range(3):
        step = decide(ask, token, records, BOTH.freshness(NOW), NOW)
        match step:
            case LookFurther():
                looked = tuple(Miss.UNKNOWN if found is Miss.UNREAD else found for found in records.consents)
                records = msgspec.structs.replace(records, consents=looked)
            case ClaimFirst():
                records = msgspec.structs.replace(records, claim=ClaimResult.HELD, claimed=step.consent)
            case _:
                return
    pytest.fail("no answer")


@pytest.mark.parametrize("state", [FreshnessState.LAST_KNOWN, FreshnessState.BLIND])
def test_no_vector_turns_active_by_a_worse_view(state: FreshnessState) -> None:
    for case in (case for case in cases() if case.node.state is not FreshnessState.BLIND):
        fresh = msgspec.structs.replace(case.freshness(NOW), state=state)
        worse = decide(case.question(NOW), case.verified(NOW, METER_KEY), case.records(NOW, METER_KEY), fresh, NOW)
        if isinstance(worse, Active):
            assert case.expect.answer == "active"


def test_all_four_reasons_are_shown_by_vectors() -> None:
    told = {case.expect.reason for case in cases() if case.expect.answer == "inactive"}
    assert len(told) == 5
