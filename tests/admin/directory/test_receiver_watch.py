"""The watch over receivers: their pauses end in time, and each lateness is told once."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from admin import metrics
from admin.directory.fallback_rights import FallbackRights, Step, step
from admin.directory.receiver_watch import LOOK_EVERY, Lateness, ReceiverWatch, lateness
from admin.directory.stream_service import Streams
from admin.ledger.receiver_standing import Standing, Untold, read_standings
from engine.clock import UnixTime
from engine.consent.records import ClientId, FallbackSuspension, Role
from engine.pusher.service import Fate, Outcome
from engine.pusher.streams import StreamStatus
from tests.support.outboxes import House, house_in

EDP = ClientId("edp-1")
SUSPENDED = FallbackSuspension(UnixTime(90_000), 7)
OWED = Standing(
    EDP, Role.EDP, suspended=False, last_seq=7, streams=(), unsent=1, oldest_unsent=1_000.0, parked=0,
    unacknowledged=0, error="http_503", untold=Untold(7, 1_000.0),
)  # fmt: skip


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with house_in(tmp_path) as house:
        await house.register("atp-1", Role.ATP)
        await house.register("edp-1", Role.EDP)
        yield house


def streams_of(house: House) -> Streams:
    return Streams(house.ledger, house.outbox, house.clock.now, lambda: "challenge", private_allowed=True)


def watch_of(house: House) -> ReceiverWatch:
    async def read() -> Sequence[Standing]:
        return await house.ledger.database.read(read_standings)

    return ReceiverWatch(streams_of(house), FallbackRights(house.ledger), read, house.clock.now, house.clock.wall)


@pytest.mark.parametrize(
    ("age", "expected"),
    [
        (0, Lateness.NONE),
        (600, Lateness.NONE),
        (601, Lateness.ALERT),
        (3_601, Lateness.CALL),
        (86_401, Lateness.NO_FALLBACK),
    ],
)
def test_lateness_is_counted_from_the_oldest_event(age: int, expected: Lateness) -> None:
    assert lateness(OWED, 1_000.0 + age) is expected
    assert lateness(msgspec.structs.replace(OWED, oldest_unsent=None, untold=None), 1_000.0 + age) is Lateness.NONE


def test_who_polls_what_is_not_pushed_is_called_and_keeps_its_right() -> None:
    polled = msgspec.structs.replace(OWED, untold=None)
    assert lateness(polled, 1_000.0 + 90_000) is Lateness.CALL
    assert step(polled, 1_000.0 + 90_000) is Step.NONE


def test_who_only_polls_is_late_after_an_hour() -> None:
    unpolled = msgspec.structs.replace(OWED, oldest_unsent=None)
    ages = {age: lateness(unpolled, 1_000.0 + age) for age in (3_600, 3_601, 86_401)}
    assert ages == {3_600: Lateness.NONE, 3_601: Lateness.CALL, 86_401: Lateness.NO_FALLBACK}


@pytest.mark.parametrize(
    ("fields", "age", "expected"),
    [
        ({}, 86_400, Step.NONE),
        ({}, 86_401, Step.SUSPEND),
        ({"role": Role.ATP}, 86_401, Step.NONE),
        ({"fallback_suspended": SUSPENDED}, 86_401, Step.NONE),
        ({"fallback_suspended": SUSPENDED, "caught_up": True}, 601, Step.NONE),
        ({"fallback_suspended": SUSPENDED, "caught_up": True}, 600, Step.RESTORE),
        ({"fallback_suspended": SUSPENDED, "caught_up": True, "untold": None}, 601, Step.RESTORE),
        ({"fallback_suspended": SUSPENDED, "untold": None}, 601, Step.NONE),  # gone from poll, never told
    ],
)
def test_a_right_rests_after_a_day_and_comes_back_with_the_events(
    fields: dict[str, Any], age: int, expected: Step
) -> None:
    assert step(msgspec.structs.replace(OWED, **fields), 1_000.0 + age) is expected


async def test_a_receivers_own_pause_ends_after_fifteen_minutes_and_it_is_told(house: House) -> None:
    paused = await house.poll_stream("edp-1", Role.EDP)
    until = UnixTime(house.clock.now() + 900)
    assert LOOK_EVERY == 10, "a pause lasts so much longer at most"
    await house.change(paused, status=StreamStatus.PAUSED, paused_until=until)
    await house.settle()
    watch, streams = watch_of(house), streams_of(house)
    house.clock.time += 899
    await watch.look()
    assert (await streams.find(EDP, paused.stream_id)).status is StreamStatus.PAUSED
    house.clock.time += 1
    await watch.look()
    assert (await streams.find(EDP, paused.stream_id)).status is StreamStatus.ENABLED
    await house.settle()
    (told,) = await house.outbox.unsigned(0, 10, 0)  # type: ignore[arg-type]  # seconds
    assert told.fact.status == "enabled"  # type: ignore[union-attr]  # of the stream
    head = await house.ledger.head()
    await watch.look()
    assert await house.ledger.head() == head


async def test_a_look_reads_no_stream_that_was_deleted(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """There are more and more of them, and a look comes each ten seconds."""
    kept = await house.poll_stream("edp-1", Role.EDP, status=StreamStatus.PAUSED, paused_until=house.clock.now())
    for _ in range(3):
        gone = await house.push_stream("edp-1", Role.EDP)
        await house.change(gone, deleted=True, status=StreamStatus.DISABLED)
    await house.settle()
    read: list[bytes] = []
    records, subject = house.ledger.records, house.ledger.subject

    async def noting_records(after: tuple[int, bytes], limit: int) -> Any:
        page = await records(after, limit)
        read.extend(record.key for _, record in page)
        return page

    async def noting_subject(name: str) -> Any:
        read.append(name.removeprefix("stream:").encode())
        return await subject(name)

    monkeypatch.setattr(house.ledger, "records", noting_records)
    monkeypatch.setattr(house.ledger, "subject", noting_subject)
    watch = watch_of(house)
    before = house.clock.now()
    house.clock.time -= 1
    await watch.look()
    assert read == []
    house.clock.time = before
    monkeypatch.undo()
    await watch.look()
    assert (await streams_of(house).find(EDP, kept.stream_id)).status is StreamStatus.ENABLED


@pytest.mark.parametrize("since", [{"deleted": True}, {"status": StreamStatus.ENABLED, "paused_until": None}])
async def test_a_pause_whose_stream_has_changed_since_is_left_alone(house: House, since: dict[str, Any]) -> None:
    """The outbox, by which the watch looks, is a moment behind the ledger."""
    until = house.clock.now()
    paused = await house.poll_stream("edp-1", Role.EDP, status=StreamStatus.PAUSED, paused_until=until)
    await house.settle()
    await house.change(paused, **since)
    head = await house.ledger.head()
    with capture_logs() as logs:
        await watch_of(house).look()
    assert logs == []
    assert await house.ledger.head() == head


async def test_each_lateness_is_told_once_and_so_is_its_end(house: House) -> None:
    await house.push_stream("edp-1", Role.EDP)
    await house.grant()
    await house.settle()
    watch = watch_of(house)

    async def look(seconds: int) -> list[tuple[str, str]]:
        house.clock.time += seconds
        with capture_logs() as logs:
            await watch.look()
        return [(entry["event"], entry.get("beyond", "")) for entry in logs]

    assert await look(0) == []
    assert await look(605) == [("receiver_behind", "10m")]
    assert await look(10) == []
    assert await look(3_000) == [("receiver_behind", "1h")]
    late = await look(83_000)
    assert late == [("receiver_behind", "24h"), ("fallback_right_suspended", ""), ("security_event", "")]
    await house.settle()
    beyond = {name: metrics.RECEIVERS_BEHIND.labels(name)._value.get() for name in ("10m", "1h", "24h")}
    assert beyond == {"10m": 1, "1h": 1, "24h": 1}
    (owed,) = await house.outbox.unsigned(0, 10, 0)  # type: ignore[arg-type]  # seconds
    lease = await house.outbox.lease("test", None)
    at = house.clock.wall()
    await house.outbox.tell(lease.epoch, [Outcome(owed.number, Fate.PARKED, 1, at, error="invalid_request")])
    assert await look(1) == [("deliveries_parked", "")]  # what is parked has not come to it
    assert await look(1) == []
    assert metrics.RECEIVERS_PARKED._value.get() == 1
    assert metrics.FALLBACK_SUSPENDED._value.get() == 1
    await house.outbox.unpark(lease.epoch, EDP, house.clock.now())
    assert await look(0) == []
    at = house.clock.wall()
    await house.outbox.tell(lease.epoch, [Outcome(owed.number, Fate.DONE, 1, at)])
    assert await look(1) == [("receiver_caught_up", ""), ("fallback_right_restored", "")]
    await house.settle()
    assert await look(1) == []
    assert metrics.FALLBACK_SUSPENDED._value.get() == 0


async def test_who_has_disabled_push_and_polls_is_not_behind_until_it_enables_it_again(house: House) -> None:
    """What was pending when it did is kept all the same, for when it is enabled again."""
    push = await house.push_stream("edp-1", Role.EDP)
    await house.poll_stream("edp-1", Role.EDP)
    await house.grant()
    await house.settle()
    watch = watch_of(house)
    house.clock.time += 605
    await watch.look()
    assert metrics.RECEIVERS_BEHIND.labels("10m")._value.get() == 1
    push = await house.change(push, status=StreamStatus.DISABLED)
    await house.settle()
    await watch.look()
    assert metrics.RECEIVERS_BEHIND.labels("10m")._value.get() == 0
    [standing] = watch.standings
    assert (standing.unsent, standing.oldest_unsent, standing.unacknowledged) == (0, None, 1)
    house.clock.time += 3_600
    await watch.look()
    assert metrics.RECEIVERS_BEHIND.labels("1h")._value.get() == 1, "it does not poll either"
    await house.change(push, status=StreamStatus.ENABLED)
    await house.settle()
    await watch.look()
    [standing] = watch.standings
    assert (standing.unsent, standing.unacknowledged) == (1, 1)
