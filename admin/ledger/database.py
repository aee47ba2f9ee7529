"""One database, reached from trio: short transactions in limited threads, faults translated next to the call.

A transaction begins and ends inside one thread call, so a cancelled caller never leaves one open. `run` writes,
`read` sees one unchanging snapshot. SQLite has one writer at a time, so its writers queue here, in order, and
not in SQLite's busy handler. Nothing is retried here but what the database has undone itself because of others, and
that only for callers who say that it may be: `repeat`.
"""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import sqlalchemy as sa
import trio
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from admin.config import Ledger
from admin.ledger.store import LedgerDamaged, LedgerUnavailable
from engine.clock import Seconds
from engine.errors import Fault, Kind

T = TypeVar("T")
Work = Callable[[sa.Connection], T]

REPEATS: Final = 2  # whoever loses twice meets more than chance
PATIENCE: Final = Seconds(5.0)  # how long a statement waits for another process's transaction before it gives up
_WAL_PAGES: Final = 8_000  # 32 MB between checkpoints: pages written again and again are copied once
_DAMAGED_SQLITE: Final = frozenset(
    {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR_CORRUPTFS, sqlite3.SQLITE_IOERR_DATA}
)
_DAMAGED_POSTGRES: Final = frozenset(
    {
        "XX001",  # data_corrupted: a page or a value fails its check
        "XX002",  # index_corrupted
        "58P01",  # undefined_file: a table's file is gone
        "42P01",  # undefined_table
    }
)
_CONTENDED: Final = frozenset({"40001", "40P01"})  # serialization_failure, deadlock_detected
_POSTGRES_CONNECT: Final = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,  # a silent server is a lost one: writes stop with an error instead of hanging
    "prepare_threshold": 2,
    "target_session_attrs": "primary",  # a standby lags: its head would call nodes current that lack a commit
}


class DatabaseFault(Fault):
    """The database refused a statement: a defect of ours or tampering, never load."""

    kind = Kind.BROKEN


class LedgerContended(LedgerUnavailable):
    """Others were in the way, and the database has undone the whole transaction: it may be repeated at once."""


class Database:
    """A pool of connections and the threads that use them. Safe to share among stores."""

    def __init__(
        self, url: str, *, pool_size: int = 4, password: str | None = None, patience: Seconds = PATIENCE
    ) -> None:
        """url: `sqlite:////path` or `postgresql+psycopg://…`; password: put into the url. patience: for locks."""
        self.url = _with_password(url, password)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._writers = trio.CapacityLimiter(1 if self.is_sqlite else pool_size)
        self._readers = trio.CapacityLimiter(pool_size)
        make = _sqlite_engine if self.is_sqlite else _postgres_engine
        self.engine = make(self.url, pool_size, patience)
        self._bare = self.engine.execution_options(isolation_level="AUTOCOMMIT", ccs_begin=None)
        self._reading = self.engine.execution_options(**_read_options(is_sqlite=self.is_sqlite))

    @classmethod
    def of(cls, config: Ledger) -> "Database":
        """The database that the settings name. Raises OSError when the password file cannot be read."""
        password = config.password_file.read_text().strip() if config.password_file else None
        return cls(config.url, pool_size=config.pool_size, password=password)

    async def run(self, work: Work[T]) -> T:
        """Run `work` in a thread, in one read-write transaction; commits when it returns, else rolls back.

        On SQLite the write lock is taken at the beginning. Raises LedgerUnavailable, LedgerDamaged, DatabaseFault,
        and whatever Fault `work` raises. A cancelled caller waits for the thread.
        """
        return await trio.to_thread.run_sync(self.transact, work, limiter=self._writers)

    async def repeat(self, work: Work[T]) -> T:
        """As `run`, again where others were in the way; whatever `work` does must be done in the database alone."""
        for _ in range(REPEATS):
            with suppress(LedgerContended):
                return await self.run(work)
        return await self.run(work)

    async def read(self, work: Work[T]) -> T:
        """Run `work` in a thread on one unchanging snapshot. Raises as `run`."""
        return await trio.to_thread.run_sync(self.inspect, work, limiter=self._readers)

    def transact(self, work: Work[T]) -> T:
        """`run` for callers that are in a thread already."""
        with self._translated(), self.engine.begin() as connection:
            return work(connection)

    def inspect(self, work: Work[T]) -> T:
        """`read` for callers that are in a thread already."""
        with self._translated(), self._reading.begin() as connection:
            return work(connection)

    async def scrub(self) -> None:
        """After an erasure: make the database let go of deleted rows that it still keeps for itself.

        SQLite copies its log into the file, where deleted rows are overwritten, and empties it; PostgreSQL vacuums
        `person_keys`. Old backups and archived logs are the operator's to expire.
        """
        await trio.to_thread.run_sync(self.scrub_now, limiter=self._writers)

    def scrub_now(self) -> None:
        """`scrub` for callers that are in a thread already."""
        statement = "PRAGMA wal_checkpoint(TRUNCATE)" if self.is_sqlite else "VACUUM person_keys"
        with self._translated(), self._bare.connect() as connection:
            connection.exec_driver_sql(statement)

    def dispose(self) -> None:
        """Close the idle connections."""
        self.engine.dispose()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        driver_error: type[Exception] = self.engine.dialect.loaded_dbapi.Error
        try:
            yield
        except (SQLAlchemyError, driver_error, UnicodeDecodeError) as error:  # the last: stored text that is none
            raise _fault(error) from error


