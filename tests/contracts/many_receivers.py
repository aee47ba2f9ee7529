"""What is asked about all receivers at once must come out as if each were asked by itself, on any database.

The model goes through all rows, one after the other. Bounds are small, so that some receivers reach them.
"""

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from admin.directory.fallback_rights import FallbackRights
from admin.directory.receiver_watch import ReceiverWatch
from admin.directory.stream_service import Streams
from admin.ledger import deliveries as statements
from admin.ledger import outbox_pruning, receiver_standing
from admin.ledger.deliveries import UNTOLD
from admin.ledger.outbox import Poll, Push
from admin.ledger.outbox_pruning import close_polls, drop_orphans, park_untried
from admin.ledger.receiver_standing import Standing, Untold, read_standings
from admin.ledger.schema import deliveries, outbox, receivers, streams
from admin.ledger.sequencer import REACH
from engine.consent.records import ParticipantRecord
from engine.pusher.schedule import length_of
from engine.pusher.service import Lane
from engine.pusher.streams import DeliveryMethod, StreamRecord, StreamStatus
from tests.support.outbox_rows import AT, DAY, Filling, fill, read_all
from tests.support.outboxes import House
from tests.support.statements import listening

Row = dict[str, Any]
SEEDS = range(3)
FILLING = Filling(receivers=24, deliveries=600)
STEP = 4
COUNTED_TO = 8
_records = msgspec.msgpack.Decoder(ParticipantRecord)
_streams = msgspec.msgpack.Decoder(StreamRecord)


class Model:
    """All rows of an outbox, and what follows from them."""

    def __init__(self, connection: sa.Connection) -> None:
        self.rows = read_all(connection, deliveries)
        self.receivers = read_all(connection, receivers)
        self.streams = [_streams.decode(row["record"]) for row in read_all(connection, streams)]
        self.made_at = connection.execute(sa.select(outbox.c.rows_from)).scalar_one() + REACH

    def of(self, client_id: str, *conditions: Callable[[Row], bool]) -> list[Row]:
        return [row for row in self.rows if row["client_id"] == client_id and all(one(row) for one in conditions)]

    def owns_push(self, client_id: str) -> bool:
        return any(one.client_id == client_id and one.delivery is DeliveryMethod.PUSH for one in self.streams)

    def wants_pushes(self, client_id: str) -> bool:
        pushes = [one for one in self.streams if one.client_id == client_id and one.delivery is DeliveryMethod.PUSH]
        return all(one.status is not StreamStatus.DISABLED for one in pushes)

    def standings(self) -> list[Standing]:
        having = {one.client_id for one in self.streams}
        return [self._standing(row) for row in self.receivers if row["client_id"] in having]

    def _standing(self, row: Row) -> Standing:
        record, client_id = _records.decode(row["record"]), row["client_id"]
        pending = self.of(client_id, is_pending) if self.wants_pushes(client_id) else []
        parked = self.of(client_id, lambda one: one["push"] == Push.PARKED)
        errors = [found[0]["error"] for found in (pending, parked) if found]
        return Standing(
            client_id=client_id,
            role=record.role,
            suspended=record.suspended,
            last_seq=row["last_seq"],
            streams=tuple(one for one in self.streams if one.client_id == client_id),
            unsent=min(len(pending), COUNTED_TO),
            oldest_unsent=pending[0]["committed_at"] if pending else None,
            parked=min(len(parked), COUNTED_TO),
            unacknowledged=min(len(self.of(client_id, is_open)), COUNTED_TO),
            error=next((error for error in errors if error), ""),
            untold=self._untold(client_id),
            fallback_suspended=record.fallback_suspended,
            caught_up=self._was_told(record),
        )

    def _untold(self, client_id: str) -> Untold | None:
        found = self.of(client_id, is_untold)
        if not self.owns_push(client_id):
            found = [row for row in found if is_open(row)]
        return Untold(found[0]["seq"], max(found[0]["committed_at"], float(self.made_at))) if found else None

    def _was_told(self, record: ParticipantRecord) -> bool:
        suspended = record.fallback_suspended
        if suspended is None:
            return False
        since = self.of(record.client_id, lambda row: row["seq"] > 0, lambda row: row["seq"] >= suspended.oldest_seq)
        return any(
            (row["push"] == Push.DONE and (row["tried_at"] or 0) >= suspended.at)
            or (row["poll"] == Poll.ACKED and (row["polled_at"] or 0) >= suspended.at)
            for row in since[:COUNTED_TO]
        )

    def polls_closed(self, before: float) -> list[Row]:
        return self._changed(lambda row: is_open(row) and row["committed_at"] < before, poll=int(Poll.GONE))

    def orphans_dropped(self) -> list[Row]:
        return self._changed(lambda row: is_pending(row) and not self.owns_push(row["client_id"]), push=int(Push.NONE))

    def untried_parked(self, now: float) -> list[Row]:
        """Until nothing changes any more: whoever is behind others has its turn when these are gone."""
        rows, pushable = self.rows, [row["client_id"] for row in self.receivers if row["pushable"]]
        while due := {number for one in pushable for lane in Lane for number in _untried(rows, one, lane, now)}:
            parked = {"push": int(Push.PARKED), "error": outbox_pruning.UNTRIED}
            rows = [row | parked if row["number"] in due else row for row in rows]
        return rows

    def _changed(self, which: Callable[[Row], bool], **values: Any) -> list[Row]:
        return [row | values if which(row) else row for row in self.rows]


def is_pending(row: Row) -> bool:
    return bool(row["push"] == Push.PENDING)


def is_open(row: Row) -> bool:
    return bool(row["poll"] == Poll.OPEN)


