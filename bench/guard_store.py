"""What a guard's memory costs: looks, answers, ends, opening. `python -m bench.guard_store [RECORDS]`; a minute.

Microseconds of the wall, one process, a store in a temporary directory on this disk.
"""

import hashlib
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from admin.pki.key_files import write_private
from engine.clock import UnixTime
from engine.consent.records import Thumbprint
from engine.guard.config import Store
from engine.guard.shares import KnownConsent, KnownToken
from engine.guard.store import GuardStore
from engine.telemetry.host import SystemClock

RECORDS = 100_000
ANSWER = 1_500  # bytes of a signed answer


def known(number: int, as_of: UnixTime) -> KnownToken:
    """An answer about one consent, of the usual size."""
    consent = KnownConsent(str(uuid.UUID(int=number, version=4)), 1, UnixTime(2_000_000_000), False, bytes(400))  # noqa: FBT003 - one_off
    digest = hashlib.sha256(number.to_bytes(8, "big")).digest()
    until = UnixTime(as_of + 86_400)
    print_of = Thumbprint(bytes(32))
    return KnownToken(digest, "atp-1", print_of, UnixTime(as_of + 600), as_of, as_of, until, (consent,), bytes(ANSWER))


def timed(name: str, count: int, work: Callable[[int], object]) -> None:
    """Print what one takes."""
    began, cpu = time.perf_counter(), time.process_time()
    for number in range(count):
        work(number)
    wall, busy = ((now / count) * 1e6 for now in (time.perf_counter() - began, time.process_time() - cpu))
    print(f"{name:34} {wall:10.1f} us, of which {busy:8.1f} us of processor")


def main(records: int) -> None:
    """Fill, measure, open again."""
    with tempfile.TemporaryDirectory() as directory:
        key = Path(directory) / "store.key"
        write_private(key, bytes(32))
        settings = Store(directory=Path(directory) / "store", key_file=key)
        clock = SystemClock()
        store = GuardStore(settings, "edp-1", clock.now)
        as_of = UnixTime(clock.now() + 120)  # above the floor of a new store
        timed("remember, new", records, lambda n: store.remember(known(n, as_of)))
        later = UnixTime(as_of + 1)
        timed("remember, confirmed again", 20_000, lambda n: store.remember(known(n * 7 % records, later)))
        store.flush()
        tokens = [known(n * 13 % records, as_of).digest for n in range(20_000)]
        timed("look", 20_000, lambda n: store.look(tokens[n]))
        timed("look, unknown", 20_000, lambda n: store.look(n.to_bytes(32, "big")))
        timed("end, durable", 1_000, lambda n: store.end(str(uuid.UUID(int=n, version=4)), 2, as_of))

        def end_many(number: int) -> None:
            with store.together():
                for one in range(100):
                    store.end(str(uuid.UUID(int=10_000 + number * 100 + one, version=4)), 2, as_of)

        timed("end, a hundred together", 100, end_many)
        timed("refuse, a made-up token", 5_000, lambda n: store.refuse(n.to_bytes(32, "little"), as_of))
        began = time.perf_counter()
        store.close()
        print(f"{'close':34} {time.perf_counter() - began:10.2f} s")
        began = time.perf_counter()
        GuardStore(settings, "edp-1", clock.now).close()
        size = (settings.directory / "memory.db").stat().st_size
        print(f"{'open and close':34} {time.perf_counter() - began:10.2f} s for {records:,} records, {size >> 20} MB")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else RECORDS)
