"""The ledger on SQL: SQLite embedded, PostgreSQL in production, the same code but for `bulk`.

`open_ledger` is the way in: it migrates, creates or checks the ledger, and runs its writer for as long as the
context lasts. Several processes may have one ledger open; the head's lock puts their writers in one order.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from time import time
from typing import Final

import sqlalchemy as sa
import trio

from admin.config import Ledger as LedgerConfig
from admin.ledger import genesis
from admin.ledger.admission import Write
from admin.ledger.bulk import NoLedger
from admin.ledger.checkpoints import CheckpointKey, CheckpointSigner
from admin.ledger.database import Database
from admin.ledger.erasures import ErasureJournal, erase
from admin.ledger.personal import Safe
from admin.ledger.reader import SqlLedgerReader
from admin.ledger.schema import events, ledger_meta
from admin.ledger.store import Append, Idempotency, LedgerDamaged, LedgerUnavailable, Receipt
from admin.ledger.transaction import Outcome, Transaction
from admin.ledger.writer import GroupCommit
from engine.clock import Clock

CHECKPOINT_EVERY: Final = 10_000  # events: a signature a second at full load, and little to walk between two
_LOOK_EVERY: Final = 0.1  # seconds between looks for other processes' commits: the pace of the freshness protocol
_LONGEST_WAIT: Final = 1.0  # seconds
_DRAIN: Final = 10.0  # seconds for what is queued when the ledger is closed


class SqlLedger(SqlLedgerReader):
    """Reading and writing. `run` must be running for `append` to be taken."""

    def __init__(
        self,
        database: Database,
        safe: Safe,
        signer: CheckpointSigner,
        clock: Clock,
        *,
        wall: Callable[[], float] = time,
        checkpoint_every: int = CHECKPOINT_EVERY,
        journal: ErasureJournal | None = None,
    ) -> None:
        """clock: dates the events. wall: the same with fractions, for receipts. journal: of erasures, elsewhere."""
        super().__init__(database, safe)
        self._clock = clock
        self._journal = journal
        self._transaction = Transaction(safe, signer, clock.now, wall, checkpoint_every)
        self._writer = GroupCommit(self._commit)
        self._committed = trio.Event()
        self._known = 0  # the highest seq this process knows to be committed

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write until `close` was called and the queue is empty, or until cancelled."""
        await self._writer.run(task_status=task_status)

    def close(self) -> None:
        """Take no more writes; `run` returns when what is queued is written."""
        self._writer.close()

    async def append(self, events: Sequence[Append], idempotency: Idempotency | None = None) -> Receipt:
        """Append all or none; returns after the commit. See `store.Ledger.append`. Raises InvalidWrite too."""
        return await self._writer.submit(Write(tuple(events), idempotency))

    async def wait_beyond(self, seq: int) -> None:
        """Return once the head may be above seq: at once on a commit of this process, else by looking."""
        with trio.move_on_after(_LONGEST_WAIT):
            if self._known > seq:
                await self._look()  # what is known may be gone: a ledger restored without its tail
            while self._known <= seq:
                with trio.move_on_after(_LOOK_EVERY):
                    await self._committed.wait()
                    continue
                await self._look()

    async def erase_person(self, person_id: str) -> bool:
        """Destroy the person's key. True if there was one. The chain stays whole.

        Raises LedgerUnavailable, also when the journal in another place cannot be written.
        """
        erased = await self.database.run(
            lambda connection: erase(connection, person_id, self._clock.now(), self._journal)
        )
        self._safe.forget()
        if erased:
            with suppress(LedgerUnavailable):  # the key is gone; its last copies go with the next checkpoint or vacuum
                await self.database.scrub()
        return erased

    async def checkpoint(self) -> None:
        """Sign a checkpoint of the head now, unless there is one."""
        await self.database.run(self._transaction.checkpoint)

    async def _commit(self, writes: list[Write]) -> list[Outcome]:
        outcomes = await self.database.run(lambda connection: self._transaction.append(connection, writes))
        self._note(max((o.position.seq for o in outcomes if isinstance(o, Receipt)), default=0))
        return outcomes

    async def _look(self) -> None:
        known = self._known
        seq = (await self.head()).position.seq
        if seq < known == self._known:  # known before the look began: it was committed, and is lost
            self._known = seq
        self._note(seq)

    def _note(self, seq: int) -> None:
        if seq > self._known:
            self._known = seq
            self._committed.set()
            self._committed = trio.Event()


