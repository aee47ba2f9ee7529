"""The pusher under a virtual clock, against the ledger's side and receivers in memory."""
# ruff: noqa: ARG001 - a test asks for the virtual clock and need not read it

import base64
import json
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import msgspec
import pytest
import trio
from trio.testing import MockClock

from engine.clock import Seconds, UnixTime
from engine.consent.records import ClientId, Role
from engine.events.facts import PartyFact, StreamFact, VerificationFact
from engine.events.sets import VERIFICATION, subject
from engine.pusher.connections import Unreached
from engine.pusher.lease import RATE
from engine.pusher.outbox import CONCURRENCY
from engine.pusher.schedule import ENDS_WAITS, ORDINARY_WAITS, PUSHED_FOR, Reply, Trouble
from engine.pusher.service import Fate, Lane, Outcome
from engine.pusher.streams import StreamStatus
from engine.pusher.telling import LINGER
from engine.pusher.work import AHEAD, PusherState
from engine.telemetry import pusher_metrics
from tests.support.deliveries import AT, ended, granted
from tests.support.push_service import CHECKPOINT, LEASE, MemoryPushService, push_stream_of
from tests.support.pushers import TAKEN, Clocks, Receivers, always, hanging, pusher, until

DAY = 86_400.0
LONG = Seconds(3_000.0)  # a lease, where days pass and its renewals would take all of the test's time
ROUNDS = 2
NEVER = Seconds(1e9)  # for heartbeats, where they would only be in the way


