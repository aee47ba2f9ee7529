"""A flood: all consents of an ATP end. Does the stop get through, and do the others wait?

The admin application, the pusher and Redis of a sandbox run as processes of their own, on a ledger in a file. Ten EDPs
and three ATPs have push streams, confirmed through the API, to receivers on mutual TLS in another process. Every
quarter of a second a consent of the last ATP is revoked through the API; its delay runs from the call's beginning until
its EDP's receiver has the event. That goes on through five times:

- quiet: nothing else goes on;
- busy: another process of the machine keeps one core busy, and nothing is ended: what sharing two cores costs as such;
- paced: the first ATP is suspended through the API, and `ccs consents end-all` ends its consents. This is the headline;
- after: bulk deliveries of these ends are still signed and pushed, at their limited rate;
- hostile: the second ATP is suspended, and its consents end as fast as another process can append, 500 in a write, by
  the ledger's own code, past the product's pace: what nobody can do from outside, and what must do no lasting harm.

Each delay is traced: the call until its commit, from there until the delivery's row is there (by the sequencer, or
written ahead), until its signed bytes are kept, until the receiver has it, until its 202 is noted.

    .venv/bin/python -m bench.flood [--consents 1000000] [--hostile 100000] [--seconds 30] [--rest 7] [--quick] [--json]

--seconds: of the quiet, the busy and the after. --patience bounds the command, and the sequencer after the hostile
flood. Consents are seeded by the ledger's own code, with a person each, before the streams are there, and nothing of
that is timed.
"""

import argparse
import base64
import hashlib
import json
import os
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
from admin.consents.end_all import REST
from admin.ledger.events import (
    ConsentGranted,
    ConsentPersonal,
    ConsentRevoked,
    Person,
    append_of,
    decode,
    encode_personal,
)
from admin.ledger.sql import open_ledger
from admin.ledger.store import Append, Personal
from admin.pki.authority import Authority
from bench.flood_figures import TIMES, Call, Counts, Span, assembled, figures, say, seconds_to_all
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
STOPPED, HOSTILE, OTHER = "atp-1", "atp-3", "atp-2"
RECEIVERS = (*EDPS, STOPPED, HOSTILE, OTHER)
WRITE = 500  # events in one append
EVERY = 0.25  # seconds between revocations of the trickle
SETTLE = 10.0  # seconds at most in which what was revoked last may still come
LOOK = 0.01  # seconds between looks for a delivery's row


class Sizes(msgspec.Struct, frozen=True):
    """consents: ended by the command. hostile: past it. seconds: of the quiet, the busy and the after.

    patience: seconds for the command, and for the sequencer after the hostile flood. trickle: consents for it.
    """

    consents: int
    hostile: int
    seconds: float
    patience: float
    rest: float
    trickle: int


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
        event = ConsentGranted(consent_id(atp, number), record, self._made.terms, self._act)
        return append_of(event, 0, _somebody(atp, number))

    def ending(self, number: int) -> Append:
        """Of one that is ended past the product."""
        edp = ClientId(EDPS[number % len(EDPS)])
        fields = {"atp": ClientId(HOSTILE), "edps": (edp,), "state": State.REVOKED, "consent_version": 2}
        record = msgspec.structs.replace(self._record, **fields)
        gone = consent_id(HOSTILE, number)
        event = ConsentRevoked(gone, record, self._made.terms, self._act, self._act.at)
        return append_of(event, 1, _somebody(HOSTILE, number))


def _somebody(atp: str, number: int) -> Personal:
    person = Person(f"{atp}-{number}", "Alex Example", "1 Example Street, Exampletown, EX1 1EX")
    return encode_personal(ConsentPersonal(person, ("1200012345678",)))


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


def seeds(sizes: Sizes) -> Iterator[Append]:
    """The grants that are there before anything begins."""
    made = Consents()
    for atp, count in ((OTHER, sizes.trickle), (STOPPED, sizes.consents), (HOSTILE, sizes.hostile)):
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
        self.stops: dict[tuple[str, str], float] = {}  # (receiver, ATP)
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
            self.stops.setdefault((receiver, told["sub_id"]["id"]), told["at"])
        if "ccs_seq" in told:
            self.jtis[told["jti"]] = self.jtis.get(told["jti"], 0) + 1
            about = told["sub_id"].get("id", "")
            self.ends.setdefault((receiver, about), told["at"])


