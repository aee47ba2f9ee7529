"""Many shares at once: what goes by digest, what with the token, and what an outage makes of a batch."""

import json
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from engine.clock import UnixTime, format_utc
from engine.guard.asking import SINGLY
from engine.guard.batches import _cut
from engine.guard.calls import Call, Reply
from engine.guard.evidence_words import Failure
from engine.guard.questions import EVALUATIONS, batch, digest_of, size_of
from engine.guard.shares import Reason, Share
from engine.tokens.jws import encode_part
from tests.support.guard_answers import x5t
from tests.support.guard_stand import (
    INACTIVE,
    Behaviour,
    Stand,
    answers,
    black_hole,
    fails,
    in_turn,
    says,
    slowly,
    token_of,
)
from tests.support.guard_words import NOW, consent, entry, pushed_entry, share

YES = "yes"


def jwt_like(number: int, bound_to: str = x5t()) -> str:
    """A token that says what it is bound to; its signature is the service's business."""
    payload = json.dumps({"client_id": "atp-1", "cnf": {"x5t#S256": bound_to}, "n": number}).encode()
    return ".".join(part.decode() for part in (encode_part(b"{}"), encode_part(payload), encode_part(b"s")))


def some(count: int, **changes: Any) -> list[Share]:
    return [share(token=jwt_like(number), **changes) for number in range(count)]


CONSENT = consent().consent_id
CUT_TO = UnixTime(NOW - 1800)
CUT = pushed_entry(data_to=format_utc(CUT_TO))


def decides(*contexts: dict[str, Any] | str, freshness: str = "current", consent_id: str = CONSENT) -> Behaviour:
    """Introspections are answered yes; of a batch, each item as told, the last for all that follow."""
    single = answers()

    def behave(call: Call) -> Reply:
        if call.path != EVALUATIONS:
            reply = single(call)
            assert isinstance(reply, Reply)
            return reply
        asked = json.loads(call.body)["evaluations"]
        told = [contexts[min(place, len(contexts) - 1)] for place in range(len(asked))]
        items = [
            {"decision": True, "context": {"consent_id": consent_id, "ccs_consent_version": 3}}
            if one == YES
            else {"decision": False, "context": one}
            for one in told
        ]
        now = NOW + int(trio.current_time())
        about = {"decision_id": "d_7", "evaluated_at": now, "ccs_freshness": freshness, "ccs_as_of": now - 1}
        body = json.dumps({"evaluations": items, "context": about}).encode()
        return Reply(200, b"application/json", body, call.request_id)

    return behave


def rests(call: Call) -> Reply:
    """Yes to all of a batch, by a service at which the EDP's right to fall back rests."""
    now = NOW + int(trio.current_time())
    context = {"consent_id": CONSENT, "ccs_consent_version": 3, "ccs_last_known_until": now - 1}
    items = [{"decision": True, "context": context}] * len(json.loads(call.body)["evaluations"])
    about = {"decision_id": "d_8", "evaluated_at": now, "ccs_freshness": "current", "ccs_as_of": now - 1}
    body = json.dumps({"evaluations": items, "context": about}).encode()
    return Reply(200, b"application/json", body, call.request_id)


def batches(stand: Stand) -> list[dict[str, Any]]:
    return [json.loads(call.body) for _, _, call in stand.nodes.calls if call.path == EVALUATIONS]


def singles(stand: Stand) -> list[str]:
    return [token_of(call) for _, _, call in stand.nodes.calls if call.path != EVALUATIONS]


async def test_new_tokens_are_introspected_and_known_ones_go_by_digest(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock)
    stand.nodes.all(decides(YES))
    async with stand.guard:
        first = await stand.guard.check_many(some(3))
        assert (len(singles(stand)), batches(stand)) == (3, [])
        second = await stand.guard.check_many(some(3))
    assert [verdict.reason for verdict in first + second] == [Reason.CONSENTED] * 6
    (batch,) = batches(stand)
    assert [item["subject"]["id"] for item in batch["evaluations"]] == [
        encode_part(digest_of(each)).decode() for each in some(3)
    ]
    assert all(set(item) == {"subject", "resource"} for item in batch["evaluations"])  # the rest is said once
    assert b"token" not in json.dumps(batch).encode().replace(b"access_token", b"")
    assert [verdict.evidence_id for verdict in second] == ["d_7.0", "d_7.1", "d_7.2"]


