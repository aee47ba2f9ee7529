"""A process that takes pushed events from its standard input and kills itself, with SIGKILL, at the step it is told.

    python -m tests.support.killed_guard FOLDER STEP

STEP: `before` the event is written, after it was `kept`, after it was `applied` and before that is noted, after it was
`answered`, or `never`. Each line of the input is an event, each line of the output an acknowledgement.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from tests.support.event_guards import EventGuard
from tests.support.events import jwks
from tests.support.logged_memory import LoggedMemory
from tests.support.told import TellingService


def die(*_: object) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def dying_before(call: Callable[..., Any], step: str, wanted: str) -> Callable[..., Any]:
    return die if step == wanted else call


async def main(folder: Path, step: str) -> None:
    service = TellingService()
    service.keys = (folder / "jwks").read_bytes()
    guard = EventGuard(folder / "events.sqlite", service, memory=LoggedMemory(folder / "memory"))
    await guard.intake.apply_due()
    guard.store._write_chain = dying_before(guard.store._write_chain, step, "before")
    guard.store.due = dying_before(guard.store.due, step, "kept")
    guard.store.applied = dying_before(guard.store.applied, step, "applied")
    for line in sys.stdin:
        await guard.intake.take(line.strip().encode(), guard.keys)
        sys.stdout.write("202\n")
        sys.stdout.flush()
        dying_before(int, step, "answered")()


def write_keys(folder: Path) -> None:
    """The keys of the calling process's events, for the other one."""
    (folder / "jwks").write_bytes(jwks())


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), sys.argv[2])
