"""A guard among nodes that fail in every way, in simulated time: how often it asks, how far apart, and what it says."""

from collections.abc import Sequence

import pytest
import trio
from trio.testing import MockClock

from engine.clock import Seconds, UnixTime, format_utc
from engine.guard.config import AnswerForm, OnOutage, Policy
from engine.guard.evidence_words import Entry, Failure, OutageEvidence, ShareEvidence
from engine.guard.memory import MemoryFull
from engine.guard.questions import EVALUATIONS, INTROSPECT, digest_of
from engine.guard.shares import Reason, Share, Verdict
from engine.telemetry.guard_calls import SECOND_OPINIONS
from tests.support.guard_answers import x5t
from tests.support.guard_stand import (
    INACTIVE,
    A,
    B,
    Behaviour,
    Stand,
    answers,
    answers_signed,
    black_hole,
    fails,
    in_turn,
    says,
    slowly,
)
from tests.support.guard_words import DAY, NOW, consent, entry, pushed_entry, share


async def outage(stand: Stand) -> None:
    """One answered share, then every node refuses connections until the circuit is open."""
    assert (await stand.guard.check(share())).reason is Reason.CONSENTED
    stand.nodes.all(fails(Failure.CONNECT))
    await stand.guard.check(share())
    assert stand.guard.status().circuit == "buffering"
    stand.nodes.calls.clear()


async def test_a_yes_is_a_yes(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock)
    async with stand.guard:
        verdict = await stand.guard.check(share())
    assert verdict.allowed
    assert (verdict.reason, verdict.freshness, verdict.consent_version) == (Reason.CONSENTED, "current", 3)
    assert len(stand.nodes.calls) == 1
    assert stand.evidence.entries == []
    assert stand.memory.look(digest_of(share())) is not None


async def test_an_outage_is_found_after_four_attempts_with_waits_between(autojump_clock: MockClock) -> None:
    """Draw 0.5: 0.1, 0.2 and 0.4 s apart; then the circuit is open and nobody is asked."""
    stand = Stand(autojump_clock)
    async with stand.guard:
        assert (await stand.guard.check(share())).allowed
        stand.nodes.all(fails(Failure.CONNECT))
        stand.nodes.calls.clear()
        began = trio.current_time()
        verdict = await stand.guard.check(share())
        assert [at - began for at in stand.nodes.times] == pytest.approx([0.0, 0.1, 0.3, 0.7])
        assert (verdict.allowed, verdict.reason) == (True, Reason.LAST_KNOWN)
        assert verdict.retry_after == pytest.approx(60.0)
        for _ in range(3):
            assert (await stand.guard.check(share())).reason is Reason.LAST_KNOWN
        assert len(stand.nodes.calls) == 4


async def test_a_black_hole_takes_nine_point_four_seconds_at_worst(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock)
    stand.draw = 1 - 1e-12
    async with stand.guard:
        stand.nodes.all(black_hole)
        began = trio.current_time()
        verdict = await stand.guard.check(share())
        assert [at - began for at in stand.nodes.times] == pytest.approx([0.0, 2.2, 4.6, 7.4])
        assert trio.current_time() - began == pytest.approx(9.4)
        assert verdict.reason is Reason.UNKNOWN_IN_OUTAGE


async def test_hedges_make_the_worst_case_no_longer(autojump_clock: MockClock) -> None:
    """Each ends with the attempt that it stands beside."""
    stand = Stand(autojump_clock, A, B)
    stand.draw = 1 - 1e-12
    async with stand.guard:
        stand.nodes.all(black_hole)
        began = trio.current_time()
        verdict = await stand.guard.check(share())
        assert [at - began for at in stand.nodes.times] == pytest.approx([0.0, 0.05, 2.2, 4.6, 7.4])
        assert trio.current_time() - began == pytest.approx(9.4)
        assert verdict.reason is Reason.UNKNOWN_IN_OUTAGE


async def test_a_hedge_that_we_are_too_late_for_is_none(autojump_clock: MockClock) -> None:
    """A loop that stood still: a node that is given no time to answer in would count as one that failed."""
    stand = Stand(autojump_clock, A, B)
    async with stand.guard, trio.open_nursery() as nursery:
        stand.nodes.all(black_hole)
        nursery.start_soon(stand.guard.check, share())
        await trio.sleep(0.01)
        autojump_clock.jump(1.5)
        await trio.sleep(0.4)
        assert len(stand.nodes.calls) == 1
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("failed", [1, 2, 3])
async def test_an_outage_that_ends_within_the_schedule_is_none(failed: int, autojump_clock: MockClock) -> None:
    """At every point of the schedule: the next attempt is answered, and no other is made."""
    stand = Stand(autojump_clock)
    async with stand.guard:
        stand.nodes.all(in_turn(*[fails(Failure.CONNECT)] * failed, answers()))
        assert (await stand.guard.check(share())).reason is Reason.CONSENTED
        assert stand.nodes.times == pytest.approx([0.0, 0.1, 0.3, 0.7][: failed + 1])
        assert stand.guard.status().circuit == "closed"
        assert stand.evidence.entries == []


OUTAGES: list[Behaviour] = [
    fails(Failure.CONNECT), fails(Failure.RESET), fails(Failure.TIMEOUT), black_hole,
    says(b"", 500), says(b"", 502), says(b"", 503), says(b"", 504),
]  # fmt: skip


@pytest.mark.parametrize("behaviour", OUTAGES)
async def test_transport_timeout_and_5xx_are_an_outage(behaviour: Behaviour, autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock, A, B)
    async with stand.guard:
        assert (await stand.guard.check(share())).allowed
        stand.nodes.all(behaviour)
        assert (await stand.guard.check(share())).reason is Reason.LAST_KNOWN


@pytest.mark.parametrize(
    ("behaviour", "reason", "attempts"),
    [
        (fails(Failure.TLS), Reason.NO_ANSWER, 4),
        (says(b'{"error":"invalid_client"}', 401), Reason.REFUSED_CALLER, 1),
        (says(b"", 403), Reason.REFUSED_CALLER, 1),
        (says(b"", 404), Reason.REFUSED_CALLER, 1),
        (says(b"", 302), Reason.REFUSED_CALLER, 1),
        (says(b'{"error":"invalid_request"}', 400), Reason.BAD_REQUEST, 1),
        (says(b"", 413), Reason.BAD_REQUEST, 1),
        (says(b"", 429), Reason.SLOW_DOWN, 4),
        (says(b"", 204), Reason.NO_ANSWER, 4),
        (says(b"<html>"), Reason.NO_ANSWER, 4),
        (says(b'{"active":false,"active":true}'), Reason.NO_ANSWER, 4),
        (says(b'{"active":true}'), Reason.NO_ANSWER, 4),
        (says(INACTIVE, media_type=b"text/plain"), Reason.NO_ANSWER, 4),
        (says(b"[" * 70_000), Reason.NO_ANSWER, 4),
    ],
)
async def test_nothing_else_is(behaviour: Behaviour, reason: Reason, attempts: int, autojump_clock: MockClock) -> None:
    """What is known is not used, however well it is known; the circuit stays closed."""
    stand = Stand(autojump_clock)
    async with stand.guard:
        assert (await stand.guard.check(share())).allowed
        stand.nodes.calls.clear()
        stand.nodes.all(behaviour)
        verdict = await stand.guard.check(share())
        assert (verdict.allowed, verdict.reason) == (False, reason)
        assert len(stand.nodes.calls) == attempts
        assert stand.guard.status().circuit == "closed"
        assert stand.evidence.entries == []


