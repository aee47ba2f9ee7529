"""What a take-over costs in handshakes: everybody is owed something at once, with the line of the pusher and without.

One pusher's way out (`engine.pusher.egress`) on a core of its own pushes one event to each of 2,000 receivers, none of
which it has a connection to; they are one listener in another process, on mutual TLS over loopback. With the line, 64
handshakes are under way at once and each push's time begins at its end; without it all begin together. What counts is
how many were taken, and what became of the others. The rounds of the two alternate.

    .venv/bin/python -m bench.takeover [--receivers N] [--rounds N] [--json]

JSON: receivers, rounds; with_line and without_line: the median over the rounds of taken, timed_out (two seconds for
name, TCP and TLS, five in all), otherwise_failed, seconds (until the last had its answer or had failed), p50_ms, p95_ms
and p99_ms (of those that were taken, from when all began), cpu_ms_each (of the pusher's core, by receivers).
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import trio

from bench.pushes import cores, receive
from engine.clock import Seconds
from engine.consent.records import ClientId, Thumbprint
from engine.listener.limits import Limits
from engine.pusher.connections import Unreached
from engine.pusher.egress import Egress, EgressConfig
from engine.pusher.gate import Gate
from engine.pusher.schedule import Trouble
from engine.pusher.targets import Target, target_of
from engine.telemetry import logs
from tests.support.mutual_tls import Authority, thumbprint_of

SET = b"e30.e30." + b"x" * 1_000  # as long as an event is
MOST = 5_000  # receivers; each is a descriptor here and one there
DESCRIPTORS = 3 * MOST
LONGEST = 120.0  # seconds for a round, whatever happens
TAKEN = "taken"


class Round(msgspec.Struct, frozen=True):
    """One take-over. waits: seconds of those that were taken. cpu: seconds of this process."""

    outcomes: dict[str, int]
    waits: list[float]
    seconds: float
    cpu: float


class Everybody:
    """All receivers, pushed to at once over connections that are not there yet."""

    def __init__(self, egress: Egress, target: Target, receivers: int) -> None:
        self._egress, self._target, self._receivers = egress, target, receivers
        self._outcomes: Counter[str] = Counter()
        self._waits: list[float] = []
        self._begun = 0.0

    async def push(self) -> Round:
        """Until the last has its answer or has failed."""
        used, self._begun = time.process_time(), time.perf_counter()
        with trio.fail_after(LONGEST):
            async with trio.open_nursery() as nursery:
                for number in range(self._receivers):
                    nursery.start_soon(self._one, ClientId(f"edp-{number}"))
        seconds = time.perf_counter() - self._begun
        self._egress.close()
        return Round(dict(self._outcomes), self._waits, seconds, time.process_time() - used)

    async def _one(self, client_id: ClientId) -> None:
        try:
            reply = await self._egress.push(client_id, self._target, SET)
        except Unreached as fault:
            self._outcomes[fault.trouble.value] += 1
            return
        self._outcomes[TAKEN if reply.status == 202 else f"http_{reply.status}"] += 1
        self._waits.append(time.perf_counter() - self._begun)


def summary(rounds: list[Round], receivers: int) -> dict[str, float]:
    """The median of each figure. A round in which nobody was taken has no waits."""
    return {
        "taken": statistics.median(one.outcomes.get(TAKEN, 0) for one in rounds),
        "timed_out": statistics.median(one.outcomes.get(Trouble.TIMEOUT.value, 0) for one in rounds),
        "otherwise_failed": statistics.median(_others(one) for one in rounds),
        "seconds": round(statistics.median(one.seconds for one in rounds), 2),
        **{f"p{share}_ms": round(statistics.median(_share(one, share) for one in rounds)) for share in (50, 95, 99)},
        "cpu_ms_each": round(statistics.median(one.cpu for one in rounds) / receivers * 1e3, 2),
    }


def _others(one: Round) -> int:
    return sum(one.outcomes.values()) - one.outcomes.get(TAKEN, 0) - one.outcomes.get(Trouble.TIMEOUT.value, 0)


def _share(one: Round, share: int) -> float:
    return sorted(one.waits)[int(len(one.waits) * share / 100)] * 1e3 if one.waits else float("nan")


def gates(receivers: int) -> dict[str, Gate]:
    """The pusher's own line, and one that keeps nobody."""
    return {"with_line": Gate(), "without_line": Gate(places=receivers + 1, longest=Seconds(LONGEST))}


def measure(authority: Authority, url: str, receivers: int, rounds: int) -> dict[str, object]:
    """Both ways, turn by turn."""
    tls = authority.client_context(authority.issue("pusher-1"))
    shown = Thumbprint(thumbprint_of(authority.directory / "server.pem"))
    target = target_of(url, frozenset((shown,)))
    found: dict[str, list[Round]] = {name: [] for name in gates(receivers)}
    for _ in range(rounds):
        for name, gate in gates(receivers).items():
            egress = Egress(tls, EgressConfig(allow_private=True), gate=gate)
            found[name].append(trio.run(Everybody(egress, target, receivers).push))
            print(f"  {name:<13} {found[name][-1].outcomes}", file=sys.stderr)
            time.sleep(1.0)  # for the listener to close what was left
    told = {name: summary(of, receivers) for name, of in found.items()}
    return {"bench": "takeover", "receivers": receivers, "rounds": rounds, **told}


@contextmanager
def listening(directory: Path) -> Iterator[int]:
    """The receivers, in a process of their own on the other cores; their port."""
    own, others = cores()
    command = [sys.executable, "-m", "bench.takeover", "--receive", str(directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            os.sched_setaffinity(server.pid, others)
            os.sched_setaffinity(0, own)
            assert server.stdout
            yield int(server.stdout.readline())
        finally:
            server.kill()


def readable(found: dict[str, object]) -> str:
    """A table."""
    lines = [f"{found['receivers']} receivers at once, median of {found['rounds']} rounds"]
    lines.append(
        f"{'':<14}{'taken':>8}{'timed out':>11}{'failed':>8}{'seconds':>9}{'p50 ms':>8}{'p99 ms':>8}{'CPU ms':>8}"
    )
    for name in ("with_line", "without_line"):
        one = found[name]
        assert isinstance(one, dict)
        lines.append(
            f"{name.replace('_', ' '):<14}{one['taken']:>8,.0f}{one['timed_out']:>11,.0f}"
            f"{one['otherwise_failed']:>8,.0f}{one['seconds']:>9}{one['p50_ms']:>8,.0f}{one['p99_ms']:>8,.0f}"
            f"{one['cpu_ms_each']:>8}"
        )
    return "\n".join(lines)


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--receivers", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="one JSON object, last")
    parser.add_argument("--receive", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not 1 <= arguments.receivers <= MOST:
        parser.error(f"between one receiver and {MOST}")
    logs.configure("error")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(DESCRIPTORS, most), most))
    if arguments.receive:
        trio.run(receive, arguments.receive, Limits(shed_after=Seconds(LONGEST)))  # it stands for two thousand machines
        return
    with TemporaryDirectory() as place:
        authority = Authority(Path(place))
        authority.issue("server")
        with listening(Path(place)) as port:
            found = measure(authority, f"https://localhost:{port}/events", arguments.receivers, arguments.rounds)
    print(readable(found))
    if arguments.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