def cpu_seconds(pid: int) -> float:
    """What a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Stand:
    """Calls of a running sandbox's API, and its ledger's file. pids: of what is timed, by name."""

    def __init__(self, state: Path, sandbox: Running) -> None:
        self.state, self._sandbox, self._url = state, sandbox, sandbox.about["admin_mtls_url"]
        self.issuer = sandbox.about["issuer"]
        self.settings = state / "config/admin.toml"
        self._callers: dict[str, Caller] = {}
        self.pids: dict[str, int] = {}

    def cpu(self) -> dict[str, float]:
        """Of each process so far, in seconds."""
        return {name: cpu_seconds(pid) for name, pid in self.pids.items()}

    def call(self, client: str, method: str, path: str, body: object = None) -> dict[str, Any]:
        if client not in self._callers:
            self._callers[client] = self.caller(client)
        return said_by(self._callers[client], method, path, body)

    def caller(self, client: str) -> Caller:
        """A new connection of a client's."""
        return Caller(self._url, self._sandbox.context(client))

    def command(self, *words: str) -> list[str]:
        """A `ccs` command as the operator."""
        pki = self.state / "pki"
        files = {"--ca-file": "ca.pem", "--certificate": "operator-1.pem", "--key": "operator-1.key"}
        door = [part for option, name in files.items() for part in (option, str(pki / name))]
        return [sys.executable, "-m", "admin.cli", *words, "--url", self._url, *door]

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
            form: dict[str, Any] = {
                "client_id": name,
                "role": "edp" if name in EDPS else "atp",
                "certificates": [encoded(pki / f"{name}.pem"), *both],
                "organisation": {"name": name},
            }
            if name in EDPS:
                form["organisation"] = {"name": name, "locations": [f"https://api.{name}.example/hh"]}
                form["datasets"] = ["hh-electricity-import"]
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
    """Revokes consents of the other ATP, one each EVERY seconds, in a thread; another watches for their rows."""

    def __init__(self, stand: Stand, consents: int) -> None:
        self._stand = stand
        self._consents = consents
        self._operator = stand.caller("operator-1")  # a connection of its own: the main thread calls meanwhile
        self._stop = threading.Event()
        self.called: list[Call] = []
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._run, self._watch)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        for number in range(self._consents):
            begun, name = time.time(), consent_id(OTHER, number)
            said = said_by(self._operator, "POST", f"/consents/{name}/revoke", {"reason": "withdrawn"})
            answered, edp = time.time(), EDPS[number % len(EDPS)]
            committed = max(begun, answered - said["milliseconds"] / 1_000)
            self.called.append(Call(edp, name, said["position"]["seq"], begun, committed, answered))
            if self._stop.wait(max(0.0, EVERY - (time.time() - begun))):
                return

    def _watch(self) -> None:
        """A row costs one probe of an index, and few are awaited at a time."""
        connection = sqlite3.connect(f"file:{self._stand.state / 'ledger/ledger.db'}?mode=ro", uri=True)
        query = "SELECT 1 FROM deliveries WHERE seq > 0 AND client_id = ? AND seq = ?"
        seen = 0
        while not self._stop.wait(LOOK):
            for one in self.called[seen:]:
                if not one.row and connection.execute(query, (one.edp, one.seq)).fetchone():
                    one.row = time.time()
            while seen < len(self.called) and self.called[seen].row:
                seen += 1
        connection.close()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


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
        stand.pids = {"admin": admin.pid, "pusher": pusher.pid, "receivers": receivers.pid, "bench": os.getpid()}
        yield received
    finally:
        stand.forget()
        pusher.stop()
        admin.stop()
        redis.stop()
        receivers.kill()
        receivers.wait()


def measure(directory: Path, sizes: Sizes) -> dict[str, Any]:
    """Seed, connect, trickle; then one time after the other."""
    sandbox = Running(directory / "var", consents=0)
    stand = Stand(directory / "var", sandbox.start())
    stand.register()
    stand.forget()
    sandbox.stop()
    trio.run(append, stand.settings, seeds(sizes))
    with running(sandbox, stand) as received:
        stand.connect(received)
        trickle = Trickle(stand, sizes.trickle)
        try:
            found, spans = through_all(stand, sizes)
        finally:
            trickle.stop()
        wait_until(lambda: all((one.edp, one.consent) in received.ends for one in trickle.called), SETTLE)
        time.sleep(1.0)  # the last ones are noted a moment later
        return result(stand, received, trickle, found, spans)