async def test_an_answer_to_another_question_is_none(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock)
    async with stand.guard:
        stand.nodes.all(lambda call: answers()(call).__class__(200, b"application/json", INACTIVE, b"other"))  # type: ignore[union-attr] # a reply
        assert (await stand.guard.check(share())).reason is Reason.NO_ANSWER


async def test_a_no_during_the_retries_is_a_no(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock)
    async with stand.guard:
        assert (await stand.guard.check(share())).allowed
        stand.nodes.all(in_turn(says(b"", 503), says(b"", 503), says(INACTIVE)))
        assert (await stand.guard.check(share())).reason is Reason.NOT_ACTIVE
        stand.nodes.all(fails(Failure.CONNECT))
        verdict = await stand.guard.check(share())  # the no is known in an outage, too
        assert (verdict.allowed, verdict.reason, verdict.as_of) == (False, Reason.NOT_ACTIVE, NOW)


async def test_a_refusal_of_a_token_is_known_in_an_outage_whatever_is_asked(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock)
    async with stand.guard:
        assert (await stand.guard.check(share())).allowed
        stand.nodes.all(says(INACTIVE))
        assert (await stand.guard.check(share())).reason is Reason.NOT_ACTIVE
        await outage_of_all(stand)
        for other in (share(), share(data_to=UnixTime(NOW + 10**7)), share(thumbprint=b"x" * 32)):
            assert (await stand.guard.check(other)).reason is Reason.NOT_ACTIVE
        assert stand.evidence.shares == []


async def test_a_no_about_a_share_of_an_unknown_token_is_known_of_that_share_alone(autojump_clock: MockClock) -> None:
    """It may have been outside the consent, in the very same bytes: nothing follows for another share of the token."""
    stand = Stand(autojump_clock)
    async with stand.guard:
        stand.nodes.all(says(INACTIVE))
        assert (await stand.guard.check(share())).reason is Reason.NOT_ACTIVE
        await outage_of_all(stand)
        assert (await stand.guard.check(share())).reason is Reason.NOT_ACTIVE
        assert (await stand.guard.check(share(dataset_id="hh-gas"))).reason is Reason.UNKNOWN_IN_OUTAGE


async def test_a_yes_after_a_no_about_a_share_is_what_is_known(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock)
    async with stand.guard:
        stand.nodes.all(says(INACTIVE))
        assert (await stand.guard.check(share(dataset_id="hh-gas"))).reason is Reason.NOT_ACTIVE
        await trio.sleep(2)
        stand.nodes.all(answers())
        assert (await stand.guard.check(share())).allowed
        await outage_of_all(stand)
        assert (await stand.guard.check(share())).reason is Reason.LAST_KNOWN
        assert (await stand.guard.check(share(dataset_id="hh-gas"))).reason is Reason.NOT_COVERED


async def test_a_no_wins_over_a_last_known_yes_of_before_it(autojump_clock: MockClock) -> None:
    """The node that knew of the end is gone, no push has come yet, and another node has not heard of it."""
    for is_known in (True, False):
        stand = Stand(autojump_clock)
        async with stand.guard:
            if is_known:
                assert (await stand.guard.check(share())).allowed
            stand.nodes.all(says(INACTIVE))
            assert (await stand.guard.check(share())).reason is Reason.NOT_ACTIVE
            as_of = stand.clock.now()
            stand.nodes.all(answers(ccs_freshness="last_known", ccs_as_of=as_of))
            assert (await stand.guard.check(share())).reason is Reason.NOT_ACTIVE
            other = await stand.guard.check(share(data_to=UnixTime(NOW - 1800)))
            assert other.allowed is not is_known  # that no may have been about the other share alone
            await trio.sleep(5)
            stand.nodes.all(answers(ccs_freshness="last_known", ccs_as_of=as_of + 1))
            assert (await stand.guard.check(share())).allowed is not is_known  # of a known token it was about the token


async def test_a_no_that_the_disk_had_no_room_for_is_known_in_an_outage(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock)
    async with stand.guard:
        assert (await stand.guard.check(share())).allowed
        stand.memory.is_full = True
        stand.nodes.all(says(INACTIVE))
        assert (await stand.guard.check(share())).reason is Reason.NOT_ACTIVE
        assert stand.memory.look(digest_of(share())) is not None
        stand.memory.is_full = False
        await outage_of_all(stand)
        assert (await stand.guard.check(share())).reason is Reason.NOT_ACTIVE


async def test_a_no_that_the_disk_had_no_room_for_wins_over_a_last_known_yes_of_before_it(
    autojump_clock: MockClock,
) -> None:
    stand = Stand(autojump_clock)
    async with stand.guard:
        assert (await stand.guard.check(share())).allowed
        stand.memory.is_full = True
        stand.nodes.all(says(INACTIVE))
        assert (await stand.guard.check(share())).reason is Reason.NOT_ACTIVE
        as_of = stand.clock.now()
        stand.nodes.all(answers(ccs_freshness="last_known", ccs_as_of=as_of))
        assert (await stand.guard.check(share())).reason is Reason.NOT_ACTIVE


async def test_a_stopped_atp_is_a_known_no_in_an_outage(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock)
    async with stand.guard:
        await outage(stand)
        stand.memory.suspended = {"atp-1"}
        assert (await stand.guard.check(share())).reason is Reason.NOT_ACTIVE


@pytest.mark.parametrize(("said", "waited"), [(b"5", 5.0), (b"3600", 60.0), (b"", 0.1)])
async def test_429_is_waited_for_as_long_as_it_says_up_to_a_minute(
    said: bytes, waited: float, autojump_clock: MockClock
) -> None:
    stand = Stand(autojump_clock)
    async with stand.guard:
        stand.nodes.all(in_turn(says(b"", 429, retry_after=said), answers()))
        assert (await stand.guard.check(share())).allowed
        assert stand.nodes.times == pytest.approx([0.0, waited])


async def test_another_node_is_asked_where_one_says_429(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock, A, B)
    async with stand.guard:
        stand.nodes.behaviours = {A: says(b"", 429, retry_after=b"30"), B: says(b"", 429, retry_after=b"30")}
        stand.nodes.behaviours[(first := B)] = answers()
        for _ in range(2):
            assert (await stand.guard.check(share())).allowed
        assert trio.current_time() < 1.0
        assert first in stand.nodes.asked


async def test_one_node_that_answers_keeps_an_outage_away(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock, A, B)
    async with stand.guard:
        stand.nodes.behaviours[A] = fails(Failure.CONNECT)
        for _ in range(20):
            assert (await stand.guard.check(share())).reason is Reason.CONSENTED
        assert stand.nodes.asked.count(A) == 1  # and then it is left alone