def is_untold(row: Row) -> bool:
    """As the index's condition says: neither pushed nor acknowledged, and still to be had."""
    owed = row["push"] in (Push.PENDING, Push.PARKED) and row["poll"] not in (Poll.ACKED, Poll.GONE)
    return row["seq"] > 0 and (owed or (row["push"] == Push.NONE and is_open(row)))


def _untried(rows: Iterable[Row], client_id: str, lane: Lane, now: float) -> list[int]:
    own = [row for row in rows if row["client_id"] == client_id and is_pending(row) and row["lane"] == lane][:STEP]
    before = now - length_of(lane)
    return [
        row["number"]
        for row in own
        if row["seq"] > 0 and not row["attempts"] and max(row["committed_at"], row["next_at"]) < before
    ]


class ManyReceiversContract:
    """Subclasses give `house`: with an outbox that has begun, and nobody in it."""

    @pytest.fixture(autouse=True)
    def _bounds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(outbox_pruning, "STEP", STEP)
        monkeypatch.setattr(receiver_standing, "COUNTED_TO", COUNTED_TO)

    @pytest.mark.parametrize("seed", SEEDS)
    async def test_everybody_stands_as_if_asked_alone(self, house: House, seed: int) -> None:
        found, expected = await house.ledger.database.run(
            lambda connection: (fill(connection, FILLING, seed), (read_standings(connection), Model(connection)))[1]
        )
        assert found == expected.standings()
        assert max(one.unsent for one in found) == COUNTED_TO
        assert {one.caught_up for one in found} == {True, False}

    async def test_what_came_last_is_found_by_number_as_it_is_by_receiver(self, house: House) -> None:
        await house.ledger.database.run(lambda connection: fill(connection, FILLING, 3))

        def pages(connection: sa.Connection) -> list[list[int]]:
            name = connection.dialect.name
            by_number, by_receiver = statements.PENDING_AMONG_LAST[name], statements.PENDING_OF_ALL[name]
            found = []
            for lane, after in itertools.product(Lane, (0, 300, 480)):
                page = {"lane": int(lane), "after": after, "limit": 20}
                found.append(list(connection.execute(by_number, {**page, "last": FILLING.deliveries}).scalars()))
                assert found[-1] == list(connection.execute(by_receiver, page).scalars())
            return found

        lengths = [len(page) for page in await house.ledger.database.read(pages)]
        assert max(lengths) == 20
        assert 0 < min(lengths) < 20

    @pytest.mark.parametrize("seed", SEEDS)
    async def test_pruning_changes_what_is_due_of_everybody_and_nothing_else(self, house: House, seed: int) -> None:
        def work(connection: sa.Connection) -> None:
            fill(connection, FILLING, seed)
            for step, expected in (
                (lambda: close_polls(connection, AT - 7 * DAY), lambda model: model.polls_closed(AT - 7 * DAY)),
                (lambda: drop_orphans(connection), Model.orphans_dropped),
                (lambda: park_untried(connection, AT), lambda model: model.untried_parked(AT)),
            ):
                before = Model(connection)
                changes = _until_even(step)
                after = expected(before)
                assert read_all(connection, deliveries) == after
                assert sum(changes) == sum(one != two for one, two in zip(before.rows, after, strict=True)) > STEP
                assert max(changes) == STEP

        await house.ledger.database.run(work)

    async def test_a_look_says_no_more_to_the_database_for_ten_times_as_many_receivers(self, house: House) -> None:
        async def said(filling: Filling) -> dict[str, int]:
            await house.ledger.database.run(lambda connection: _refill(connection, filling))
            found = {}
            for name, ask in _asked(house).items():
                with listening(house.ledger.database) as heard:
                    await ask()
                found[name] = len(heard)
            return found

        few = await said(Filling(receivers=12, deliveries=400, days=20))
        many = await said(Filling(receivers=120, deliveries=4_000, days=20))
        assert few == many
        assert max(many.values()) <= 20


def _until_even(step: Callable[[], int]) -> list[int]:
    changes = []
    while changed := step():
        changes.append(changed)
    return changes


def _refill(connection: sa.Connection, filling: Filling) -> None:
    for table in (deliveries, receivers, streams):
        connection.execute(sa.delete(table))
    fill(connection, filling, 7)


def _asked(house: House) -> dict[str, Callable[[], Any]]:
    """Whatever goes over all receivers every ten seconds, or each minute."""
    database = house.ledger.database

    async def read() -> list[Standing]:
        return await database.read(read_standings)

    directory = Streams(house.ledger, house.outbox, house.clock.now, lambda: "word", private_allowed=True)
    rights = _NoRights(house.ledger)
    watch = ReceiverWatch(directory, rights, read, house.clock.now, house.clock.wall)
    return {
        "look": watch.look,
        "standings": read,
        "close polls": lambda: database.run(lambda connection: close_polls(connection, AT - 7 * DAY)),
        "drop orphans": lambda: database.run(drop_orphans),
        "park untried": lambda: database.run(lambda connection: park_untried(connection, AT)),
        "roster": lambda: house.door.roster(0, 0),  # type: ignore[arg-type]  # seconds
    }


class _NoRights(FallbackRights):
    """Nobody's right changes: each that does is an event of the ledger, and costs what it costs."""

    async def suspend(self, *_: Any) -> bool:
        return False

    async def restore(self, *_: Any) -> bool:
        return False


def test_the_model_says_what_the_index_says() -> None:
    written = "seq > 0 AND ((push IN (0, 2) AND poll NOT IN (1, 2)) OR (push = 3 AND poll = 0))"
    assert UNTOLD.text == written
