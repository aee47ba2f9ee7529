"""How the outbox is looked through at size: every statement about deliveries, its plan and its time, on both databases.

A million deliveries over 2,000 receivers: one in eleven belongs to one of them, 40,000 are still to be pushed, 100,000
to be polled, some parked, some unsigned; the oldest are thirteen months old. Each statement is heard as the service
says it, explained (EXPLAIN QUERY PLAN on SQLite, EXPLAIN ANALYZE on PostgreSQL), and said again in transactions that
are rolled back. A statement of an event's or a poll's way that goes through the whole table is marked, and the exit is
1.

    .venv/bin/python -m bench.outbox [--backend sqlite|postgres] [--deliveries N] [--receivers N] [--repeat N] [--json]

JSON: backend, deliveries, receivers, seeded_seconds, whole_tables (statements of the hot way that read all), and calls:
name, hot, milliseconds (the whole call, median), statements: words, plan (how it comes to deliveries), milliseconds.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa
import trio

from admin.ledger.database import Database
from admin.ledger.schema import deliveries, outbox, receivers, streams
from bench.ledger_append import database as a_database
from engine.consent.records import ClientId, ParticipantRecord, Role
from engine.pusher.streams import DeliveryMethod, StreamRecord, StreamStatus
from engine.telemetry import logs
from tests.support.outbox_calls import ALIASES, Call, Subject, calls, subject_of
from tests.support.outbox_rows import FACT
from tests.support.outboxes import house_in
from tests.support.statements import Said, accesses, listening

NOW = 1_800_000_000
DAY = 86_400
KEPT = 400 * DAY  # since the oldest was committed
PAGE = 50_000  # deliveries seeded by one statement: a database gives each a minute
BUSY = "edp-0000"  # has one in eleven
MOST = 5_000_000  # deliveries: some gigabytes
_ENDED = "edp-0001"  # its stream was deleted

_encode = msgspec.msgpack.Encoder().encode
_COLUMNS = (
    "number, client_id, role, lane, seq, prev, jti, txn, subject, committed_at, fact, compact, signed_at, push,"
    " attempts, next_at, tried_at, error, poll, polled_at, poll_error"
)
# n: from 1 on. Pending: the last 40,000 of a million, and one in a thousand of them is a framework event; parked: one
# in 250 of the others. To be polled: the last tenth. Payloads: of the last fifth. Unsigned: the last 2,000.
_VALUES = (
    "n, CASE WHEN n % 11 = 0 THEN 'edp-0000' ELSE 'edp-' || {padded} END, 2, n % 3,"
    " CASE WHEN n > {all} * 0.96 AND n % 1000 = 1 THEN 0 ELSE n END, 0, 'j' || n, 't' || n, 's' || n,"
    " {now} - {kept} * (1.0 - n * 1.0 / {all}), CASE WHEN n > {all} * 0.8 THEN {fact} END,"
    " CASE WHEN n > {all} * 0.8 AND n <= {all} * 0.998 THEN {compact} END,"
    " CASE WHEN n <= {all} * 0.998 THEN {now} - {kept} * (1.0 - n * 1.0 / {all}) END,"
    " CASE WHEN n > {all} * 0.96 THEN 0 WHEN n % 250 = 7 THEN 2 ELSE 1 END, 1, 0.0, 1.5, '',"
    " CASE WHEN n > {all} * 0.9 THEN 0 ELSE 1 END, NULL, ''"
)
_FROM = {
    "sqlite": "INSERT INTO deliveries ({columns}) WITH RECURSIVE s(n) AS (SELECT {first} UNION ALL SELECT n + 1 FROM s"
    " WHERE n < {last}) SELECT {values} FROM s",
    "postgresql": "INSERT INTO deliveries ({columns}) SELECT {values} FROM generate_series({first}, {last}) AS s(n)",
}
_WORDS = {
    "sqlite": {
        "padded": "printf('%04d', n % {receivers})",
        "fact": f"x'{FACT.hex()}'",
        "compact": "CAST(printf('%0700d', n) AS BLOB)",
    },
    "postgresql": {
        "padded": "lpad((n % {receivers})::text, 4, '0')",
        "fact": f"'\\x{FACT.hex()}'::bytea",
        "compact": "convert_to(lpad(n::text, 700, '0'), 'UTF8')",
    },
}


T = TypeVar("T")


class Timed(msgspec.Struct, frozen=True):
    """A statement: how it comes to deliveries, and the median of its milliseconds. whole: through the whole table."""

    words: str
    plan: str
    milliseconds: float
    whole: bool


class Measured(msgspec.Struct, frozen=True):
    """A call with its statements. milliseconds: the median of the whole call."""

    name: str
    hot: bool
    milliseconds: float
    statements: list[Timed]


def seed(connection: sa.Connection, count: int, receiver_count: int) -> None:
    """Everything, and what the database needs to know of it."""
    dialect = connection.dialect.name
    words = {name: text.format(receivers=receiver_count) for name, text in _WORDS[dialect].items()}
    values = _VALUES.format(all=count, now=NOW, kept=KEPT, **words)
    names = [f"edp-{number:04}" for number in range(receiver_count)]
    connection.execute(sa.insert(receivers), [_receiver(name, count) for name in names])
    connection.execute(sa.insert(streams), [row for name in names for row in _streams(name)])
    for first in range(1, count + 1, PAGE):
        last = min(first + PAGE - 1, count)
        text = _FROM[dialect].format(columns=_COLUMNS, values=values, first=first, last=last)
        connection.exec_driver_sql(text if dialect == "sqlite" else text.replace("%", "%%"))
    connection.execute(sa.update(outbox).values(seq=count, numbered=count, rows_from=NOW - KEPT, roster_seq=1))
    if dialect == "postgresql":  # as autovacuum does; nobody does it for SQLite
        connection.exec_driver_sql("ANALYZE")


def _receiver(name: str, count: int) -> dict[str, Any]:
    record = ParticipantRecord(ClientId(name), Role.EDP, suspended=False, certificates=())
    return {"client_id": name, "last_seq": count, "pushable": int(name != _ENDED), "record": _encode(record)}


def _streams(name: str) -> Iterator[dict[str, Any]]:
    for way in DeliveryMethod:
        if way is DeliveryMethod.POLL or name != _ENDED:
            one = StreamRecord(f"{name}-{int(way)}", ClientId(name), Role.EDP, way, StreamStatus.ENABLED)
            yield {"stream_id": one.stream_id, "client_id": name, "record": _encode(one)}


class Stand:
    """A database that is filled. Nothing that is done to it stays."""

    def __init__(self, database: Database, repeat: int) -> None:
        self._database = database
        self._repeat = repeat

    def measure(self, call: Call) -> Measured:
        """A call, and each statement of it by itself."""
        with listening(self._database) as heard:
            self._undone(call.work)
        said = [one for one in heard if "deliveries" in one.words]
        whole = self._median(call.work)
        return Measured(call.name, call.hot, whole, [self._timed(one) for one in said])

    def _timed(self, said: Said) -> Timed:
        ways = self._undone(lambda connection: accesses(connection, said, deliveries.name, ALIASES))
        plan = "; ".join(dict.fromkeys(f"{way.way} {way.by}".strip() for way in ways))
        milliseconds = self._median(lambda connection: _say(connection, said))
        return Timed(said.words, plan, milliseconds, any(way.is_whole for way in ways))

    def _median(self, work: Callable[[sa.Connection], object]) -> float:
        return round(statistics.median(self._seconds(work) for _ in range(self._repeat)) * 1e3, 3)

    def _seconds(self, work: Callable[[sa.Connection], object]) -> float:
        def timed(connection: sa.Connection) -> float:
            begun = time.perf_counter()
            work(connection)
            return time.perf_counter() - begun

        return self._undone(timed)

    def _undone(self, work: Callable[[sa.Connection], T]) -> T:
        with self._database.engine.connect() as connection, connection.begin() as transaction:
            try:
                return work(connection)
            finally:
                transaction.rollback()


def _say(connection: sa.Connection, said: Said) -> None:
    result = connection.exec_driver_sql(said.words, said.values)
    if result.returns_rows:
        result.all()


async def measure(directory: Path, url: str, arguments: argparse.Namespace) -> dict[str, object]:
    """Fill a database and measure all calls."""
    async with house_in(directory, url) as house:
        await house.settle()
        database, begun = house.ledger.database, time.perf_counter()
        await database.run(lambda connection: seed(connection, arguments.deliveries, arguments.receivers))
        seeded = time.perf_counter() - begun
        of: Subject = await database.read(
            lambda connection: subject_of(connection, ClientId(BUSY), _everybody(connection), float(NOW))
        )
        stand, measured = Stand(database, arguments.repeat), []
        for call in calls(of):
            print(f"  {call.name}", file=sys.stderr)
            measured.append(stand.measure(call))
    return {
        "bench": "outbox",
        "backend": arguments.backend,
        "deliveries": arguments.deliveries,
        "receivers": arguments.receivers,
        "seeded_seconds": round(seeded, 1),
        "whole_tables": sum(one.whole for call in measured if call.hot for one in call.statements),
        "calls": msgspec.to_builtins(measured),
    }


def _everybody(connection: sa.Connection) -> tuple[ClientId, ...]:
    return tuple(ClientId(one) for one in connection.execute(sa.select(receivers.c.client_id)).scalars())


def readable(found: dict[str, Any]) -> str:
    """A table: a line for each call, and one for each of its statements."""
    lines = [f"{found['backend']}: {found['deliveries']:,} deliveries, {found['receivers']:,} receivers"]
    for call in found["calls"]:
        lines.append(
            f"{call['name']:<26}{call['milliseconds']:>10.3f} ms{'' if call['hot'] else '   (beside the way)'}"
        )
        for one in call["statements"]:
            mark = "  WHOLE TABLE" if one["whole"] else ""
            lines.append(
                f"    {one['words'].split(maxsplit=1)[0]:<8}{one['milliseconds']:>24.3f} ms  {one['plan']}{mark}"
            )
    lines.append(f"statements of the way that go through the whole table: {found['whole_tables']}")
    return "\n".join(lines)


def main() -> None:
    """Parse the command line, fill, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--deliveries", type=int, default=1_000_000)
    parser.add_argument("--receivers", type=int, default=2_000)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="one JSON object, last")
    parser.add_argument("--directory", type=Path, help="where the database is put; the temporary directory otherwise")
    arguments = parser.parse_args()
    if not 10_000 <= arguments.deliveries <= MOST or not 2 <= arguments.receivers <= 10_000:
        parser.error(f"between 10,000 and {MOST:,} deliveries, and between 2 and 10,000 receivers")
    logs.configure("error")
    with (
        tempfile.TemporaryDirectory(dir=arguments.directory, ignore_cleanup_errors=True) as name,
        a_database(arguments.backend, Path(name)) as url,
    ):
        found = trio.run(measure, Path(name), url, arguments)
    print(readable(found))
    if arguments.json:
        print(json.dumps(found))
    if found["whole_tables"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