@pytest.mark.parametrize("other", [fails(Failure.TLS), says(b"", 429), says(b"{}")])
async def test_every_address_must_have_failed_by_transport_timeout_or_5xx(
    other: Behaviour, autojump_clock: MockClock
) -> None:
    stand = Stand(autojump_clock, A, B)
    async with stand.guard:
        assert (await stand.guard.check(share())).allowed
        stand.nodes.behaviours = {A: fails(Failure.CONNECT), B: other}
        verdict = await stand.guard.check(share())
        assert not verdict.allowed
        assert verdict.reason in (Reason.NO_ANSWER, Reason.UNANSWERED)
        assert stand.guard.status().circuit == "closed"


async def test_the_whole_way_through_an_outage(autojump_clock: MockClock) -> None:
    """60 s of silence, a probe a minute, three good ones, the ramp, and the end with a current answer."""
    stand = Stand(autojump_clock)
    async with stand.guard:
        await outage(stand)
        began = trio.current_time()
        await trio.sleep(59.9)
        assert stand.nodes.calls == []
        await trio.sleep(60.2)
        assert [at - began for at in stand.nodes.times] == pytest.approx([60.0, 120.0])
        assert stand.guard.status().circuit == "probing"
        stand.nodes.all(answers())
        await trio.sleep(60 * 3)
        assert [at - began for at in stand.nodes.times] == pytest.approx([60.0 * n for n in range(1, 6)])
        assert stand.guard.status().circuit == "ramping"
        stand.nodes.calls.clear()
        for draw, reason in ((0.11, Reason.LAST_KNOWN), (0.09, Reason.CONSENTED)):
            stand.draw = draw
            assert (await stand.guard.check(share())).reason is reason
        await trio.sleep(60)
        for draw, reason in ((0.51, Reason.LAST_KNOWN), (0.49, Reason.CONSENTED)):
            stand.draw = draw
            assert (await stand.guard.check(share())).reason is reason
        assert stand.guard.status().outage_since is not None
        await trio.sleep(60)
        stand.draw = 0.999
        assert (await stand.guard.check(share())).reason is Reason.CONSENTED
        assert (stand.guard.status().circuit, stand.guard.status().outage_since) == ("closed", None)
    first, last = stand.evidence.outages
    assert (first.ended_at, last.began_at, last.shares) == (0.0, first.began_at, 3)
    assert len(first.attempts) == 4
    assert all(attempt.failure is Failure.CONNECT for attempt in first.attempts)


async def test_after_ten_failed_probes_there_is_one_in_fifteen_minutes(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock)
    async with stand.guard:
        await outage(stand)
        began = trio.current_time()
        await trio.sleep(2500)
        assert [at - began for at in stand.nodes.times] == pytest.approx(
            [60.0 * n for n in range(1, 11)] + [1500, 2400]
        )


@pytest.mark.parametrize("set_back", [0, 50_000])
async def test_at_the_cap_sharing_ends_whatever_is_done_to_the_clock(set_back: int, autojump_clock: MockClock) -> None:
    long = entry(consent_expires_at="2027-05-22T00:00:00Z")
    stand = Stand(autojump_clock, policy=Policy(outage_cap=Seconds(3600.0)))
    async with stand.guard:
        stand.nodes.all(answers(long, ccs_last_known_until=NOW + 3 * DAY))
        await outage(stand)
        stand.clock.set_back = set_back
        await trio.sleep(3598)
        assert (await stand.guard.check(share())).reason is Reason.LAST_KNOWN
        await trio.sleep(3)
        assert (await stand.guard.check(share())).reason is Reason.OUTAGE_TOO_LONG


async def test_a_restart_does_not_lengthen_an_outage(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock, before=float(NOW - 3599), policy=Policy(outage_cap=Seconds(3600.0)))
    async with stand.guard:
        stand.nodes.all(answers(ccs_freshness="last_known"))
        await outage(stand)
        assert (await stand.guard.check(share())).reason is Reason.LAST_KNOWN
        await trio.sleep(2)
        assert (await stand.guard.check(share())).reason is Reason.OUTAGE_TOO_LONG


async def test_a_current_answer_ends_an_outage_of_before_the_restart(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock, before=float(NOW - 3599))
    async with stand.guard:
        assert stand.guard.status().outage_since == NOW - 3599
        assert (await stand.guard.check(share())).reason is Reason.CONSENTED
        assert stand.guard.status().outage_since is None


async def test_a_right_that_rests_ends_the_use_of_what_was_known_before(autojump_clock: MockClock) -> None:
    """An answer about any token says so; what is answered after the right has come back may be used again."""
    stand = Stand(autojump_clock)
    other = share(token="another")
    async with stand.guard:
        assert (await stand.guard.check(share())).allowed
        await trio.sleep(10)
        stand.nodes.all(answers(ccs_as_of=NOW + 9, ccs_last_known_until=NOW + 9))
        assert (await stand.guard.check(other)).allowed
        stand.nodes.all(fails(Failure.CONNECT))
        for asked in (share(), other):
            assert (await stand.guard.check(asked)).reason is Reason.OUTAGE_TOO_LONG
        stand.nodes.all(answers())
        await trio.sleep(1000)
        assert (await stand.guard.check(share())).reason is Reason.CONSENTED
        await outage(stand)
        assert (await stand.guard.check(share())).reason is Reason.LAST_KNOWN
        assert (await stand.guard.check(other)).reason is Reason.OUTAGE_TOO_LONG


@pytest.mark.parametrize("policy", [Policy(on_outage=OnOutage.HALT), Policy(outage_cap=Seconds(0.0))])
async def test_a_halt_shares_nothing_in_an_outage(policy: Policy, autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock, policy=policy)
    async with stand.guard:
        await outage(stand)
        assert (await stand.guard.check(share())).reason is Reason.HALTED


async def test_no_share_without_evidence(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock)
    async with stand.guard:
        await outage(stand)
        stand.evidence.is_full = True
        verdict = await stand.guard.check(share())
        assert (verdict.allowed, verdict.reason) == (False, Reason.DEGRADED)


async def test_an_outage_counts_no_share_that_was_not_made_for_want_of_room(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock)
    async with stand.guard:
        await ramps(stand)
        made = len(stand.evidence.shares)
        stand.draw = 0.9  # by what is known
        for is_full in (True, False, True):
            stand.evidence.is_full = is_full
            assert (await stand.guard.check(share())).allowed is not is_full
        stand.evidence.is_full = False
        await trio.sleep(200)
        assert stand.guard.status().outage_since is None
        assert stand.evidence.outages[-1].shares == made + 1


async def test_every_share_in_an_outage_is_evidenced_before_it_is_made(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock)
    async with stand.guard:
        await outage(stand)
        verdict = await stand.guard.check(share(share_id="s-9"))
    recorded = stand.evidence.shares[-1]
    assert (recorded.allowed, recorded.reason, recorded.share_id) == (True, Reason.LAST_KNOWN, "s-9")
    assert (recorded.digest, recorded.consent_version) == (digest_of(share()), 3)
    assert len(recorded.attempts) == 4
    assert verdict.evidence_id == f"e{len(stand.evidence.entries) - 1}"


