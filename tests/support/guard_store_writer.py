"""A process that writes to a guard's store and evidence log until it is killed, and says each thing that is done.

`python -m tests.support.guard_store_writer DIRECTORY FIRST [MOST_BYTES]`; one line for each write that has returned, on
standard output. MOST_BYTES: no file may grow beyond that, as on a full disk; then it says `full` and goes on.
"""

import os
import resource
import signal
import sys
from pathlib import Path

from engine.clock import UnixTime
from engine.guard import config
from engine.guard.evidence import EvidenceLog
from engine.guard.evidence_words import ShareEvidence
from engine.guard.memory import MemoryFull
from engine.guard.shares import Reason
from engine.guard.store import GuardStore
from tests.support.guard_stores import OWNER, Wall, store_settings
from tests.support.known_tokens import NOW, known_consent, known_token


def consent(number: int) -> str:
    """The consent that a step is about."""
    return f"7f3c1b1e-5a0e-4a55-9a53-{number:012x}"


def share(number: int) -> ShareEvidence:
    """The share that a step records."""
    return ShareEvidence(NOW + number, bytes(32), allowed=True, reason=Reason.LAST_KNOWN, outage_since=float(NOW))


def say(text: str) -> None:
    os.write(1, text.encode() + b"\n")


def step(store: GuardStore, log: EvidenceLog, number: int) -> None:
    """Several writes, of which each is said once it has returned."""
    known = known_token(str(number), consents=(known_consent(consent(number)),))
    store.remember(known)
    store.end(consent(number), 2, NOW)
    say(f"end {number}")
    with store.together():
        store.refuse(known_token(f"refused {number}").digest, NOW)
        store.suspend(f"atp-{number}", 1, suspended=True)
    say(f"together {number}")
    store.mark_missing(UnixTime(NOW - number))
    say(f"missing {number}")
    if number % 10 == 9:
        store.mark_whole()
        say(f"whole {number}")
    say(f"record {log.record(share(number))}")


def main(directory: Path, first: int, most_bytes: int | None) -> None:
    store = GuardStore(store_settings(directory), OWNER, Wall())
    log = EvidenceLog(config.Evidence(), store_settings(directory), OWNER, Wall())
    if most_bytes is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    say("open")
    number = first
    while True:
        try:
            step(store, log, number)
        except MemoryFull:
            say("full")
        number += 1


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else None)
