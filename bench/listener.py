"""What the listener alone can do: requests/s and CPU per request of one server process over mutual TLS.

The server answers with a trivial handler; a generator in another process, pinned to another core, keeps a fixed
number of connections busy with one request each and stops after a fixed number of requests.

    .venv/bin/python -m bench.listener [--requests 100000] [--connections 32] [--plain] [--pipeline 1]
"""

import argparse
import gc
import multiprocessing
import os
import resource
import select
import socket
import ssl
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import trio

from engine.listener.http1 import HeadLimits, Request, Response
from engine.listener.serve import Limits, serve
from engine.listener.tls import Peer
from engine.telemetry.host import SystemClock
from tests.support.mutual_tls import Authority

RUN_TIMEOUT = 120.0  # seconds
Outcome = dict[str, Any]
Results: TypeAlias = "multiprocessing.Queue[Outcome]"
BODY = b"token=" + b"a" * 900
REQUEST = (
    b"POST /introspect HTTP/1.1\r\nHost: localhost:8440\r\nUser-Agent: bench\r\nAccept: application/json\r\n"
    b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
)
ANSWER = Response(200, b'{"active":true,"client_id":"atp-one","exp":1790000000,"sub":"' + b"x" * 130 + b'"}')


def answer(_request: Request, _peer: Peer) -> Response:
    """The trivial handler."""
    return ANSWER


class Client:
    """One blocking-free connection of the generator."""

    def __init__(self, port: int, context: ssl.SSLContext | None, pipeline: int) -> None:
        plain = socket.create_connection(("127.0.0.1", port))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = context.wrap_socket(plain, server_hostname="localhost") if context else plain
        self.batch = REQUEST * pipeline
        self.socket.sendall(REQUEST)
        self.answer_bytes = len(self.socket.recv(65536))
        self.expected = self.answer_bytes * pipeline
        self.sent_at = 0.0

    def ask(self) -> None:
        """Send the next batch."""
        self.sent_at = time.perf_counter()
        self.socket.sendall(self.batch)

    def collect(self) -> float:
        """Read the answers of one batch; returns the seconds they took."""
        left = self.expected
        while left > 0:
            data = self.socket.recv(65536)
            assert data, "the server closed"
            left -= len(data)
        return time.perf_counter() - self.sent_at


def generate(port: int, arguments: argparse.Namespace, directory: Path, results: Results) -> None:
    """Ask until the count is reached; reports wall seconds and latencies."""
    pin(1)
    context = None
    if not arguments.plain:
        context = ssl.create_default_context(cafile=str(directory / "authority.pem"))
        context.load_cert_chain(directory / "edp.pem", directory / "edp.key")
    began = time.perf_counter()
    clients = [Client(port, context, arguments.pipeline) for _ in range(arguments.connections)]
    connecting = time.perf_counter() - began
    poll = select.epoll()
    for client in clients:
        poll.register(client.socket, select.EPOLLIN)
    by_descriptor = {client.socket.fileno(): client for client in clients}
    results.put({"connecting": connecting})
    began, done, latencies = time.perf_counter(), 0, []
    for client in clients:
        client.ask()
    while done < arguments.requests:
        for descriptor, _ in poll.poll():
            client = by_descriptor[descriptor]
            latencies.append(client.collect())
            done += arguments.pipeline
            client.ask()
    elapsed = time.perf_counter() - began
    latencies.sort()
    results.put({"elapsed": elapsed, "done": done, "latencies": latencies})


def pin(core: int) -> None:
    """Keep this process on one core."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[core % len(cores)]})


def cpu() -> float:
    """CPU seconds of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def measure(arguments: argparse.Namespace, directory: Path) -> None:
    """Serve in this process, generate in another, print figures."""
    authority = Authority(directory)
    authority.issue("edp")
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    port = listening.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    results: Results = context.Queue()
    generator = context.Process(target=generate, args=(port, arguments, directory, results))
    credentials = None if arguments.plain else authority.credentials()
    async with trio.open_nursery() as nursery:
        serving = partial(serve, answer, [listening], credentials, Limits(http=HeadLimits()), clock=SystemClock())
        server = await nursery.start(serving)
        gc.freeze()
        gc.set_threshold(50_000, 50, 50)
        generator.start()
        pin(0)
        before_connecting = cpu()
        connected = await trio.to_thread.run_sync(partial(results.get, timeout=RUN_TIMEOUT))
        before = cpu()
        handshakes = before - before_connecting
        outcome = await trio.to_thread.run_sync(partial(results.get, timeout=RUN_TIMEOUT))
        used = cpu() - before
        server.drain()
    generator.join()
    report(arguments, handshakes, connected["connecting"], used, outcome)


def report(arguments: argparse.Namespace, handshakes: float, connecting: float, used: float, outcome: Outcome) -> None:
    """Print one run."""
    done, elapsed, latencies = outcome["done"], outcome["elapsed"], outcome["latencies"]
    print(
        f"{'plain' if arguments.plain else 'mutual TLS'}, {arguments.connections} connections, "
        f"{arguments.pipeline} requests in flight on each, {done} requests"
    )
    print(f"  {done / elapsed:10,.0f} requests/s")
    print(f"  {used / done * 1e6:10.1f} µs CPU of the server per request ({done / used:,.0f}/s on a whole core)")
    print(f"  {handshakes / arguments.connections * 1e3:10.2f} ms CPU per handshake ({connecting:.2f} s for all)")
    for share in (0.5, 0.99, 0.999):
        print(f"  {latencies[int(len(latencies) * share)] * 1e3:10.2f} ms p{share * 100:g} (saturated)")


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--pipeline", type=int, default=1)
    parser.add_argument("--plain", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        trio.run(measure, arguments, Path(directory))


if __name__ == "__main__":
    main()