async def test_new_tokens_go_by_digest_too_where_that_is_wished(autojump_clock: MockClock) -> None:
    """The service is told the certificate, and after a yes the guard reads what the token, then genuine, says of it."""
    stand = Stand(autojump_clock, introspect_first=False)
    stand.nodes.all(decides(YES))
    shares = [*some(2), share(token=jwt_like(9, x5t(b"y" * 32))), share(token="opaque")]  # type: ignore[arg-type] # 32 bytes
    async with stand.guard:
        verdicts = await stand.guard.check_many(shares)
    assert singles(stand) == []
    assert [verdict.reason for verdict in verdicts] == [
        Reason.CONSENTED, Reason.CONSENTED, Reason.WRONG_CERTIFICATE, Reason.WRONG_CERTIFICATE,
    ]  # fmt: skip
    (batch,) = batches(stand)
    assert all(item["subject"]["properties"] == {"x5t_s256": x5t()} for item in batch["evaluations"])
    assert stand.memory.tokens == {}  # a decision is no last-known consent


@pytest.mark.parametrize(
    ("context", "reason"),
    [
        ({"code": "token_not_active"}, Reason.NOT_ACTIVE),
        ({"code": "window_outside_consent", "ccs_consent_version": 2}, Reason.NOT_COVERED),
        ({"code": "not_covered"}, Reason.NOT_COVERED),
        ({"code": "request_malformed"}, Reason.BAD_REQUEST),
        ({}, Reason.NOT_ACTIVE),
    ],
)
async def test_a_no_is_told_by_its_code(context: dict[str, Any], reason: Reason, autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock)
    async with stand.guard:
        await stand.guard.check_many(some(2))
        stand.nodes.all(decides(YES, context))
        verdicts = await stand.guard.check_many(some(2))
    assert [verdict.reason for verdict in verdicts] == [Reason.CONSENTED, reason]
    told = context == {"code": "token_not_active"}
    assert stand.memory.refused == ([digest_of(some(2)[1])] if told else [])


async def test_what_a_digest_does_not_settle_is_asked_with_the_token(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock)
    async with stand.guard:
        await stand.guard.check_many(some(3))
        stand.nodes.calls.clear()
        stand.nodes.all(decides(YES, {"error": {"status": 503, "message": "ask again"}}))
        verdicts = await stand.guard.check_many(some(3))
    assert [verdict.reason for verdict in verdicts] == [Reason.CONSENTED] * 3
    assert sorted(singles(stand)) == sorted(each.token for each in some(3)[1:])


async def test_a_wrong_certificate_in_a_batch(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock)
    stand.nodes.all(decides(YES))
    async with stand.guard:
        await stand.guard.check_many(some(1))
        verdicts = await stand.guard.check_many([*some(1), *some(1, thumbprint=b"y" * 32)])
    assert [verdict.reason for verdict in verdicts] == [Reason.CONSENTED, Reason.WRONG_CERTIFICATE]


async def test_a_pushed_end_wins_over_a_batch(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock)
    stand.nodes.all(decides(YES))
    async with stand.guard:
        await stand.guard.check_many(some(1))
        stand.memory.end(CONSENT, 4, NOW)
        assert (await stand.guard.check_many(some(1)))[0].reason is Reason.NOT_ACTIVE


@pytest.mark.parametrize("freshness", ["current", "last_known"])
@pytest.mark.parametrize("introspect_first", [True, False])
async def test_a_pushed_cut_wins_over_a_batch_of_before_it(
    freshness: str, introspect_first: bool, autojump_clock: MockClock
) -> None:
    """A decision does not show its consent: where a later version was heard of, the token itself is asked about."""
    stand = Stand(autojump_clock, introspect_first=introspect_first)
    stand.nodes.all(decides(YES, freshness=freshness))
    async with stand.guard:
        await stand.guard.check_many(some(1))
        stand.memory.change(CONSENT, 4, CUT, None)
        whole, part = await stand.guard.check_many([*some(1), *some(1, data_to=CUT_TO)])
    assert (whole.reason, part.reason) == (Reason.NOT_COVERED, Reason.CONSENTED)