async def test_a_flood_of_unknown_tokens_leaves_no_evidence(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock)
    async with stand.guard:
        await outage(stand)
        before = len(stand.evidence.entries)
        assert (await stand.guard.check(share(token="never seen"))).reason is Reason.UNKNOWN_IN_OUTAGE
        assert len(stand.evidence.entries) == before


async def test_nothing_known_is_used_while_pushes_are_missing(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock)
    async with stand.guard:
        await outage(stand)
        stand.memory.missing = UnixTime(NOW)
        assert (await stand.guard.check(share())).reason is Reason.DEGRADED


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize(
    ("found", "closed", "waits", "reason"),
    [
        (0, 1.0, 1.0, Reason.LAST_KNOWN),  # what was overtaken came a second later
        (0, 5.4, 5.4, Reason.LAST_KNOWN),  # or was polled for after five
        (0, 6.0, 5.5, Reason.DEGRADED),
        (6, 1.0, 0.0, Reason.DEGRADED),  # missing for longer: it is no matter of order
        (-60, 1.0, 0.0, Reason.DEGRADED),  # held back
    ],
)
async def test_a_share_waits_for_a_hole_that_has_just_been_found(
    found: int, closed: float, waits: float, reason: Reason, many: bool, autojump_clock: MockClock
) -> None:
    """found: seconds ago."""
    stand = Stand(autojump_clock)
    async with stand.guard, trio.open_nursery() as nursery:
        await outage(stand)
        await trio.sleep(10 - trio.current_time() % 1)  # on a whole second, as marks are
        stand.memory.missing = UnixTime(stand.clock.now() - found)

        async def close() -> None:
            await trio.sleep(closed)
            stand.memory.missing = None

        nursery.start_soon(close)
        began, before = trio.current_time(), len(stand.evidence.shares)
        asked = share(), share(token="never seen")
        verdicts = await stand.guard.check_many(asked) if many else [await stand.guard.check(asked[0])]
        assert verdicts[0].reason is reason
        assert trio.current_time() - began == pytest.approx(waits, abs=0.06)
        assert [one.reason for one in verdicts[1:]] == [Reason.UNKNOWN_IN_OUTAGE] * many
        recorded = [one.reason for one in stand.evidence.shares[before:] if one.allowed]
        assert recorded == [Reason.LAST_KNOWN] * (reason is Reason.LAST_KNOWN)


async def test_a_pushed_end_wins_over_an_answer_and_over_what_was_known(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock)
    async with stand.guard:
        verdict = await stand.guard.check(share())
        stand.memory.end(str(verdict.consent_id), 4, NOW)
        assert (await stand.guard.check(share())).reason is Reason.NOT_ACTIVE
        stand.nodes.all(fails(Failure.CONNECT))
        assert (await stand.guard.check(share())).reason is Reason.NOT_ACTIVE


async def test_an_answer_of_before_a_hole_is_not_taken_for_a_later_one_by_a_clock_that_is_behind(
    autojump_clock: MockClock,
) -> None:
    """The node's clock is half a minute ahead of ours, by which the hole is marked."""
    stand = Stand(autojump_clock)
    async with stand.guard:
        stand.nodes.all(answers(ccs_as_of=NOW + 30))
        assert (await stand.guard.check(share())).allowed
        stand.memory.mark_missing(stand.clock.now())
        stand.nodes.all(fails(Failure.CONNECT))
        assert (await stand.guard.check(share())).reason is Reason.DEGRADED


CUT_TO = UnixTime(NOW - DAY + 3_600)  # into the share's window


@pytest.mark.parametrize("freshness", ["current", "last_known"])
@pytest.mark.parametrize("is_kept", [True, False])  # a token that is bound to a DPoP key never is
async def test_a_pushed_cut_wins_over_an_answer_of_before_it(
    freshness: str, is_kept: bool, autojump_clock: MockClock
) -> None:
    stand = Stand(autojump_clock)
    stand.memory.change(consent().consent_id, 4, pushed_entry(data_to=format_utc(CUT_TO)), None)
    key = "k" * 43
    cnf = {"x5t#S256": x5t()} if is_kept else {"jkt": key}
    async with stand.guard:
        stand.nodes.all(answers(ccs_freshness=freshness, cnf=cnf))
        assert (await stand.guard.check(share(dpop_jkt=key))).reason is Reason.NOT_COVERED
        assert (await stand.guard.check(share(dpop_jkt=key))).reason is Reason.NOT_COVERED  # once it is remembered, too
        assert (await stand.guard.check(share(dpop_jkt=key, data_to=CUT_TO))).reason is Reason.CONSENTED
        stand.nodes.all(answers(ccs_freshness=freshness, cnf=cnf, ccs_consent_version=4))  # the service's newest word
        assert (await stand.guard.check(share(dpop_jkt=key))).reason is Reason.CONSENTED


async def test_a_last_known_answer_that_a_pushed_change_may_restrict_is_no_yes(autojump_clock: MockClock) -> None:
    for freshness, reason in (("current", Reason.CONSENTED), ("last_known", Reason.NOT_ACTIVE)):
        stand = Stand(autojump_clock)
        stand.memory.change(consent().consent_id, 4, b'{"only_on":"mondays"}', None)
        async with stand.guard:
            stand.nodes.all(answers(ccs_freshness=freshness))
            assert (await stand.guard.check(share())).reason is reason


async def test_a_consent_that_was_cut_to_an_end_of_before_now_is_over(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock)
    stand.memory.change(consent().consent_id, 4, pushed_entry(), UnixTime(NOW - 1))
    async with stand.guard:
        assert (await stand.guard.check(share())).reason is Reason.NOT_ACTIVE


async def test_a_share_that_is_not_covered_does_not_spoil_the_token(autojump_clock: MockClock) -> None:
    """The service says no in the same bytes to a revoked token and to a share outside the consent."""
    stand = Stand(autojump_clock)
    async with stand.guard:
        assert (await stand.guard.check(share())).allowed
        stand.nodes.all(says(INACTIVE))
        outside = share(data_to=UnixTime(NOW + 9 * DAY))
        assert (await stand.guard.check(outside)).reason is Reason.NOT_ACTIVE
        assert stand.memory.refused == []
        assert (await stand.guard.check(share())).reason is Reason.NOT_ACTIVE
        assert stand.memory.refused == [digest_of(share())]


async def test_the_guard_compares_itself_beside_the_service(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock)
    async with stand.guard:
        stand.nodes.all(answers(entry(dataset_id="hh-gas")))
        assert (await stand.guard.check(share())).reason is Reason.NOT_COVERED


async def test_another_certificate_is_refused(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock)
    async with stand.guard:
        wrong = share(thumbprint=b"x" * 32)
        assert (await stand.guard.check(wrong)).reason is Reason.WRONG_CERTIFICATE
        stand.nodes.all(fails(Failure.CONNECT))
        assert (await stand.guard.check(wrong)).reason is Reason.WRONG_CERTIFICATE
        assert (await stand.guard.check(share())).reason is Reason.LAST_KNOWN


