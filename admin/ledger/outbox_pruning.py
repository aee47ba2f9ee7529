"""How long deliveries are kept, and the job that lets go of them: by poll for seven days, their payload for 90 days,
what became of them for 13 months (NFR-04). In steps of a bounded number of rows, so that nobody waits long behind one.

What is let go is gone, so no clock is believed at once: the moment as of which things are due is kept with the outbox,
and a pass moves it on by an hour at most (`admin.ledger.pruned_as_of`). Rows are locked by their numbers, and looked at
again once they are: what a receiver has acknowledged, or the pusher told, a moment ago stands.
Chains need none of it: they go on from each receiver's last number, which is kept apart.
"""

from collections.abc import Callable, Collection, Iterator
from typing import Any, Final

import msgspec
import sqlalchemy as sa
import trio

from admin.ledger import by_receiver
from admin.ledger.by_receiver import Some, first_in_lane, first_ones
from admin.ledger.database import Database
from admin.ledger.deliveries import PENDING, held
from admin.ledger.outbox import Poll, Push
from admin.ledger.polling import OPEN
from admin.ledger.pruned_as_of import LEAP, follow
from admin.ledger.schema import deliveries, outbox, receivers, streams
from admin.ledger.sequencer import REACH
from engine.clock import Seconds
from engine.errors import Fault
from engine.pusher.schedule import length_of
from engine.pusher.service import Lane
from engine.pusher.streams import DeliveryMethod, StreamRecord
from engine.telemetry.logs import logger

DAY: Final = 86_400
POLL_DAYS: Final = 7  # a set that is acknowledged is not offered any more; one that is not, for so long
PAYLOAD_DAYS: Final = 90
RESULT_DAYS: Final = 396  # 13 months
STEP: Final = 1_000  # rows in one transaction
EVERY: Final = Seconds(60.0)
PAUSE: Final = Seconds(0.05)  # between steps: writers come first
UNTRIED: Final = "not_tried"  # the error of a delivery that was parked without an attempt
EXPIRED: Final = "expired"  # the error of a delivery that was still to be pushed when its payload was erased

_UNTRIED: Final = sa.text("push = 0 AND attempts = 0")

Step = Callable[[sa.Connection], int]  # how many rows it changed: there may be more where it changed any

_streams: Final = msgspec.msgpack.Decoder(StreamRecord)
_log = logger("admin.pruning")


class Pruning:
    """The job. wall: seconds since 1970. leap: by how much one pass follows it at most."""

    def __init__(
        self, database: Database, wall: Callable[[], float], every: Seconds = EVERY, *, leap: Seconds = LEAP
    ) -> None:
        self._database = database
        self._wall = wall
        self._every = every
        self._leap = leap
        self._held_back = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Prune, again and again, until cancelled. A database that is away only costs this time."""
        task_status.started()
        while True:
            try:
                await self.prune()
            except Fault as fault:
                _log.warning("not_pruned", text=fault.text, detail=fault.detail)
            await trio.sleep(self._every)

    async def prune(self) -> int:
        """Everything that is due now; returns how many rows were changed. Raises the database's faults."""
        now, done = self._wall(), 0
        as_of = await self._database.repeat(lambda connection: follow(connection, now, self._leap))
        self._tell(now - as_of)
        for step in steps(as_of):
            while (changed := await self._database.repeat(step)) > 0:
                done += changed
                await trio.sleep(PAUSE)
        return done

    def _tell(self, behind: float) -> None:
        """Once, when it begins."""
        if behind > 0 and not self._held_back:
            _log.warning("pruning_held_back", seconds=int(behind))
        self._held_back = behind > 0


def steps(now: float) -> Iterator[Step]:
    """Each to be repeated until it changes nothing."""
    yield lambda connection: close_polls(connection, now - POLL_DAYS * DAY)
    yield drop_orphans
    yield lambda connection: park_untried(connection, now)
    yield lambda connection: erase_payloads(connection, now - PAYLOAD_DAYS * DAY)
    yield lambda connection: forget_results(connection, now - RESULT_DAYS * DAY)


def close_polls(connection: sa.Connection, before: float) -> int:
    """Take sets committed before that from poll: whoever did not fetch them goes by the listing of changes.

    Of a receiver whose oldest set is due its first STEP are looked at; the others have their turn when these are gone.
    """
    oldest = first_ones(connection, _clients(connection), by_receiver.OPEN)
    late = [row.client_id for row in oldest if row.committed_at < before]
    some = Some(each=STEP, limit=STEP, also="one.committed_at < :before", values={"before": before})
    due = [row.number for row in first_ones(connection, late, by_receiver.OPEN, some)]
    return _set(connection, held(connection, due, OPEN, skip=True), poll=int(Poll.GONE))


