"""What is kept for how long, with the clock moved on; and that chains need none of it."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from admin.ledger import outbox_pruning as module
from admin.ledger.outbox import Poll, Push
from admin.ledger.outbox_pruning import DAY, EVERY, PAYLOAD_DAYS, POLL_DAYS, RESULT_DAYS, Pruning
from admin.ledger.pruned_as_of import LEAP
from admin.ledger.schema import deliveries, outbox
from admin.ledger.sequencer import REACH
from admin.ledger.store import LedgerUnavailable
from engine.clock import Seconds
from engine.consent.records import ClientId, Role
from engine.pusher.schedule import length_of
from engine.pusher.service import Fate, Lane, Outcome, Signed
from engine.pusher.streams import StreamStatus
from tests.support.outboxes import House, house_in, make_anew

NO_WAIT = Seconds(0.0)
AT_ONCE = Seconds(1e9)
EDP = ClientId("edp-1")


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def house(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[House]:
    """With four grants of atp-1 and edp-1; steps take three rows."""
    monkeypatch.setattr(module, "STEP", 3)
    monkeypatch.setattr(module, "PAUSE", Seconds(0.0))
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else ""
    async with house_in(tmp_path, url) as house:
        await house.furnish()
        for _ in range(4):
            await house.grant()
        await house.settle()
        yield house


async def prune(house: House) -> int:
    """With a clock that is believed."""
    return await Pruning(house.ledger.database, house.clock.wall, leap=AT_ONCE).prune()


async def all_rows(house: House) -> Any:
    query = sa.select(deliveries).order_by(deliveries.c.number)
    return await house.ledger.database.read(lambda connection: connection.execute(query).all())


async def sign_and_push(house: House) -> None:
    epoch = (await house.door.lease("holder-1", None)).epoch
    made = await house.door.unsigned(0, 100, NO_WAIT)
    await house.door.keep(epoch, [Signed(one.number, b"set") for one in made])
    fates = {0: Fate.DONE, 1: Fate.PARKED, 2: Fate.AGAIN}
    await house.door.tell(epoch, [Outcome(one.number, fates[one.number % 3], 2, 0.5, 0.0, "tls") for one in made])


def test_a_set_is_offered_for_a_week_its_payload_kept_for_ninety_days() -> None:
    assert (POLL_DAYS, PAYLOAD_DAYS, RESULT_DAYS) == (7, 90, 396)


async def try_all(house: House) -> None:
    """The pusher has tried everything once, in vain."""
    epoch = (await house.door.lease("holder-1", None)).epoch
    owed = await house.door.unsigned(0, 100, NO_WAIT)
    at = house.clock.wall()
    await house.door.tell(epoch, [Outcome(one.number, Fate.AGAIN, 1, at, at + 30, "tls") for one in owed])


async def test_nothing_is_due_early(house: House) -> None:
    await try_all(house)
    house.clock.time += POLL_DAYS * DAY
    assert await prune(house) == 0


async def test_poll_holds_a_set_for_a_week_and_push_goes_on(house: House) -> None:
    await try_all(house)
    house.clock.time += POLL_DAYS * DAY + 2
    await house.grant()
    await house.settle()
    assert await prune(house) == 8
    assert [row.poll for row in await all_rows(house)] == [Poll.GONE] * 8 + [Poll.OPEN] * 2
    assert len(await house.door.backlog(EDP, Lane.ORDINARY, 0, 100)) == 5
    assert await prune(house) == 0


async def test_payloads_go_after_ninety_days_and_results_stay(house: House) -> None:
    await sign_and_push(house)
    house.clock.time += PAYLOAD_DAYS * DAY + 2
    _, young = await house.grant()
    await house.settle()
    await prune(house)
    *old, _, _ = rows = await all_rows(house)
    assert all(row.fact is None and row.compact is None for row in old)
    assert [(row.push, row.error) for row in old] == [
        {0: (Push.DONE, "tls"), 1: (Push.NONE, "tls"), 2: (Push.NONE, "expired")}[row.number % 3] for row in old
    ]
    assert {row.attempts for row in old} == {2}
    assert rows[-1].fact is not None
    assert [one.seq for one in await house.door.backlog(EDP, Lane.ORDINARY, 0, 100)] == [young]
    assert [one.seq for one in await house.door.unsigned(0, 100, NO_WAIT)] == [young, young]
    epoch = (await house.door.lease("holder-1", None)).epoch
    assert await house.door.keep(epoch, [Signed(old[0].number, b"late")]) == []
    assert await house.door.unpark(epoch, EDP, house.clock.now()) == 0
    assert await prune(house) == 0


async def test_results_go_after_thirteen_months_and_the_chain_goes_on(house: House) -> None:
    last = (await all_rows(house))[-1].seq
    house.clock.time += RESULT_DAYS * DAY + 2
    await prune(house)
    assert await all_rows(house) == []
    _, seq = await house.grant()
    await house.settle()
    [one] = await house.door.backlog(EDP, Lane.ORDINARY, 0, 100)
    assert (one.seq, one.prev) == (seq, last)


async def test_what_was_for_a_deleted_stream_is_not_pushed_on_its_successor(house: House) -> None:
    await house.register("edp-4", Role.EDP)
    stream = await house.push_stream("edp-4", Role.EDP)
    for _ in range(5):
        await house.grant(edps=("edp-4",))
    await house.change(stream, deleted=True)
    await house.settle()
    await prune(house)
    await house.push_stream("edp-4", Role.EDP)
    _, seq = await house.grant(edps=("edp-4",))
    await house.settle()
    assert [one.seq for one in await house.door.backlog(ClientId("edp-4"), Lane.ORDINARY, 0, 100)] == [seq]
    assert len(await house.door.backlog(EDP, Lane.ORDINARY, 0, 100)) == 4


async def test_figures_tell_what_is_left(house: House) -> None:
    house.clock.time += 30
    figures = await house.outbox.figures()
    assert (figures.pending[Lane.ORDINARY], figures.pending[Lane.ENDS], figures.unsigned) == (8, 0, 8)
    assert 29 <= figures.oldest[Lane.ORDINARY] <= 31
    assert (figures.oldest[Lane.ENDS], figures.parked, figures.unfetched, figures.leased) == (0.0, 0, 8, False)
    await sign_and_push(house)
    house.clock.time += PAYLOAD_DAYS * DAY
    figures = await house.outbox.figures()
    assert (figures.parked, figures.unsigned, figures.leased) == (3, 0, True)
    assert 29 <= figures.overdue <= 31


async def test_a_database_that_is_away_costs_one_time_only(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    pruning = Pruning(house.ledger.database, house.clock.wall, every=Seconds(0.01))

    async def away() -> int:
        nonlocal calls
        calls += 1
        if calls > 2:
            raise KeyboardInterrupt
        raise LedgerUnavailable("the ledger's database does not answer")

    monkeypatch.setattr(pruning, "prune", away)
    with capture_logs() as logs, pytest.raises(KeyboardInterrupt):
        await pruning.run()
    assert [line["event"] for line in logs] == ["not_pruned", "not_pruned"]


async def test_what_was_never_tried_for_as_long_as_its_schedule_is_parked_by_its_age(house: House) -> None:
    """Its receiver was down before it came. Ends have five hours more."""
    consent_id, _ = await house.grant()
    await house.revoke(consent_id)
    await house.settle()
    house.clock.time += int(length_of(Lane.ORDINARY))
    assert await prune(house) == 0
    house.clock.time += 1
    assert await prune(house) == 10
    rows = await all_rows(house)
    ordinary = [row for row in rows if row.lane == Lane.ORDINARY]
    assert {(row.push, row.error, row.attempts) for row in ordinary} == {(Push.PARKED, "not_tried", 0)}
    assert {row.poll for row in rows} == {Poll.OPEN}
    assert {row.push for row in rows if row.lane == Lane.ENDS} == {Push.PENDING}
    house.clock.time += int(length_of(Lane.ENDS) - length_of(Lane.ORDINARY))
    assert await prune(house) == 2
    epoch = (await house.door.lease("holder-1", None)).epoch
    assert await house.door.unpark(epoch, EDP, house.clock.now()) == 6  # a verification came through
    assert await prune(house) == 0
    house.clock.time += int(length_of(Lane.ORDINARY)) + 1
    assert await prune(house) == 5  # from then on it lasts as long again


async def test_what_a_pause_holds_and_what_was_tried_is_not_parked_by_its_age(house: House) -> None:
    await try_all(house)
    await house.register("edp-4", Role.EDP)
    stream = await house.push_stream("edp-4", Role.EDP)
    await house.change(stream, status=StreamStatus.PAUSED)
    await house.grant(atp="atp-9", edps=("edp-4",))
    await house.settle()
    house.clock.time += 2 * DAY
    assert await prune(house) == 0


async def test_an_outbox_made_anew_parks_nothing_before_the_pusher_had_its_time(house: House) -> None:
    house.clock.time += 3 * DAY
    await house.ledger.database.run(lambda connection: make_anew(connection, since=house.clock.now() - REACH))
    house.sequencer = house.another_sequencer()
    await house.settle()
    assert await prune(house) == 0
    house.clock.time += int(length_of(Lane.ORDINARY)) + 2
    assert await prune(house) == 8


async def pass_of_a_day(house: House) -> int:
    """As prune, with a clock that is followed by a day at most."""
    return await Pruning(house.ledger.database, house.clock.wall, leap=Seconds(float(DAY))).prune()


async def test_a_clock_that_leaps_a_year_ahead_takes_no_more_than_a_step_with_each_pass(house: House) -> None:
    """Also over restarts: each pass is another process's here."""
    await try_all(house)
    assert await pass_of_a_day(house) == 0
    house.clock.time += 366 * DAY
    with capture_logs() as logs:
        assert [await pass_of_a_day(house) for _ in range(POLL_DAYS)] == [0] * POLL_DAYS
    assert [line["event"] for line in logs] == ["pruning_held_back"] * POLL_DAYS
    assert await pass_of_a_day(house) == 8  # in a week's passes poll has lost what it would have in a week
    assert await pass_of_a_day(house) == 0


