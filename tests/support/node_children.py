"""Child processes for tests of the supervisor: the real main, lifeline, listener and drain around a trivial handler.

`python -m tests.support.node_children LIFELINE REPORTS`; what it is follows from the order's name. Environment
`CCS_TEST_CHILD` = `hopeless:worker` or `hopeless:feeder` makes that role refuse to start; so does, for all, a sentence
in the file that `CCS_TEST_REFUSAL` names.
"""

import os
import sys
from pathlib import Path

import trio

from engine.errors import Fault, Kind
from engine.listener.http1 import Request, Response
from engine.listener.tls import Peer
from engine.node.process import Process, run_child
from engine.node.serving import serve_until_drained
from engine.telemetry.host import SystemClock

HEAD = 41  # what the feeder has heard of


class Hopeless(Fault):
    kind = Kind.INVALID


async def answer(request: Request, _peer: Peer) -> Response:
    if request.target == b"/slow":
        await trio.sleep(1.0)
    return Response(200, str(os.getpid()).encode())


def refusal() -> str:
    path = Path(os.environ.get("CCS_TEST_REFUSAL", "/nonexistent"))
    return path.read_text() if path.exists() else ""


async def work(process: Process) -> None:
    role = process.order.name.partition("-")[0]
    if os.environ.get("CCS_TEST_CHILD") == f"hopeless:{role}":
        raise Hopeless("the key file is not a key")
    if sentence := refusal():
        raise Hopeless(sentence)
    if role == "worker":
        return await serve_until_drained(process, answer, SystemClock())
    process.ready()
    process.tell_head(HEAD)
    return await process.draining.wait()


if __name__ == "__main__":
    sys.exit(run_child(work, sys.argv))