@pytest.mark.parametrize("is_end", [True, False])
async def test_what_is_heard_while_a_batch_is_under_way_wins_over_its_first_answers(
    is_end: bool, autojump_clock: MockClock
) -> None:
    """The second token's answer takes a second and a half; meanwhile the consent ends, or the ATP is suspended."""
    stand = Stand(autojump_clock)
    quick = answers(ccs_freshness="current" if is_end else "last_known")
    slow = slowly(1.5, quick)
    stand.nodes.all(lambda call: (slow if token_of(call) == jwt_like(1) else quick)(call))

    async def tell() -> None:
        await trio.sleep(0.5)
        if is_end:
            stand.memory.end(CONSENT, 4, NOW)
        else:
            stand.memory.suspended = {"atp-1"}

    async with stand.guard, trio.open_nursery() as nursery:
        nursery.start_soon(tell)
        verdicts = await stand.guard.check_many(some(2))
    assert [verdict.reason for verdict in verdicts] == [Reason.NOT_ACTIVE] * 2


async def test_an_end_that_is_pushed_while_a_batch_is_under_way_wins_over_its_yes(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock)
    stand.nodes.all(decides(YES))
    async with stand.guard:
        await stand.guard.check_many(some(2))
        decide = decides(YES)

        def behave(call: Call) -> Any:
            stand.memory.end(CONSENT, 4, NOW)
            return decide(call)

        stand.nodes.all(behave)
        verdicts = await stand.guard.check_many(some(2))
    assert [verdict.reason for verdict in verdicts] == [Reason.NOT_ACTIVE] * 2


async def test_what_is_heard_while_other_shares_are_still_asked_about_counts(autojump_clock: MockClock) -> None:
    """The yes of the first batch is seconds old when the second one is answered, and an end has been acknowledged."""
    stand = Stand(autojump_clock)
    stand.nodes.all(decides(YES))
    shares = some(501)
    async with stand.guard:
        await stand.guard.check_many(shares)
        stand.nodes.all(in_turn(decides(YES), slowly(1.5, decides(YES))))

        async def push() -> None:
            await trio.sleep(1)
            stand.memory.end(CONSENT, 4, NOW)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(push)
            verdicts = await stand.guard.check_many(shares)
    assert {verdict.reason for verdict in verdicts} == {Reason.NOT_ACTIVE}


async def test_a_cut_that_is_pushed_while_a_batch_is_under_way_wins_over_its_yes(autojump_clock: MockClock) -> None:
    """As one share would be, each is asked about with its token, whose answer shows what can be cut."""
    stand = Stand(autojump_clock)
    stand.nodes.all(decides(YES))
    async with stand.guard:
        await stand.guard.check_many(some(1))
        stand.nodes.calls.clear()
        decide = decides(YES)

        def behave(call: Call) -> Any:
            stand.memory.change(CONSENT, 4, CUT, None)
            return decide(call)

        stand.nodes.all(behave)
        whole, part = await stand.guard.check_many([*some(1), *some(1, data_to=CUT_TO)])
    assert (whole.reason, part.reason) == (Reason.NOT_COVERED, Reason.CONSENTED)
    assert (len(batches(stand)), len(singles(stand))) == (1, 2)


async def test_a_cut_of_a_consent_that_no_answer_has_shown_wins_over_a_batch(autojump_clock: MockClock) -> None:
    """The token is known by another consent of it; that this one cannot be learnt makes no yes of it."""
    stand = Stand(autojump_clock)
    other = "00000000-0000-4000-8000-000000000009"
    async with stand.guard:
        assert (await stand.guard.check(some(1)[0])).allowed
        stand.memory.change(other, 4, pushed_entry(consent_id=other, data_to=format_utc(CUT_TO)), None)
        decided, single = decides(YES, consent_id=other), answers(entry(consent_id=other))
        stand.nodes.all(lambda call: (decided if call.path == EVALUATIONS else single)(call))
        stand.memory.is_full = True
        for _ in range(2):
            whole, part = await stand.guard.check_many([*some(1), *some(1, data_to=CUT_TO)])
            assert (whole.reason, part.reason) == (Reason.NOT_COVERED, Reason.CONSENTED)