async def test_a_token_without_a_binding_is_refused_and_never_known(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock)
    async with stand.guard:
        stand.nodes.all(answers(cnf={}))
        assert (await stand.guard.check(share())).reason is Reason.WRONG_CERTIFICATE
        assert stand.memory.tokens == {}


async def test_other_nodes_are_asked_before_a_last_known_answer_is_taken(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock, A, B)
    async with stand.guard:
        stand.nodes.behaviours = {A: answers(ccs_freshness="last_known"), B: answers()}
        for _ in range(4):
            verdict = await stand.guard.check(share())
            assert (verdict.allowed, verdict.freshness) == (True, "current")
        assert stand.nodes.asked.count(A) == 1  # then the other is preferred


async def test_nobody_waits_for_a_better_answer_for_longer_than_for_any(autojump_clock: MockClock) -> None:
    """Nine of ten nodes say nothing: after 9.4 seconds the answer that is at hand is the answer."""
    nodes = [f"https://n{number}" for number in range(10)]
    stand = Stand(autojump_clock, *nodes)
    async with stand.guard:
        stand.nodes.behaviours = dict.fromkeys(nodes, black_hole)
        stand.nodes.behaviours[nodes[1]] = answers(ccs_freshness="last_known", ccs_as_of=NOW)
        assert (await stand.guard.check(share())).freshness == "last_known"
        assert stand.nodes.asked[0] == nodes[1]
        assert stand.nodes.times == pytest.approx([0, 0, 2, 4, 6])
        assert trio.current_time() == pytest.approx(8)


async def test_one_better_answer_is_looked_for_however_long_the_first_one_took(autojump_clock: MockClock) -> None:
    """Three nodes say nothing, the fourth says `last_known` at the end of its time, and the fifth knows."""
    nodes = [f"https://n{number}" for number in range(5)]
    stand = Stand(autojump_clock, *nodes, hedge=False)
    stand.draw = 1 - 1e-12
    stale = slowly(1.9, answers(ccs_freshness="last_known", ccs_as_of=NOW))
    stand.nodes.all(in_turn(black_hole, black_hole, black_hole, stale, answers()))
    async with stand.guard:
        assert (await stand.guard.check(share())).freshness == "current"
        assert trio.current_time() == pytest.approx(9.3)
        assert sorted(stand.nodes.asked) == nodes


async def test_a_last_known_answer_is_taken_where_no_node_has_a_better_one(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock, A, B)
    async with stand.guard:
        stand.nodes.all(answers(ccs_freshness="last_known", ccs_as_of=NOW - 500))
        verdict = await stand.guard.check(share())
        assert (verdict.allowed, verdict.freshness, verdict.as_of) == (True, "last_known", NOW - 500)
        assert sorted(stand.nodes.asked) == [A, B]


async def test_every_call_is_in_one_of_the_counts(autojump_clock: MockClock) -> None:
    """Those that look for a better answer as well."""
    stand, before = Stand(autojump_clock, A, B), SECOND_OPINIONS._value.get()
    async with stand.guard:
        stand.nodes.all(answers(ccs_freshness="last_known", ccs_as_of=NOW - 500))
        await stand.guard.check(share())
        await trio.sleep(3)
        stand.nodes.all(slowly(0.06, answers()))
        await stand.guard.check(share())
        stand.nodes.all(in_turn(fails(Failure.RESET), answers()))
        await stand.guard.check(share())
        counts = stand.guard.status().calls
        assert counts is not None
        assert (counts.calls, counts.retries, counts.hedges, counts.second_opinions) == (3, 1, 1, 1)
        assert len(stand.nodes.calls) == 6
    assert SECOND_OPINIONS._value.get() - before == 1


async def test_a_last_known_answer_from_before_the_memory_began_is_taken_and_not_kept(
    autojump_clock: MockClock,
) -> None:
    stand = Stand(autojump_clock)
    stand.memory.floor = UnixTime(NOW + 60)
    async with stand.guard:
        stand.nodes.all(answers(ccs_freshness="last_known"))
        verdict = await stand.guard.check(share())
        assert (verdict.allowed, verdict.reason, verdict.freshness) == (True, Reason.CONSENTED, "last_known")
        assert stand.memory.tokens == {}
        assert verdict.consent_id is not None
        stand.memory.ended = {verdict.consent_id}
        assert (await stand.guard.check(share())).reason is Reason.NOT_ACTIVE


async def test_a_last_known_answer_from_before_a_memory_was_lost_is_no_yes(autojump_clock: MockClock) -> None:
    """An end that the guard had heard of may be forgotten, and a node that is cut off has not heard of it."""
    stand = Stand(autojump_clock)
    stand.memory.floor = stand.memory.lost = UnixTime(NOW + 60)
    async with stand.guard:
        stand.nodes.all(answers(ccs_freshness="last_known"))
        assert (await stand.guard.check(share())).reason is Reason.DEGRADED
        stand.nodes.all(answers(ccs_freshness="last_known", ccs_as_of=NOW + 600))  # by a clock that is ahead
        assert (await stand.guard.check(share())).reason is Reason.DEGRADED
        stand.nodes.all(answers())
        assert (await stand.guard.check(share())).reason is Reason.CONSENTED
        await trio.sleep(90)
        stand.nodes.all(answers(ccs_freshness="last_known"))
        assert (await stand.guard.check(share())).reason is Reason.CONSENTED


@pytest.mark.parametrize("floor", [NOW - 60, NOW + 60])
async def test_a_suspended_atp_wins_over_a_last_known_answer(autojump_clock: MockClock, floor: int) -> None:
    stand = Stand(autojump_clock)
    stand.memory.floor = UnixTime(floor)
    async with stand.guard:
        stand.nodes.all(answers(ccs_freshness="last_known"))
        assert (await stand.guard.check(share())).allowed
        stand.memory.suspended = {"atp-1"}
        assert (await stand.guard.check(share())).reason is Reason.NOT_ACTIVE


async def test_a_last_known_answer_does_not_end_an_outage(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock)
    async with stand.guard:
        await outage(stand)
        stand.nodes.all(answers(ccs_freshness="last_known"))
        await trio.sleep(400)
        assert (await stand.guard.check(share())).freshness == "last_known"
        assert stand.guard.status().circuit == "closed"
        assert stand.guard.status().outage_since is not None
        stand.nodes.all(answers())
        assert (await stand.guard.check(share())).freshness == "current"
        assert stand.guard.status().outage_since is None


async def ramps(stand: Stand) -> None:
    """An outage, and three good probes after it."""
    await outage(stand)
    stand.nodes.all(answers())
    await trio.sleep(200)
    assert stand.guard.status().circuit == "ramping"
    stand.nodes.calls.clear()


async def test_an_outage_ends_although_no_share_comes(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock)
    async with stand.guard:
        await ramps(stand)
        await trio.sleep(110)
        assert (stand.guard.status().circuit, stand.guard.status().outage_since) == ("closed", None)
        assert [call.path for _, _, call in stand.nodes.calls] == [EVALUATIONS], "no token of anybody's is shown"
        await trio.sleep(3600)
        assert len(stand.nodes.calls) == 1, "where there is no outage, nobody is asked"
        assert stand.evidence.outages[-1].ended_at == pytest.approx(NOW + 301, abs=3)
        assert stand.guard.answered_at() is not None