@asynccontextmanager
async def open_ledger(
    config: LedgerConfig,
    clock: Clock,
    *,
    wall: Callable[[], float] = time,
    checkpoint_every: int = CHECKPOINT_EVERY,
    may_begin: bool = True,
) -> AsyncIterator[SqlLedger]:
    """Open the ledger that the settings name; write until the context is left.

    may_begin: create it if there is none; else nothing is made. Leaving it writes what is queued (for a bounded time)
    and closes the connections. Raises BadConfig, LedgerUnavailable, LedgerDamaged, WrongLedger, WrongPersonKey,
    UnsafeDatabase, NoLedger.
    """
    safe, signer = Safe.from_file(config.person_key_file), CheckpointKey.from_file(config.checkpoint_key_file)
    if not may_begin:
        _refuse_missing(config.url, f": {genesis.HOW_TO_BEGIN}")
    database = Database.of(config)
    try:
        await database.run(lambda connection: _open(connection, config, safe, clock, may_begin=may_begin))
        journal = _journal(config, signer)
        ledger = SqlLedger(database, safe, signer, clock, wall=wall, checkpoint_every=checkpoint_every, journal=journal)
        async with _writing(ledger):
            yield ledger
    finally:
        database.dispose()


def _journal(config: LedgerConfig, signer: CheckpointSigner) -> ErasureJournal | None:
    if config.erasure_journal is None:
        return None
    journal = ErasureJournal(config.erasure_journal, signer)
    with suppress(OSError):  # the other place is away: that is no reason not to serve, only not to erase
        journal.prepare()
    return journal


def _open(connection: sa.Connection, config: LedgerConfig, safe: Safe, clock: Clock, *, may_begin: bool) -> None:
    genesis.open_or_create(connection, config.kind, clock.now(), may_begin=may_begin)
    genesis.check_person_key(connection, safe)


async def begin_ledger(config: LedgerConfig, clock: Clock) -> None:
    """Create the ledger that the settings name. Raises LedgerExists, and as `open_ledger`."""
    safe, _ = Safe.from_file(config.person_key_file), CheckpointKey.from_file(config.checkpoint_key_file)
    database = Database.of(config)
    try:
        await database.run(lambda connection: _begin(connection, config, safe, clock))
    finally:
        database.dispose()


def _begin(connection: sa.Connection, config: LedgerConfig, safe: Safe, clock: Clock) -> None:
    found = sa.inspect(connection)
    for table in (ledger_meta, events):
        if found.has_table(table.name) and connection.execute(sa.select(sa.exists(sa.select(table)))).scalar_one():
            raise genesis.LedgerExists("the database holds a ledger already")
    _open(connection, config, safe, clock, may_begin=True)


@asynccontextmanager
async def open_reader(config: LedgerConfig) -> AsyncIterator[SqlLedgerReader]:
    """Open an existing ledger for reading only: nothing is migrated or created. Raises NoLedger too.

    A damaged one is opened: whoever reads meets the damage, and `verify` says where it begins.
    """
    _refuse_missing(config.url)
    database = Database.of(config)
    try:
        with suppress(LedgerDamaged):
            await database.read(_refuse_empty)
        yield SqlLedgerReader(database, Safe.from_file(config.person_key_file))
    finally:
        database.dispose()


def _refuse_missing(url: str, and_now: str = "") -> None:
    """SQLite would make the file by looking for it."""
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").is_file():
        raise NoLedger(f"there is no ledger at {parsed.database}{and_now}")


def _refuse_empty(connection: sa.Connection) -> None:
    found = sa.inspect(connection)
    if not any(found.has_table(table.name) for table in (ledger_meta, events)):  # one alone is damage, not absence
        raise NoLedger("the database holds no ledger")


@asynccontextmanager
async def _writing(ledger: SqlLedger) -> AsyncIterator[None]:
    """Run the writer around a body whose own exception comes out as it is, not in a group."""
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        await nursery.start(ledger.run)
        try:
            yield
        except Exception as error:
            failure = error
        ledger.close()
        nursery.cancel_scope.deadline = trio.current_time() + _DRAIN
    if failure is not None:
        raise failure