async def test_a_cut_that_is_heard_while_other_shares_are_still_asked_about_counts(autojump_clock: MockClock) -> None:
    """The yes of the first batch is seconds old; what lies within the cut is shared all the same."""
    stand = Stand(autojump_clock)
    stand.nodes.all(decides(YES))
    shares = [share(token=jwt_like(0), data_to=CUT_TO), *some(501)]
    async with stand.guard:
        await stand.guard.check_many(shares)
        stand.nodes.all(in_turn(decides(YES), slowly(1.5, decides(YES)), answers()))

        async def push() -> None:
            await trio.sleep(1)
            stand.memory.change(CONSENT, 4, CUT, None)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(push)
            part, *whole = await stand.guard.check_many(shares)
    assert part.reason is Reason.CONSENTED
    assert {verdict.reason for verdict in whole} == {Reason.NOT_COVERED}


@pytest.mark.parametrize(
    ("cnf", "pushed", "reason"),
    [
        ({"x5t#S256": x5t()}, CUT, Reason.NOT_COVERED),
        ({"x5t#S256": x5t()}, pushed_entry(), Reason.CONSENTED),  # renewed, say
        ({"x5t#S256": x5t()}, b'{"only_on":"mondays"}', Reason.UNANSWERED),
        ({"jkt": "k" * 43}, pushed_entry(), Reason.UNANSWERED),  # of it nothing is kept
    ],
)
async def test_a_change_that_is_heard_while_others_are_introspected_counts(
    cnf: dict[str, str], pushed: bytes, reason: Reason, autojump_clock: MockClock
) -> None:
    """Where nothing tells what is left of what the answer showed, the share is to be asked about again."""
    stand = Stand(autojump_clock)
    quick = answers(cnf=cnf)
    slow = slowly(1.5, says(INACTIVE))
    stand.nodes.all(lambda call: (slow if token_of(call) == jwt_like(1) else quick)(call))

    async def push() -> None:
        await trio.sleep(0.5)
        stand.memory.change(CONSENT, 4, pushed, None)

    async with stand.guard, trio.open_nursery() as nursery:
        nursery.start_soon(push)
        first, _ = await stand.guard.check_many(some(2, dpop_jkt="k" * 43))
    assert first.reason is reason


async def test_a_memory_that_is_lost_while_a_batch_is_under_way_leaves_no_last_known_yes(
    autojump_clock: MockClock,
) -> None:
    for freshness, reason in (("current", Reason.CONSENTED), ("last_known", Reason.DEGRADED)):
        stand = Stand(autojump_clock)
        quick = answers(ccs_freshness=freshness)
        slow = slowly(1.5, quick)
        stand.nodes.all(lambda call, quick=quick, slow=slow: (slow if token_of(call) == jwt_like(1) else quick)(call))

        async def lose(stand: Stand = stand) -> None:
            await trio.sleep(0.5)
            stand.memory.tokens.clear()
            stand.memory.lost = UnixTime(stand.clock.now() + 60)
            stand.memory.ended = {"another"}  # something was heard

        async with stand.guard, trio.open_nursery() as nursery:
            nursery.start_soon(lose)
            first, second = await stand.guard.check_many(some(2))
        assert (first.reason, second.reason) == (reason, reason)


async def test_each_share_has_its_own_window_data_set_and_key(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock, introspect_first=False)
    stand.nodes.all(decides(YES))
    odd = share(token=jwt_like(7), data_to=UnixTime(NOW - 1800), purpose_code="advice", share_id='s"1')
    async with stand.guard:
        await stand.guard.check_many([*some(2), odd])
    (batch,) = batches(stand)
    assert batch["evaluations"][2]["context"] == {"share_id": 's"1'}
    properties = batch["evaluations"][2]["action"]["properties"]
    assert (properties["purpose_code"], properties["to"]) == ("advice", "2026-11-22T09:30:00Z")
    assert batch["action"]["properties"]["to"] == "2026-11-22T10:00:00Z"