async def test_our_own_question_that_finds_nobody_opens_the_circuit_again(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock)
    async with stand.guard:
        await ramps(stand)
        stand.nodes.all(fails(Failure.CONNECT))
        await trio.sleep(200)
        assert stand.guard.status().circuit == "probing"
        stand.nodes.all(answers())
        await trio.sleep(500)
        assert (stand.guard.status().circuit, stand.guard.status().outage_since) == ("closed", None)
        assert [entry.ended_at for entry in stand.evidence.outages] == [0.0, pytest.approx(NOW + 660, abs=30)]


@pytest.mark.parametrize(
    "behaviour", [answers(ccs_freshness="last_known"), says(b"", 429), says(b"{}"), says(b"", 403)]
)
async def test_only_a_current_answer_to_our_own_question_ends_an_outage(
    behaviour: Behaviour, autojump_clock: MockClock
) -> None:
    stand = Stand(autojump_clock)
    async with stand.guard:
        await ramps(stand)
        stand.nodes.all(behaviour)
        await trio.sleep(600)
        assert stand.guard.status().circuit == "closed"
        assert stand.guard.status().outage_since is not None
        assert len(stand.evidence.outages) == 1
        stand.nodes.all(answers())
        await trio.sleep(75)
        assert stand.guard.status().outage_since is None


@pytest.mark.parametrize("status", [404, 501])
async def test_a_service_without_batches_is_no_outage_and_the_next_share_ends_the_one_before(
    status: int, autojump_clock: MockClock
) -> None:
    """Our own question is refused, which does not say how fresh the node is; it is put no more for a while."""
    stand = Stand(autojump_clock)
    refuses, single = says(b"", status), answers()
    async with stand.guard:
        await ramps(stand)
        stand.nodes.all(lambda call: refuses(call) if call.path == EVALUATIONS else single(call))
        await trio.sleep(650)
        assert stand.guard.status().circuit == "closed"
        assert stand.guard.status().outage_since is not None
        assert len([call for _, _, call in stand.nodes.calls if call.path == EVALUATIONS]) == 2
        assert (await stand.guard.check(share())).freshness == "current"
        assert stand.guard.status().outage_since is None


async def test_an_outage_of_before_the_restart_ends_although_no_share_comes(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock, before=float(NOW - 3599))
    async with stand.guard:
        await trio.sleep(1)
        assert stand.guard.status().outage_since is None
    assert [entry.began_at for entry in stand.evidence.outages] == [NOW - 3599]


async def test_a_begin_that_found_no_room_is_recorded_before_any_share(autojump_clock: MockClock) -> None:
    """Else a restart would count the cap anew."""
    stand = Stand(autojump_clock)
    async with stand.guard:
        assert (await stand.guard.check(share())).allowed
        stand.evidence.is_full = True
        stand.nodes.all(fails(Failure.CONNECT))
        assert (await stand.guard.check(share())).reason is Reason.DEGRADED
        assert stand.evidence.outages == []
        stand.evidence.is_full = False
        await trio.sleep(5)
        assert (await stand.guard.check(share())).reason is Reason.LAST_KNOWN
        assert [(one.began_at, one.ended_at) for one in stand.evidence.outages] == [(float(NOW), 0.0)]


async def ends_without_room(stand: Stand) -> None:
    """An outage that is over, and whose end could not be recorded."""
    await ramps(stand)
    stand.evidence.is_full = True
    await trio.sleep(110)
    assert stand.guard.status().outage_since is None


async def test_no_share_is_made_in_an_outage_whose_begin_finds_no_room_although_the_share_would(
    autojump_clock: MockClock,
) -> None:
    """A disk on the brink of being full takes one write and not the other: a restart must not forget the outage."""
    stand = Stand(autojump_clock)
    record_all = stand.evidence.record_all

    def on_the_brink(entries: Sequence[Entry]) -> list[str]:
        if any(isinstance(entry, OutageEvidence) for entry in entries):
            raise MemoryFull("full")
        return record_all(entries)

    async with stand.guard:
        assert (await stand.guard.check(share())).allowed
        stand.evidence.record_all = on_the_brink  # type: ignore[method-assign] # for a while
        stand.nodes.all(fails(Failure.CONNECT))
        for _ in range(2):
            assert (await stand.guard.check(share())).reason is Reason.DEGRADED
        stand.evidence.record_all = record_all  # type: ignore[method-assign] # as it was
        assert (await stand.guard.check(share())).reason is Reason.LAST_KNOWN
        assert [type(entry) for entry in stand.evidence.entries] == [OutageEvidence, ShareEvidence]


async def test_an_end_that_found_no_room_is_recorded_when_there_is_some(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock)
    async with stand.guard:
        await ends_without_room(stand)
        assert len(stand.evidence.outages) == 1
        stand.evidence.is_full = False
        await trio.sleep(75)
        assert stand.evidence.outages[-1].ended_at == pytest.approx(NOW + 301, abs=3)
        await trio.sleep(300)
        assert len(stand.evidence.outages) == 2


async def test_an_end_that_found_no_room_does_not_end_the_outage_after_it(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock)
    async with stand.guard:
        await ends_without_room(stand)
        stand.nodes.all(fails(Failure.CONNECT))
        stand.evidence.is_full = False
        await stand.guard.check(share())
        assert stand.guard.status().circuit == "buffering"
        first = stand.evidence.outages[0]
        ends = [entry.ended_at == 0 for entry in stand.evidence.outages]
        assert ends == [True, False, True]
        assert stand.evidence.outages[1].began_at == first.began_at < stand.evidence.outages[2].began_at


async def test_an_end_and_the_begin_after_it_that_found_no_room_are_both_recorded(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock)
    async with stand.guard:
        await ends_without_room(stand)
        stand.nodes.all(fails(Failure.CONNECT))
        assert (await stand.guard.check(share())).reason is Reason.DEGRADED
        assert len(stand.evidence.outages) == 1
        stand.evidence.is_full = False
        await trio.sleep(5)
        await stand.guard.check(share())
        assert [entry.ended_at == 0 for entry in stand.evidence.outages] == [True, False, True]


@pytest.mark.parametrize("lasts", [False, True])
async def test_outages_without_end_that_find_no_room_are_told_as_one(lasts: bool, autojump_clock: MockClock) -> None:
    """A disk that is full for days, and a service that comes and goes; a cap counts from the begin of the last one."""
    stand = Stand(autojump_clock)
    async with stand.guard:
        assert (await stand.guard.check(share())).allowed
        stand.evidence.is_full = True
        begins, ends = list[float](), list[float]()
        for _ in range(40):
            begins.append(await fails_without_room(stand))
            ends.append(await recovers(stand))
        if lasts:
            begins.append(await fails_without_room(stand))
        stand.evidence.is_full = False
        await trio.sleep(100)  # a probe, or a question of its own
        await stand.guard.check(share())
        assert stand.guard.status().outage_since == (begins[40] if lasts else None)

    told = stand.evidence.outages
    over, last = told[:64], told[-1]
    assert [one.began_at for one in over] == [at for at in begins[:32] for _ in range(2)]
    assert [one.ended_at for one in over[::2]] == [0.0] * 32
    assert [one.ended_at for one in over[1::2]] == pytest.approx([*ends[:31], ends[39]], abs=1)
    assert [one.folded for one in over[1::2]] == [0] * 31 + [9]
    assert len(told) == (65 if lasts else 64)
    if lasts:
        assert (last.began_at, last.ended_at, last.folded) == (begins[40], 0.0, 0)


