"""How fast signed events go out: one pusher on a core of its own, 200 receivers on real mutual TLS in another process.

The pusher is the real one with its real way out; the ledger's side is in memory and takes 4 ms for a call, as one over
HTTPS with a durable write does. Each event is signed once, kept, pushed over connections that are kept, and told.

    .venv/bin/python -m bench.pushes [--seconds S] [--receivers N] [--json]
"""

import argparse
import json
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import trio

from engine.clock import Seconds, UnixTime
from engine.consent.records import ClientId, Role
from engine.events.facts import PartyFact
from engine.events.signing import PemEventSigner, new_event_key
from engine.listener.limits import Limits
from engine.pusher.egress import Egress, EgressConfig
from engine.pusher.garbage import make_rounds_rare
from engine.pusher.schedule import Reply
from engine.pusher.service import Lane
from engine.pusher.targets import Target
from engine.pusher.work import Pusher, PusherSettings, PusherState
from engine.telemetry import logs
from engine.telemetry.host import SystemClock
from tests.support.deliveries import ended
from tests.support.mutual_tls import Authority, thumbprint_of
from tests.support.push_service import ISSUER, MemoryPushService, push_stream_of

CALL = Seconds(0.004)
ROUNDS = 10  # of one event to everybody, for the delays


def cores() -> tuple[set[int], set[int]]:
    """The pusher's and the receivers'."""
    mine = sorted(os.sched_getaffinity(0))
    return {mine[0]}, set(mine[1:]) or {mine[0]}


class Timed:
    """The way out, with the time of each event's first attempt."""

    def __init__(self, egress: Egress) -> None:
        self.first: dict[bytes, float] = {}
        self.taken = 0
        self._egress = egress

    async def push(
        self, client_id: ClientId, target: Target, content: bytes, *, begun: Callable[[], None] = lambda: None
    ) -> Reply:
        def first() -> None:
            self.first.setdefault(content, time.time())
            begun()

        reply = await self._egress.push(client_id, target, content, begun=first)
        self.taken += reply.status == 202
        return reply

    def forget(self, client_id: ClientId) -> None:
        self._egress.forget(client_id)


async def receive(directory: Path, limits: Limits = Limits()) -> None:  # noqa: B008 - frozen
    """The receivers: our own listener, which takes everything."""
    import socket

    from engine.listener.http1 import Request, Response
    from engine.listener.serve import serve
    from engine.listener.tls import Credentials, Peer

    taken = Response(202, b"")

    def handler(_request: Request, _peer: Peer) -> Response:
        return taken

    listening = socket.create_server(("127.0.0.1", 0), backlog=4096)
    print(listening.getsockname()[1], flush=True)
    credentials = Credentials(directory / "server.pem", directory / "server.key", directory / "authority.pem")
    await serve(handler, [listening], credentials, limits, clock=SystemClock())


class Stand:
    """The pusher that is measured, and its ledger."""

    def __init__(self, directory: Path, authority: Authority, port: int, receivers: int) -> None:
        self.clock = SystemClock()
        self.names = [f"edp-{n}" for n in range(receivers)]
        self.service = MemoryPushService(self.clock.wall, latency=CALL)
        self.egress = Egress(authority.client_context(authority.issue("pusher-1")), EgressConfig(allow_private=True))
        self.outward = Timed(self.egress)
        for name in self.names:
            url = f"https://localhost:{port}/{name}"
            self.service.enrol(name, stream=push_stream_of(name, Role.EDP, endpoint_url=url))
            self.service.register(name, thumbprint_of(directory / "server.pem"))
        key = PemEventSigner.from_pem(new_event_key())
        self.pusher = Pusher(self.service, self.outward, lambda: key, PusherSettings(issuer=ISSUER), self.clock)
        self.pusher.begin()

    async def rate(self, seconds: float) -> dict[str, float]:
        """Everybody has always something waiting."""
        number = 0

        def top_up() -> None:
            nonlocal number
            while len(self.service.rows) - self.outward.taken < 4 * len(self.names):
                number += 1
                name = self.names[number % len(self.names)]
                self.service.commit(ended(number, name), name)

        async def work(until: float) -> None:
            while time.perf_counter() < until:
                top_up()
                await trio.sleep(0.01)

        await work(time.perf_counter() + 2.0)
        taken, used, begun = self.outward.taken, time.process_time(), time.perf_counter()
        await work(begun + seconds)
        took = time.perf_counter() - begun
        done = self.outward.taken - taken
        return {"per_second": done / took, "cpu_us": (time.process_time() - used) / done * 1e6, "pushed": float(done)}

    async def delays(self) -> dict[str, float]:
        """One event to everybody, again and again: from its commit to the first attempt, milliseconds."""
        found: list[float] = []
        for version in range(1, ROUNDS + 2):
            fact = PartyFact(ClientId("atp-1"), version, suspended=True, recorded_at=UnixTime(int(time.time())))
            made = self.service.commit(fact, *self.names, lane=Lane.ENDS)
            while self.service.pending:  # noqa: ASYNC110 - the stand has no event for it
                await trio.sleep(0.05)
            await trio.sleep(0.2)
            if version == 1:
                continue  # it opened the connections
            firsts = [self.outward.first[self.service.first_bytes[one.number]] for one in made]
            found += [first - one.committed_at for first, one in zip(firsts, made, strict=True)]
        found.sort()
        return {f"p{share}": found[int(len(found) * share / 100)] * 1_000 for share in (50, 95, 99)}


async def measure(stand: Stand, seconds: float) -> dict[str, dict[str, float]]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stand.pusher.run)
        while stand.pusher.state is not PusherState.WORKING:  # noqa: ASYNC110 - as above
            await trio.sleep(0.01)
        delays = await stand.delays()
        rate = await stand.rate(seconds)
        nursery.cancel_scope.cancel()
    stand.egress.close()
    return {"rate": rate, "first_attempt_ms": delays}


def run(seconds: float, receivers: int) -> dict[str, object]:
    own, others = cores()
    with TemporaryDirectory() as place:
        directory = Path(place)
        authority = Authority(directory)
        authority.issue("server")
        with subprocess.Popen(
            [sys.executable, "-m", "bench.pushes", "--receive", str(directory)], stdout=subprocess.PIPE, text=True
        ) as server:
            try:
                os.sched_setaffinity(server.pid, others)
                os.sched_setaffinity(0, own)
                assert server.stdout
                stand = Stand(directory, authority, int(server.stdout.readline()), receivers)
                make_rounds_rare()  # as the process does
                return {"receivers": receivers, **trio.run(measure, stand, seconds)}
            finally:
                server.kill()


def main() -> None:
    """Measure and say it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--receivers", type=int, default=200)
    parser.add_argument("--json", action="store_true", help="one JSON object, last")
    parser.add_argument("--receive", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logs.configure("error")
    if arguments.receive:
        trio.run(receive, arguments.receive)
        return
    found = run(arguments.seconds, arguments.receivers)
    rate, delays = found["rate"], found["first_attempt_ms"]
    assert isinstance(rate, dict)
    assert isinstance(delays, dict)
    print(f"{found['receivers']} receivers, mutual TLS {ssl.OPENSSL_VERSION}, signed once each")
    print(f"  pushes of one core    {rate['per_second']:>8,.0f} a second, {rate['cpu_us']:,.0f} us of CPU each")
    print(f"  commit to first attempt, one event to everybody: "
          f"p50 {delays['p50']:,.0f} ms, p95 {delays['p95']:,.0f} ms, p99 {delays['p99']:,.0f} ms")  # fmt: skip
    if arguments.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
