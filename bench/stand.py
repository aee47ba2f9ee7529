"""A node of whichever revision's engine is first on the path, holding a written population.

Run as a file, with PYTHONPATH naming a tree: it imports that tree's `engine` and nothing else of the project, so
that an older revision is served by its own modules. Serves until it is told to stop.

    PYTHONPATH=TREE python -P bench/stand.py DIRECTORY TREE [--workers 1]
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import msgspec

import engine
from engine.clock import BootTime, UnixTime
from engine.config import load_node_config
from engine.decision.freshness import Bound
from engine.errors import Fault
from engine.feed.entries import Entry, EntryKind
from engine.node.supervisor import Modules, run_node
from engine.replica.store import ReplicaStore
from engine.telemetry.host import SystemClock, boot_id

INCARNATION = "00000000000000a1"
MAP_SIZE = 1 << 28
DAY = 86_400
SECRET = bytes(range(32))
FEEDER = "standing_feeder"  # stands beside the population, see `bench/contenders.py`


def fill(directory: Path, population: dict[str, Any]) -> None:
    """A replica as a feeder leaves it; `bench/standing_feeder.py` keeps it current from then on."""
    store, now = ReplicaStore(directory, map_size=MAP_SIZE, boot_id=boot_id()), SystemClock().now()
    generation = store.begin_generation()
    generation.seal(Bound(INCARNATION, 0, "", BootTime(0.0), UnixTime(0)))
    store.adopt(generation)
    store.put_keys(population["keys"])
    entries = [
        Entry(INCARNATION, seq, EntryKind(kind), key, record)
        for seq, (kind, key, record) in enumerate(population["records"], 1)
    ]
    store.apply(entries, Bound(INCARNATION, len(entries), boot_id(), BootTime(0.0), now))
    store.close()


def settings(directory: Path, issuer: str, workers: int) -> str:
    """Only what each revision must be told; the rest is as it comes, metrics and limits included."""
    tls = f"""certificate-file = "{directory / "server.pem"}"\nkey-file = "{directory / "server.key"}" """
    return f"""
node-id = "node-a"
runtime-directory = "{directory / "run"}"
workers = {workers}
[listener]
port = 0
[listener.tls]
{tls}
client-ca-file = "{directory / "authority.pem"}"
[status]
port = 0
[feed]
url = "https://localhost:1/feed"
ca-file = "{directory / "authority.pem"}"
{tls}
mac-key-files = ["{directory / "secret.key"}"]
meter-key-file = "{directory / "secret.key"}"
[replica]
directory = "{directory / "replica"}"
map-size = {MAP_SIZE}
[tokens]
issuer = "{issuer}"
"""


def sign_answers(directory: Path, issuer: str) -> str:
    """A key for answers, as if the issuer had long published it, and the settings for it; a revision may have none."""
    try:
        from engine.node.answer_key_files import AnswerKeyFiles
    except ImportError:
        return ""
    directory.mkdir(mode=0o700)
    files, now = AnswerKeyFiles(directory, issuer), SystemClock().now()
    files.make_first()
    for key in files.read():
        files.acknowledge(key, UnixTime(now - DAY), UnixTime(now + DAY))
    return f'[signing]\ndirectory = "{directory}"\n'


def main() -> None:
    """Fill, write the settings, run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("tree", type=Path)
    parser.add_argument("--workers", type=int, default=1)
    chosen = parser.parse_args()
    if not Path(str(engine.__file__)).is_relative_to(chosen.tree):
        sys.exit(f"the engine came from {engine.__file__}, not from {chosen.tree}")
    population = msgspec.msgpack.decode((chosen.directory / "population").read_bytes())
    fill(chosen.directory / "replica", population)
    with os.fdopen(os.open(chosen.directory / "secret.key", os.O_WRONLY | os.O_CREAT, 0o600), "wb") as secret:
        secret.write(SECRET)
    config = chosen.directory / "node.toml"
    signing = sign_answers(chosen.directory / "answer-keys", population["issuer"])
    config.write_text(settings(chosen.directory, population["issuer"], chosen.workers) + signing)
    try:
        run_node(load_node_config(config), config, Modules(feeder=FEEDER))
    except Fault as fault:
        sys.exit(fault.text)


if __name__ == "__main__":
    main()
