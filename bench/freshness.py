"""What judging freshness costs an introspection: the same endpoint with the judgement and without, in turn.

Two endpoints as a worker has them answer the same requests on one replica, which another process proves ten times a
second as a feeder does. One judges each request's freshness from bound and boot clock; the other is told that it is
`current`. They take turns of a few milliseconds, so that whatever happens to the machine happens to both, and the
figure is the median of the differences. It is set beside what an introspection costs a real worker over mutual TLS,
measured in the same run. The boot clock is read in both, because limits need it too; without it is a line of its own.

    .venv/bin/python -m bench.freshness [--turns 400] [--quick] [--json]
"""

import argparse
import json
import os
import random
import signal
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from bench.generator import Length, Question, measure
from bench.introspection import HEAD, Nobody, said
from bench.target import BEFORE_ID, DAY, populate, usage_of
from engine.clock import BootTime, Clock, UnixTime
from engine.consent.records import Thumbprint
from engine.decision.answers import fresh_part
from engine.decision.freshness import Freshness, FreshnessState
from engine.listener.callers import Callers
from engine.listener.http1 import Request
from engine.listener.introspection import MAX_KNOWN, Introspection, Outcome
from engine.listener.issuer_keys import IssuerKeys
from engine.listener.known import Known
from engine.listener.read_through import NoReadThrough
from engine.listener.tls import Peer
from engine.replica.place import place_of
from engine.replica.reader import Moment, Replica
from engine.telemetry.host import SystemClock, boot_id
from engine.telemetry.tally import Tally
from engine.tokens.memo import VerifiedTokens
from tests.support.mutual_tls import thumbprint_of
from tests.support.nodes import SECRET, Running
from tests.support.pki import ISSUER

TOKENS: Final = 100
MAP_SIZE: Final = 1 << 28
TURN: Final = 300  # requests of one turn: about two milliseconds
FAR: Final = UnixTime(4_000_000_000)
WARM: Final = 5  # turns of each before any counts


class Given(Known):
    """Takes it as given that the node is current, as of a moment that was never looked up."""

    def freshness(self, _moment: Moment, now: UnixTime, _boot: BootTime) -> Freshness:
        if now != self._now:  # the same few bytes a second that the judging one writes too
            self._now, self._freshness = now, Freshness(FreshnessState.CURRENT, now, UnixTime(now + DAY))
            self._fresh = fresh_part(self._freshness, self._freshness.last_known_until)
        assert self._freshness is not None
        return self._freshness


class StandingBoot(SystemClock):
    """Wall time as it is; the boot clock is not read."""

    def boot(self) -> BootTime:
        return BootTime(0.0)


def endpoint_on(replica: Replica, place: str, known: Known, clock: Clock) -> Introspection:
    """As `engine/node/worker.py` makes it, but for what it knows of freshness."""
    endpoint = Introspection(
        replica=replica,
        memo=VerifiedTokens(10_000),
        meter_key=SECRET,
        clock=clock,
        boot_id=place,
        read_through=NoReadThrough(),
        claims=Nobody(),
        callers=Callers(Nobody()),
        keys=IssuerKeys(ISSUER),
        counts={outcome: Tally() for outcome in Outcome},
    )
    endpoint._known = known
    return endpoint


def turn(endpoint: Introspection, requests: Sequence[Request], peer: Peer) -> float:
    """Microseconds of processor time for each of the requests."""
    began = time.process_time_ns()
    for request in requests:
        endpoint(request, peer)
    return (time.process_time_ns() - began) / len(requests) / 1e3


def compare(endpoints: dict[str, Introspection], requests: Sequence[Request], peer: Peer, turns: int) -> dict[str, Any]:
    """Microseconds an answer of each, and by how much each is dearer than the one that is told."""
    cycle = [requests[number % len(requests)] for number in range(TURN)]
    for endpoint in endpoints.values():
        for _ in range(WARM):
            assert all(said(endpoint(request, peer)).body.startswith(b'{"active":true') for request in cycle)
    took: dict[str, list[float]] = {name: [] for name in endpoints}
    order = list(endpoints)
    for _ in range(turns):
        random.shuffle(order)
        for name in order:
            took[name].append(turn(endpoints[name], cycle, peer))
    for name, endpoint in endpoints.items():
        assert endpoint.said_again.total >= TURN * turns, name
    return {
        "answer_us": {name: round(statistics.median(values), 3) for name, values in took.items()},
        "judging_us": spread(took["judging"], took["told"]),
        "judging_and_boot_clock_us": spread(took["judging"], took["told, no boot clock"]),
    }


