"""What newcomers cost: full mutual TLS handshakes a second, and 2,000 clients that reconnect at once.

A newcomer is in when its first introspection is answered: under TLS 1.3 a client cannot tell sooner whether its
certificate was taken. Sessions are never resumed. The storm breaks over a worker that serves a steady stream of
introspections from others; the stream's generator has precedence over the storm's, which shares its core.

    .venv/bin/python -m bench.handshakes [--quick] [--json] [--clients 2000]

JSON: handshakes_per_second (by the worker's CPU, its one core busy with nothing else), handshakes_measured_per_second
(by the clock), cpu_ms_each; storm_clients, storm_seconds (until the last was in), storm_failures, stream_failures,
stream_p99_ms and stream_calm_p99_ms (during the storm and before; only where nothing disturbed it, otherwise
`refused` says why).
"""

import argparse
import itertools
import json
import multiprocessing
import os
import select
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection as Pipe

import msgspec

from bench.openloop import GOOD_ANSWER, RUN_TIMEOUT, Connection, Load, Offering, Tally, milliseconds
from bench.target import BEFORE_ID, Door, Target, note, running, take_second_core

AT_ONCE = 16  # handshakes under way while the rate is measured
BATCH = 16  # connections that a storm opens before it looks for answers
LONGEST = 60.0  # seconds for everybody to come in
NICE = 10  # of the storm, so that the stream's generator keeps pace
STREAM = 1_000  # introspections a second
STREAM_CONNECTIONS = 32
LAG_BOUND = 0.005  # seconds
CALM = 1.5  # seconds of the stream before the storm


class Arrivals(msgspec.Struct, frozen=True):
    """How a crowd came in. began, ended: on the monotonic clock. waits: seconds from opening to the first answer."""

    began: float
    ended: float
    waits: list[float]
    failures: int


class Crowd:
    """Clients that come in, `at_once` of them at a time. stay: they keep their connections to the end."""

    def __init__(self, door: Door, endings: Sequence[bytes], clients: int, at_once: int, *, stay: bool) -> None:
        self._door, self._context = door, door.context()
        self._endings = itertools.cycle(endings)
        self._clients, self._at_once, self._stay = clients, at_once, stay
        self._poll = select.epoll()
        self._opened: dict[int, float] = {}
        self._coming: dict[int, Connection] = {}
        self._staying: list[Connection] = []
        self._waits: list[float] = []
        self._failures = 0

    def come(self) -> Arrivals:
        """Until the last is in, has failed, or time is over."""
        began = time.perf_counter()
        left = self._clients
        while (left or self._coming) and time.perf_counter() - began < LONGEST:
            fresh = min(left, BATCH, self._at_once - len(self._coming))
            for _ in range(fresh):
                self._open()
            left -= fresh
            for descriptor, _ in self._poll.poll(0 if left and fresh else 0.05):
                self._turn(self._coming[descriptor])
        ended = time.perf_counter()
        failures = self._failures + left + len(self._coming)
        for connection in [*self._staying, *self._coming.values()]:
            connection.socket.close()
        self._poll.close()
        return Arrivals(began, ended, self._waits, failures)

    def _open(self) -> None:
        opened = time.perf_counter()
        try:
            connection = Connection(self._door, self._context)
            self._shake(connection)
        except OSError:
            self._failures += 1
            return
        descriptor = connection.socket.fileno()
        self._coming[descriptor], self._opened[descriptor] = connection, opened
        self._poll.register(descriptor, select.EPOLLIN)

    def _shake(self, connection: Connection) -> None:
        """Go on with the handshake, and ask as soon as it is done: a quick server may have done its part already."""
        if connection.shake():
            connection.socket.send(b"%b%032x%b" % (BEFORE_ID, len(self._waits), next(self._endings)))

    def _turn(self, connection: Connection) -> None:
        descriptor = connection.socket.fileno()
        try:
            if not connection.ready:
                self._shake(connection)
                return
            answer = connection.receive()
        except (OSError, EOFError):
            answer = b""
        if answer is not None:
            self._settle(connection, descriptor, is_in=GOOD_ANSWER in answer)

    def _settle(self, connection: Connection, descriptor: int, *, is_in: bool) -> None:
        del self._coming[descriptor]
        if is_in:
            self._waits.append(time.perf_counter() - self._opened[descriptor])
        self._failures += not is_in
        self._poll.unregister(descriptor)
        if is_in and self._stay:
            self._staying.append(connection)
        else:
            connection.socket.close()


