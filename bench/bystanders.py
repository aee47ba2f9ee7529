"""Whether connections that do nothing, or next to nothing, cost those that work anything.

A steady load, alone and among 2,000 idle connections and 200 whose request heads arrive at one byte a second, in turns.
A slow one that the server cuts off comes back at once.

    .venv/bin/python -m bench.bystanders [--quick] [--json]

JSON: alone and among, each with p50_ms, p99_ms (medians over the rounds; only of those that nothing disturbed),
cpu_us_each (median); cpu_ratio, p50_ratio, p99_ratio (among / alone), idle, slow, slow_cut, failures; `refused` where
there is nothing to quote.
"""

import argparse
import json
import multiprocessing
import ssl
import time
from multiprocessing.connection import Connection as Pipe
from statistics import median
from types import TracebackType
from typing import Final, Self

import msgspec

from bench.latency import Round, offer
from bench.openloop import CONNECT_TIMEOUT, RUN_TIMEOUT, Connection, Load, Offering
from bench.target import PAUSE, Door, note, running, take_second_core

RATE: Final = 2_000
CONNECTIONS: Final = 64
LAG_BOUND: Final = 0.001  # seconds
BYTE_EVERY: Final = 1.0  # seconds, on each slow connection
DRIP: Final = b"POST /introspect HTTP/1.1\r\nHost: localhost\r\nX-Slow: "


def opened(door: Door, context: ssl.SSLContext | None) -> Connection:
    """A connection after its handshake."""
    connection = Connection(door, context)
    connection.socket.settimeout(CONNECT_TIMEOUT)
    connection.shake()
    connection.socket.setblocking(False)  # noqa: FBT003 - the socket's own signature
    return connection


class Slow:
    """A connection whose head never ends."""

    def __init__(self, door: Door, context: ssl.SSLContext | None) -> None:
        self._door, self._context = door, context
        self._connection = opened(door, context)
        self._sent = self.cut = 0

    def drip(self) -> None:
        """One byte more; from the start, where the server had enough."""
        byte = DRIP[self._sent : self._sent + 1] or b"a"
        try:
            self._connection.socket.send(byte)
            self._sent += 1
        except OSError:
            self._connection.socket.close()
            self._connection = opened(self._door, self._context)
            self.cut += 1
            self._sent = 0

    def close(self) -> None:
        """Go away."""
        self._connection.socket.close()


def _stand(pipe: Pipe, door: Door, idle: int, slow: int) -> None:
    """The bystanders' process, on the second core: there until told to go; then tells how many were cut off."""
    take_second_core()
    context = door.context()
    standing = [opened(door, context) for _ in range(idle)]
    dripping = [Slow(door, context) for _ in range(slow)]
    pipe.send("ready")
    while not pipe.poll(0 if dripping else None):
        for each in dripping:
            each.drip()
            if pipe.poll(BYTE_EVERY / slow):
                break
    for connection in standing:
        connection.socket.close()
    for each in dripping:
        each.close()
    pipe.send(sum(each.cut for each in dripping))


class Bystanders:
    """They stand there as long as this is entered."""

    def __init__(self, door: Door, idle: int, slow: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_stand, args=(theirs, door, idle, slow), daemon=True)
        self._process.start()
        theirs.close()
        self.cut = 0

    def __enter__(self) -> Self:
        assert self._pipe.poll(RUN_TIMEOUT), "the bystanders are silent"
        self._pipe.recv()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._pipe.send("go")
            assert self._pipe.poll(RUN_TIMEOUT), "the bystanders are silent"
            self.cut = self._pipe.recv()
        else:
            self._process.kill()
        self._process.join()
        self._pipe.close()


def side(rounds: list[Round]) -> dict[str, float]:
    """Medians over the rounds of one kind; latencies only of those that may be quoted."""
    told = {"cpu_us_each": median(each.tally.server.cpu / each.tally.answered * 1e6 for each in rounds)}
    sound = [each.figures()["latency_ms"] for each in rounds if not each.tally.refusal(LAG_BOUND)]
    for name in ("p50", "p99") if sound else ():
        told[f"{name}_ms"] = median(msgspec.convert(each, dict[str, float])[name] for each in sound)
    return {name: round(value, 3) for name, value in told.items()}


def measure(*, quick: bool) -> dict[str, object]:
    """A whole run."""
    idle, slow = (200, 20) if quick else (2_000, 200)
    count = RATE * (1 if quick else 5)
    alone: list[Round] = []
    among: list[Round] = []
    cut = 0
    with running({"good": 1_000}) as target, Offering(target.door, target.endings["good"]) as offering:
        offer(offering, Load(rate=RATE, count=RATE, connections=CONNECTIONS))
        for number in range(1 if quick else 3):
            load = Load(rate=RATE, count=count, connections=CONNECTIONS, seed=number)
            note(f"round {number + 1}: alone")
            alone.append(offer(offering, load))
            note(f"round {number + 1}: among {idle} idle and {slow} slow connections")
            with Bystanders(target.door, idle, slow) as bystanders:
                among.append(offer(offering, load))
            cut += bystanders.cut
            time.sleep(PAUSE)
    failures = sum(each.tally.failures() for each in alone + among)
    return {
        "bench": "bystanders",
        **compared(side(alone), side(among)),
        "idle": idle,
        "slow": slow,
        "slow_cut": cut,
        "failures": failures,
        "rounds": {"alone": [each.figures() for each in alone], "among": [each.figures() for each in among]},
    }


def compared(alone: dict[str, float], among: dict[str, float]) -> dict[str, object]:
    """Both sides and their ratios, as far as there are figures on both."""
    told: dict[str, object] = {"alone": alone, "among": among}
    for name in ("cpu_us_each", "p50_ms", "p99_ms"):
        if name in alone and name in among:
            told[f"{name.partition('_')[0]}_ratio"] = round(among[name] / alone[name], 3)
    return told | ({} if "p99_ratio" in told else {"refused": "every round of a side was disturbed"})


def readable(result: dict[str, object]) -> str:
    """Two lines and what is between them."""
    ratios = {name: value for name, value in result.items() if name.endswith("_ratio")}
    lines = [
        f"{RATE:,}/s alone: {result['alone']}",
        f"{RATE:,}/s among {result['idle']} idle, {result['slow']} slow: {result['among']}",
        f"among / alone: {ratios}; {result['failures']} failures; slow ones cut off {result['slow_cut']} times",
    ]
    return "\n".join([*lines, *([f"nothing to quote: {result['refused']}"] if "refused" in result else [])])


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    arguments = parser.parse_args()
    result = measure(quick=arguments.quick)
    print(readable(result))
    if arguments.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