async def test_bad_shares_do_not_spoil_the_others(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock, introspect_first=False)
    stand.nodes.all(decides(YES))
    shares = [*some(1), share(token=""), share(token=jwt_like(5), data_to=UnixTime(10**15)), *some(1)]
    async with stand.guard:
        verdicts = await stand.guard.check_many(shares)
        assert await stand.guard.check_many([]) == []
    assert [verdict.reason for verdict in verdicts] == [
        Reason.CONSENTED, Reason.BAD_REQUEST, Reason.BAD_REQUEST, Reason.CONSENTED,
    ]  # fmt: skip


async def test_a_second_consent_of_a_token_is_introspected_once_and_known_in_an_outage(
    autojump_clock: MockClock,
) -> None:
    """The service shows the one consent that covers a share; a decision shows none."""
    stand = Stand(autojump_clock)
    other = "00000000-0000-4000-8000-000000000009"
    gas = [share(token=jwt_like(0), dataset_id="hh-gas")]
    async with stand.guard:
        assert (await stand.guard.check(some(1)[0])).allowed
        decided = decides(YES, consent_id=other)
        single = answers(entry(consent_id=other, dataset_id="hh-gas"))
        stand.nodes.all(lambda call: (decided if call.path == EVALUATIONS else single)(call))
        await trio.sleep(1)
        stand.nodes.calls.clear()
        for _ in range(3):
            assert [verdict.reason for verdict in await stand.guard.check_many(gas)] == [Reason.CONSENTED]
        assert (len(singles(stand)), len(batches(stand))) == (1, 3)
        stand.nodes.all(fails(Failure.CONNECT))
        found = [*await stand.guard.check_many(gas), *await stand.guard.check_many(some(1))]
    assert [verdict.reason for verdict in found] == [Reason.LAST_KNOWN] * 2


async def test_what_cannot_be_learnt_takes_no_yes_away(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock)
    async with stand.guard:
        assert (await stand.guard.check(some(1)[0])).allowed
        decided = decides(YES, consent_id="00000000-0000-4000-8000-000000000009")
        stand.nodes.all(lambda call: decided(call) if call.path == EVALUATIONS else fails(Failure.CONNECT)(call))
        assert (await stand.guard.check_many(some(1)))[0].reason is Reason.CONSENTED


@pytest.mark.parametrize("why", ["an outage", "cancelled"])
async def test_what_was_not_learnt_is_learnt_later(why: str, autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock)
    other = "00000000-0000-4000-8000-000000000009"
    gas = [share(token=jwt_like(0), dataset_id="hh-gas")]
    decided, single = decides(YES, consent_id=other), answers(entry(consent_id=other, dataset_id="hh-gas"))
    async with stand.guard:
        assert (await stand.guard.check(some(1)[0])).allowed
        never = fails(Failure.CONNECT) if why == "an outage" else black_hole
        stand.nodes.all(lambda call: (decided if call.path == EVALUATIONS else never)(call))
        if why == "an outage":
            await trio.sleep(1)
            assert (await stand.guard.check_many(gas))[0].reason is Reason.CONSENTED
            assert stand.guard.status().circuit == "buffering"
        else:
            with trio.move_on_after(1):
                await stand.guard.check_many(gas)
        stand.nodes.all(lambda call: (decided if call.path == EVALUATIONS else single)(call))
        await trio.sleep(400)
        for _ in range(2):
            stand.nodes.calls.clear()
            assert (await stand.guard.check_many(gas))[0].reason is Reason.CONSENTED
        assert singles(stand) == []
        stand.nodes.all(fails(Failure.CONNECT))
        assert (await stand.guard.check_many(gas))[0].reason is Reason.LAST_KNOWN