def drop_orphans(connection: sa.Connection) -> int:
    """What was to be pushed on a stream that is deleted: nothing is pushed any more, also when there is a new one."""
    if connection.execute(sa.select(outbox.c.id).with_for_update()).first() is None:  # no stream is made meanwhile
        return 0
    found = (_streams.decode(record) for record in connection.execute(sa.select(streams.c.record)).scalars())
    pushed = {stream.client_id for stream in found if stream.delivery is DeliveryMethod.PUSH}
    others = [client_id for client_id in _clients(connection) if client_id not in pushed]
    left = [row.number for row in first_ones(connection, others, by_receiver.PENDING, Some(each=STEP, limit=STEP))]
    return _set(connection, held(connection, left, PENDING, skip=True), push=int(Push.NONE))


def park_untried(connection: sa.Connection, now: float) -> int:
    """Park what could be pushed for as long as its schedule lasts and was never tried: its receiver was down before it.

    Counted from the commit, from when it was unparked, or from when the outbox was made anew, whichever was last.
    What a pause holds is left. Should the pusher get it through after all, that stands.
    """
    made_at = connection.execute(sa.select(outbox.c.rows_from)).scalar()
    if made_at is None or now - made_at - REACH <= min(length_of(lane) for lane in Lane):
        return 0
    pushable = _clients(connection, receivers.c.pushable == 1)
    numbers: list[int] = []
    for lane in Lane:
        numbers += _untried(connection, pushable, lane, now - length_of(lane))
    owed = held(connection, numbers[:STEP], _UNTRIED, skip=True)
    return _set(connection, owed, push=int(Push.PARKED), error=UNTRIED)


def _untried(connection: sa.Connection, clients: Collection[str], lane: Lane, before: float) -> list[int]:
    """Of each receiver's first STEP in a lane, where its oldest one is so old: the others have their turn later."""
    oldest = first_in_lane(connection, clients, lane)
    late = [row.client_id for row in oldest if row.committed_at < before]
    due = "one.seq > 0 AND one.attempts = 0 AND one.committed_at < :before AND one.next_at < :before"
    some = Some(each=STEP, limit=STEP, also=due, values={"before": before})
    return [row.number for row in first_in_lane(connection, late, lane, some)]


def erase_payloads(connection: sa.Connection, before: float) -> int:
    """Erase what the oldest deliveries said, up to the first that is not due."""
    pruned = connection.execute(sa.select(outbox.c.payloads_pruned).with_for_update()).scalar()
    numbers = _due(connection, 0 if pruned is None else pruned, before)
    if not numbers:
        return 0
    connection.execute(sa.update(outbox).values(payloads_pruned=numbers[-1]))
    was_owed = deliveries.c.push.in_((int(Push.PENDING), int(Push.PARKED)))
    return _set(
        connection,
        held(connection, numbers, sa.true(), skip=False),  # nobody comes back for one that is left out
        fact=None,
        compact=None,
        signed_at=sa.func.coalesce(deliveries.c.signed_at, 0.0),
        error=sa.case((deliveries.c.push == int(Push.PENDING), EXPIRED), else_=deliveries.c.error),
        push=sa.case((was_owed, int(Push.NONE)), else_=deliveries.c.push),
        poll=sa.case((deliveries.c.poll == int(Poll.OPEN), int(Poll.GONE)), else_=deliveries.c.poll),
    )


def forget_results(connection: sa.Connection, before: float) -> int:
    """Delete the oldest deliveries, up to the first that is not due."""
    numbers = held(connection, _due(connection, 0, before), sa.true(), skip=True)
    gone = sa.delete(deliveries).where(deliveries.c.number.in_(numbers))
    return connection.execute(gone).rowcount if numbers else 0


def _due(connection: sa.Connection, after: int, before: float) -> list[int]:
    """Numbers above `after`, in order, of what was committed before that; at most STEP."""
    query = sa.select(deliveries.c.number, deliveries.c.committed_at).where(deliveries.c.number > after)
    due = []
    for row in connection.execute(query.order_by(deliveries.c.number).limit(STEP)):
        if row.committed_at >= before:
            break
        due.append(row.number)
    return due


def _clients(connection: sa.Connection, *which: sa.ColumnElement[bool]) -> list[str]:
    return list(connection.execute(sa.select(receivers.c.client_id).where(*which)).scalars())


def _set(connection: sa.Connection, numbers: list[int], **values: Any) -> int:  # noqa: ANN401 - of any column
    """Of rows that this transaction holds."""
    if not numbers:
        return 0
    return connection.execute(sa.update(deliveries).where(deliveries.c.number.in_(numbers)).values(**values)).rowcount
