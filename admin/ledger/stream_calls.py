"""What a receiver may do once at a time or once a minute, over all instances of the application: one row a stream.

Each right is taken by one conditional statement, so that of two that ask at once one gets it. Times are the database's.
"""

import msgspec
import sqlalchemy as sa

from admin.ledger.schema import stream_calls
from admin.ledger.sequencer import insert_into
from engine.clock import Seconds


def begin_poll(connection: sa.Connection, stream_id: str, holder: str, now: float, seconds: Seconds) -> bool:
    """The right to poll this stream, for so long at most. False: another poll has it."""
    _have_row(connection, stream_id)
    taken = (
        sa.update(stream_calls)
        .where(stream_calls.c.stream_id == stream_id, _is_past(stream_calls.c.polled_until - seconds, now, seconds))
        .values(polled_by=holder, polled_until=now + seconds)
    )
    return connection.execute(taken).rowcount == 1


def end_poll(connection: sa.Connection, stream_id: str, holder: str) -> None:
    """Give it back; one that has passed on is another's."""
    own = sa.and_(stream_calls.c.stream_id == stream_id, stream_calls.c.polled_by == holder)
    connection.execute(sa.update(stream_calls).where(own).values(polled_until=0.0))


class Asked(msgspec.Struct, frozen=True):
    """A verification that somebody asks for. at: the database's time. wait: zero, or seconds, and it is not noted."""

    at: float
    wait: Seconds = Seconds(0.0)


def begin_verification(connection: sa.Connection, stream_id: str, now: float, interval: Seconds) -> Asked:
    """Note that a verification is asked for now, unless one was within the interval."""
    _have_row(connection, stream_id)
    noted = (
        sa.update(stream_calls)
        .where(stream_calls.c.stream_id == stream_id, _is_past(stream_calls.c.verified_at, now, interval))
        .values(verified_at=now)
    )
    if connection.execute(noted).rowcount == 1:
        return Asked(now)
    last = sa.select(stream_calls.c.verified_at).where(stream_calls.c.stream_id == stream_id)
    # At least a little: zero would say that it was noted. At most the interval: a clock set back must not cost more.
    wait = connection.execute(last).scalar_one() + interval - now
    return Asked(now, Seconds(min(max(wait, 0.001), interval)))


def forgo_verification(connection: sa.Connection, stream_id: str, at: float) -> None:
    """The one that was noted at that time was not made after all: ask again at once. A later one's note stays."""
    own = sa.and_(stream_calls.c.stream_id == stream_id, stream_calls.c.verified_at == at)
    connection.execute(sa.update(stream_calls).where(own).values(verified_at=0.0))


def _have_row(connection: sa.Connection, stream_id: str) -> None:
    row = {"stream_id": stream_id, "polled_by": "", "polled_until": 0.0, "verified_at": 0.0}
    connection.execute(insert_into(connection, stream_calls).values(**row).on_conflict_do_nothing())


def _is_past(at: sa.ColumnElement[float], now: float, seconds: Seconds) -> sa.ColumnElement[bool]:
    """So many seconds are over since then; or it lies further ahead than it ever can: the clock was set back since."""
    return sa.or_(at <= now - seconds, at > now + seconds)