def gaps(times: list[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(times)]


async def test_a_delivery_is_kept_before_it_is_sent_and_told_once_it_was_taken(
    service: MemoryPushService, receivers: Receivers, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    service.enrol("edp-1")
    [delivery] = service.commit(ended(1, "edp-1"), "edp-1")
    nursery.start_soon(pusher(service, receivers).run)
    await until(lambda: not service.pending)
    [pushed] = receivers.of("edp-1")
    assert pushed.content == service.first_bytes[delivery.number]
    assert pushed.at < 1.0
    assert service.fates() == {delivery.number: Fate.DONE}


async def test_nothing_is_sent_while_its_bytes_cannot_be_kept(
    service: MemoryPushService, receivers: Receivers, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    down = True
    service.fails = lambda call, _when: down and call == "keep"
    service.enrol("edp-1")
    service.commit(ended(1, "edp-1"), "edp-1")
    nursery.start_soon(pusher(service, receivers, heartbeat_every=NEVER).run)
    await trio.sleep(20)
    assert receivers.pushed == []
    down = False
    await until(lambda: not service.pending)
    assert len(receivers.pushed) == 1


async def test_bytes_that_were_kept_before_are_sent_whoever_signed_them(
    service: MemoryPushService, receivers: Receivers, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    service.enrol("edp-1")
    [delivery] = service.commit(ended(1, "edp-1"), "edp-1")
    row = service.rows[delivery.number]

    def another_was_faster(call: str, when: str) -> bool:
        if call != "keep" or when != "before":
            return False
        if service.calls.get("fresh", 0) < len(Lane):
            return True  # not before it was read without its bytes
        row.delivery = msgspec.structs.replace(row.delivery, signed=b"theirs")
        return False

    service.fails = another_was_faster
    nursery.start_soon(pusher(service, receivers, heartbeat_every=NEVER).run)
    await until(lambda: not service.pending)
    assert [one.content for one in receivers.pushed] == [b"theirs"]


@pytest.mark.parametrize(
    ("lane", "table", "attempts"),
    [(Lane.ENDS, ENDS_WAITS, 27), (Lane.ORDINARY, ORDINARY_WAITS, 9), (Lane.BULK, ORDINARY_WAITS, 9)],
)
@pytest.mark.parametrize("behaviour", [always(Reply(503)), hanging(5.0)], ids=["503", "timeout"])
async def test_the_whole_schedule_is_kept_and_then_it_is_parked(
    service: MemoryPushService,
    receivers: Receivers,
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    lane: Lane,
    table: tuple[float, ...],
    attempts: int,
    behaviour: Callable[..., object],
) -> None:
    service.lease_seconds = LONG
    service.enrol("edp-1")
    receivers.behaviours["edp-1"] = behaviour  # type: ignore[assignment]  # parametrised
    fact = ended(1, "edp-1") if lane is not Lane.ORDINARY else granted(1, "edp-1")
    [delivery] = service.commit(fact, "edp-1", lane=lane)
    nursery.start_soon(pusher(service, receivers, heartbeat_every=NEVER, wait=LONG).run)
    await until(lambda: service.fates()[delivery.number] is Fate.PARKED, within=2 * DAY, every=30.0)
    times = [one.at for one in receivers.of("edp-1")]
    took = 5.0 if receivers.behaviours["edp-1"].__qualname__.startswith("hanging") else 0.0
    assert len(times) == attempts
    assert gaps(times) == pytest.approx([wait + took for wait in table], abs=0.1)
    assert len({one.content for one in receivers.pushed}) == 1
    await trio.sleep(DAY)
    assert len(receivers.of("edp-1")) == attempts
    assert service.rows[delivery.number].delivery.attempts == attempts


async def test_heartbeats_do_not_change_the_schedule(
    service: MemoryPushService, receivers: Receivers, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    service.lease_seconds = LONG
    service.enrol("edp-1")
    receivers.behaviours["edp-1"] = always(Reply(500))
    [delivery] = service.commit(ended(1, "edp-1"), "edp-1")
    nursery.start_soon(pusher(service, receivers).run)
    await until(lambda: service.fates()[delivery.number] is Fate.PARKED, within=2 * DAY, every=30.0)
    event = service.first_bytes[delivery.number]
    times = [one.at for one in receivers.of("edp-1") if one.content == event]
    assert gaps(times) == pytest.approx(list(ENDS_WAITS), abs=0.1)
    assert len(receivers.pushed) - len(times) == pytest.approx(times[-1] / 60, abs=2), "one heartbeat a minute"


@pytest.mark.parametrize(
    ("reply", "times"),
    [
        (Reply(400, "invalid_request"), []),
        (Reply(301), []),
        (Reply(404), []),
        (Reply(410), []),
        (Reply(400, "invalid_key"), [300, 900, 3_600]),
        (Reply(400, "authentication_failed"), [300, 900, 3_600]),
        (Reply(400, "access_denied"), [15]),
    ],
    ids=lambda value: f"{value.status}-{value.err}" if isinstance(value, Reply) else "",
)
async def test_what_only_a_person_can_mend_is_parked_and_later_ones_flow(
    service: MemoryPushService,
    receivers: Receivers,
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    reply: Reply,
    times: list[float],
) -> None:
    service.lease_seconds = LONG
    service.enrol("edp-1")
    [bad, good] = [service.commit(ended(n, "edp-1"), "edp-1")[0] for n in (1, 2)]

    async def poisoned(content: bytes) -> Reply:
        await trio.lowlevel.checkpoint()
        return reply if content == service.first_bytes[bad.number] else TAKEN

    receivers.behaviours["edp-1"] = poisoned
    nursery.start_soon(pusher(service, receivers, heartbeat_every=NEVER).run)
    await until(lambda: not service.pending, within=DAY, every=1.0)
    assert service.fates() == {bad.number: Fate.PARKED, good.number: Fate.DONE}
    sent = [one.at for one in receivers.pushed if one.content == service.first_bytes[bad.number]]
    assert gaps(sent) == pytest.approx(times, abs=0.1)
    assert bool(receivers.forgotten) == (reply.err == "access_denied"), "credentials are shown anew"


async def test_a_poisoned_event_stays_parked_while_heartbeats_are_taken(
    service: MemoryPushService, receivers: Receivers, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    service.lease_seconds = LONG
    service.enrol("edp-1")
    [bad] = service.commit(ended(1, "edp-1"), "edp-1")

    async def poisoned(content: bytes) -> Reply:
        await trio.lowlevel.checkpoint()
        return Reply(400, "invalid_request") if content == service.first_bytes[bad.number] else TAKEN

    receivers.behaviours["edp-1"] = poisoned
    nursery.start_soon(pusher(service, receivers).run)
    await trio.sleep(600)
    tries = [one for one in receivers.pushed if one.content == service.first_bytes[bad.number]]
    assert len(tries) == 2, "once, and once more when the first heartbeat of this pusher was taken"
    assert service.fates() == {bad.number: Fate.PARKED}


async def test_what_was_parked_goes_out_after_a_verification_that_the_receiver_asked_for(
    service: MemoryPushService, receivers: Receivers, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    stream = service.enrol("edp-1")
    refuses = True

    async def picky(_: bytes) -> Reply:
        await trio.lowlevel.checkpoint()
        return Reply(403) if refuses else TAKEN

    receivers.behaviours["edp-1"] = picky
    parked = [service.commit(ended(n, "edp-1"), "edp-1")[0].number for n in range(150)]
    nursery.start_soon(pusher(service, receivers, heartbeat_every=NEVER).run)
    await until(lambda: not service.pending)
    assert set(service.fates().values()) == {Fate.PARKED}
    refuses = False
    service.commit(VerificationFact(stream.stream_id, UnixTime(AT), state="mine"), "edp-1")
    await until(lambda: set(service.fates().values()) == {Fate.DONE})
    assert len(receivers.of("edp-1")) == 2 * len(parked) + 1


async def test_what_is_a_week_old_is_not_pushed_any_more_whoever_frees_it(
    service: MemoryPushService, receivers: Receivers, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Its key may be out of the key set by then, and receivers have forgotten its id."""
    service.lease_seconds = Seconds(30 * DAY)
    stream = service.enrol("edp-1")
    receivers.behaviours["edp-1"] = always(Reply(400, "invalid_request"))
    nursery.start_soon(pusher(service, receivers, heartbeat_every=NEVER, wait=Seconds(DAY)).run)
    [old] = service.commit(ended(1, "edp-1"), "edp-1")
    await until(lambda: service.fates()[old.number] is Fate.PARKED)
    await trio.sleep(2 * DAY)
    [young] = service.commit(ended(2, "edp-1"), "edp-1")
    await until(lambda: service.fates()[young.number] is Fate.PARKED)
    await trio.sleep(5.5 * DAY)
    receivers.behaviours.clear()
    before = len(receivers.pushed)
    service.commit(VerificationFact(stream.stream_id, UnixTime(AT)), "edp-1", lane=Lane.ORDINARY)
    await until(lambda: Fate.PARKED not in service.fates().values() and not service.pending)
    assert service.fates()[old.number] is Fate.EXPIRED
    assert service.fates()[young.number] is Fate.DONE
    sent = [one.content for one in receivers.pushed[before:]]
    assert service.first_bytes[young.number] in sent
    assert service.first_bytes[old.number] not in sent


async def test_what_becomes_a_week_old_between_two_attempts_is_not_pushed_again(
    service: MemoryPushService, receivers: Receivers, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    service.lease_seconds = LONG
    service.enrol("edp-1")
    receivers.behaviours["edp-1"] = always(Reply(503))
    nursery.start_soon(pusher(service, receivers, heartbeat_every=NEVER).run)
    await trio.sleep(1.0)
    [made] = service.commit(ended(1, "edp-1"), "edp-1")
    row = service.rows[made.number]
    row.delivery = msgspec.structs.replace(made, committed_at=made.committed_at - PUSHED_FOR + 10.0)
    await until(lambda: row.fate is not Fate.AGAIN)
    assert row.fate is Fate.EXPIRED
    assert len(receivers.pushed) == 2  # after 0 and 5 seconds


async def test_a_receiver_that_was_down_gets_everything_once_its_heartbeat_is_taken(
    service: MemoryPushService, receivers: Receivers, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    service.lease_seconds = LONG
    service.enrol("edp-1")
    receivers.behaviours["edp-1"] = hanging()
    nursery.start_soon(pusher(service, receivers).run)
    for n in range(300):
        service.commit(ended(n, "edp-1"), "edp-1")
    await trio.sleep(3 * 3_600.0)
    assert len(service.pending) == 300
    del receivers.behaviours["edp-1"]
    back = trio.current_time()
    await until(lambda: not service.pending, within=90)
    assert trio.current_time() - back < 65, "not an hour later, when the next attempts would have been"


async def test_a_receiver_that_is_down_is_not_flooded(
    service: MemoryPushService, receivers: Receivers, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    service.lease_seconds = LONG
    service.enrol("edp-1")
    receivers.behaviours["edp-1"] = hanging()
    nursery.start_soon(pusher(service, receivers).run)
    for n in range(1_000):
        service.commit(ended(n, "edp-1"), "edp-1")
    await trio.sleep(600.0)
    # 8 at once; these go on by their schedule (7 attempts in ten minutes at most), and a probe or a heartbeat a minute
    assert len(receivers.of("edp-1")) < 8 * 7 + 2 * 10 * 6
    assert receivers.most_under_way <= CONCURRENCY + 1  # the heartbeat


async def test_the_first_attempt_is_measured_after_the_wait_for_a_connection(
    service: MemoryPushService, receivers: Receivers, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    def measured() -> tuple[float, float]:
        read = pusher_metrics.REGISTRY.get_sample_value
        name, lane = "ccs_push_first_attempt_seconds", {"lane": "ends"}
        return read(f"{name}_count", lane) or 0.0, read(f"{name}_sum", lane) or 0.0

    service.lease_seconds = LONG
    service.enrol("edp-1")
    receivers.line = Seconds(7.0)
    receivers.behaviours["edp-1"] = hanging()
    nursery.start_soon(pusher(service, receivers, heartbeat_every=NEVER).run)
    await trio.sleep(1.0)
    before = measured()
    service.commit(ended(1, "edp-1"), "edp-1")
    await until(lambda: len(receivers.of("edp-1")) == 3)
    after = measured()
    assert after[0] - before[0] == 1
    assert 7.0 <= after[1] - before[1] < 7.1


async def test_200_of_2000_receivers_that_hang_or_fail_delay_nobody_else(
    service: MemoryPushService, receivers: Receivers, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    everybody = [f"edp-{n}" for n in range(2_000)]
    bad = set(everybody[::10])
    for n, name in enumerate(everybody):
        service.enrol(name)
        if name in bad:
            receivers.behaviours[name] = hanging() if n % 20 else always(Reply(500))
    receivers.latency = Seconds(0.05)
    service.latency = Seconds(0.004)
    nursery.start_soon(pusher(service, receivers, heartbeat_every=NEVER).run)
    await trio.sleep(1.0)
    for n in range(ROUNDS):
        service.commit(suspension(n + 1), *everybody)
        await trio.sleep(1.0)
    good = [row for row in service.rows.values() if row.delivery.client_id not in bad]
    await until(lambda: all(row.fate is Fate.DONE for row in good), within=30)
    committed = {row.delivery.signed: row.delivery.committed_at for row in good}
    delays = sorted(AT + one.at - committed[one.content] for one in receivers.pushed if one.client_id not in bad)
    assert len(delays) == ROUNDS * 1_800
    assert delays[-1] < 1.0
    assert len([n for n in service.pending if service.rows[n].delivery.client_id in bad]) == ROUNDS * 200


async def test_a_flood_of_bulk_goes_at_its_rate_and_delays_no_end(
    service: MemoryPushService, receivers: Receivers, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    for name in ("edp-1", "edp-2"):
        service.enrol(name)
    service.enrol("atp-1", Role.ATP)
    receivers.latency = Seconds(0.01)
    service.latency = Seconds(0.004)
    nursery.start_soon(pusher(service, receivers, heartbeat_every=NEVER, bulk_rate=50.0).run)
    await trio.sleep(1)
    service.commit(suspension(2), "atp-1", "edp-1", "edp-2")
    for n in range(600):
        service.commit(ended(n, "edp-1"), "edp-1", lane=Lane.BULK)
    begun = trio.current_time()
    await trio.sleep(0.5)
    assert [service.rows[n].fate for n in (1, 2, 3)] == [Fate.DONE] * 3, "the suspension itself"
    for n in range(600, 620):
        [late] = service.commit(ended(n, "edp-1"), "edp-1")
        await until(lambda number=late.number: service.fates()[number] is Fate.DONE, within=0.2)  # type: ignore[misc]  # bound at once
    await until(lambda: not service.pending, within=60)
    assert trio.current_time() - begun == pytest.approx(600 / 50, rel=0.1)


async def test_deliveries_of_a_consent_go_in_order_one_at_a_time(
    service: MemoryPushService, receivers: Receivers, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    service.lease_seconds = LONG
    service.enrol("edp-1")
    made = [service.commit(ended(n % 3, "edp-1", n + 1), "edp-1")[0] for n in range(60)]
    number_of: dict[bytes, int] = {}
    order: dict[str, list[int]] = {}
    busy: set[str] = set()
    failing = iter([True, False, False] * 100)

    async def receive(content: bytes) -> Reply:
        number_of.update({compact: number for number, compact in service.first_bytes.items()})
        number = number_of[content]
        row = subject(service.rows[number].delivery.fact)
        assert row not in busy
        busy.add(row)
        await trio.sleep(0.01)
        busy.remove(row)
        if next(failing):
            return Reply(503)
        order.setdefault(row, []).append(number)
        return TAKEN

    receivers.behaviours["edp-1"] = receive
    nursery.start_soon(pusher(service, receivers, heartbeat_every=NEVER).run)
    await until(lambda: not service.pending, within=DAY, every=1.0)
    assert all(numbers == sorted(numbers) for numbers in order.values())
    assert sorted(n for numbers in order.values() for n in numbers) == [one.number for one in made]


async def test_a_challenge_goes_to_an_unconfirmed_stream_and_nothing_else(
    service: MemoryPushService, receivers: Receivers, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    stream = push_stream_of("edp-1", Role.EDP, status=StreamStatus.PAUSED, challenge="prove it")
    service.enrol("edp-1", stream=stream)
    [held] = service.commit(ended(1, "edp-1"), "edp-1")
    nursery.start_soon(pusher(service, receivers).run)
    [challenge] = service.commit(VerificationFact(stream.stream_id, UnixTime(AT), challenge="prove it"), "edp-1")
    await trio.sleep(200)
    assert [one.content for one in receivers.pushed] == [service.first_bytes[challenge.number]]
    service.enrol("edp-1", stream=push_stream_of("edp-1", Role.EDP))
    [updated] = service.commit(StreamFact(stream.stream_id, "enabled", UnixTime(AT)), "edp-1")
    await until(lambda: not service.pending)
    events = [service.first_bytes[one.number] for one in (held, updated)]
    assert {one.content for one in receivers.pushed[1:]} >= set(events)


async def test_a_paused_stream_is_left_alone_and_gets_everything_when_it_goes_on(
    service: MemoryPushService, receivers: Receivers, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    service.enrol("edp-1")
    nursery.start_soon(pusher(service, receivers, heartbeat_every=NEVER).run)
    service.commit(ended(1, "edp-1"), "edp-1")
    await until(lambda: not service.pending)
    service.enrol("edp-1", stream=push_stream_of("edp-1", Role.EDP, status=StreamStatus.PAUSED))
    await trio.sleep(1)
    for n in range(2, 400):
        service.commit(ended(n, "edp-1"), "edp-1")
    await trio.sleep(600)
    assert len(receivers.pushed) == 1
    service.enrol("edp-1", stream=push_stream_of("edp-1", Role.EDP))
    await until(lambda: not service.pending)
    assert len(receivers.pushed) == 399


async def test_what_was_held_in_a_pause_that_the_pusher_never_saw_is_pushed(
    service: MemoryPushService, receivers: Receivers, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Paused and enabled between two looks at the roster, its stream is what it was, and others' events passed by."""
    looks = iter([False])  # the first one is answered
    service.fails = lambda call, when: (call, when) == ("roster", "before") and next(looks, True)
    for client_id in ("edp-1", "edp-2"):
        service.enrol(client_id)
        service.commit(ended(1, client_id), client_id)
    nursery.start_soon(pusher(service, receivers, heartbeat_every=NEVER).run)
    await until(lambda: not service.pending)
    service.enrol("edp-1", stream=push_stream_of("edp-1", Role.EDP, status=StreamStatus.PAUSED))
    held = [service.commit(ended(2 + lane, "edp-1"), "edp-1", lane=lane)[0].number for lane in Lane]
    for lane in Lane:
        service.commit(ended(2 + lane, "edp-2"), "edp-2", lane=lane)
    await until(lambda: service.pending == held)
    service.enrol("edp-1")
    service.fails = lambda _call, _when: False
    await until(lambda: not service.pending)
    assert len(receivers.of("edp-1")) == 1 + len(held)


@pytest.mark.parametrize("status", [StreamStatus.PAUSED, StreamStatus.DISABLED])
async def test_a_stream_that_is_held_back_is_told_so_and_hears_nothing_more_not_even_a_heartbeat(
    service: MemoryPushService,
    receivers: Receivers,
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    status: StreamStatus,
) -> None:
    """A receiver takes a heartbeat for a sign that its stream is enabled."""
    service.lease_seconds = LONG
    service.enrol("edp-1", stream=push_stream_of("edp-1", Role.EDP, status=status))
    stream = push_stream_of("edp-1", Role.EDP)
    [told] = service.commit(StreamFact(stream.stream_id, status.value, UnixTime(AT)), "edp-1")
    [held] = service.commit(ended(1, "edp-1"), "edp-1")
    nursery.start_soon(pusher(service, receivers).run)
    await trio.sleep(600)
    assert [one.content for one in receivers.pushed] == [service.first_bytes[told.number]]
    assert service.fates() == {told.number: Fate.DONE, held.number: Fate.AGAIN}


async def test_a_receiver_that_comes_later_gets_what_was_written_before_it_was_known(
    service: MemoryPushService, receivers: Receivers, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    service.enrol("edp-1")
    nursery.start_soon(pusher(service, receivers).run)
    await trio.sleep(1)
    service.receivers[ClientId("edp-2")] = service.receivers[ClientId("edp-1")]  # the outbox is ahead of the roster
    service.commit(ended(1, "edp-2"), "edp-2")
    await trio.sleep(1)
    assert receivers.pushed == []
    service.enrol("edp-2")
    await until(lambda: not service.pending)


async def test_a_stream_that_is_deleted_gets_nothing_more(
    service: MemoryPushService, receivers: Receivers, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    service.lease_seconds = LONG
    service.enrol("edp-1")
    receivers.behaviours["edp-1"] = always(Reply(503))
    nursery.start_soon(pusher(service, receivers).run)
    service.commit(ended(1, "edp-1"), "edp-1")
    await trio.sleep(10)
    seen = len(receivers.pushed)
    service.receivers.clear()
    service.version += 1
    await trio.sleep(60)
    seen_at_the_end = len(receivers.pushed)
    await trio.sleep(DAY)
    assert 0 < seen <= seen_at_the_end == len(receivers.pushed)


async def test_heartbeats_come_each_minute_with_the_newest_position(
    service: MemoryPushService, receivers: Receivers, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    stream = service.enrol("edp-1")
    nursery.start_soon(pusher(service, receivers).run)
    [delivery] = service.commit(ended(1, "edp-1"), "edp-1")
    await trio.sleep(10 * 60 + 1)
    event = service.first_bytes[delivery.number]
    beats = [one for one in receivers.pushed if one.content != event]
    assert gaps([one.at for one in beats]) == pytest.approx([60.0] * 9, abs=0.1)
    claims = json.loads(base64.urlsafe_b64decode(beats[-1].content.split(b".")[1] + b"=="))
    assert claims["ccs_last_seq"] == delivery.seq
    assert claims["ccs_checkpoint"]["seq"] == CHECKPOINT.seq
    assert claims["sub_id"] == {"format": "opaque", "id": stream.stream_id}
    assert claims["aud"] == "edp-1"
    assert list(claims["events"]) == [VERIFICATION]
    assert "ccs_seq" not in claims
    assert len({json.loads(base64.urlsafe_b64decode(one.content.split(b".")[1] + b"=="))["jti"] for one in beats}) == 10


async def test_what_nobody_is_pushed_to_is_signed_for_poll(
    service: MemoryPushService, receivers: Receivers, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    service.enrol("edp-1", stream=push_stream_of("edp-1", Role.EDP, status=StreamStatus.PAUSED))
    made = [service.commit(ended(n, "edp-1"), "edp-1")[0].number for n in range(600)]
    nursery.start_soon(pusher(service, receivers).run)
    await until(lambda: len(service.first_bytes) == len(made))
    assert receivers.pushed == []


async def test_a_flood_is_signed_for_poll_at_its_rate_and_an_end_behind_it_at_once(
    service: MemoryPushService, receivers: Receivers, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    service.enrol("edp-1", stream=push_stream_of("edp-1", Role.EDP, status=StreamStatus.PAUSED))
    for n in range(900):
        service.commit(ended(n, "edp-1"), "edp-1", lane=Lane.BULK)
    begun = trio.current_time()
    nursery.start_soon(pusher(service, receivers, heartbeat_every=NEVER, bulk_rate=50.0).run)
    await trio.sleep(1)
    [late] = service.commit(ended(900, "edp-1"), "edp-1")
    await until(lambda: late.number in service.first_bytes, within=0.2)
    assert len(service.first_bytes) < 300
    await until(lambda: len(service.first_bytes) == 901, within=60)
    assert trio.current_time() - begun == pytest.approx(900 / (AHEAD * 50), rel=0.15)
    assert receivers.pushed == []


async def test_what_became_of_a_flood_is_told_together_and_of_an_end_at_once(
    service: MemoryPushService, receivers: Receivers, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    service.enrol("edp-1")
    nursery.start_soon(pusher(service, receivers, heartbeat_every=NEVER, bulk_rate=200.0).run)
    await trio.sleep(1)
    begun = trio.current_time()
    for n in range(400):
        service.commit(ended(n, "edp-1"), "edp-1", lane=Lane.BULK)
    await until(lambda: not service.pending, within=20)
    assert service.calls["tell"] <= (trio.current_time() - begun) / LINGER + 2
    [late] = service.commit(ended(400, "edp-1"), "edp-1")
    await until(lambda: service.fates()[late.number] is Fate.DONE, within=LINGER / 4)


async def test_what_is_told_again_has_its_number_and_later_batches_higher_ones_over_all_leases(
    service: MemoryPushService, receivers: Receivers, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    told: list[tuple[int, tuple[int, ...]]] = []
    tell = service.tell

    async def noting(epoch: int, outcomes: Sequence[Outcome], batch: int) -> None:
        told.append((batch, tuple(one.number for one in outcomes)))
        await tell(epoch, outcomes, batch)

    service.tell = noting  # type: ignore[method-assign]  # to look at the numbers
    service.enrol("edp-1")
    service.fails = lambda call, when: call == "tell" and when == "after" and len(told) % 3 != 0
    pushing = pusher(service, receivers, heartbeat_every=NEVER)
    nursery.start_soon(pushing.run)
    for count in (3, 6, 9):
        await until(lambda: pushing.state is PusherState.WORKING)
        service.commit(ended(count, "edp-1"), "edp-1")
        await until(partial(lambda count: len(told) >= count, count))
        service._ends_at = 0.0  # the ledger's clock is another
        taken = await service.lease("another", None)
        await until(lambda: pushing.state is not PusherState.WORKING)
        await service.release(taken.epoch)
    numbers = [batch for batch, _ in told]
    assert numbers == sorted(numbers)
    assert len(set(numbers)) == len(set(told)) == 3


async def test_each_delivery_is_signed_once_although_push_and_poll_ask_for_it(
    service: MemoryPushService, receivers: Receivers, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    service.enrol("edp-1")
    service.latency = Seconds(0.004)
    pushing = pusher(service, receivers, heartbeat_every=NEVER)
    nursery.start_soon(pushing.run)
    for n in range(500):
        service.commit(ended(n, "edp-1"), "edp-1")
    await until(lambda: not service.pending)
    assert pushing.status().signed == 500


async def test_a_second_pusher_waits_and_takes_over_within_the_leases_end(
    service: MemoryPushService, receivers: Receivers, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    service.enrol("edp-1")
    first, second = pusher(service, receivers), pusher(service, receivers)
    life = trio.CancelScope()
    nursery.start_soon(in_scope, life, first.run)
    await until(lambda: first.state is PusherState.WORKING)
    nursery.start_soon(second.run)
    await trio.sleep(30)
    assert second.state is PusherState.STANDBY
    life.cancel()
    killed = trio.current_time()
    service.commit(ended(1, "edp-1"), "edp-1")
    await until(lambda: not service.pending)
    assert trio.current_time() - killed < 5.0


async def test_a_pusher_that_stops_finishes_what_is_under_way_and_gives_the_lease_up(
    service: MemoryPushService, receivers: Receivers, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    service.enrol("edp-1")
    receivers.latency = Seconds(2.0)
    first, second = pusher(service, receivers), pusher(service, receivers)
    nursery.start_soon(first.run)
    await trio.sleep(1)
    for n in range(20):
        service.commit(ended(n, "edp-1"), "edp-1")
    await trio.sleep(0.5)
    first.stop()
    nursery.start_soon(second.run)
    await until(lambda: first.state is PusherState.STOPPED)
    assert sum(fate is Fate.DONE for fate in service.fates().values()) == CONCURRENCY
    assert len(receivers.of("edp-1")) == CONCURRENCY
    stopped = trio.current_time()
    await until(lambda: second.state is PusherState.WORKING)
    assert trio.current_time() - stopped < 1.0
    await until(lambda: not service.pending)
    assert len(receivers.of("edp-1")) == 20


async def test_a_pusher_that_does_not_learn_who_there_is_stops_all_the_same(
    service: MemoryPushService, receivers: Receivers, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    service.fails = lambda call, _when: call == "roster"
    pushing = pusher(service, receivers)
    nursery.start_soon(pushing.run)
    await until(lambda: pushing.state is PusherState.WORKING)
    await trio.sleep(10)
    pushing.stop()
    await until(lambda: pushing.state is PusherState.STOPPED, within=5)


async def test_everything_stops_when_the_lease_may_have_ended_and_begins_again_under_a_new_one(
    service: MemoryPushService, receivers: Receivers, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    service.enrol("edp-1")
    receivers.latency = Seconds(2.0)
    cut_off = False
    service.fails = lambda _call, _when: cut_off
    pushing = pusher(service, receivers, heartbeat_every=NEVER)
    nursery.start_soon(pushing.run)
    await until(lambda: pushing.state is PusherState.WORKING)
    for n in range(300):
        service.commit(ended(n, "edp-1"), "edp-1")
    await trio.sleep(0.2)
    cut_off, since = True, trio.current_time()
    await until(lambda: pushing.state is not PusherState.WORKING)
    assert trio.current_time() - since <= LEASE * RATE + 0.1
    sent = len(receivers.pushed)
    await trio.sleep(60)
    assert len(receivers.pushed) == sent
    cut_off = False
    await until(lambda: not service.pending, within=300)


async def test_a_machine_that_slept_sends_nothing_before_its_lease_is_renewed(
    service: MemoryPushService, receivers: Receivers, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Another may have had the lease in the meantime. Timers do not count sleep, so only the boot clock tells."""
    asleep_at: int | None = None

    class Slept(Clocks):
        def boot(self) -> float:
            return super().boot() + (0.0 if asleep_at is None else 3_600.0)

    def sleep_while_bytes_are_kept(call: str, when: str) -> bool:
        nonlocal asleep_at
        if call != "keep" or asleep_at is not None:
            return False
        if when == "before":
            return trio.current_time() < 1.5  # until then the delivery has come to its receiver's actor too
        asleep_at = service.calls["lease"]
        return False

    async def take(_content: bytes) -> Reply:
        leases.append(service.calls["lease"])
        await trio.lowlevel.checkpoint()
        return TAKEN

    leases: list[int] = []
    service.fails = sleep_while_bytes_are_kept
    receivers.behaviours["edp-1"] = take
    service.enrol("edp-1")
    service.commit(ended(1, "edp-1"), "edp-1")
    nursery.start_soon(pusher(service, receivers, clocks=Slept()).run)
    await until(lambda: not service.pending, within=120)
    assert asleep_at is not None
    assert leases[0] > asleep_at


async def test_a_clock_that_was_ahead_and_is_set_right_keeps_nothing_back(
    service: MemoryPushService, receivers: Receivers, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    class Ahead(Clocks):
        ahead = 86_400.0

        def wall(self) -> float:
            return super().wall() + self.ahead

    clocks = Ahead()
    refusals = iter([Reply(503)] * 2)  # too few for its circuit, so that nothing is hastened when it is back

    async def behave(_content: bytes) -> Reply:
        await trio.lowlevel.checkpoint()
        return next(refusals, TAKEN)

    receivers.behaviours["edp-1"] = behave
    service.enrol("edp-1")
    service.commit(ended(1, "edp-1"), "edp-1")
    nursery.start_soon(pusher(service, receivers, clocks=clocks, heartbeat_every=Seconds(1e9)).run)
    await until(lambda: service.rows[1].told == 2)
    assert service.rows[1].delivery.next_at > AT + 86_400
    clocks.ahead = 0.0
    await until(lambda: not service.pending, within=ENDS_WAITS[1] + 1)


async def test_a_lease_that_another_has_taken_ends_the_work_at_once(
    service: MemoryPushService, receivers: Receivers, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    service.enrol("edp-1")
    pushing = pusher(service, receivers)
    nursery.start_soon(pushing.run)
    await until(lambda: pushing.state is PusherState.WORKING)
    service._ends_at = 0.0  # the ledger's clock is another
    await service.lease("another", None)
    await until(lambda: pushing.state is not PusherState.WORKING, within=1.5)


async def test_a_receiver_whose_actor_fails_begins_anew_and_loses_nothing(
    service: MemoryPushService,
    receivers: Receivers,
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from engine.pusher import outbox

    failures = iter([True] * 3)
    settle = outbox.Outbox.settle

    def broken(self: outbox.Outbox, *args: object, **kwargs: object) -> None:
        if next(failures, False):
            raise RuntimeError("a mistake of ours")
        settle(self, *args, **kwargs)  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr(outbox.Outbox, "settle", broken)
    service.enrol("edp-1")
    service.enrol("edp-2")
    nursery.start_soon(pusher(service, receivers).run)
    for n in range(50):
        service.commit(ended(n, "edp-1"), "edp-1", "edp-2")
    await until(lambda: not service.pending, within=30)


async def test_an_event_that_cannot_be_made_is_parked_and_others_flow(
    service: MemoryPushService, receivers: Receivers, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    service.enrol("edp-1")
    [foreign] = service.commit(ended(1, "edp-9"), "edp-1")  # a fault of routing
    [good] = service.commit(ended(2, "edp-1"), "edp-1")
    nursery.start_soon(pusher(service, receivers, heartbeat_every=NEVER).run)
    await until(lambda: not service.pending)
    assert service.fates() == {foreign.number: Fate.PARKED, good.number: Fate.DONE}
    assert service.rows[foreign.number].error == "cannot_sign"
    assert len(receivers.pushed) == 1


def suspension(version: int) -> PartyFact:
    return PartyFact(ClientId("atp-1"), version, suspended=True, recorded_at=UnixTime(AT))


async def in_scope(scope: trio.CancelScope, run: Callable[[], object]) -> None:
    with scope:
        await run()  # type: ignore[misc]  # a coroutine function


def test_refusals_have_a_name() -> None:
    assert Unreached(Trouble.TLS).trouble is Trouble.TLS