async def test_an_outage_is_judged_share_by_share(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock)
    async with stand.guard:
        await stand.guard.check_many(some(2))
        stand.nodes.all(fails(Failure.CONNECT))
        shares = [*some(2), *some(1, data_to=UnixTime(NOW + 10**7))]
        found = await stand.guard.check_many(shares)
        assert stand.guard.status().circuit == "buffering"
        stand.nodes.calls.clear()
        again = await stand.guard.check_many([*shares, share(token="never seen")])
        assert stand.nodes.calls == []
    expected = [Reason.LAST_KNOWN, Reason.LAST_KNOWN, Reason.NOT_COVERED]
    assert [verdict.reason for verdict in found] == expected
    assert [verdict.reason for verdict in again] == [*expected, Reason.UNKNOWN_IN_OUTAGE]
    assert len(stand.evidence.shares) == 6


async def test_nobody_is_asked_any_more_once_a_batch_has_found_an_outage(autojump_clock: MockClock) -> None:
    """Sixteen questions at a time, three runs of retries; the 24 tokens that have not had their turn are not asked."""
    stand = Stand(autojump_clock)
    async with stand.guard:
        stand.nodes.all(black_hole)
        verdicts = await stand.guard.check_many(some(40))
        assert stand.guard.status().circuit == "buffering"
        assert trio.current_time() == pytest.approx(8.7)  # of one share's: 4 times 2 s, and 0.1, 0.2 and 0.4 between
    assert [verdict.reason for verdict in verdicts] == [Reason.UNKNOWN_IN_OUTAGE] * 40
    assert len(stand.nodes.calls) == 16 + 3 * 3


async def test_a_batch_that_is_known_asks_nobody_once_its_new_tokens_have_found_an_outage(
    autojump_clock: MockClock,
) -> None:
    stand = Stand(autojump_clock)
    stand.nodes.all(decides(YES))
    async with stand.guard:
        await stand.guard.check_many(some(2))
        stand.nodes.all(fails(Failure.CONNECT))
        stand.nodes.calls.clear()
        verdicts = await stand.guard.check_many([*some(2), share(token=jwt_like(9))])
        assert [verdict.reason for verdict in verdicts] == [
            Reason.LAST_KNOWN, Reason.LAST_KNOWN, Reason.UNKNOWN_IN_OUTAGE,
        ]  # fmt: skip
        assert batches(stand) == []
        assert len(stand.nodes.calls) == 4


async def test_a_batchs_no_to_a_token_is_known_in_an_outage(autojump_clock: MockClock) -> None:
    """Also of one that was never known as active: a batch's no says whether it is about the token."""
    stand = Stand(autojump_clock, introspect_first=False)
    async with stand.guard:
        stand.nodes.all(decides({"code": "token_not_active"}, {"code": "not_covered"}))
        await stand.guard.check_many(some(2))
        stand.nodes.all(fails(Failure.CONNECT))
        await stand.guard.check_many(some(2))
        found = await stand.guard.check_many(some(2, dataset_id="hh-gas"))
    assert [verdict.reason for verdict in found] == [Reason.NOT_ACTIVE, Reason.UNKNOWN_IN_OUTAGE]


async def test_a_batchs_no_to_a_token_that_it_made_known_is_kept(autojump_clock: MockClock) -> None:
    """Its first share was introspected, and the token is revoked before the second one is asked about."""
    stand = Stand(autojump_clock)
    stand.nodes.all(decides({"code": "token_not_active"}))
    async with stand.guard:
        yes, no = await stand.guard.check_many(some(1) * 2)
    assert (yes.reason, no.reason) == (Reason.CONSENTED, Reason.NOT_ACTIVE)
    assert stand.memory.refused == [digest_of(some(1)[0])]


@pytest.mark.parametrize("body", [b'{"decision":true}', b"{}", b'{"evaluations":[]}'])
async def test_an_answer_of_another_shape_is_none(body: bytes, autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock)
    async with stand.guard:
        await stand.guard.check_many(some(2))
        stand.nodes.all(says(body))
        verdicts = await stand.guard.check_many(some(2))
    assert [verdict.reason for verdict in verdicts] == [Reason.NO_ANSWER] * 2