def _come(pipe: Pipe, door: Door, endings: Sequence[bytes], clients: int, at_once: int) -> None:
    """A crowd in a process of its own, on the second core; comes when told."""
    take_second_core()
    os.nice(NICE)
    pipe.send("ready")
    pipe.recv()
    pipe.send(Crowd(door, endings, clients, at_once, stay=at_once >= clients).come())


class Crowding:
    """Starts that process, and lets it loose."""

    def __init__(self, target: Target, clients: int, at_once: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        endings = target.endings["good"]
        self._process = context.Process(
            target=_come, args=(theirs, target.door, endings, clients, at_once), daemon=True
        )
        self._process.start()
        theirs.close()
        self._receive()

    def come(self) -> Arrivals:
        """Let them come, and wait until they are in."""
        self._pipe.send("now")
        arrivals = self._receive()
        self._process.join()
        self._pipe.close()
        assert isinstance(arrivals, Arrivals)
        return arrivals

    def _receive(self) -> object:
        assert self._pipe.poll(RUN_TIMEOUT), "the crowd is silent"
        return self._pipe.recv()


def rate(target: Target, clients: int) -> dict[str, object]:
    """Handshakes one after another, `AT_ONCE` under way; each with its first introspection."""
    crowding = Crowding(target, clients, AT_ONCE)
    before = target.usage()
    arrivals = crowding.come()
    used = target.usage().since(before)
    assert not arrivals.failures, f"{arrivals.failures} of {clients} handshakes failed"
    return {
        "handshakes_per_second": round(clients / used.cpu),
        "handshakes_measured_per_second": round(clients / (arrivals.ended - arrivals.began)),
        "cpu_ms_each": round(used.cpu / clients * 1e3, 3),
    }


def during(tally: Tally, began: float, ended: float) -> list[float]:
    """Latencies of what was due between two times of the monotonic clock."""
    return [taken for due, taken in zip(tally.due, tally.good, strict=True) if began <= tally.began + due < ended]


def storm(target: Target, clients: int, seconds: float) -> dict[str, object]:
    """All at once, over a steady stream of others."""
    with Offering(target.door, target.endings["good"]) as offering:
        crowding = Crowding(target, clients, clients)
        load = Load(rate=STREAM, count=round(STREAM * seconds), connections=STREAM_CONNECTIONS, spin=False)
        offering.begin(load)
        time.sleep(CALM)
        arrivals = crowding.come()
        tally = offering.finish()
    calm, stormy = during(tally, 0.0, arrivals.began), during(tally, arrivals.began, arrivals.ended)
    told: dict[str, object] = {
        "storm_clients": clients,
        "storm_seconds": round(arrivals.ended - arrivals.began, 2),
        "storm_failures": arrivals.failures,
        "storm_wait_ms": milliseconds(arrivals.waits),
        "stream_failures": tally.failures(),
        "stream_lag_ms": milliseconds(tally.lags),
        "stream_storm_ms": milliseconds(stormy),
        "stream_calm_ms": milliseconds(calm),
    }
    refusal = tally.refusal(LAG_BOUND)
    if refusal:
        return {**told, "refused": refusal}
    return {**told, "stream_p99_ms": milliseconds(stormy)["p99"], "stream_calm_p99_ms": milliseconds(calm)["p99"]}


def readable(result: dict[str, object]) -> str:
    """A few lines."""
    lines = [
        f"{result['handshakes_per_second']}/s on a whole core, {result['handshakes_measured_per_second']}/s by clock",
        f"{result['cpu_ms_each']} ms CPU of the worker each, its first introspection included",
        f"storm: {result['storm_clients']} clients in after {result['storm_seconds']} s",
        f"  {result['storm_failures']} failures, each waited {result['storm_wait_ms']} ms",
        f"stream of {STREAM:,}/s, during: {result['stream_storm_ms']} ms",
        f"  before: {result['stream_calm_ms']} ms",
        f"  {result['stream_failures']} failures, lag {result['stream_lag_ms']} ms",
    ]
    return "\n".join([*lines, *([f"nothing to quote: {result['refused']}"] if "refused" in result else [])])


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--clients", type=int)
    arguments = parser.parse_args()
    clients = arguments.clients or (200 if arguments.quick else 2_000)
    with running({"good": 1_000}) as target:
        note("handshakes")
        rate(target, 50)
        found = rate(target, 200 if arguments.quick else 2_000)
        note(f"storm of {clients} clients")
        result = {"bench": "handshakes", **found, **storm(target, clients, 3 + clients / 150)}
    print(readable(result))
    if arguments.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