async def test_a_clock_that_is_right_again_is_followed_at_once(house: House) -> None:
    await try_all(house)
    await pass_of_a_day(house)
    for _ in range(2 * POLL_DAYS):
        house.clock.time += 366 * DAY  # of one machine
        await pass_of_a_day(house)
        house.clock.time -= 366 * DAY  # of another
        assert await pass_of_a_day(house) == 0
    assert {row.poll for row in await all_rows(house)} == {Poll.OPEN}


async def test_a_service_that_stood_still_is_even_after_some_passes_and_says_so_once(house: House) -> None:
    await try_all(house)
    pruning = Pruning(house.ledger.database, house.clock.wall, leap=Seconds(float(DAY)))
    await pruning.prune()
    house.clock.time += 10 * DAY
    with capture_logs() as logs:
        done = [await pruning.prune() for _ in range(11)]
    assert (sum(done), done[:POLL_DAYS]) == (8, [0] * POLL_DAYS)
    assert [(line["event"], line["seconds"]) for line in logs] == [("pruning_held_back", 9 * DAY)]


async def test_what_was_never_noted_begins_with_what_the_ledger_recorded_last(house: House) -> None:
    """The first pass after an update, with a clock that is ahead already."""
    await try_all(house)
    house.clock.time += 366 * DAY
    assert [await pass_of_a_day(house) for _ in range(3)] == [0, 0, 0]
    query = sa.select(outbox.c.pruned_as_of)
    as_of = await house.ledger.database.read(lambda connection: connection.execute(query).scalar_one())
    committed_at = (await all_rows(house))[-1].committed_at
    assert as_of == committed_at + 3 * DAY


def test_a_pass_follows_the_clock_by_an_hour_and_comes_each_minute() -> None:
    assert (LEAP, EVERY) == (3_600, 60)