async def test_a_batch_is_asked_of_another_node_before_a_last_known_one_is_taken(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock, "https://a", "https://b", introspect_first=False)
    stand.nodes.behaviours = {
        "https://a": decides(YES, freshness="last_known"), "https://b": decides(YES, freshness="last_known"),
    }  # fmt: skip
    async with stand.guard:
        (verdict,) = await stand.guard.check_many(some(1))
        assert (verdict.freshness, len(batches(stand))) == ("last_known", 2)
        await trio.sleep(3)
        stand.nodes.behaviours["https://b"] = decides(YES)
        (verdict,) = await stand.guard.check_many(some(1))
        assert verdict.freshness == "current"


async def test_batches_keep_to_the_services_limits(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock, introspect_first=False)
    stand.nodes.all(decides(YES))
    async with stand.guard:
        verdicts = await stand.guard.check_many(some(1201, share_id="s" * 60))
    assert len(verdicts) == 1201
    sizes = [len(call.body) for _, _, call in stand.nodes.calls]
    assert max(sizes) < 262_144
    assert all(len(batch["evaluations"]) <= 500 for batch in batches(stand))
    assert sum(len(batch["evaluations"]) for batch in batches(stand)) == 1201
    assert list(_cut([])) == []


async def test_five_hundred_shares_of_one_window_are_one_call(autojump_clock: MockClock) -> None:
    """What they have in common is said once, and is reckoned once."""
    stand = Stand(autojump_clock, introspect_first=False)
    stand.nodes.all(decides(YES))
    async with stand.guard:
        await stand.guard.check_many(some(500, purpose_code="advice"))
    assert [len(batch["evaluations"]) for batch in batches(stand)] == [500]


@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_no_batch_is_larger_than_it_was_reckoned(data: st.DataObject) -> None:
    windows = [UnixTime(NOW - 1800 * number) for number in range(1, 4)]
    shares = data.draw(
        st.lists(
            st.builds(
                share, data_from=st.sampled_from(windows), purpose_code=st.sampled_from([None, "p"]),
                dataset_id=st.sampled_from(["hh-gas", "d" * 64]), share_id=st.sampled_from([None, "s" * 64]),
            ),
            min_size=1, max_size=40,
        )
    )  # fmt: skip
    first = shares[0]
    reckoned = size_of(first) + sum(size_of(each, first) for each in shares[1:])
    body = batch(shares, [digest_of(each) for each in shares], names_certificates=True)
    assert len(body) < reckoned + 64 * len(shares) + 400  # texts of other lengths; what is said once


async def test_an_atp_suspended_meanwhile_is_refused_on_a_last_known_batch(autojump_clock: MockClock) -> None:
    for freshness, reason in (("current", Reason.CONSENTED), ("last_known", Reason.NOT_ACTIVE)):
        stand = Stand(autojump_clock)
        async with stand.guard:
            await stand.guard.check_many(some(1))
            decide = decides(YES, freshness=freshness)

            def behave(call: Call, stand: Stand = stand, decide: Behaviour = decide) -> Any:
                stand.memory.all_suspended = True
                return decide(call)

            stand.nodes.all(behave)
            assert (await stand.guard.check_many(some(1)))[0].reason is reason


async def test_an_atp_that_is_suspended_is_refused_on_a_last_known_batch_of_tokens_that_are_new(
    autojump_clock: MockClock,
) -> None:
    """Of a token that was never introspected here, it is the token itself that says whose it is."""
    for freshness, reason in (("current", Reason.CONSENTED), ("last_known", Reason.NOT_ACTIVE)):
        stand = Stand(autojump_clock, introspect_first=False)
        stand.nodes.all(decides(YES, freshness=freshness))
        stand.memory.suspended = {"atp-1"}
        async with stand.guard:
            assert (await stand.guard.check_many(some(1)))[0].reason is reason


