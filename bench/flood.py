"""A flood: all consents of one ATP end at once. Does the stop get through, and do the others wait?

The admin application, the pusher and Redis of a sandbox run as processes of their own, on a ledger in a file. Ten EDPs
and two ATPs have push streams, confirmed through the API, to receivers on mutual TLS in another process. Every quarter
of a second a consent of the second ATP is revoked through the API; its delay runs from the call's beginning until its
EDP's receiver has the event. After a while the first ATP is suspended through the API, and its consents end. There is
no call that ends many consents, and one by one the API is slower than what is to be withstood: so another process
appends the ends by the ledger's own code, 500 in a write, as fast as it takes them. That process shares the two cores
and the file's one write lock with everything that is timed.

    .venv/bin/python -m bench.flood [--consents 100000] [--seconds 20] [--quick] [--json]

--seconds: of the trickle before the flood. The flood is watched until the sequencer has passed it, or for --patience
seconds. Consents are seeded by the ledger's own code before the streams are there, and nothing of that is timed.
"""

import argparse
import base64
import hashlib
import json
import sqlite3
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import trio

from admin.cli import embedded_redis
from admin.cli.up import REDIS_MEMORY
from admin.config import load_admin_config
from admin.ledger.events import ConsentGranted, ConsentRevoked, append_of, decode
from admin.ledger.sql import open_ledger
from admin.ledger.store import Append
from admin.pki.authority import Authority
from bench.ledger_append import grant
from bench.million import PATIENCE, seconds_to, service
from engine.clock import UnixTime
from engine.consent.records import ClientId, ConsentId
from engine.consent.states import State
from engine.events.sets import PARTY_SUSPENDED, VERIFICATION
from engine.telemetry.host import SystemClock
from tests.support.push_receivers import ACCEPTED, receiving
from tests.support.sandbox import Caller, Running

EDPS = tuple(f"edp-{n}" for n in range(1, 11))
STOPPED, OTHER = "atp-1", "atp-2"
RECEIVERS = (*EDPS, STOPPED, OTHER)
WRITE = 500  # events in one append
EVERY = 0.25  # seconds between revocations of the trickle
TRICKLE = 4_000  # consents for it
SETTLE = 10.0  # seconds in which what was revoked last may still come


def consent_id(atp: str, number: int) -> ConsentId:
    """The same in every process."""
    digest = hashlib.sha256(f"{atp}.{number}".encode()).digest()
    return ConsentId(str(uuid.UUID(bytes=digest[:16], version=4)))


class Consents:
    """Events of consents that are alike, but for their names."""

    def __init__(self) -> None:
        made = decode(grant(0).body)
        assert isinstance(made, ConsentGranted)
        self._made = made
        now = UnixTime(int(time.time()))
        self._record = msgspec.structs.replace(
            made.consent, granted_at=now, expires_at=UnixTime(now + 31_536_000), data_from=UnixTime(now - 31_536_000)
        )
        self._act = msgspec.structs.replace(made.act, at=now)

    def granting(self, atp: str, number: int) -> Append:
        edp = ClientId(EDPS[number % len(EDPS)])
        record = msgspec.structs.replace(self._record, atp=ClientId(atp), edps=(edp,))
        return append_of(ConsentGranted(consent_id(atp, number), record, self._made.terms, self._act), 0)

    def ending(self, number: int) -> Append:
        """Of one of the stopped ATP's."""
        edp = ClientId(EDPS[number % len(EDPS)])
        fields = {"atp": ClientId(STOPPED), "edps": (edp,), "state": State.REVOKED, "consent_version": 2}
        record = msgspec.structs.replace(self._record, **fields)
        gone = consent_id(STOPPED, number)
        return append_of(ConsentRevoked(gone, record, self._made.terms, self._act, self._act.at), 1)


def encoded(certificate: Path) -> str:
    """As the directory takes it."""
    return base64.b64encode(ssl.PEM_cert_to_DER_cert(certificate.read_text())).decode()


async def append(settings: Path, appends: Iterator[Append]) -> None:
    """In writes of WRITE, two under way at a time."""
    async with open_ledger(load_admin_config(settings).ledger, SystemClock()) as ledger, trio.open_nursery() as nursery:

        async def writer() -> None:
            while some := [one for _, one in zip(range(WRITE), appends, strict=False)]:
                await ledger.append(some)

        for _ in range(2):
            nursery.start_soon(writer)


