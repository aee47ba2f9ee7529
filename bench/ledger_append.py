"""How many durable appends a second the ledger takes: hashes, encryption, versions, feed records and fsync included.

Each append is one `consent.granted` of its own (public body of about 350 bytes, 150 personal bytes, an idempotency
key with --keys), waited for by its own task; so many tasks append at the same time. Rounds go into one growing
ledger; the median of the rounds counts, because the machine may have other work.

    .venv/bin/python -m bench.ledger_append --backend sqlite|postgres [--events 20000] [--concurrency 1000]
"""

import argparse
import gc
import hashlib
import os
import random
import statistics
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import trio

from admin.config import Ledger
from admin.ledger.checkpoints import CheckpointKey
from admin.ledger.events import (
    Act,
    ConsentGranted,
    ConsentPersonal,
    Initiator,
    Person,
    Route,
    Terms,
    append_of,
    encode_personal,
)
from admin.ledger.sql import SqlLedger, open_ledger
from admin.ledger.store import Append, Idempotency
from admin.ledger.verify import verify
from engine.clock import UnixTime
from engine.consent.records import AccessMode, ClientId, ConsentId, ConsentRecord
from engine.consent.states import State
from engine.telemetry.host import SystemClock
from tests.support.ledger import ledger_config
from tests.support.postgres import unpack

NOW = UnixTime(1_800_000_000)
TYPE = "https://schemas.energydata.example/consent/v1"
DICE = random.Random(1)  # noqa: S311 - made-up consents


def grant(number: int) -> Append:
    """A consent of the usual size, of a person of its own."""
    consent_id = ConsentId(str(uuid.UUID(bytes=DICE.randbytes(16), version=4)))
    record = ConsentRecord(
        state=State.ACTIVE,
        consent_version=1,
        atp=ClientId("atp-1"),
        dataset_id="hh-electricity-import",
        access_mode=AccessMode.ENDURING,
        granted_at=NOW,
        expires_at=UnixTime(NOW + 31_536_000),
        data_from=UnixTime(NOW - 31_536_000),
        data_to=None,
        meter_digests=(DICE.randbytes(16),),
        edps=(ClientId("edp-1"),),
        purpose_code="tariff-comparison",
    )
    terms = Terms(
        TYPE, "Compare this home's tariff with others on the market.", "declaration-2027-1", f"order-{number}"
    )
    act = Act(Initiator.CONSUMER, "atp-1", Route.ATP, NOW, wording="wording-2027-03")
    person = Person(
        f"person-{number}", "Wilhelmina Featherstone-Ashby", "27 Long Meadow Way, Nether Wallop, SO20 8EU", NOW
    )
    personal = ConsentPersonal(person, ("mpan:1200012345678",))
    return append_of(ConsentGranted(consent_id, record, terms, act), 0, encode_personal(personal))


async def one_round(
    ledger: SqlLedger, appends: list[Append], concurrency: int, *, keys: bool
) -> tuple[float, list[float]]:
    """Append all. Returns the rate and each append's seconds."""
    waits: list[float] = []
    queue = iter(enumerate(appends))

    async def writer() -> None:
        for _, append in queue:
            key = Idempotency("atp-1", append.subject, hashlib.sha256(append.body).digest()) if keys else None
            start = time.perf_counter()
            await ledger.append((append,), key)
            waits.append(time.perf_counter() - start)

    begun = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(concurrency):
            nursery.start_soon(writer)
    return len(appends) / (time.perf_counter() - begun), waits


async def measure(config: Ledger, arguments: argparse.Namespace) -> dict[str, Any]:
    """All rounds, then a check of the whole chain."""
    rates: list[float] = []
    spent_each: list[float] = []  # CPU of this process; a PostgreSQL server has its own
    waits: list[float] = []
    number = 0
    appends: list[Append] = []
    async with open_ledger(config, SystemClock()) as ledger:
        for _ in range(arguments.rounds):
            appends = [grant(number + index) for index in range(arguments.events)]
            number += arguments.events
            gc.collect()
            gc.freeze()  # the made-up appends are the bench's, not the ledger's, to walk
            spent = time.process_time()
            rate, took = await one_round(ledger, appends, arguments.concurrency, keys=arguments.keys)
            spent_each.append(1e6 * (time.process_time() - spent) / arguments.events)
            rates.append(rate)
            waits += took
        begun = time.perf_counter()
        verdict = await verify(ledger, CheckpointKey.from_file(config.checkpoint_key_file))
        verified = verdict.events / (time.perf_counter() - begun)
    assert verdict.fault is None, verdict.fault
    waits.sort()
    return {
        "backend": arguments.backend,
        "appends_per_second": round(statistics.median(rates)),
        "rounds": [round(rate) for rate in rates],
        "cpu_us_per_append": round(statistics.median(spent_each), 1),
        "p50_ms": round(1000 * waits[len(waits) // 2], 1),
        "p99_ms": round(1000 * waits[len(waits) * 99 // 100], 1),
        "events": verdict.events,
        "body_bytes": len(appends[0].body),
        "personal_bytes": len(appends[0].personal.plaintext) if appends[0].personal else 0,
        "concurrency": arguments.concurrency,
        "idempotency_keys": arguments.keys,
        "verified_per_second": round(verified),
        "cores": os.cpu_count(),
    }


@contextmanager
def database(backend: str, directory: Path) -> Iterator[str]:
    """The URL of an empty database: a file, or a PostgreSQL server of our own with fsync on."""
    if backend == "sqlite":
        yield f"sqlite:///{directory}/ledger.db"
        return
    place = directory / "server"
    place.mkdir(mode=0o755)
    directory.chmod(0o755)
    server = unpack(place)
    server.start()
    try:
        yield server.new_database()
    finally:
        server.stop()


def main() -> None:
    """Print one JSON object and one readable line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--events", type=int, default=20_000, help="appends in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--concurrency", type=int, default=1_000)
    parser.add_argument("--keys", action="store_true", help="give each append an idempotency key")
    parser.add_argument("--directory", type=Path, help="where the database is put; the temporary directory otherwise")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(dir=arguments.directory, ignore_cleanup_errors=True) as name,
        database(arguments.backend, Path(name)) as url,
    ):
        result = trio.run(measure, ledger_config(Path(name), url), arguments)
    print(msgspec.json.encode(result).decode())
    print(
        f"{result['backend']}: {result['appends_per_second']:,} durable appends/s (median of {arguments.rounds}),"
        f" {result['cpu_us_per_append']} us CPU each, p50 {result['p50_ms']} ms, p99 {result['p99_ms']} ms;"
        f" verify {result['verified_per_second']:,} events/s"
    )


if __name__ == "__main__":
    main()