async def fails_without_room(stand: Stand) -> float:
    """When the outage began."""
    stand.nodes.all(fails(Failure.CONNECT))
    assert (await stand.guard.check(share())).reason is Reason.DEGRADED
    since = stand.guard.status().outage_since
    assert since is not None
    return since


async def recovers(stand: Stand) -> float:
    """When the outage had ended."""
    stand.nodes.all(answers())
    while stand.guard.status().outage_since is not None:  # noqa: ASYNC110 - simulated time, and nothing rings
        await trio.sleep(1)
    return float(stand.clock.now())


async def test_nobody_is_asked_of_our_own_while_the_circuit_is_open(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock)
    async with stand.guard:
        await outage(stand)
        await trio.sleep(3600)
        assert {call.path for _, _, call in stand.nodes.calls} == {INTROSPECT}


async def test_the_status_tells_the_newest_contact_with_each_node(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock, A, B)
    async with stand.guard:
        assert [(one.address, one.how) for one in stand.guard.status().contacts] == [(A, ""), (B, "")]
        stand.nodes.behaviours = {A: answers(ccs_freshness="last_known"), B: fails(Failure.RESET)}
        for _ in range(2):
            await stand.guard.check(share())
        a, b = stand.guard.status().contacts
        assert (a.how, a.freshness, a.failed_at) == ("last_known", "last_known", None)
        assert (b.how, b.freshness, b.answered_at) == ("reset", "", None)
        await trio.sleep(20)
        stand.nodes.all(says(INACTIVE))
        for _ in range(4):
            await stand.guard.check(share())
        a, b = stand.guard.status().contacts
        assert (a.how, a.freshness, a.at, a.answered_at) == ("answered", "last_known", NOW + 20, NOW + 20)
        assert (b.how, b.failure, b.at) == ("answered", "reset", NOW + 20)
        assert b.failed_at is not None
        assert b.failed_at < b.at
        stand.nodes.all(answers())
        for _ in range(4):
            await stand.guard.check(share(token="another"))
        assert [(one.how, one.as_of) for one in stand.guard.status().contacts] == [("current", NOW + 19)] * 2


async def test_a_slow_node_is_hedged_after_fifty_milliseconds(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock, A, B)
    async with stand.guard:
        stand.nodes.all(slowly(0.001, answers()))
        stand.nodes.behaviours[B] = slowly(1.5, answers())
        for _ in range(2):
            assert (await stand.guard.check(share())).allowed
        assert trio.current_time() == pytest.approx(0.052)
        assert stand.nodes.asked == [B, A, A]
        counts = stand.guard.status().calls
        assert counts is not None
        assert (counts.hedges, counts.hedges_won) == (1, 1)


async def test_hedges_stay_within_half_of_the_budget(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock, A, B)
    async with stand.guard:
        stand.nodes.all(slowly(0.3, answers()))
        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(stand.guard.check, share())
        assert len(stand.nodes.calls) == 45


async def test_a_black_hole_costs_fifty_milliseconds_where_another_node_answers(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock, A, B)
    async with stand.guard:
        stand.nodes.behaviours[B] = black_hole
        verdict = await stand.guard.check(share())
        assert verdict.allowed
        assert trio.current_time() == pytest.approx(0.05)


async def test_a_black_hole_is_found_out_where_the_other_node_has_nothing_but_last_known(
    autojump_clock: MockClock,
) -> None:
    """The hedge's answer cuts nothing short, so that the node has had its two seconds: once, and not for each share."""
    stand = Stand(autojump_clock, A, B)
    async with stand.guard:
        assert (await stand.guard.check(share())).allowed
        assert stand.nodes.asked == [B]  # the next one is A's
        stand.nodes.behaviours = {A: black_hole, B: answers(ccs_freshness="last_known", ccs_as_of=NOW)}
        took = []
        for _ in range(6):
            began = trio.current_time()
            assert (await stand.guard.check(share())).freshness == "last_known"
            took.append(trio.current_time() - began)
        assert sorted(took) == pytest.approx([0, 0, 0, 0, 0, 2])
        counts, (at_a, _) = stand.guard.status().calls, stand.guard.status().contacts
        assert counts is not None
        assert (counts.failures[Failure.TIMEOUT], at_a.how) == (1, "timeout")


async def test_retries_of_many_shares_stay_within_their_budget(autojump_clock: MockClock) -> None:
    """100 shares at once, nobody answers: 3 whole runs, the first of which finds the outage; the others wait for it."""
    stand = Stand(autojump_clock)
    async with stand.guard:
        stand.nodes.all(fails(Failure.CONNECT))
        reasons: list[Reason] = []

        async def check() -> None:
            reasons.append((await stand.guard.check(share())).reason)

        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(check)
        assert len(stand.nodes.calls) == 100 + 3 * 2 + 1
        assert reasons == [Reason.UNKNOWN_IN_OUTAGE] * 100
        assert stand.guard.status().circuit == "buffering"


@pytest.mark.parametrize(
    "bad",
    [share(token=""), share(token="é"), share(token="x" * 9000), share(thumbprint=b"short"),
     share(data_from=UnixTime(10**15)), share(mpxn="\ud800"), share(share_id="\ud800"), share(dpop_jkt="\xe9")],
)  # fmt: skip
async def test_what_cannot_be_asked_is_a_bad_request(bad: object, autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock)
    async with stand.guard:
        assert (await stand.guard.check(bad)).reason is Reason.BAD_REQUEST  # type: ignore[arg-type] # a share
        assert stand.nodes.calls == []


@pytest.mark.parametrize("field", ["dataset_id", "mpxn", "purpose_code", "share_id", "dpop_jkt"])
async def test_what_cannot_be_written_down_is_a_bad_request_in_an_outage_too(
    field: str, autojump_clock: MockClock
) -> None:
    stand = Stand(autojump_clock)
    async with stand.guard:
        await outage(stand)
        for check in (stand.guard.check(share(**{field: "\ud800"})), _first(stand, share(**{field: "\xe9"}))):
            assert (await check).reason is Reason.BAD_REQUEST
        assert len(stand.evidence.shares) == 1  # that of the share which found the outage


async def _first(stand: Stand, asked: Share) -> Verdict:
    return (await stand.guard.check_many([asked]))[0]