def seeds(consents: int) -> Iterator[Append]:
    made = Consents()
    for atp, count in ((OTHER, TRICKLE), (STOPPED, consents)):
        for number in range(count):
            yield made.granting(atp, number)


def flood(settings: Path, consents: int) -> None:
    """The other process: appends, and says how long that took."""
    made = Consents()
    began = time.time()
    trio.run(append, settings, (made.ending(number) for number in range(consents)))
    print(json.dumps({"began": began, "seconds": time.time() - began}), flush=True)


async def receive(pki: Path) -> None:
    """The receivers' process: a server with a certificate of its own for each. One line for each event."""

    async def answer(path: str, content: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        claims = json.loads(base64.urlsafe_b64decode(content.split(b".")[1] + b"=="))
        print(json.dumps({"at": time.time(), "path": path[1:], **claims}), flush=True)
        return ACCEPTED

    async with AsyncExitStack() as stack:
        ports = {}
        for name in RECEIVERS:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(pki / "ca.pem"))
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_cert_chain(pki / f"receiver-{name}.pem", pki / f"receiver-{name}.key")
            ports[name] = (await stack.enter_async_context(receiving(context, answer))).port
        print(json.dumps(ports), flush=True)
        await trio.sleep_forever()


class Received:
    """What has come, as the receivers' process says it."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout
        self._lines = process.stdout
        self.ports: dict[str, int] = json.loads(self._lines.readline())
        self.challenges: dict[str, str] = {}
        self.stops: dict[str, float] = {}
        self.ends: dict[tuple[str, str], float] = {}  # (receiver, consent)
        self.jtis: dict[str, int] = {}
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for line in self._lines:
            self._take(json.loads(line))
            if self._closed.is_set():
                return

    def close(self) -> None:
        """Take nothing more."""
        self._closed.set()
        self._thread.join(5.0)

    def _take(self, told: dict[str, Any]) -> None:
        receiver, [kind] = told["path"], told["events"]
        if kind == VERIFICATION and "ccs_challenge" in told:
            self.challenges[receiver] = told["ccs_challenge"]
        if kind == PARTY_SUSPENDED:
            self.stops.setdefault(receiver, told["at"])
        if "ccs_seq" in told:
            self.jtis[told["jti"]] = self.jtis.get(told["jti"], 0) + 1
            about = told["sub_id"].get("id", "")
            self.ends.setdefault((receiver, about), told["at"])


class Stand:
    """Calls of a running sandbox's API, and its ledger's file."""

    def __init__(self, state: Path, sandbox: Running) -> None:
        self.state, self._sandbox, self._url = state, sandbox, sandbox.about["admin_mtls_url"]
        self.issuer = sandbox.about["issuer"]
        self.settings = state / "config/admin.toml"
        self._callers: dict[str, Caller] = {}

    def call(self, client: str, method: str, path: str, body: object = None) -> dict[str, Any]:
        if client not in self._callers:
            self._callers[client] = self.caller(client)
        return said_by(self._callers[client], method, path, body)

    def caller(self, client: str) -> Caller:
        """A new connection of a client's."""
        return Caller(self._url, self._sandbox.context(client))

    def forget(self) -> None:
        """Close connections: the service is stopped."""
        for caller in self._callers.values():
            caller.close()
        self._callers.clear()

    def register(self) -> None:
        """The EDPs that a sandbox does not have, and the certificates of all receivers."""
        pki = self.state / "pki"
        authority, now = Authority.open(pki), SystemClock().now()
        for name in RECEIVERS:
            authority.issue_server(now).write(pki / f"receiver-{name}.pem", pki / f"receiver-{name}.key")
            both = [encoded(pki / f"receiver-{name}.pem")]
            if (pki / f"{name}.pem").exists():
                both.append(encoded(pki / f"{name}.pem"))
                self.call("operator-1", "POST", f"/participants/{name}/certificates", {"certificates": both})
                continue
            authority.issue_client(ClientId(name), now).write(pki / f"{name}.pem", pki / f"{name}.key")
            form = {
                "client_id": name,
                "role": "edp",
                "certificates": [encoded(pki / f"{name}.pem"), *both],
                "organisation": {"name": name, "locations": [f"https://api.{name}.example/hh"]},
                "datasets": ["hh-electricity-import"],
            }
            self.call("operator-1", "POST", "/participants", form)

    def connect(self, received: Received) -> None:
        """Push streams for all, confirmed."""
        made = {}
        for name, port in received.ports.items():
            delivery = {"method": "urn:ietf:rfc:8935", "endpoint_url": f"https://localhost:{port}/{name}"}
            made[name] = self.call(name, "POST", "/ssf/streams", {"delivery": delivery})["stream_id"]
        wait_until(lambda: received.challenges.keys() >= made.keys(), 60.0)
        for name, stream_id in made.items():
            form = {"stream_id": stream_id, "challenge": received.challenges[name]}
            self.call(name, "POST", "/ssf/confirm", form)
        wait_until(lambda: self.sequenced() >= self.head(), 60.0)

    def sequenced(self) -> int:
        return int(self.asked("SELECT seq FROM outbox")[0][0])

    def head(self) -> int:
        return int(self.asked("SELECT head_seq FROM ledger_meta")[0][0])

    def asked(self, query: str) -> list[Any]:
        connection = sqlite3.connect(f"file:{self.state / 'ledger/ledger.db'}?mode=ro", uri=True)
        try:
            return connection.execute(query).fetchall()
        finally:
            connection.close()


