"""What a whole worker can do: introspections/s and CPU per introspection over mutual TLS, with real tokens.

A real node with one worker on a replica of its own, kept current as on a node whose feed is silent, asked about a
number of different tokens, each time under another id, by a generator pinned to another core, bounded by a count.

    .venv/bin/python -m bench.worker [--requests 100000] [--connections 32] [--tokens 1000]
"""

import argparse
import itertools
import multiprocessing
import os
import select
import socket
import ssl
import tempfile
import time
import urllib.parse
import uuid
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from admin.authorization.minting import Minter, Order
from admin.pki.keys import FileTokenSigner, new_token_key
from bench.listener import pin
from engine.clock import BootTime, Seconds, UnixTime
from engine.consent.records import Certificate, ClientId, ParticipantRecord, Role, Thumbprint
from engine.decision.freshness import Bound
from engine.feed.entries import EntryKind
from engine.telemetry.host import SystemClock, boot_id
from engine.tokens.grants import consent_key
from engine.tokens.keys import JwkSet, PublishedKeys
from tests.support.mutual_tls import Authority, thumbprint_of
from tests.support.nodes import Running
from tests.support.pki import ISSUER, granted_consent
from tests.support.replicas import INCARNATION, entry, open_store, participant_entry
from tests.support.replicas import bound as unproven

DAY = 86_400
RUN_TIMEOUT = 120.0  # seconds


def prepare(directory: Path, count: int) -> tuple[Authority, list[bytes]]:
    """A replica of `count` consents and a token for each; returns requests to send."""
    authority, now = Authority(directory), UnixTime(int(time.time()))
    certificate = Certificate(Thumbprint(thumbprint_of(authority.issue("edp")[0])), UnixTime(now + DAY))
    edp = ParticipantRecord(
        client_id=ClientId("edp-1"),
        role=Role.EDP,
        suspended=False,
        certificates=(certificate,),
        handles_last_known=True,
        max_connections=1_000,
        max_requests_per_second=1_000_000,
    )
    atp_certificate = Certificate(Thumbprint(thumbprint_of(authority.issue("atp")[0])), UnixTime(now + DAY))
    atp = ParticipantRecord(ClientId("atp-1"), Role.ATP, suspended=False, certificates=(atp_certificate,))
    signer = FileTokenSigner(new_token_key("PS256"))
    minter, records, requests = Minter(ISSUER, signer, Seconds(3600.0)), [], []
    for _ in range(count):
        consent_id = str(uuid.uuid4())
        granted = granted_consent(consent_id, granted_at=UnixTime(now - DAY), expires_at=UnixTime(now + DAY))
        records.append(entry(0, EntryKind.CONSENT, consent_key(consent_id), granted.record))
        requests.append(request_of(minter.mint(Order(atp, ClientId("edp-1"), (granted,)), UnixTime(now - 60)).token))
    records += [participant_entry(0, edp), participant_entry(0, atp)]
    clock, store = SystemClock(), open_store(directory / "replica", boot_id=boot_id())
    generation = store.begin_generation()
    generation.seal(unproven(0))
    store.adopt(generation)
    store.put_keys(msgspec.json.encode(PublishedKeys(ISSUER, JwkSet((signer.public,)))))
    numbered = [msgspec.structs.replace(item, seq=seq) for seq, item in enumerate(records, 1)]
    fresh_until, as_of = BootTime(clock.boot() - 8.0), UnixTime(clock.now() - 10)
    store.apply(numbered, Bound(INCARNATION, len(records), boot_id(), fresh_until, as_of))
    store.close()
    return authority, requests


def request_of(token: bytes) -> bytes:
    """One introspection as an EDP sends it, but for the number that its id shall have: `%` it with that."""
    body = urllib.parse.urlencode({"token": token}).encode()
    return (
        b"POST /introspect HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\nX-Request-ID: %%08d\r\n"
        b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n%b"
        % (len(body), body.replace(b"%", b"%%"))
    )


def cpu_of(pid: int) -> float:
    """CPU seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


Results: TypeAlias = "multiprocessing.Queue[Any]"


def generate(
    port: int,
    directory: Path,
    requests: list[bytes],
    arguments: argparse.Namespace,
    results: Results,
) -> None:
    """Ask until the count is reached."""
    pin(1)
    context = ssl.create_default_context(cafile=str(directory / "authority.pem"))
    context.load_cert_chain(directory / "edp.pem", directory / "edp.key")
    poll, connections = select.epoll(), {}
    for _ in range(arguments.connections):
        plain = socket.create_connection(("127.0.0.1", port))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        secured = context.wrap_socket(plain, server_hostname="localhost")
        connections[secured.fileno()] = secured
        poll.register(secured, select.EPOLLIN)
    following, numbers = itertools.cycle(requests), itertools.count()
    for connection in connections.values():
        connection.sendall(next(following) % next(numbers))
    done = 0
    results.put("connected")
    began = time.perf_counter()
    while done < arguments.requests:
        for descriptor, _ in poll.poll():
            connection = connections[descriptor]
            answer = connection.recv(65536)
            assert b'"active":true' in answer, answer[:500]
            connection.sendall(next(following) % next(numbers))
            done += 1
    results.put((done, time.perf_counter() - began))


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=1000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        measure(arguments, Path(name))


def measure(arguments: argparse.Namespace, directory: Path) -> None:
    """One run: the first round verifies every signature, the rest finds them in the memo."""
    authority, requests = prepare(directory, arguments.tokens)
    node = Running(directory, authority, {}, modules=("engine.node.worker", "bench.standing_feeder"), workers=1)
    try:
        node.wait_ready(1)
        about = node.described()
        (worker,) = about["pids"]["workers"]
        os.sched_setaffinity(worker, {min(os.sched_getaffinity(0))})
        context = multiprocessing.get_context("spawn")
        results = context.Queue()
        target = (about["ports"]["introspection"], directory, requests, arguments, results)
        generator = context.Process(target=generate, args=target)
        generator.start()
        results.get(timeout=RUN_TIMEOUT)
        before = cpu_of(worker)
        done, elapsed = results.get(timeout=RUN_TIMEOUT)
        used = cpu_of(worker) - before
        generator.join()
        print(f"mutual TLS, {arguments.connections} connections, {arguments.tokens} tokens, {done} introspections")
        print(f"  {done / elapsed:10,.0f} introspections/s")
        print(f"  {used / done * 1e6:10.1f} µs CPU of the worker each ({done / used:,.0f}/s on a whole core)")
    finally:
        node.stop()


if __name__ == "__main__":
    main()
