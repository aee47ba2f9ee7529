"""From the call that revokes a consent to its answer `effective`, by four real nodes, while they answer EDPs.

A sandbox runs as its users run it, with three more nodes beside its own. Consents are revoked one after another through
the API on a connection that stays open, with `wait`; meanwhile all nodes are asked about tokens at a steady rate. The
time is the caller's own: from the first byte of the call to the last of its answer.

    .venv/bin/python -m bench.barrier [--revocations 200] [--rate 400] [--json]
"""

import argparse
import contextlib
import json
import multiprocessing
import multiprocessing.synchronize
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from bench.effect import Asker
from tests.support.fleet import FleetNode
from tests.support.sandbox import Caller, Running

NODES: Final = 4
CONNECTIONS: Final = 4  # of the load, to each node
PAUSE: Final = 0.05  # seconds between two revocations: nobody presses the button a hundred times a second
LONGEST: Final = 300.0  # seconds of one load
SETTLE: Final = 1.0


@contextlib.contextmanager
def fleet(directory: Path, count: int) -> Iterator[tuple[Running, list[str]]]:
    """A sandbox and the introspection endpoints of its nodes, the first of which is its own."""
    sandbox = Running(directory / "var", workers=1).start()
    more = [FleetNode(sandbox, f"node-{number}") for number in range(2, count + 1)]
    try:
        for node in more:
            node.register().start()
        endpoints = [node.wait_current().endpoint() for node in more]
        yield sandbox, [sandbox.about["introspection_endpoint"], *endpoints]
    finally:
        for node in more:
            node.stop()
        sandbox.stop()


def load(about: dict[str, str], endpoints: Sequence[str], certificate: tuple[str, str], tokens: Sequence[str],
         rate: int, stop: multiprocessing.synchronize.Event, done: "multiprocessing.Queue[int]") -> None:  # fmt: skip
    """Ask all nodes in turn, at a fixed rate, until told to stop."""
    places = [{**about, "introspection_endpoint": endpoint} for endpoint in endpoints] * CONNECTIONS
    askers = [Asker(place, certificate, tokens[n % len(tokens)]) for n, place in enumerate(places)]
    began, asked = time.monotonic(), 0
    while not stop.is_set() and time.monotonic() - began < LONGEST:
        if (ahead := began + asked / rate - time.monotonic()) > 0:
            time.sleep(ahead)
        asker = askers[asked % len(askers)]
        if asker.owed:
            assert b'"active":true' in (answer := asker.receive()), answer
        asker.send()
        asked += 1
    done.put(round(asked / (time.monotonic() - began)))


@contextlib.contextmanager
def loaded(sandbox: Running, endpoints: Sequence[str], rate: int) -> Iterator[dict[str, int]]:
    """`rate` introspections a second while it lasts; afterwards the dictionary says how many were reached."""
    pki, context, reached = sandbox.state / "pki", multiprocessing.get_context("spawn"), {"rate": 0}
    if not rate:
        yield reached
        return
    stop, done = context.Event(), context.Queue()
    tokens = [each["token"] for each in sandbox.tokens(64)]
    certificate = (str(pki / "edp-1.pem"), str(pki / "edp-1.key"))
    process = context.Process(target=load, args=(sandbox.about, endpoints, certificate, tokens, rate, stop, done))
    process.start()
    try:
        time.sleep(SETTLE)
        yield reached
    finally:
        stop.set()
        reached["rate"] = done.get(timeout=30)
        process.join(30)


def revoke(caller: Caller, consent_id: str, nodes: int) -> tuple[float, dict[str, Any]]:
    """Milliseconds to the answer, and the answer; it must say that every node has the revocation."""
    began = time.perf_counter()
    status, answer = caller.call(
        "POST", f"/consents/{consent_id}/revoke?wait=10", {"reason": "withdrawn"}, {"idempotency-key": str(uuid4())}
    )
    took = (time.perf_counter() - began) * 1e3
    assert (status, answer["state"]) == (200, "effective"), answer
    assert len({node["node_id"] for node in answer["nodes"]}) == nodes, answer
    return took, answer


def series(sandbox: Running, endpoints: Sequence[str], count: int, rate: int) -> dict[str, Any]:
    """Revoke `count` consents one after another, under `rate` introspections a second."""
    consents = [each["consent_id"] for each in sandbox.tokens(count)]
    operator, took, since_commit, waited_out = sandbox.machine(), [], [], 0
    with loaded(sandbox, endpoints, rate) as reached:
        for consent_id in consents:
            milliseconds, answer = revoke(operator, consent_id, len(endpoints))
            took.append(milliseconds)
            since_commit.append(float(answer["milliseconds"]))
            waited_out += answer["how"] == "waited_out"
            time.sleep(PAUSE)
    return {
        "introspections_per_second": reached["rate"],
        "revocations": count,
        "waited_out": waited_out,
        "milliseconds": percentiles(took),
        "milliseconds_since_commit": percentiles(since_commit),
    }


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p95, p99 and the most."""
    ordered = sorted(values)
    found = {f"p{q}": ordered[min(len(ordered) - 1, int(len(ordered) * q / 100))] for q in (50, 95, 99)}
    return {name: round(value, 2) for name, value in {**found, "most": ordered[-1]}.items()}


def main() -> None:
    """Parse the command line, run both series, print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--revocations", type=int, default=200)
    parser.add_argument("--rate", type=int, default=400)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to end"))
    with tempfile.TemporaryDirectory(prefix="ccs-bench-") as name, fleet(Path(name), NODES) as (sandbox, ends):
        result: dict[str, Any] = {
            "bench": "barrier",
            "nodes": NODES,
            "idle": series(sandbox, ends, chosen.revocations, 0),
            "loaded": series(sandbox, ends, chosen.revocations, chosen.rate),
        }
    print(json.dumps(result) if chosen.json else readable(result))


def readable(result: dict[str, Any]) -> str:
    """One line a series."""
    return "\n".join(
        f"revoke to effective, {result['nodes']} nodes, {name} ({result[name]['introspections_per_second']}/s): "
        f"{result[name]['milliseconds']} ms, {result[name]['waited_out']} waited out"
        for name in ("idle", "loaded")
    )


if __name__ == "__main__":
    main()
