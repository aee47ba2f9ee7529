"""The replica at size: bytes a consent, memory of a reader, reads a second, time to load and to start again.

    python -m bench.replica [--consents 1000000] [--keep DIR]

Prints a line a figure and, last, one line of JSON. A view is one request's reading: the bound, a participant by
thumbprint and one by id, a consent, a look for the token's revocation. Records are made up but of realistic shape:
UUID keys, client ids of 12 to 20 characters, one or two meter points, one to three EDPs. The snapshot comes from a
local file of frames, so that the figures are the replica's and not the network's.
"""

import argparse
import hashlib
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from engine.clock import BootTime, UnixTime
from engine.consent.records import (
    AccessMode,
    Certificate,
    ClientId,
    ConsentRecord,
    ParticipantRecord,
    Role,
    Thumbprint,
    TokenRevocation,
)
from engine.consent.states import State
from engine.decision.freshness import Bound
from engine.feed.entries import Entry, EntryKind, Position, seal
from engine.feed.frames import FrameReader, frame
from engine.feed.snapshots import begin_mark, end_mark
from engine.replica.snapshot import SnapshotLoader
from engine.replica.store import ReplicaStore

INCARNATION: Final = "00000000000000a1"
BOOT: Final = "11111111-1111-4111-8111-111111111111"
KEY: Final = b"k" * 32
MAP_SIZE: Final = 8 << 30
PIECE: Final = 1 << 16
NOW: Final = UnixTime(1_800_000_000)

Figures = dict[str, float]


def made_up(seed: int) -> random.Random:
    """The same records in every run."""
    return random.Random(seed)  # noqa: S311 - nothing here is secret


def consents(count: int, rng: random.Random) -> Iterator[Entry]:
    """Sorted by key, as the feed service sends them."""
    encode = msgspec.msgpack.Encoder().encode
    edps = [ClientId(f"edp-{name}-energy") for name in ("north", "south", "east", "west")]
    for position, key in enumerate(sorted(rng.randbytes(16) for _ in range(count)), 1):
        record = ConsentRecord(
            state=State.ACTIVE if rng.random() < 0.8 else State.REVOKED,
            consent_version=rng.randrange(1, 4),
            atp=ClientId(f"atp-{rng.randrange(200):03}-services"),
            dataset_id="half-hourly-consumption",
            access_mode=AccessMode.ENDURING,
            granted_at=UnixTime(NOW - rng.randrange(10**7)),
            expires_at=UnixTime(NOW + rng.randrange(10**7)),
            data_from=UnixTime(NOW - rng.randrange(10**7)),
            data_to=None if rng.random() < 0.7 else UnixTime(NOW + rng.randrange(10**7)),
            meter_digests=tuple(rng.randbytes(16) for _ in range(1 if rng.random() < 0.7 else 2)),
            edps=tuple(rng.sample(edps, rng.choice((1, 1, 2, 3)))),
            purpose_code="tariff-comparison",
        )
        yield Entry(INCARNATION, position, EntryKind.CONSENT, key, encode(record))


def others(after: int, rng: random.Random) -> Iterator[Entry]:
    """5,000 revoked tokens and 300 participants, in the order of their kinds and keys."""
    encode = msgspec.msgpack.Encoder().encode
    numbers = itertools.count(after + 1)
    for key in sorted(rng.randbytes(16) for _ in range(5_000)):
        record = encode(TokenRevocation(UnixTime(NOW + 3_600)))
        yield Entry(INCARNATION, next(numbers), EntryKind.TOKEN_REVOCATION, key, record)
    for number in range(300):
        client_id = ClientId(f"edp-{number:03}-energy")
        certificates = (Certificate(thumbprint_of(number), UnixTime(NOW + 10**7)),)
        participant = ParticipantRecord(
            client_id, Role.EDP, suspended=False, certificates=certificates, datasets=("half-hourly-consumption",)
        )
        yield Entry(INCARNATION, next(numbers), EntryKind.PARTICIPANT, client_id.encode(), encode(participant))