def said_by(caller: Caller, method: str, path: str, body: object) -> dict[str, Any]:
    """The answer to a call that must succeed."""
    status, said = caller.call(method, path, body, {"idempotency-key": str(uuid.uuid4())})
    assert status in (200, 201), (path, status, said)
    found: dict[str, Any] = said
    return found


class Trickle:
    """Revokes consents of the other ATP, one each EVERY seconds, in a thread."""

    def __init__(self, stand: Stand) -> None:
        self._operator = stand.caller("operator-1")  # a connection of its own: the main thread calls meanwhile
        self._stop = threading.Event()
        self.called: list[tuple[float, float, str, str]] = []  # begun, answered, EDP, consent
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        for number in range(TRICKLE):
            begun, name = time.time(), consent_id(OTHER, number)
            said_by(self._operator, "POST", f"/consents/{name}/revoke", {"reason": "withdrawn"})
            self.called.append((begun, time.time(), EDPS[number % len(EDPS)], name))
            if self._stop.wait(max(0.0, EVERY - (time.time() - begun))):
                return

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def figures(self, received: Received, since: float, until: float) -> dict[str, float]:
        """Of those whose calls began then: milliseconds until their EDPs had them, and of the calls themselves."""
        asked = [one for one in self.called if since <= one[0] < until]
        delays = [received.ends[edp, name] - begun for begun, _, edp, name in asked if (edp, name) in received.ends]
        calls = [answered - begun for begun, answered, _, _ in asked]
        figures = {"revocations": float(len(asked)), "lost": float(len(asked) - len(delays))}
        for share in (50, 95):
            figures[f"p{share}_ms"] = at(delays, share) * 1_000
            figures[f"call_p{share}_ms"] = at(calls, share) * 1_000
        return figures


def at(found: list[float], share: int) -> float:
    return sorted(found)[int(len(found) * share / 100)]


def wait_until(holds: Any, within: float) -> bool:  # noqa: ANN401 - any question
    """Whether it came to hold in time."""
    deadline = time.monotonic() + within
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@contextmanager
def running(sandbox: Running, stand: Stand) -> Iterator[Received]:
    """Redis, admin application, pusher and receivers; the sequencer even with the ledger."""
    redis = embedded_redis.start(sandbox.state / "redis", max_memory=REDIS_MEMORY)
    admin, pusher = service("admin", sandbox), service("pusher", sandbox)
    command = [sys.executable, "-m", "bench.flood", "--receive", str(stand.state / "pki")]
    receivers = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        received = Received(receivers)
        seconds_to(admin, f"{stand.issuer}/jwks", sandbox.state / "pki/ca.pem")
        assert wait_until(lambda: stand.sequenced() >= stand.head(), PATIENCE)
        pusher.start()
        yield received
    finally:
        stand.forget()
        pusher.stop()
        admin.stop()
        redis.stop()
        receivers.kill()
        receivers.wait()