def spread(one: Sequence[float], other: Sequence[float]) -> dict[str, float]:
    """Median and quartiles of the differences, turn by turn."""
    lower, median, upper = statistics.quantiles([a - b for a, b in zip(one, other, strict=True)], n=4)
    return {"median": round(median, 4), "lower": round(lower, 4), "upper": round(upper, 4)}


def worker_us(node: Running, directory: Path, authority: Path, endings: Sequence[bytes], seconds: float) -> float:
    """CPU-microseconds of the real worker for an introspection over mutual TLS: the median of five rounds."""
    about, cores = node.described(), sorted(os.sched_getaffinity(0))
    (worker,) = about["pids"]["workers"]
    os.sched_setaffinity(worker, {cores[0]})
    question = Question(
        port=about["ports"]["introspection"],
        requests=[(BEFORE_ID, ending) for ending in endings],
        expected=b'"active":true',
        tls=(authority, directory / "edp.pem", directory / "edp.key"),
    )
    rounds = [measure(question, Length(seconds), {cores[-1]}, lambda: usage_of(worker).cpu) for _ in range(5)]
    return statistics.median(one.cpu_us for one in rounds)


def run(directory: Path, turns: int, seconds: float) -> dict[str, Any]:
    """Everything, on a node of its own."""
    authority, endings = populate(directory, {"good": TOKENS})
    requests = [Request(b"POST", b"/introspect", HEAD, body_of(ending), keep_alive=True) for ending in endings["good"]]
    node = Running(directory, authority, {}, modules=("engine.node.worker", "bench.standing_feeder"), workers=1)
    try:
        node.wait_ready(1)
        replica = Replica(directory / "replica", map_size=MAP_SIZE)
        place, peer = (
            place_of(directory / "replica", boot_id()),
            Peer(Thumbprint(thumbprint_of(directory / "edp.pem")), FAR),
        )
        endpoints = {
            "judging": endpoint_on(replica, place, Known(MAX_KNOWN, place), SystemClock()),
            "told": endpoint_on(replica, place, Given(MAX_KNOWN, place), SystemClock()),
            "told, no boot clock": endpoint_on(replica, place, Given(MAX_KNOWN, place), StandingBoot()),
        }
        found = compare(endpoints, requests, peer, turns)
        replica.close()
        whole = worker_us(node, directory, authority.file, endings["good"], seconds)
    finally:
        node.stop()
    shares = {
        name.replace("_us", "_share"): round(found[name]["median"] / whole, 5)
        for name in ("judging_us", "judging_and_boot_clock_us")
    }
    return {"bench": "freshness", **found, "introspection_us": round(whole, 2), **shares}


def body_of(ending: bytes) -> bytes:
    """The form of a prepared request."""
    return ending.partition(b"\r\n\r\n")[2]


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=400)
    parser.add_argument("--quick", action="store_true", help="short, to see that it works")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to end"))
    with TemporaryDirectory(prefix="ccs-bench-") as name:
        result = run(Path(name), 40 if chosen.quick else chosen.turns, 0.5 if chosen.quick else 2.0)
    print(json.dumps(result) if chosen.json else readable(result))


def readable(result: dict[str, Any]) -> str:
    """Three lines."""
    judging, both, whole = result["judging_us"], result["judging_and_boot_clock_us"], result["introspection_us"]
    lines = (
        f"an answer, endpoint alone: {result['answer_us']} us CPU; a whole introspection: {whole} us",
        f"judging freshness: {judging} us, {result['judging_share']:.2%} of an introspection",
        f"with the boot clock: {both} us, {result['judging_and_boot_clock_share']:.2%}",
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
