"""What every push service must do for the pusher. It runs on real databases, and once over real HTTPS."""

import pytest
import trio
import trio.testing

from engine.clock import Seconds, UnixTime
from engine.consent.records import ClientId, Role
from engine.errors import Fault
from engine.events.facts import Change, ConsentFact, PartyFact, StreamFact, VerificationFact
from engine.events.sets import event_jti
from engine.pusher.service import (
    Delivery,
    Fate,
    Lane,
    Lease,
    LeaseHeld,
    LeaseLost,
    Outcome,
    PushService,
    Signed,
)
from engine.pusher.streams import DeliveryMethod, StreamStatus
from tests.support.events import signer
from tests.support.outboxes import ISSUER, PUSHER, House

NO_WAIT = Seconds(0.0)
LONG = Seconds(20.0)


class PushServiceContract:
    """Subclasses give `house`, furnished, and `service` over it."""

    async def test_each_receiver_of_an_event_gets_it_once_with_its_place_in_its_chain(
        self, house: House, service: PushService
    ) -> None:
        consent_id, first = await house.grant(edps=("edp-1", "edp-2", "edp-3"))
        second = await house.revoke(consent_id)
        await house.settle()
        made = await service.unsigned(0, 100, NO_WAIT)
        assert [(one.client_id, one.seq, one.prev) for one in made] == [
            ("atp-1", first, 0),
            ("edp-1", first, 0),
            ("edp-2", first, 0),
            ("atp-1", second, first),
            ("edp-1", second, first),
            ("edp-2", second, first),
        ]
        assert [one.number for one in made] == sorted({one.number for one in made})
        assert {one.txn for one in made[:3]} != {one.txn for one in made[3:]}
        assert len({one.txn for one in made[:3]}) == 1
        for one in made:
            assert isinstance(one.fact, ConsentFact)
            assert one.jti == event_jti(one.fact, ISSUER, one.client_id)
            assert one.role is (Role.ATP if one.client_id == "atp-1" else Role.EDP)
            assert one.fact.recorded_at <= one.committed_at < one.fact.recorded_at + 1

    async def test_a_chain_goes_on_through_what_a_receiver_without_streams_was_not_told(
        self, house: House, service: PushService
    ) -> None:
        _, unseen = await house.grant(edps=("edp-3",))
        await house.push_stream("edp-3", Role.EDP)
        _, seen = await house.grant(edps=("edp-3",))
        await house.settle()
        [one] = await service.backlog(ClientId("edp-3"), Lane.ORDINARY, 0, 10)
        assert (one.seq, one.prev) == (seen, unseen)

    async def test_fresh_gives_one_lane_in_order_after_a_number(self, house: House, service: PushService) -> None:
        ids = [(await house.grant())[0] for _ in range(3)]
        await house.revoke(ids[0])
        await house.settle()
        ordinary = await service.fresh(Lane.ORDINARY, 0, 100, NO_WAIT)
        assert [one.client_id for one in ordinary] == ["atp-1", "edp-1"] * 3
        assert [one.number for one in ordinary] == sorted(one.number for one in ordinary)
        assert await service.fresh(Lane.ORDINARY, ordinary[1].number, 2, NO_WAIT) == ordinary[2:4]
        ends = await service.fresh(Lane.ENDS, 0, 100, NO_WAIT)
        assert [(one.client_id, one.lane) for one in ends] == [("atp-1", Lane.ENDS), ("edp-1", Lane.ENDS)]
        assert {one.fact.change for one in ends if isinstance(one.fact, ConsentFact)} == {Change.REVOKED}
        assert await service.fresh(Lane.BULK, 0, 100, NO_WAIT) == []

    async def test_ends_under_a_suspended_party_are_told_by_its_suspension_first(
        self, house: House, service: PushService
    ) -> None:
        consent_id, _ = await house.grant()
        other, _ = await house.grant(atp="atp-2")
        suspended = await house.suspend("atp-1")
        await house.revoke(consent_id)
        await house.suspend("atp-1", suspended=False)
        await house.revoke(other)
        await house.settle()
        ends = await service.fresh(Lane.ENDS, 0, 100, NO_WAIT)
        told = [(one.client_id, one.fact.suspended) for one in ends if isinstance(one.fact, PartyFact)]
        assert told == [("atp-1", True), ("edp-1", True), ("atp-1", False), ("edp-1", False)]
        assert [one.seq for one in ends][:2] == [suspended, suspended]
        assert [one.client_id for one in await service.fresh(Lane.BULK, 0, 100, NO_WAIT)] == ["atp-1", "edp-1"]
        polled = [one.client_id for one in await service.unsigned(0, 100, NO_WAIT) if isinstance(one.fact, PartyFact)]
        assert polled == ["atp-1", "edp-1", "edp-2"] * 2  # any EDP may be asked for data by that ATP
        bulk = await service.unsigned(0, 100, NO_WAIT, bulk=True)
        assert [(one.client_id, one.lane) for one in bulk] == [("atp-1", Lane.BULK), ("edp-1", Lane.BULK)]
        assert await service.unsigned(bulk[0].number, 100, NO_WAIT, bulk=True) == bulk[1:]
        assert Lane.BULK not in {one.lane for one in await service.unsigned(0, 100, NO_WAIT)}

    async def test_fresh_waits_for_the_first_and_is_woken_by_it(self, house: House, service: PushService) -> None:
        found: list[Delivery] = []

        async def wait() -> None:
            found.extend(await service.fresh(Lane.ORDINARY, 0, 10, LONG))

        with trio.fail_after(15):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                await _asleep()
                await house.grant()
                await house.settle()
        assert [one.client_id for one in found] == ["atp-1", "edp-1"]

    async def test_what_is_paused_is_held_and_what_is_disabled_is_not_made(
        self, house: House, service: PushService
    ) -> None:
        await house.register("edp-4", Role.EDP)
        paused = await house.push_stream("edp-4", Role.EDP, status=StreamStatus.PAUSED)
        _, held = await house.grant(edps=("edp-4",))
        await house.settle()
        assert [one.client_id for one in await service.fresh(Lane.ORDINARY, 0, 10, NO_WAIT)] == ["atp-1"]
        enabled = await house.change(paused, status=StreamStatus.ENABLED)
        await house.settle()
        assert [one.seq for one in await service.fresh(Lane.ORDINARY, 0, 10, NO_WAIT)] == [held, held]
        await house.change(enabled, status=StreamStatus.DISABLED)
        await house.grant(edps=("edp-4",))
        await house.settle()
        assert [one.seq for one in await service.backlog(ClientId("edp-4"), Lane.ORDINARY, 0, 10)] == [held]

    async def test_nothing_but_its_challenge_goes_to_a_stream_that_is_not_confirmed(
        self, house: House, service: PushService
    ) -> None:
        await house.register("edp-4", Role.EDP)
        fresh = house.stream("edp-4", Role.EDP, DeliveryMethod.PUSH, status=StreamStatus.PAUSED, challenge="prove it")
        stream = await house.change(fresh)
        await house.grant(edps=("edp-4",))
        await house.settle()
        told = [one for one in await service.fresh(Lane.ORDINARY, 0, 10, NO_WAIT) if one.client_id == "edp-4"]
        assert [(one.seq, one.prev, one.fact) for one in told] == [
            (0, 0, VerificationFact(stream.stream_id, house.clock.now(), challenge="prove it"))
        ]
        await house.change(stream, challenge="", status=StreamStatus.ENABLED)
        await house.settle()
        [updated] = [one for one in await service.fresh(Lane.ENDS, 0, 10, NO_WAIT) if one.client_id == "edp-4"]
        assert updated.fact == StreamFact(stream.stream_id, "enabled", house.clock.now())
        assert len({one.jti for one in (*told, updated)}) == 2

    async def test_a_receiver_hears_of_a_status_that_it_did_not_set_itself(
        self, house: House, service: PushService
    ) -> None:
        await house.register("edp-4", Role.EDP)
        stream = await house.push_stream("edp-4", Role.EDP)
        own = await house.change(stream, status=StreamStatus.PAUSED)
        await house.change(own, actor="operator-1", status=StreamStatus.DISABLED, reason="contract ended")
        await house.settle()
        [told] = await service.fresh(Lane.ENDS, 0, 10, NO_WAIT)
        assert told.fact == StreamFact(stream.stream_id, "disabled", house.clock.now(), "contract ended")

    async def test_a_verification_that_was_asked_for_comes_at_once(self, house: House, service: PushService) -> None:
        stream = await house.push_stream("edp-3", Role.EDP)
        await house.settle()
        await house.outbox.ask_verification(stream.stream_id, "their word")
        [told] = await service.fresh(Lane.ORDINARY, 0, 10, NO_WAIT)
        assert told.fact == VerificationFact(stream.stream_id, house.clock.now(), "their word")
        assert (told.client_id, told.role, told.seq) == ("edp-3", Role.EDP, 0)

    async def test_backlog_is_one_receiver_s_and_goes_on_after_a_number(
        self, house: House, service: PushService
    ) -> None:
        for _ in range(4):
            await house.grant()
        await house.settle()
        first = await service.backlog(ClientId("edp-1"), Lane.ORDINARY, 0, 3)
        rest = await service.backlog(ClientId("edp-1"), Lane.ORDINARY, first[-1].number, 3)
        assert ([one.client_id for one in first], len(rest)) == (["edp-1"] * 3, 1)
        assert await service.backlog(ClientId("edp-2"), Lane.ORDINARY, 0, 3) == []  # it is not pushed to
        assert await service.backlog(ClientId("nobody"), Lane.ORDINARY, 0, 3) == []

    async def test_the_first_bytes_of_a_delivery_stand_for_ever(self, house: House, service: PushService) -> None:
        await house.grant(edps=("edp-1", "edp-2"))
        await house.settle()
        epoch = await _epoch(service)
        one, other, third = await service.unsigned(0, 10, NO_WAIT)
        assert await service.keep(epoch, [Signed(one.number, b"a.b.c"), Signed(other.number, b"d.e.f")]) == [
            Signed(one.number, b"a.b.c"),
            Signed(other.number, b"d.e.f"),
        ]
        again = await service.keep(epoch, [Signed(other.number, b"later"), Signed(third.number, b"g.h.i")])
        assert again == [Signed(other.number, b"d.e.f"), Signed(third.number, b"g.h.i")]
        assert await service.unsigned(0, 10, NO_WAIT) == []
        fresh = await service.fresh(Lane.ORDINARY, 0, 10, NO_WAIT)
        assert {delivery.signed for delivery in fresh} <= {b"a.b.c", b"d.e.f", b"g.h.i"}
        assert await service.keep(epoch, [Signed(10**6, b"of nothing")]) == []
        assert await service.keep(epoch, []) == []

    async def test_what_is_done_is_never_brought_again(self, house: House, service: PushService) -> None:
        await house.grant()
        await house.settle()
        epoch = await _epoch(service)
        atp, edp = await service.fresh(Lane.ORDINARY, 0, 10, NO_WAIT)
        await service.tell(epoch, [_outcome(atp, Fate.DONE)], 1)
        await service.tell(epoch, [_outcome(atp, Fate.AGAIN, attempts=9)], 2)  # comes late
        assert await service.fresh(Lane.ORDINARY, 0, 10, NO_WAIT) == [edp]
        assert await service.backlog(ClientId("atp-1"), Lane.ORDINARY, 0, 10) == []
        assert [one.client_id for one in await service.unsigned(0, 10, NO_WAIT)] == ["atp-1", "edp-1"]  # poll has it

    async def test_what_failed_is_there_with_its_attempts_and_its_time(
        self, house: House, service: PushService
    ) -> None:
        await house.grant()
        await house.settle()
        epoch = await _epoch(service)
        told = [_outcome(one, Fate.AGAIN, 3) for one in await service.fresh(Lane.ORDINARY, 0, 10, NO_WAIT)]
        await service.tell(epoch, told, 1)
        await service.tell(epoch, told, 1)  # an answer was lost
        found = await service.fresh(Lane.ORDINARY, 0, 10, NO_WAIT)
        assert [(one.attempts, one.next_at) for one in found] == [(3, 1_900_000_000.5)] * 2

    async def test_what_is_parked_waits_until_it_is_let_go(self, house: House, service: PushService) -> None:
        for _ in range(3):
            await house.grant()
        await house.settle()
        epoch = await _epoch(service)
        parked = await service.backlog(ClientId("edp-1"), Lane.ORDINARY, 0, 2)
        await service.tell(epoch, [_outcome(one, Fate.PARKED, 9) for one in parked], 1)
        assert len(await service.backlog(ClientId("edp-1"), Lane.ORDINARY, 0, 10)) == 1
        assert await service.unpark(epoch, ClientId("atp-1"), UnixTime(5)) == 0
        assert await service.unpark(epoch, ClientId("edp-1"), UnixTime(5)) == 2
        back = await service.backlog(ClientId("edp-1"), Lane.ORDINARY, 0, 10)
        assert [(one.attempts, one.next_at) for one in back] == [(0, 5.0), (0, 5.0), (0, 0.0)]

    async def test_what_is_too_old_for_push_is_not_brought_again_and_not_let_go(
        self, house: House, service: PushService
    ) -> None:
        await house.grant()
        await house.settle()
        epoch = await _epoch(service)
        atp, edp = await service.fresh(Lane.ORDINARY, 0, 10, NO_WAIT)
        await service.tell(epoch, [_outcome(edp, Fate.PARKED)], 1)
        await service.tell(epoch, [_outcome(atp, Fate.EXPIRED), _outcome(edp, Fate.EXPIRED)], 2)
        assert await service.fresh(Lane.ORDINARY, 0, 10, NO_WAIT) == []
        for one in (atp, edp):
            assert await service.unpark(epoch, one.client_id, UnixTime(5)) == 0
            assert await service.backlog(one.client_id, Lane.ORDINARY, 0, 10) == []
        await service.tell(epoch, [_outcome(atp, Fate.AGAIN)], 3)
        assert await service.fresh(Lane.ORDINARY, 0, 10, NO_WAIT) == []

    async def test_a_copy_of_what_was_told_that_comes_late_changes_nothing(
        self, house: House, service: PushService
    ) -> None:
        """A call that was given up and made again may still be under way, and land after later ones."""
        edp = ClientId("edp-1")
        await house.grant()
        await house.settle()
        epoch = await _epoch(service)
        [one] = await service.backlog(edp, Lane.ORDINARY, 0, 10)
        failed, parked = [_outcome(one, Fate.AGAIN, 8)], [_outcome(one, Fate.PARKED, 9)]
        await service.tell(epoch, failed, 1)
        await service.tell(epoch, parked, 2)
        await service.tell(epoch, failed, 1)
        assert await service.backlog(edp, Lane.ORDINARY, 0, 10) == []
        assert await service.unpark(epoch, edp, UnixTime(5)) == 1
        for late, batch in ((parked, 2), (failed, 1)):
            await service.tell(epoch, late, batch)
            [back] = await service.backlog(edp, Lane.ORDINARY, 0, 10)
            assert (back.attempts, back.next_at) == (0, 5.0)
        await service.tell(epoch, parked, 3)
        assert await service.backlog(edp, Lane.ORDINARY, 0, 10) == []

    async def test_batches_are_counted_under_each_lease_and_by_whoever_finds_it_again(
        self, house: House, service: PushService
    ) -> None:
        await house.grant()
        await house.settle()
        first = await _epoch(service)
        atp, edp = await service.fresh(Lane.ORDINARY, 0, 10, NO_WAIT)
        await service.tell(first, [_outcome(atp, Fate.AGAIN, 1)], 7)
        assert await _epoch(service) == first
        await service.tell(first, [_outcome(atp, Fate.DONE)], 7)  # a copy, whatever it says
        assert len(await service.fresh(Lane.ORDINARY, 0, 10, NO_WAIT)) == 2
        house.lease_offset += 3.1
        second = (await service.lease("another", None)).epoch
        await service.tell(second, [_outcome(edp, Fate.DONE)], 1)
        assert [one.client_id for one in await service.fresh(Lane.ORDINARY, 0, 10, NO_WAIT)] == ["atp-1"]

    async def test_only_one_pusher_has_the_lease(self, house: House, service: PushService) -> None:
        lease = await service.lease("one", None)
        assert lease.seconds == 3.0
        with pytest.raises(LeaseHeld):
            await service.lease("two", None)
        assert await service.lease("one", None) == lease  # the answer was lost
        assert await service.lease("one", lease.epoch) == lease
        house.lease_offset += 3.1
        taken = await service.lease("two", None)
        assert taken.epoch > lease.epoch
        for call in (service.lease("one", lease.epoch), service.lease("two", lease.epoch)):
            with pytest.raises(LeaseLost):
                await call

    async def test_a_lease_that_ran_out_goes_on_while_nobody_has_taken_it(
        self, house: House, service: PushService
    ) -> None:
        lease = await service.lease("one", None)
        house.lease_offset += 60
        assert await service.lease("one", lease.epoch) == lease
        with pytest.raises(LeaseHeld):
            await service.lease("two", None)

    async def test_a_lease_that_was_given_up_is_free_at_once(self, service: PushService) -> None:
        lease = await service.lease("one", None)
        await service.release(lease.epoch)
        taken = await service.lease("two", None)
        assert taken.epoch > lease.epoch
        await service.release(lease.epoch)  # comes late
        with pytest.raises(LeaseHeld):
            await service.lease("one", None)

    async def test_a_renewal_that_comes_after_the_release_does_not_take_it_back(self, service: PushService) -> None:
        lease = await service.lease("one", None)
        await service.release(lease.epoch)
        with pytest.raises(LeaseLost):
            await service.lease("one", lease.epoch)  # it was under way
        assert (await service.lease("two", None)).epoch > lease.epoch

    async def test_two_pushers_at_once_get_one_lease(self, service: PushService) -> None:
        outcomes: list[Lease | Fault] = []

        async def take(holder: str) -> None:
            try:
                outcomes.append(await service.lease(holder, None))
            except Fault as fault:
                outcomes.append(fault)

        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(take, f"pusher-{number}")
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Lease", *["LeaseHeld"] * 5]

    async def test_whoever_lost_the_lease_changes_nothing_any_more(self, house: House, service: PushService) -> None:
        await house.grant()
        await house.settle()
        old = await _epoch(service)
        before = await service.unsigned(0, 10, NO_WAIT)
        house.lease_offset += 3.1
        new = (await service.lease("another", None)).epoch
        number = before[0].number
        for call in (
            service.keep(old, [Signed(number, b"stale")]),
            service.tell(old, [_outcome(before[0], Fate.DONE)], 1),
            service.unpark(old, ClientId("edp-1"), UnixTime(0)),
        ):
            with pytest.raises(LeaseLost):
                await call
        assert await service.unsigned(0, 10, NO_WAIT) == before
        assert await service.keep(new, [Signed(number, b"right")]) == [Signed(number, b"right")]

    async def test_the_roster_tells_of_all_who_have_streams(self, house: House, service: PushService) -> None:
        _, seq = await house.grant()
        await house.ledger.checkpoint()
        await house.settle()
        roster = await service.roster(0, NO_WAIT)
        assert roster is not None
        assert [(one.client_id, one.role, one.last_seq) for one in roster.receivers] == [
            ("atp-1", Role.ATP, seq),
            ("edp-1", Role.EDP, seq),
            ("edp-2", Role.EDP, 0),
        ]
        assert [one.delivery for one in roster.receivers[2].streams] == [DeliveryMethod.POLL]
        assert roster.receivers[1].certificates == (b"edp-1".ljust(32, b"."),)
        assert roster.checkpoint is not None
        assert roster.checkpoint.seq == seq
        assert await service.roster(roster.version, NO_WAIT) is None

    async def test_the_roster_tells_of_a_pause_that_was_over_before_anybody_looked(
        self, house: House, service: PushService
    ) -> None:
        """The stream is what it was, and nobody brings what was held in between; of others nothing has changed."""
        stream = await house.push_stream("edp-3", Role.EDP)
        await house.settle()
        before = await _stands_from(service)
        paused = await house.change(stream, status=StreamStatus.PAUSED)
        assert await house.change(paused, status=StreamStatus.ENABLED) == stream
        behind = await _stands_from(service)  # the ledger is ahead of the outbox
        await house.settle()
        after = await _stands_from(service)
        assert before["edp-3"] <= behind["edp-3"] < after["edp-3"]
        assert before["edp-2"] == 0  # it has a poll stream alone
        assert {one: seq for one, seq in after.items() if one != "edp-3"} == {
            one: seq for one, seq in before.items() if one != "edp-3"
        }
        await house.grant(edps=("edp-3",))
        await house.poll_stream("edp-3", Role.EDP)
        await house.settle()
        assert await _stands_from(service) == after

    async def test_the_roster_s_next_version_wakes_whoever_waits_for_it(
        self, house: House, service: PushService
    ) -> None:
        before = await service.roster(0, NO_WAIT)
        assert before is not None
        versions: list[int] = []

        async def wait() -> None:
            changed = await service.roster(before.version, LONG)
            assert changed is not None
            versions.append(changed.version)
            assert [one.suspended for one in changed.receivers if one.client_id == "atp-1"] == [True]

        with trio.fail_after(15):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                await _asleep()
                seq = await house.suspend("atp-1")
                await house.settle()
        assert versions == [seq]

    async def test_an_event_key_is_published_while_it_is_stated(self, house: House, service: PushService) -> None:
        statement = signer().sign_key_statement(PUSHER, ISSUER, house.clock.now())
        kid, until = await service.register_event_key(statement)
        assert (kid, until) == (signer().public.kid, house.clock.now() + 8 * 86_400)
        assert await service.register_event_key(statement) == (kid, until)
        assert await house.keys.published() == (signer().public,)
        house.clock.time += 8 * 86_400
        assert await house.keys.published() == ()


async def _stands_from(service: PushService) -> dict[str, int]:
    """By client: see `Receiver.stream_seq`."""
    roster = await service.roster(0, NO_WAIT)
    assert roster is not None
    return {one.client_id: one.stream_seq for one in roster.receivers}


async def _epoch(service: PushService) -> int:
    return (await service.lease("the-pusher", None)).epoch


def _outcome(delivery: Delivery, fate: Fate, attempts: int = 1) -> Outcome:
    next_at = 1_900_000_000.5 if fate is Fate.AGAIN else 0.0
    return Outcome(delivery.number, fate, attempts, 1_800_000_001.5, next_at, "" if fate is Fate.DONE else "http_503")


async def _asleep() -> None:
    """Until a call that was started has reached its wait: threads and connections need a moment, no clock does."""
    for _ in range(3):
        await trio.testing.wait_all_tasks_blocked(0.05)