async def test_a_last_known_batch_from_before_a_memory_was_lost_is_no_yes(autojump_clock: MockClock) -> None:
    """An end that the guard had heard of may be forgotten, and a node that is cut off has not heard of it."""
    stand = Stand(autojump_clock, introspect_first=False)
    stand.memory.floor = stand.memory.lost = UnixTime(NOW + 60)
    async with stand.guard:
        for freshness, reason in (("last_known", Reason.DEGRADED), ("current", Reason.CONSENTED)):
            stand.nodes.all(decides(YES, freshness=freshness))
            assert (await stand.guard.check_many(some(1)))[0].reason is reason
        await trio.sleep(90)
        stand.nodes.all(decides(YES, freshness="last_known"))
        assert (await stand.guard.check_many(some(1)))[0].reason is Reason.CONSENTED


async def test_a_no_wins_over_a_last_known_batch_of_before_it(autojump_clock: MockClock) -> None:
    for introspect_first in (True, False):
        stand = Stand(autojump_clock, introspect_first=introspect_first)
        async with stand.guard:
            stand.nodes.all(decides({"code": "token_not_active"}))
            if introspect_first:
                await stand.guard.check_many(some(1))
            assert (await stand.guard.check_many(some(1)))[0].reason is Reason.NOT_ACTIVE
            stand.nodes.all(decides(YES, freshness="last_known"))
            stand.memory.tokens.clear()  # whatever memory says of it
            assert (await stand.guard.check_many([*some(1), *some(1)]))[-1].reason is Reason.NOT_ACTIVE


async def test_a_stolen_token_does_not_cost_its_owner_the_fallback(autojump_clock: MockClock) -> None:
    """Told another's certificate, the service says no to the token; the token itself is as good as before."""
    stand = Stand(autojump_clock, introspect_first=False)
    async with stand.guard:
        assert (await stand.guard.check(some(1)[0])).allowed
        stand.nodes.all(decides({"code": "token_not_active"}))
        assert not (await stand.guard.check_many(some(1, thumbprint=b"y" * 32)))[0].allowed
        assert stand.memory.refused == []
        assert not (await stand.guard.check_many(some(1)))[0].allowed
        assert stand.memory.refused == [digest_of(some(1)[0])]


@pytest.mark.parametrize("status", [404, 405, 406, 501])
async def test_a_service_that_takes_no_batches_is_asked_singly_for_a_while(
    status: int, autojump_clock: MockClock
) -> None:
    """A node without a public URL signs no answer to a batch: that says nothing about who asked."""
    stand = Stand(autojump_clock)
    single, refuses = answers(), says(b"", status)
    stand.nodes.all(lambda call: refuses(call) if call.path == EVALUATIONS else single(call))
    async with stand.guard:
        await stand.guard.check_many(some(3))
        for round_number in (1, 2):
            verdicts = await stand.guard.check_many(some(3))
            assert [verdict.reason for verdict in verdicts] == [Reason.CONSENTED] * 3
            assert (len(batches(stand)), len(singles(stand))) == (1, 3 + 3 * round_number)
        await trio.sleep(SINGLY)
        stand.nodes.all(decides(YES))
        await stand.guard.check_many(some(3))
    assert len(batches(stand)) == 2


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_caller_of_a_batch_is_not_asked_for_singly(status: int, autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock, introspect_first=False)
    stand.nodes.all(says(b"", status))
    async with stand.guard:
        verdicts = await stand.guard.check_many(some(3))
    assert {verdict.reason for verdict in verdicts} == {Reason.REFUSED_CALLER}
    assert singles(stand) == []


async def test_a_right_that_rests_is_learnt_from_a_batch(autojump_clock: MockClock) -> None:
    stand = Stand(autojump_clock)
    stand.nodes.all(decides(YES))
    async with stand.guard:
        await stand.guard.check_many(some(3))
        await trio.sleep(10)
        stand.nodes.all(rests)
        assert all(verdict.allowed for verdict in await stand.guard.check_many(some(2)))
        stand.nodes.all(fails(Failure.CONNECT))
        reasons = {verdict.reason for verdict in await stand.guard.check_many(some(3))}
    assert reasons == {Reason.OUTAGE_TOO_LONG}