def thumbprint_of(number: int) -> Thumbprint:
    return Thumbprint(hashlib.sha256(b"%d" % number).digest())


def write_snapshot(path: Path, count: int) -> int:
    """Write the frame file; returns the position it stands for."""
    rng = made_up(1)
    end = count + 5_300
    position = Position(INCARNATION, end)
    with path.open("wb") as file:
        file.write(frame(seal(begin_mark(position), KEY)))
        for entry in itertools.chain(consents(count, rng), others(count, rng)):
            file.write(frame(seal(entry, KEY)))
        file.write(frame(seal(end_mark(position, end), KEY)))
    return end


def load_snapshot(path: Path, directory: Path) -> None:
    """What the feeder does with a snapshot, from the frames on, ended in order."""
    store = ReplicaStore(directory, map_size=MAP_SIZE, boot_id=BOOT)
    generation = store.begin_generation()
    loader = SnapshotLoader(generation, (KEY,))
    frames = FrameReader()
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            for sealed in frames.feed(piece):
                loader.take(sealed)
    frames.finish()
    position = loader.finish()
    generation.seal(Bound(position.incarnation, position.seq, BOOT, BootTime(0.0), NOW))
    store.adopt(generation)
    store.close()


def churn(directory: Path, changes: int) -> Figures:
    """Apply single changes at random, each its own transaction, as the tail of the stream brings them."""
    store = ReplicaStore(directory, map_size=MAP_SIZE, boot_id=BOOT)
    assert store.bound is not None
    seq, rng = store.bound.applied, made_up(2)
    keys = some_keys(directory.parent / "snapshot", 100_000)
    entries = list(itertools.islice(consents(1_000, rng), 1_000))
    started = time.perf_counter()
    for _ in range(changes):
        seq += 1
        entry = msgspec.structs.replace(rng.choice(entries), seq=seq, key=rng.choice(keys))
        store.apply([entry], msgspec.structs.replace(store.bound, applied=seq))
    took = time.perf_counter() - started
    store.close()
    return {"microseconds_an_applied_entry": took / changes * 1e6}


def some_keys(snapshot: Path, count: int) -> list[bytes]:
    rng = made_up(1)
    total = snapshot_size(snapshot)
    return [rng.randbytes(16) for _ in range(total)][:count]


def snapshot_size(snapshot: Path) -> int:
    return int((snapshot.parent / "count").read_text())


READER = """
import hashlib, json, random, sys, time
from pathlib import Path
from engine.replica.reader import Replica
from engine.consent.records import ConsentKey, Thumbprint
replica = Replica(Path(sys.argv[1]), map_size=8 << 30)
rng = random.Random(1)
total = int(sys.argv[2])
thumbprint = Thumbprint(hashlib.sha256(b"7").digest())
with replica.transaction() as view:
    found = view.participant_by_thumbprint(thumbprint)
    assert view.bound is not None and found is not None
print("{}", flush=True)
keys = [ConsentKey(rng.randbytes(16)) for _ in range(total)]  # the bench's own: left out of the memory figure
sample = rng.sample(keys, min(total, 300_000))
del keys
def private():
    with open("/proc/self/smaps_rollup") as lines:
        return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean", "Private_Dirty"))) * 1024
def seconds(keys):
    started = time.perf_counter()
    for key in keys:
        with replica.transaction() as view:
            view.bound
            view.participant_by_thumbprint(thumbprint)
            view.participant("edp-009-energy")
            view.consent(key)
            view.token_revoked(key)
    return time.perf_counter() - started
# Pieces of 2,000 reads: the median says what a busy machine gives, the best piece what the code costs.
pieces = sorted(seconds(sample[i:i + 2_000]) / 2_000 for _ in range(4) for i in range(0, len(sample) - 1_999, 2_000))
with replica.transaction() as view:
    assert all(view.consent(key) is not None for key in sample[:1000])
print(json.dumps({"median": pieces[len(pieces) // 2], "best": pieces[0]}), flush=True)
"""

