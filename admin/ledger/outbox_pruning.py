"""How long deliveries are kept, and the job that lets go of them: by poll for seven days, their payload for 90 days,
what became of them for 13 months (NFR-04). In steps of a bounded number of rows, so that nobody waits long behind one.

Chains need none of it: they go on from each receiver's last number, which is kept apart.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec
import sqlalchemy as sa
import trio

from admin.ledger.database import Database
from admin.ledger.deliveries import BY_RECEIVER, PENDING, PENDING_OF_ONE, of_receiver
from admin.ledger.outbox import Poll, Push
from admin.ledger.polling import OPEN
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

Step = Callable[[sa.Connection], int]  # how many rows it changed: there may be more where it changed any

_streams: Final = msgspec.msgpack.Decoder(StreamRecord)
_log = logger("admin.pruning")


class Pruning:
    """The job. wall: seconds since 1970."""

    def __init__(self, database: Database, wall: Callable[[], float], every: Seconds = EVERY) -> None:
        self._database = database
        self._wall = wall
        self._every = every

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
        done = 0
        for step in steps(self._wall()):
            while (changed := await self._database.run(step)) > 0:
                done += changed
                await trio.sleep(PAUSE)
        return done


def steps(now: float) -> Iterator[Step]:
    """Each to be repeated until it changes nothing."""
    yield lambda connection: close_polls(connection, now - POLL_DAYS * DAY)
    yield drop_orphans
    yield lambda connection: park_untried(connection, now)
    yield lambda connection: erase_payloads(connection, now - PAYLOAD_DAYS * DAY)
    yield lambda connection: forget_results(connection, now - RESULT_DAYS * DAY)


def close_polls(connection: sa.Connection, before: float) -> int:
    """Take sets committed before that from poll: whoever did not fetch them goes by the listing of changes."""
    query = (
        sa.select(deliveries.c.number, deliveries.c.committed_at)
        .where(OPEN, of_receiver(sa.bindparam("client")))
        .order_by(*BY_RECEIVER)
    )
    numbers: list[int] = []
    for client_id in connection.execute(sa.select(receivers.c.client_id)).scalars().all():
        oldest = connection.execute(query.limit(1), {"client": client_id}).first()
        if oldest is not None and oldest.committed_at < before:
            rows = connection.execute(query.limit(STEP - len(numbers)), {"client": client_id}).all()
            numbers += [row.number for row in rows if row.committed_at < before]
        if len(numbers) >= STEP:
            break
    return _set(connection, numbers, poll=int(Poll.GONE))


def drop_orphans(connection: sa.Connection) -> int:
    """What was to be pushed on a stream that is deleted: nothing is pushed any more, also when there is a new one."""
    connection.execute(sa.select(outbox.c.id).with_for_update()).one()  # no stream is made meanwhile
    found = (_streams.decode(record) for record in connection.execute(sa.select(streams.c.record)).scalars())
    pushed = {stream.client_id for stream in found if stream.delivery is DeliveryMethod.PUSH}
    query = sa.select(deliveries.c.number).where(PENDING, deliveries.c.client_id == sa.bindparam("client")).limit(STEP)
    numbers: list[int] = []
    for client_id in connection.execute(sa.select(receivers.c.client_id)).scalars().all():
        if client_id not in pushed and len(numbers) < STEP:
            numbers += connection.execute(query, {"client": client_id}).scalars()
    return _set(connection, numbers, push=int(Push.NONE))


def park_untried(connection: sa.Connection, now: float) -> int:
    """Park what could be pushed for as long as its schedule lasts and was never tried: its receiver was down before it.

    Counted from the commit, from when it was unparked, or from when the outbox was made anew, whichever was last.
    What a pause holds is left. Should the pusher get it through after all, that stands.
    """
    made_at = connection.execute(sa.select(outbox.c.rows_from)).scalar()
    if made_at is None or now - made_at - REACH <= min(length_of(lane) for lane in Lane):
        return 0
    numbers: list[int] = []
    for client_id in connection.execute(sa.select(receivers.c.client_id).where(receivers.c.pushable == 1)).scalars():
        for lane in Lane:
            numbers += _untried(connection, client_id, lane, now - length_of(lane))
    return _set(connection, numbers[:STEP], push=int(Push.PARKED), error=UNTRIED)


def _untried(connection: sa.Connection, client_id: str, lane: Lane, before: float) -> list[int]:
    """Of a receiver's first STEP in a lane: the others have their turn when these are gone."""
    wanted = {"client_id": client_id, "lane": int(lane), "after": 0, "limit": STEP}
    first = connection.execute(PENDING_OF_ONE[connection.dialect.name], wanted).scalars().all()
    columns = (deliveries.c.number, deliveries.c.attempts, deliveries.c.next_at, deliveries.c.committed_at)
    rows = connection.execute(sa.select(*columns).where(deliveries.c.number.in_(first), deliveries.c.seq > 0))
    return [row.number for row in rows if not row.attempts and max(row.committed_at, row.next_at) < before]


def erase_payloads(connection: sa.Connection, before: float) -> int:
    """Erase what the oldest deliveries said, up to the first that is not due."""
    pruned = connection.execute(sa.select(outbox.c.payloads_pruned)).scalar()
    numbers = _due(connection, 0 if pruned is None else pruned, before)
    if not numbers:
        return 0
    connection.execute(sa.update(outbox).values(payloads_pruned=numbers[-1]))
    was_owed = deliveries.c.push.in_((int(Push.PENDING), int(Push.PARKED)))
    return _set(
        connection,
        numbers,
        fact=None,
        compact=None,
        signed_at=sa.func.coalesce(deliveries.c.signed_at, 0.0),
        error=sa.case((deliveries.c.push == int(Push.PENDING), EXPIRED), else_=deliveries.c.error),
        push=sa.case((was_owed, int(Push.NONE)), else_=deliveries.c.push),
        poll=sa.case((deliveries.c.poll == int(Poll.OPEN), int(Poll.GONE)), else_=deliveries.c.poll),
    )


def forget_results(connection: sa.Connection, before: float) -> int:
    """Delete the oldest deliveries, up to the first that is not due."""
    numbers = _due(connection, 0, before)
    if not numbers:
        return 0
    gone = sa.delete(deliveries).where(deliveries.c.number <= numbers[-1])
    return connection.execute(gone).rowcount


def _due(connection: sa.Connection, after: int, before: float) -> list[int]:
    """Numbers above `after`, in order, of what was committed before that; at most STEP."""
    query = sa.select(deliveries.c.number, deliveries.c.committed_at).where(deliveries.c.number > after)
    due = []
    for row in connection.execute(query.order_by(deliveries.c.number).limit(STEP)):
        if row.committed_at >= before:
            break
        due.append(row.number)
    return due


def _set(connection: sa.Connection, numbers: list[int], **values: Any) -> int:  # noqa: ANN401 - of any column
    if not numbers:
        return 0
    return connection.execute(sa.update(deliveries).where(deliveries.c.number.in_(numbers)).values(**values)).rowcount