def _fault(error: Exception) -> Fault:
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    detail = f"{type(cause).__name__}: {cause}"[:500]
    if _is_damage(cause):
        return LedgerDamaged(
            "the ledger's database is damaged: `ccs ledger verify` says up to where it can be read", detail=detail
        )
    if getattr(cause, "sqlstate", None) in _CONTENDED:
        return LedgerContended("others were in the way, and nothing was written: ask again", detail=detail)
    if isinstance(error, PoolTimeout) or _is_outage(cause):
        return LedgerUnavailable("the ledger's database does not answer", detail=detail)
    return DatabaseFault("the ledger's database refused a statement", detail=detail)


def _is_damage(cause: BaseException) -> bool:
    """What is stored is not what a database would have stored; SQLite calls some of it operational."""
    if isinstance(cause, UnicodeDecodeError) or getattr(cause, "sqlstate", None) in _DAMAGED_POSTGRES:
        return True
    if not isinstance(cause, sqlite3.Error):
        return False
    code: int | None = getattr(cause, "sqlite_errorcode", None)  # the driver's own errors have none
    if code is None:
        return str(cause).startswith("Could not decode to UTF-8")
    if code == sqlite3.SQLITE_ERROR:
        return str(cause).startswith("no such table")
    return code in _DAMAGED_SQLITE or code & 0xFF in _DAMAGED_SQLITE  # some have a second byte with the details


def _is_outage(cause: BaseException) -> bool:
    """No connection, locked, disk full, shutting down: drivers call these (and SQLite too much else) operational."""
    if getattr(cause, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR:
        return False  # bad SQL or a trigger's refusal
    return any(parent.__name__ in {"OperationalError", "InterfaceError"} for parent in type(cause).__mro__)


def _with_password(url: str, password: str | None) -> sa.URL:
    parsed = sa.make_url(url)
    return parsed if password is None else parsed.set(password=password)


def _read_options(*, is_sqlite: bool) -> dict[str, Any]:
    if is_sqlite:
        return {"ccs_begin": "BEGIN"}
    return {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}


def _sqlite_engine(url: sa.URL, pool_size: int, patience: Seconds) -> sa.Engine:
    if url.database:
        Path(url.database).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    engine = sa.create_engine(url, pool_size=pool_size + 2, max_overflow=0, pool_timeout=5)
    event.listen(engine, "connect", partial(_prepare_sqlite, patience))
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _postgres_engine(url: sa.URL, pool_size: int, patience: Seconds) -> sa.Engine:
    engine = sa.create_engine(
        url,
        pool_size=2 * pool_size + 2,
        max_overflow=0,
        pool_timeout=5,
        pool_pre_ping=True,  # after an outage the first call already works
        connect_args=_POSTGRES_CONNECT,
    )
    event.listen(engine, "connect", partial(_prepare_postgres, patience))
    return engine


def _prepare_sqlite(patience: Seconds, connection: Any, _record: object) -> None:  # noqa: ANN401 - a DBAPI connection has no type
    connection.isolation_level = None  # we begin transactions ourselves
    connection.execute(f"PRAGMA busy_timeout={int(1000 * patience)}")
    _set_wal(connection, time.monotonic() + patience)
    for pragma in (
        "synchronous=FULL",  # NORMAL may lose the last commits when the machine stops
        "foreign_keys=ON",
        "recursive_triggers=ON",  # else INSERT OR REPLACE would slip past the triggers on events
        "secure_delete=ON",  # an erased person's key is overwritten, not only unlinked
        "trusted_schema=OFF",
        f"wal_autocheckpoint={_WAL_PAGES}",
        "cache_size=-32768",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _set_wal(connection: Any, until: float) -> None:  # noqa: ANN401 - a DBAPI connection has no type
    """SQLite does not wait for a lock here, whatever its busy timeout: of processes that start together one is told."""
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= until:
                raise
            time.sleep(0.01)
        else:
            return


def _begin_sqlite(connection: sa.Connection) -> None:
    statement = connection.get_execution_options().get("ccs_begin", "BEGIN IMMEDIATE")
    if statement is not None:
        connection.exec_driver_sql(statement)


def _prepare_postgres(patience: Seconds, connection: Any, _record: object) -> None:  # noqa: ANN401 - a DBAPI connection has no type
    with connection.cursor() as cursor:
        cursor.execute("SET TIME ZONE 'UTC'")
        cursor.execute("SET jit = off")  # our statements are short; compiling them takes longer than running them
        cursor.execute(f"SET lock_timeout = {int(1000 * patience)}")
        cursor.execute("SET statement_timeout = 60000")
        cursor.execute("SET idle_in_transaction_session_timeout = 60000")
        cursor.execute("SHOW synchronous_commit")
        if cursor.fetchone()[0] in {"off", "local"}:  # an acknowledged write must survive the server
            cursor.execute("SET synchronous_commit = on")
    connection.commit()