async def test_signed_answers_are_checked_with_the_issuers_keys(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock, answers=AnswerForm.SIGNED)
    async with stand.guard:
        stand.nodes.all(answers_signed())
        verdict = await stand.guard.check(share())
        assert verdict.reason is Reason.CONSENTED
        assert stand.nodes.calls[0][2].accept == b"application/token-introspection+jwt"
        known = stand.memory.look(digest_of(share()))
        assert known is not None
        assert known.answer.count(b".") == 2
        stand.nodes.all(answers())  # plain JSON where signed answers are registered
        assert (await stand.guard.check(share())).reason is Reason.NO_ANSWER


async def test_what_the_block_raises_comes_through_as_it_is(autojump_clock: MockClock) -> None:
    with pytest.raises(ZeroDivisionError):
        async with Stand(autojump_clock).guard:
            raise ZeroDivisionError


async def test_a_cancelled_share_leaves_nothing_behind(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock, A, B)
    async with stand.guard:
        stand.nodes.all(black_hole)
        with trio.move_on_after(0.03):
            await stand.guard.check(share())
        stand.nodes.all(answers())
        assert (await stand.guard.check(share())).allowed


async def test_one_question_that_makes_nodes_fail_opens_no_circuit(autojump_clock: MockClock) -> None:
    """While others are answered, as many 500s as there are attempts are that question's own trouble."""
    stand = Stand(autojump_clock, A, B)
    good = answers()
    stand.nodes.all(lambda call: says(b"", 500)(call) if b"poison" in call.body else good(call))
    poisoned: list[Reason] = []

    async def poison() -> None:
        poisoned.append((await stand.guard.check(share(token="poison"))).reason)

    async with stand.guard, trio.open_nursery() as nursery:
        nursery.start_soon(poison)
        for _ in range(20):
            assert (await stand.guard.check(share())).reason is Reason.CONSENTED
            await trio.sleep(0.05)
        assert poisoned == [Reason.UNANSWERED]
        assert stand.guard.status().circuit == "closed"


@pytest.mark.parametrize(("pause", "reason"), [(1, Reason.LAST_KNOWN), (100, Reason.UNANSWERED)])
async def test_of_many_nodes_each_must_have_failed_within_the_last_minute(
    pause: int, reason: Reason, autojump_clock: MockClock
) -> None:
    """Six nodes, four attempts: the first run cannot know, the second one can if the first was not long ago."""
    stand = Stand(autojump_clock, *(f"https://n{number}" for number in range(6)))
    async with stand.guard:
        assert (await stand.guard.check(share())).allowed
        stand.nodes.all(fails(Failure.CONNECT))
        assert (await stand.guard.check(share())).reason is Reason.UNANSWERED
        await trio.sleep(pause)
        assert (await stand.guard.check(share())).reason is reason


@pytest.mark.parametrize(("freshness", "reason"), [("current", Reason.CONSENTED), ("last_known", Reason.NOT_ACTIVE)])
async def test_a_suspended_atp_is_refused_on_a_last_known_answer(
    freshness: str, reason: Reason, autojump_clock: MockClock
) -> None:
    stand = Stand(autojump_clock)
    async with stand.guard:
        stand.memory.all_suspended = True
        stand.nodes.all(answers(ccs_freshness=freshness))
        assert (await stand.guard.check(share())).reason is reason


async def test_what_answers_showed_of_a_tokens_consents_is_kept_side_by_side(autojump_clock: MockClock) -> None:
    """Asked about a share, the service shows the one consent that covers it; the token has others."""
    stand = Stand(autojump_clock)
    other = entry(consent_id="00000000-0000-4000-8000-000000000009", dataset_id="hh-gas")
    async with stand.guard:
        assert (await stand.guard.check(share())).allowed
        await trio.sleep(20)
        stand.nodes.all(answers(other))
        assert (await stand.guard.check(share(dataset_id="hh-gas"))).allowed
        await outage_of_all(stand)
        for each in (share(), share(dataset_id="hh-gas")):
            assert (await stand.guard.check(each)).reason is Reason.LAST_KNOWN
        stand.memory.missing = UnixTime(NOW + 10)  # between the two answers
        assert (await stand.guard.check(share())).reason is Reason.DEGRADED
        assert (await stand.guard.check(share(dataset_id="hh-gas"))).reason is Reason.LAST_KNOWN


async def outage_of_all(stand: Stand) -> None:
    stand.nodes.all(fails(Failure.CONNECT))
    await stand.guard.check(share())
    assert stand.guard.status().circuit == "buffering"


async def test_a_yes_from_before_a_no_is_not_remembered(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock)
    async with stand.guard:
        stand.nodes.all(says(INACTIVE))
        assert (await stand.guard.check(share())).reason is Reason.NOT_ACTIVE
        stand.nodes.all(answers(ccs_as_of=NOW - 1))
        assert (await stand.guard.check(share())).allowed
        assert stand.memory.tokens == {}
        await trio.sleep(1)
        stand.nodes.all(answers(ccs_as_of=NOW + 1))
        assert (await stand.guard.check(share())).allowed
        assert len(stand.memory.tokens) == 1


async def test_a_full_disk_stops_no_share_that_was_answered(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock)
    async with stand.guard:
        stand.memory.is_full = True
        assert (await stand.guard.check(share())).allowed
        stand.nodes.all(says(INACTIVE))
        assert (await stand.guard.check(share())).reason is Reason.NOT_ACTIVE


async def test_the_last_current_answer_is_known_by_its_time(autojump_clock: MockClock) -> None:
    """Whoever follows events needs to know whether the service speaks (decision 0027)."""
    stand = Stand(autojump_clock)
    async with stand.guard:
        assert stand.guard.answered_at() is None
        await stand.guard.check(share())
        first = stand.clock.boot()
        assert stand.guard.answered_at() == first
        await trio.sleep(5)
        for says_nothing_new in (answers(ccs_freshness="last_known"), says(INACTIVE), fails(Failure.CONNECT)):
            stand.nodes.all(says_nothing_new)
            await stand.guard.check(share())
            assert stand.guard.answered_at() == first


async def test_an_answer_that_says_the_same_is_written_once_a_minute(autojump_clock: MockClock) -> None:
    """At once where it says something else or less, or while events are missing: then its time counts."""
    stand = Stand(autojump_clock)
    async with stand.guard:
        for wait, writes in ((0, 1), (30, 1), (29, 1), (1, 2), (59, 2)):
            await trio.sleep(wait)
            await stand.guard.check(share())
            assert stand.memory.writes == writes
        stand.nodes.all(answers(entry(), ccs_consent_version=4))
        await stand.guard.check(share())
        assert stand.memory.writes == 3
        stand.nodes.all(answers(entry(), ccs_consent_version=4, ccs_last_known_until=NOW + 7_200))
        await stand.guard.check(share())
        assert stand.memory.writes == 4, "what may be used for a shorter time is kept at once"
        (kept,) = stand.memory.tokens.values()
        assert kept.last_known_until == NOW + 7_200
        stand.nodes.all(answers(entry(), ccs_consent_version=4, ccs_last_known_until=NOW + 7_201))
        await stand.guard.check(share())
        assert stand.memory.writes == 4
        stand.memory.mark_missing(NOW)
        await stand.guard.check(share())
        assert stand.memory.writes == 5
