"""The sequencer on real databases: killed, doubled, begun anew, restored: each receiver is told of each event once."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
import sqlalchemy as sa
import trio
from structlog.testing import capture_logs

from admin.ledger import sequencer as module
from admin.ledger.backup.shipping import Shipper
from admin.ledger.database import Database
from admin.ledger.events import ConsentEvent, UnreadableEvent
from admin.ledger.listings import read_changes
from admin.ledger.lookahead import Lookahead
from admin.ledger.outbox import SINGLE_ENDS, Poll, Push
from admin.ledger.outbox_service import NoSuchStream
from admin.ledger.receiver_standing import read_standings
from admin.ledger.schema import deliveries, outbox, receivers, streams
from admin.ledger.sequencer import Overtaken, Sequencer, SequencerState
from admin.ledger.sql import open_ledger
from admin.ledger.store import LedgerUnavailable
from engine.clock import Seconds
from engine.consent.records import ClientId, ConsentId, Role
from engine.events.facts import VerificationFact
from engine.pusher.service import Fate, Lane, Outcome, Signed
from engine.pusher.streams import StreamStatus
from tests.support.backups import elsewhere, place_in, restored
from tests.support.ledger import HandClock, ledger_config
from tests.support.outboxes import ISSUER, ROWS, House, house_in, make_anew, rows
from tests.support.projection import silent_event
from tests.support.sequencer_process import Order

KILLS = 15
NO_ENDS = {f"consent.{word}" for word in ("requested", "granted", "declined", "abandoned", "renewed", "window_cut")}


@pytest.fixture
async def small_house(tmp_path: Path) -> AsyncIterator[House]:
    """On SQLite: for what has nothing to do with the database."""
    async with house_in(tmp_path) as house:
        await house.furnish()
        yield house


async def write_many(house: House, count: int) -> None:
    """Grants, renewals and ends, dealt out over receivers."""
    for index in range(count):
        event = house.granting(edps=("edp-1", "edp-2", "edp-3")[index % 3 :])
        await house.write(event)
        if index % 2:
            await house.write(house.renewing(event.consent_id))
        if index % 3:
            await house.revoke(event.consent_id)


async def reached(sequencer: Sequencer, state: SequencerState) -> None:
    while sequencer.statistics().state is not state:  # noqa: ASYNC110 - it rings no bell for states
        await trio.sleep(0.01)


async def empty(house: House) -> None:
    """The outbox as a new or restored database has it."""

    def work(connection: sa.Connection) -> None:
        for table in (deliveries, receivers, streams, outbox):
            connection.execute(sa.delete(table))

    await house.ledger.database.run(work)


async def make_it_anew(house: House) -> None:
    await house.ledger.database.run(make_anew)
    house.sequencer = house.another_sequencer()
    await house.settle()


async def test_sequencers_that_work_at_once_double_nothing(house: House) -> None:
    await write_many(house, 12)
    others = [
        Sequencer(house.ledger, ISSUER, house.news, wall=house.clock.wall, jitter=lambda: 0.5, batch=3)
        for _ in range(3)
    ]
    overtaken = 0

    async def work(sequencer: Sequencer) -> None:
        nonlocal overtaken
        while True:
            try:
                if not await sequencer.step():
                    return
            except Overtaken:
                overtaken += 1

    async with trio.open_nursery() as nursery:
        for other in others:
            nursery.start_soon(work, other)
    together = await rows(house)
    assert overtaken > 0
    assert len({(row.client_id, row.jti) for row in await _named(house)}) == len(together)
    await house.ledger.database.run(lambda connection: connection.execute(sa.delete(deliveries)))
    await make_it_anew(house)
    assert await rows(house) == together


async def _named(house: House) -> Any:
    return await house.ledger.database.read(lambda connection: connection.execute(sa.select(deliveries)).all())


async def test_an_outbox_made_anew_has_the_same_ids_and_keeps_the_bytes_it_had(house: House) -> None:
    await write_many(house, 6)
    await house.settle()
    before = await rows(house)
    epoch = (await house.door.lease("holder-1", None)).epoch
    kept = [Signed(one.number, b"bytes %d" % one.number) for one in await house.outbox.unsigned(0, 100, Seconds(0.0))]
    await house.door.keep(epoch, kept[::2])
    await make_it_anew(house)
    assert await rows(house) == before
    assert await house.door.keep(epoch, [Signed(one.number, b"other") for one in kept[::2]]) == kept[::2]
    await house.ledger.database.run(lambda c: c.execute(sa.delete(deliveries).where(deliveries.c.number > 7)))
    await make_it_anew(house)
    assert await rows(house) == before
    numbers = [row.number for row in await _named(house)]
    assert len(set(numbers)) == len(before)


async def test_an_outbox_begun_on_an_old_ledger_moves_the_chains_on_and_tells_the_last_week_only(house: House) -> None:
    _, old = await house.grant()
    house.clock.time += module.REACH
    _, new = await house.grant()
    await empty(house)
    house.clock.time += 1
    house.sequencer = house.another_sequencer()
    await house.settle()
    told = await house.outbox.unsigned(0, 100, Seconds(0.0))
    assert [(one.client_id, one.seq, one.prev) for one in told] == [("atp-1", new, old), ("edp-1", new, old)]


async def test_a_restored_ledger_tells_the_same_again_and_its_chains_go_on(tmp_path: Path) -> None:
    place = place_in(tmp_path)
    config = ledger_config(tmp_path, f"sqlite:///{tmp_path}/ledger.db")
    async with house_in(tmp_path) as house:
        await house.furnish()
        await write_many(house, 5)
        await house.settle()
        before = await rows(house)
        await Shipper(house.ledger.database, place, house.clock.wall).full()
        _, lost = await house.grant()
        memory = house.versions()
    target = elsewhere(config, f"sqlite:///{tmp_path}/restored.db")
    await restored(target, place)
    clock = HandClock()
    clock.time += 100
    async with open_ledger(target, clock, wall=clock.wall) as ledger:
        house = House(ledger, clock)
        await house.settle()
        assert await rows(house) == before
        house.remember(memory)
        _, seq = await house.grant()
        await house.settle()
        atp = (await house.outbox.backlog(ClientId("atp-1"), Lane.ORDINARY, 0, 500))[-1]
        assert (atp.seq, atp.prev) == (seq, max(row[1] for row in before if row[0] == "atp-1"))
        assert seq > lost


async def test_the_sequencer_is_woken_by_the_ledger_and_goes_on_after_an_outage(
    small_house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house, away = small_house, True
    read = house.ledger.events

    async def events(after: int, limit: int) -> Any:
        if away:
            raise LedgerUnavailable("the ledger's database does not answer")
        return await read(after, limit)

    monkeypatch.setattr(house.ledger, "events", events)
    with capture_logs() as logs, trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            await nursery.start(house.sequencer.run)
            await reached(house.sequencer, SequencerState.LEDGER_AWAY)
            away = False
            await house.grant()
            assert len(await house.outbox.fresh(Lane.ORDINARY, 0, 10, Seconds(10.0))) == 2
            assert house.sequencer.statistics().state is SequencerState.FOLLOWING
            nursery.cancel_scope.cancel()
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["sequencer_stopped"]


async def test_it_rings_for_what_it_wrote_without_another_look(
    small_house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await small_house.settle()
    await small_house.grant()
    database, looks = small_house.ledger.database, 0
    read = database.read

    async def counted(work: Any) -> Any:
        nonlocal looks
        looks += 1
        return await read(work)

    monkeypatch.setattr(database, "read", counted)
    ringing = small_house.news.next_ring()
    assert await small_house.sequencer.step()
    assert ringing.is_set()
    assert looks == 1, "of the ledger's events"
    ringing = small_house.news.next_ring()
    assert not await small_house.sequencer.step()
    assert not ringing.is_set()


async def test_whoever_waits_is_woken_by_another_process_s_sequencer_too(
    small_house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own finds the outbox led on already, and rings; here it is always too late."""
    found: list[Any] = []

    async def nothing_yet(_after: int, _limit: int) -> list[Any]:
        return []

    async with house_in(tmp_path) as other, trio.open_nursery() as nursery:
        monkeypatch.setattr(other.ledger, "events", nothing_yet)
        await nursery.start(other.sequencer.run)

        async def wait() -> None:
            found.extend(await other.outbox.fresh(Lane.ORDINARY, 0, 10, Seconds(20.0)))

        with trio.fail_after(15):
            async with trio.open_nursery() as waiting:
                waiting.start_soon(wait)
                await small_house.grant()
                await small_house.settle()
        stream = await small_house.push_stream("edp-3", Role.EDP)
        await small_house.settle()
        before = (await small_house.outbox.unsigned(0, 10, Seconds(0.0)))[-1].number
        with trio.fail_after(15):
            async with trio.open_nursery() as waiting:
                waiting.start_soon(small_house.outbox.ask_verification, stream.stream_id)
                [asked] = await other.outbox.unsigned(before, 10, Seconds(10.0))
        assert asked.client_id == "edp-3"
        nursery.cancel_scope.cancel()
    assert [one.client_id for one in found] == ["atp-1", "edp-1"]