def measure(directory: Path, consents: int, seconds: float, patience: float) -> dict[str, Any]:
    """Seed, connect, trickle, stop, flood."""
    sandbox = Running(directory / "var", consents=20)
    stand = Stand(directory / "var", sandbox.start())
    stand.register()
    stand.forget()
    sandbox.stop()
    trio.run(append, stand.settings, seeds(consents))
    with running(sandbox, stand) as received:
        stand.connect(received)
        trickle = Trickle(stand)
        try:
            time.sleep(seconds)
            suspended = time.time()
            stand.call("operator-1", "POST", f"/participants/{STOPPED}/suspend")
            command = [sys.executable, "-m", "bench.flood", "--flood", str(stand.settings)]
            flooding = subprocess.Popen([*command, "--consents", str(consents)], stdout=subprocess.PIPE, text=True)
            said, _ = flooding.communicate(timeout=PATIENCE)
            appended, last = json.loads(said), stand.head()
            passed = wait_until(lambda: stand.sequenced() >= last, patience)
            over = time.time()
        finally:
            trickle.stop()
        time.sleep(SETTLE)
        return result(stand, received, trickle, (suspended, over), consents, appended, passed=passed)


def result(
    stand: Stand, received: Received, trickle: Trickle, span: tuple[float, float], consents: int,
    appended: dict[str, float], *, passed: bool,
) -> dict[str, Any]:  # fmt: skip
    """The figures."""
    suspended, over = span
    began = appended["began"]
    before, during = trickle.figures(received, 0.0, suspended), trickle.figures(received, began, over)
    ended = {consent_id(STOPPED, number) for number in range(consents)}
    done = {row[0] for row in stand.asked("SELECT jti FROM deliveries WHERE push = 1 AND seq > 0")}
    time.sleep(1.0)  # they were received before they were told; our reading of it may be behind
    received.close()
    single = [at for (_, about), at in received.ends.items() if about in ended and began <= at < over]
    return {
        "bench": "flood",
        "consents": consents,
        "suspended_at_all_seconds": max(received.stops.get(edp, float("inf")) for edp in EDPS) - suspended,
        "before": before,
        "during": during,
        "p95_ratio": during["p95_ms"] / before["p95_ms"],
        "appended_per_second": consents / appended["seconds"],
        "sequenced_seconds": over - began,
        "sequencer_passed": passed,
        "single_ends_per_second": len(single) / (over - began),
        "lost": len(done - received.jtis.keys()) + before["lost"] + during["lost"],
        "told_but_not_received": len(done - received.jtis.keys()),
        "received_again": sum(count - 1 for count in received.jtis.values()),
    }


def main() -> None:
    """Measure and say it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--consents", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--patience", type=float, default=300.0)
    parser.add_argument("--quick", action="store_true", help="few consents, a short trickle")
    parser.add_argument("--json", action="store_true", help="one JSON object, last")
    parser.add_argument("--receive", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--flood", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.receive:
        trio.run(partial(receive, arguments.receive))
        return
    if arguments.flood:
        flood(arguments.flood, arguments.consents)
        return
    consents, seconds = (5_000, 5.0) if arguments.quick else (arguments.consents, arguments.seconds)
    with tempfile.TemporaryDirectory(prefix="ccs-bench-") as place:
        found = measure(Path(place), consents, seconds, arguments.patience)
    say(found)
    if arguments.json:
        print(json.dumps(found))


def say(found: dict[str, Any]) -> None:
    """In lines."""
    print(f"{found['consents']:,} consents of one ATP end, {found['appended_per_second']:,.0f} appended a second")
    print(f"  party-suspended at all EDPs   {found['suspended_at_all_seconds']:>8.2f} s after the call began")
    for name in ("before", "during"):
        one = found[name]
        print(f"  another ATP's ends, {name:<8}  p50 {one['p50_ms']:,.0f} ms, p95 {one['p95_ms']:,.0f} ms")
        print(f"    the call alone              p50 {one['call_p50_ms']:,.0f} ms, p95 {one['call_p95_ms']:,.0f} ms")
        print(f"    revoked {one['revocations']:.0f}, not received {one['lost']:.0f}")
    print(f"  p95 during, by before         {found['p95_ratio']:>8.2f}")
    print(f"  sequencer past the flood      {found['sequenced_seconds']:>8.1f} s after it began"
          f"{'' if found['sequencer_passed'] else ' NOT YET'}")  # fmt: skip
    print(f"  single ends                   {found['single_ends_per_second']:>8.0f} a second received meanwhile")
    print(f"  told, not received: {found['told_but_not_received']}; received again: {found['received_again']}")


if __name__ == "__main__":
    main()
