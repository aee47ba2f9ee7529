"""An acknowledged append survives kill -9 of writer and database; any other is wholly there or not at all."""

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import msgspec
import pytest
import trio

from admin.config import Ledger
from admin.ledger.checkpoints import CheckpointKey
from admin.ledger.sql import SqlLedger, open_ledger, open_reader
from admin.ledger.store import LedgerUnavailable, StoredEvent
from admin.ledger.verify import verify
from tests.support.ledger import HandClock, change, ledger_config, used
from tests.support.ledger_appender import PAIR, Order
from tests.support.postgres import PostgresServer

KILLS = 20
Acknowledged = dict[int, int]  # number of the write -> position


@pytest.fixture
def appender() -> Iterator["subprocess.Popen[bytes]"]:
    """A process that forks writers."""
    command = [sys.executable, "-m", "tests.support.ledger_appender"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def append_and_kill(appender: "subprocess.Popen[bytes]", order: Order, after: int) -> Acknowledged:
    """Let a writer append, and kill it once it has acknowledged so many writes."""
    assert appender.stdin is not None
    assert appender.stdout is not None
    appender.stdin.write(msgspec.json.encode(order, enc_hook=str) + b"\n")
    appender.stdin.flush()
    pid = int(_words(appender.stdout.readline(), b"pid")[0])
    acknowledged: Acknowledged = {}
    if after == 0:
        os.kill(pid, signal.SIGKILL)
    while (line := appender.stdout.readline()) != b"ended\n":
        seq, number = map(int, _words(line, b"ack"))
        acknowledged[number] = seq
        if len(acknowledged) == after:
            os.kill(pid, signal.SIGKILL)
    return acknowledged


def _words(line: bytes, kind: bytes) -> list[bytes]:
    first, *rest = line.split()
    assert first == kind, line
    return rest


async def read_all(config: Ledger) -> list[StoredEvent]:
    """Every event, after a check of the whole ledger."""
    async with open_reader(config) as reader:
        verdict = await verify(reader, CheckpointKey.from_file(config.checkpoint_key_file))
        assert verdict.fault is None
        return list(await reader.events(0, 1_000_000))


def check_writes(events: list[StoredEvent], acknowledged: Acknowledged) -> None:
    """Every acknowledged write exactly once, at its position; every other one wholly there or not at all."""
    assert [event.position.seq for event in events] == list(range(1, len(events) + 1))
    numbers = {event.position.seq: UUID(event.subject.partition(":")[2]).int for event in events[1:]}
    for number, seq in acknowledged.items():
        assert (numbers[seq - 1], numbers[seq]) == (number, number + PAIR)
    found = Counter(numbers.values())
    assert set(found.values()) <= {1}
    firsts = {number for number in found if number < PAIR}
    assert {number + PAIR for number in firsts} == {number for number in found if number >= PAIR}


def kill_often(appender: "subprocess.Popen[bytes]", config: Ledger, seed: int) -> None:
    dice = random.Random(seed)  # noqa: S311 - when to kill
    acknowledged: Acknowledged = {}
    instants = [0, 0, *(dice.randint(1, 200) for _ in range(KILLS - 2))]  # twice while the ledger may still be made
    for index, after in enumerate(instants):
        acknowledged |= append_and_kill(appender, Order(config, 10_000 * index), after)
        if index % 7 == 6:
            check_writes(trio.run(read_all, config), acknowledged)
    check_writes(trio.run(read_all, config), acknowledged)
    assert len(acknowledged) >= sum(instants)


def test_acknowledged_appends_survive_kills_on_sqlite(appender: "subprocess.Popen[bytes]", tmp_path: Path) -> None:
    kill_often(appender, ledger_config(tmp_path, f"sqlite:///{tmp_path}/ledger.db"), seed=1)


@pytest.mark.postgres
def test_acknowledged_appends_survive_kills_on_postgres(
    appender: "subprocess.Popen[bytes]", tmp_path: Path, postgres_url: str
) -> None:
    kill_often(appender, ledger_config(tmp_path, postgres_url), seed=2)


@pytest.mark.postgres
async def test_acknowledged_appends_survive_a_kill_of_the_server(
    postgres_server: PostgresServer, postgres_url: str, tmp_path: Path
) -> None:
    """Writes stop with LedgerUnavailable while it is away; the same writes go on, each done once, when it is back."""
    config = ledger_config(tmp_path, postgres_url)
    acknowledged: Acknowledged = {}
    refusals, wanted = 0, 600
    numbers = iter(range(wanted))
    away = trio.Event()

    async def append(ledger: SqlLedger, number: int) -> None:
        nonlocal refusals
        while True:
            try:
                receipt = await ledger.append([change(number), change(number + PAIR)], used(f"k-{number}"))
            except LedgerUnavailable:
                refusals += 1
                await away.wait()
                continue
            acknowledged[number] = receipt.position.seq
            return

    async def writer(ledger: SqlLedger) -> None:
        for number in numbers:
            await append(ledger, number)

    async with open_ledger(config, HandClock()) as ledger:
        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(writer, ledger)
            while len(acknowledged) < wanted // 3:
                await trio.lowlevel.checkpoint()
            await trio.to_thread.run_sync(postgres_server.crash)
            with pytest.raises(LedgerUnavailable):
                await ledger.head()
            await trio.to_thread.run_sync(postgres_server.start)
            away.set()
        assert refusals > 0
        assert len(acknowledged) == wanted
    check_writes(await read_all(config), acknowledged)


async def test_locked_file_stops_writes_and_they_go_on_after_it(tmp_path: Path) -> None:
    from admin.ledger import genesis
    from admin.ledger.database import Database
    from admin.ledger.personal import Safe
    from engine.clock import Seconds

    config, clock = ledger_config(tmp_path, f"sqlite:///{tmp_path}/ledger.db"), HandClock()
    database = Database(config.url, patience=Seconds(0.05))
    await database.run(lambda connection: genesis.open_or_create(connection, "sandbox", clock.now()))
    key = CheckpointKey.from_file(config.checkpoint_key_file)
    ledger = SqlLedger(database, Safe.from_file(config.person_key_file), key, clock)
    other = Database(config.url)
    async with trio.open_nursery() as nursery:
        await nursery.start(ledger.run)
        with other.engine.connect() as connection, connection.begin():
            with pytest.raises(LedgerUnavailable):
                await ledger.append([change(1)], used("k"))
            assert (await ledger.head()).position.seq == 1  # reading goes on
        receipt = await ledger.append([change(1)], used("k"))
        assert (receipt.position.seq, receipt.replayed) == (2, False)
        ledger.close()
    database.dispose()
    other.dispose()