MEMORY = """
import json, sys
from pathlib import Path
import engine.decision.questions, engine.tokens.claims
from engine.replica.reader import Replica
from engine.consent.records import ConsentKey
replica = Replica(Path(sys.argv[1]), map_size=8 << 30)
found = 0
for line in sys.stdin:
    with replica.transaction() as view:
        found += view.consent(ConsentKey(bytes.fromhex(line))) is not None
print("{}", flush=True)
input_of_the_end = sys.argv[2:] and open(sys.argv[2]).read()  # stay mapped until the other one has measured
with open("/proc/self/smaps_rollup") as lines:
    kinds = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line[0].isupper()}
print(json.dumps({"found": found, "private": kinds["Private_Clean"] + kinds["Private_Dirty"],
                  "anonymous": kinds["Anonymous"], "rss": kinds["Rss"]}))
"""


def python(code: str, *arguments: str, stdin: str = "") -> tuple[Figures, float]:
    """The last JSON line of a fresh interpreter, and the seconds from its start to its first line."""
    started = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(stdin)
        process.stdin.close()
        lines = [process.stdout.readline()]
        first = time.perf_counter() - started
        lines += process.stdout.readlines()
    if process.returncode:
        raise SystemExit("the reader process failed")
    return json.loads(lines[-1]), first


def memory_of_a_reader(replica: Path, keys: str) -> Figures:
    """Of one among two that have read every consent: with one alone the kernel counts the shared pages as its own."""
    gate = replica.parent / "gate"
    os.mkfifo(gate)
    with subprocess.Popen(
        [sys.executable, "-c", MEMORY, str(replica), str(gate)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        other.stdin.write(keys)
        other.stdin.close()
        other.stdout.readline()
        memory, _ = python(MEMORY, str(replica), stdin=keys)
        gate.write_text("end")
        other.stdout.read()
    return memory


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(directory: Path, count: int) -> Figures:
    """All figures, in the order in which they come about."""
    snapshot, replica = directory / "snapshot", directory / "replica"
    (directory / "count").write_text(str(count))
    write_snapshot(snapshot, count)
    figures: Figures = {"consents": count, "load_seconds": timed(lambda: load_snapshot(snapshot, replica))}
    (data,) = replica.glob("generation-*/data.mdb")
    figures["bytes_a_consent"] = data.stat().st_size / count

    def open_and_close() -> None:
        ReplicaStore(replica, map_size=MAP_SIZE, boot_id=BOOT).close()

    figures["writer_open_and_close_seconds"] = timed(open_and_close)
    told, first = python(READER, str(replica), str(count))
    figures["process_start_to_first_read_seconds"] = first
    figures["views_a_second_median"] = 1 / told["median"]
    figures["microseconds_a_view_median"] = told["median"] * 1e6
    figures["microseconds_a_view_best"] = told["best"] * 1e6
    keys = "\n".join(key.hex() for key in some_keys(snapshot, count))
    memory = memory_of_a_reader(replica, keys)
    assert memory["found"] == count
    figures["reader_private_bytes"] = memory["private"]
    figures["reader_anonymous_bytes"] = memory["anonymous"]  # without the program's own files
    figures |= churn(replica, min(count, 100_000))
    figures["bytes_a_consent_after_churn"] = data.stat().st_size / count
    return figures


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--consents", type=int, default=1_000_000)
    parser.add_argument("--keep", type=Path, help="leave the files here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ccs-bench-") as scratch:
        directory = arguments.keep or Path(scratch)
        directory.mkdir(exist_ok=True)
        figures = measure(directory, arguments.consents)
    for name, value in figures.items():
        print(f"{name.replace('_', ' '):45} {value:>16,.3f}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