async def test_an_event_that_cannot_be_read_stops_it_loudly_and_loses_nothing(
    small_house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newer program's, say: whatever comes behind it waits, because a chain with a hole would be told as whole."""
    monkeypatch.setattr(module, "STUCK", Seconds(0.01))
    house = small_house
    position = house.sequencer.statistics().position
    await house.ledger.append([silent_event()])
    await house.grant()
    with capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            await nursery.start(house.sequencer.run)
            with trio.fail_after(30):
                await reached(house.sequencer, SequencerState.STUCK)
            nursery.cancel_scope.cancel()
    assert [line["event"] for line in logs].count("sequencer_stopped") == 1
    assert house.sequencer.statistics().position == position
    assert await house.outbox.fresh(Lane.ORDINARY, 0, 10, Seconds(0.0)) == []


@pytest.mark.parametrize("batch", [1, 4, module.BATCH])
async def test_what_cannot_be_read_yet_keeps_nothing_that_is_before_it_from_being_told(
    small_house: House, batch: int
) -> None:
    house = small_house
    for _ in range(3):
        await house.grant()
    await house.ledger.append([silent_event()])
    sequencer = stepping(house, batch=batch)

    async def go_on() -> None:
        while await sequencer.step():
            pass

    with pytest.raises(UnreadableEvent):
        await go_on()
    assert len(await house.outbox.fresh(Lane.ORDINARY, 0, 10, Seconds(0.0))) == 6


def stepping(house: House, batch: int) -> Sequencer:
    return Sequencer(house.ledger, ISSUER, house.news, wall=house.clock.wall, jitter=lambda: 0.5, batch=batch)


async def flood(house: House, count: int) -> None:
    """A stopped ATP's consents end, with one of another ATP's behind them; the suspension is sequenced already."""
    await house.register("atp-2", Role.ATP)
    granted = [house.granting() for _ in range(count)]
    other = house.granting(atp="atp-2")
    await house.write(*granted, other)
    await house.suspend("atp-1")
    await house.settle()
    await house.write(*(house.revoking(one.consent_id) for one in granted))
    await house.revoke(other.consent_id)


async def test_an_end_behind_a_flood_is_told_before_it_and_all_is_as_without(house: House) -> None:
    await flood(house, 20)
    sequencer = stepping(house, batch=3)
    await sequencer.step()
    [told] = [one for one in await house.outbox.fresh(Lane.ENDS, 0, 99, Seconds(0.0)) if one.seq > 0 and one.prev > 0
              and one.seq > sequencer.statistics().position]  # fmt: skip
    bulk = await house.outbox.backlog(ClientId("edp-1"), Lane.BULK, 0, 99)
    assert (told.client_id, len(bulk)) == ("edp-1", 3)
    assert told.prev == told.seq - 1  # the last of the flood, which has no row yet
    listed = await house.ledger.database.read(lambda c: read_changes(c, ClientId("edp-1"), bulk[0].prev, 99))
    assert [one.seq for one in listed.told] == [one.seq for one in bulk]
    while await sequencer.step():
        pass
    ahead = await rows(house)
    await empty(house)
    await house.ledger.database.run(lambda connection: module.begin(connection, 0))
    house.sequencer = stepping(house, batch=1_000)
    await house.settle()
    assert await rows(house) == ahead


@pytest.mark.parametrize("seed", range(6))
async def test_however_it_looks_ahead_all_is_as_without(small_house: House, seed: int) -> None:
    """Over ends, grants, renewals and stops of several ATPs in any order, with pages and batches of any size."""
    house, dice = small_house, random.Random(seed)  # noqa: S311 - the same in every run
    atps, edps = ("atp-1", "atp-2", "atp-3"), ("edp-1", "edp-2", "edp-3")
    for name in atps[1:]:
        await house.register(name, Role.ATP)
    active: list[tuple[ConsentId, str]] = []
    stopped: set[str] = set()
    for atp in dice.choices(atps, k=90):
        granted = house.granting(atp=atp, edps=tuple(dice.sample(edps, dice.randint(1, 3))))
        await house.write(granted)
        active.append((granted.consent_id, atp))
    for _ in range(160):
        atp, drawn = dice.choice(atps), dice.random()
        if drawn < 0.06:
            await house.suspend(atp, suspended=atp not in stopped)
            stopped ^= {atp}
        elif drawn < 0.9:
            consent_id, _ = active.pop(dice.randrange(len(active)))
            await house.write(house.revoking(consent_id) if dice.random() < 0.8 else house.renewing(consent_id))
        else:
            await house.grant(atp=atp)
        if not active:
            break
    sequencer = stepping(house, batch=dice.randint(2, 9))
    sequencer._lookahead = Lookahead(house.ledger.database, sequencer._write_ahead, page=dice.randint(2, 40))
    while await sequencer.step():
        pass
    ahead = await rows(house)
    assert {Lane(row.lane) for row in await _named(house)} == set(Lane)
    await empty(house)
    await house.ledger.database.run(lambda connection: module.begin(connection, 0))
    house.sequencer = stepping(house, batch=1_000)
    await house.settle()
    assert await rows(house) == ahead


def test_every_event_that_ends_one_consent_can_be_passed_over() -> None:
    ended = {event for event in get_args(ConsentEvent) if event.__struct_config__.tag not in NO_ENDS}
    assert {event.__struct_config__.tag for event in ended} == SINGLE_ENDS


async def test_a_change_of_streams_is_not_overtaken(small_house: House) -> None:
    house = small_house
    await flood(house, 9)
    stream = await house.push_stream("edp-3", Role.EDP)
    await house.grant(atp="atp-2", edps=("edp-3",))
    sequencer = stepping(house, batch=3)
    while (await sequencer.step()) and not await of(house, "edp-3"):
        pass
    known = await house.ledger.database.read(lambda c: c.execute(sa.select(streams.c.stream_id)).scalars().all())
    assert stream.stream_id in known


async def of(house: House, client_id: str) -> Any:
    return [row for row in await _named(house) if row.client_id == client_id]


async def test_whoever_was_overtaken_writes_nothing_ahead(small_house: House) -> None:
    house = small_house
    await flood(house, 9)
    late, other = stepping(house, batch=3), stepping(house, batch=3)
    await late.step()
    await other.step()
    await house.write(house.granting(atp="atp-2"))
    before = len(await rows(house))
    with pytest.raises(Overtaken):
        await late.step()
    assert len(await rows(house)) == before


async def test_a_delivery_says_by_which_ways_it_goes(small_house: House) -> None:
    await small_house.grant(edps=("edp-1", "edp-2", "edp-3"))
    await small_house.settle()
    ways = {row.client_id: (Push(row.push), Poll(row.poll)) for row in await _named(small_house)}
    both = (Push.PENDING, Poll.OPEN)
    assert ways == {"atp-1": both, "edp-1": both, "edp-2": (Push.NONE, Poll.OPEN)}


async def test_a_deleted_stream_gets_nothing_more(small_house: House) -> None:
    house = small_house
    await house.register("edp-4", Role.EDP)
    stream = await house.push_stream("edp-4", Role.EDP)
    await house.settle()
    await house.outbox.ask_verification(stream.stream_id)
    assert [one.client_id for one in await house.outbox.fresh(Lane.ORDINARY, 0, 10, Seconds(0.0))] == ["edp-4"]
    await house.grant(edps=("edp-4",))
    await house.change(stream, deleted=True)
    await house.grant(edps=("edp-4",))
    await house.settle()
    assert [row.client_id for row in await _named(house)].count("edp-4") == 2
    assert "edp-4" not in {one.client_id for one in await house.outbox.fresh(Lane.ORDINARY, 0, 10, Seconds(0.0))}
    with pytest.raises(NoSuchStream):
        await house.outbox.ask_verification(stream.stream_id)


async def test_a_verification_that_is_asked_for_right_after_its_address_was_confirmed_comes(small_house: House) -> None:
    """The outbox is a moment behind the ledger: as a challenge it would go nowhere once the outbox knows better."""
    house = small_house
    await house.register("edp-4", Role.EDP)
    stream = await house.push_stream("edp-4", Role.EDP, status=StreamStatus.PAUSED, challenge="prove it")
    await house.settle()
    await house.change(stream, challenge="", status=StreamStatus.ENABLED)
    await house.outbox.ask_verification(stream.stream_id, "word")
    await house.settle()
    fresh = await house.outbox.fresh(Lane.ORDINARY, 0, 10, Seconds(0.0))
    own = [one.fact for one in fresh if one.client_id == "edp-4"]
    assert own == [VerificationFact(stream.stream_id, house.clock.now(), "word")]


@pytest.mark.parametrize("fate", [Fate.AGAIN, Fate.PARKED])
async def test_a_challenge_that_was_replaced_and_one_of_a_deleted_stream_are_owed_to_nobody(
    house: House, fate: Fate
) -> None:
    """Nothing sends them any more: their receiver would be behind, or have something parked, for three months."""
    epoch, at = (await house.door.lease("holder-1", None)).epoch, house.clock.wall()

    async def tell(told: Fate) -> None:
        """Of the newest: whatever is older the pusher does not send."""
        await house.settle()
        fresh = [one for lane in Lane for one in await house.outbox.fresh(lane, 0, 100, Seconds(0.0))]
        newest = max(one.number for one in fresh if one.client_id == "edp-4")
        await house.outbox.tell(epoch, [Outcome(newest, told, 1, at, at + 5)])

    async def left() -> tuple[int, int]:
        await house.settle()
        await house.door.unpark(epoch, ClientId("edp-4"), house.clock.now())
        found = await house.ledger.database.read(read_standings)
        [standing] = [one for one in found if one.client_id == "edp-4"]
        return standing.unsent, standing.parked

    await house.register("edp-4", Role.EDP)
    gone = await house.push_stream("edp-4", Role.EDP, status=StreamStatus.PAUSED, challenge="one")
    await tell(fate)
    await house.change(gone, deleted=True)
    stream = await house.push_stream("edp-4", Role.EDP, status=StreamStatus.PAUSED, challenge="two")
    await tell(fate)
    assert await left() == (1, 0)
    stream = await house.change(stream, challenge="three")
    await tell(Fate.DONE)
    assert await left() == (0, 0)
    await house.change(stream, challenge="four")
    await tell(fate)
    await house.change(stream, challenge="", status=StreamStatus.ENABLED)
    await tell(Fate.DONE)  # that it is enabled
    await house.grant(edps=("edp-4",))
    assert await left() == (1, 0)


@pytest.fixture
def process() -> Iterator["subprocess.Popen[bytes]"]:
    """A process that forks sequencers."""
    command = [sys.executable, "-m", "tests.support.sequencer_process"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def derive_and_kill(process: "subprocess.Popen[bytes]", order: Order, after: int | None, late: float = 0.0) -> int:
    """Let a sequencer work, and kill it after so many batches; returns how many it did. None: let it finish.

    late: seconds into the next batch.
    """
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(msgspec.json.encode(order, enc_hook=str) + b"\n")
    process.stdin.flush()
    pid, steps = int(process.stdout.readline().split()[1]), 0
    while (line := process.stdout.readline()) != b"ended\n":
        assert line.startswith(b"step ")
        steps += 1
        if steps == after:
            time.sleep(late)
            os.kill(pid, signal.SIGKILL)
    return steps


def test_a_sequencer_killed_again_and_again_tells_everything_once(
    process: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    config = ledger_config(tmp_path, f"sqlite:///{tmp_path}/ledger.db")
    expected = trio.run(_fill_and_derive, tmp_path)
    order = Order(config)
    dice = random.Random(7)  # noqa: S311 - when to kill
    kills = [derive_and_kill(process, order, dice.randint(1, 3), dice.uniform(0, 0.006)) for _ in range(KILLS)]
    assert min(kills) > 0
    derive_and_kill(process, order, None)
    database = Database.of(config)
    found = sorted(tuple(row) for row in database.inspect(lambda connection: connection.execute(ROWS).all()))
    database.dispose()
    assert found == expected


async def _fill_and_derive(directory: Path) -> list[tuple[Any, ...]]:
    """What a sequencer that is left alone makes; the outbox is emptied again."""
    async with house_in(directory) as house:
        await house.furnish()
        await write_many(house, 40)
        await flood(house, 20)
        await house.settle()
        made = await rows(house)
        await empty(house)
        await house.ledger.database.run(lambda connection: module.begin(connection, 0))
        return made