def through_all(stand: Stand, sizes: Sizes) -> tuple[dict[str, Any], dict[str, Span]]:
    """What each time brought, and when it was."""
    found: dict[str, Any] = {"bench": "flood", "consents": sizes.consents, "hostile_consents": sizes.hostile, "cpu": {}}
    spans: dict[str, Span] = {}

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        began, before = time.time(), stand.cpu()
        yield
        spans[name] = (began, time.time())
        found["cpu"][name] = {one: (used - before[one]) / (time.time() - began) for one, used in stand.cpu().items()}

    with timed("quiet"):
        time.sleep(sizes.seconds)
    with timed("busy"):
        subprocess.run([sys.executable, "-c", BURN.format(seconds=sizes.seconds)], check=True)
    found["suspended_call"] = time.time()
    stand.call("operator-1", "POST", f"/participants/{STOPPED}/suspend")
    with timed("paced"):
        command = stand.command(
            "consents", "end-all", "--client", STOPPED, "--reason", "security", "--json", "--rest", str(sizes.rest)
        )
        done = subprocess.run(command, stdout=subprocess.PIPE, timeout=sizes.patience, check=True, text=True)
    found["paced"] = json.loads(done.stdout)
    with timed("after"):
        time.sleep(sizes.seconds)
    found["hostile_call"] = time.time()
    stand.call("operator-1", "POST", f"/participants/{HOSTILE}/suspend")
    with timed("hostile"):
        command = [sys.executable, "-m", "bench.flood", "--flood", str(stand.settings)]
        flooding = subprocess.Popen([*command, "--hostile", str(sizes.hostile)], stdout=subprocess.PIPE, text=True)
        said, _ = flooding.communicate(timeout=PATIENCE)
        found["hostile"], last = json.loads(said), stand.head()
        found["sequencer_passed"] = wait_until(lambda: stand.sequenced() >= last, sizes.patience)
    return found, spans


BURN = "import time\nend = time.monotonic() + {seconds}\nwhile time.monotonic() < end: pass"
NOTED = "SELECT client_id, subject, signed_at, tried_at FROM deliveries WHERE seq > 0 AND lane = 0"


def result(
    stand: Stand, received: Received, trickle: Trickle, found: dict[str, Any], spans: dict[str, Span]
) -> dict[str, Any]:
    """The figures."""
    noted = {(row[0], row[1]): (row[2], row[3]) for row in stand.asked(NOTED)}
    told = {row[0] for row in stand.asked("SELECT jti FROM deliveries WHERE push = 1 AND seq > 0")}
    time.sleep(1.0)  # they were received before they were told; our reading of it may be behind
    received.close()
    times = {name: figures(trickle.called, received.ends, noted, *spans[name]) for name in TIMES}
    calls = {STOPPED: found.pop("suspended_call"), HOSTILE: found.pop("hostile_call")}
    stops = [seconds_to_all(received.stops, EDPS, atp, at) for atp, at in calls.items()]
    return assembled(found, times, stops, Counts(received.jtis, told))


def main() -> None:
    """Measure and say it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--consents", type=int, default=1_000_000)
    parser.add_argument("--hostile", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--patience", type=float, default=7_200.0)
    parser.add_argument("--rest", type=float, default=REST, help="of `ccs consents end-all`")
    parser.add_argument("--trickle", type=int, default=30_000, help="consents for it: four a second")
    parser.add_argument("--quick", action="store_true", help="few consents, short times")
    parser.add_argument("--json", action="store_true", help="one JSON object, last")
    parser.add_argument("--receive", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--flood", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.receive:
        trio.run(partial(receive, arguments.receive))
        return
    if arguments.flood:
        flood(arguments.flood, arguments.hostile)
        return
    sizes = Sizes(
        arguments.consents, arguments.hostile, arguments.seconds, arguments.patience, arguments.rest, arguments.trickle
    )
    if arguments.quick:
        sizes = msgspec.structs.replace(sizes, consents=5_000, hostile=5_000, seconds=5.0)
    with tempfile.TemporaryDirectory(prefix="ccs-bench-") as place:
        found = measure(Path(place), sizes)
    say(found)
    if arguments.json:
        print(json.dumps(found, allow_nan=False))


if __name__ == "__main__":
    main()
