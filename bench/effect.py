"""From a revocation's commit to the first inactive answer of a node, idle and under a steady load of introspections.

A whole sandbox runs as its users run it. For each of a number of consents one connection asks about its token as
fast as answers come; the consent is revoked through the API; the time is from the commit, as the ledger noted it, to
the arrival of the first inactive answer.

    .venv/bin/python -m bench.effect [--revocations 200] [--json]
"""

import argparse
import json
import multiprocessing
import multiprocessing.synchronize
import sqlite3
import ssl
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import urlencode, urlsplit
from uuid import uuid4

from tests.support.sandbox import Running

CONNECTIONS = 16  # of the load
LOADS = {"loaded": 2_000, "loaded_5000": 5_000}  # introspections a second
EMPTY_HEADERS = b"Content-Type: application/x-www-form-urlencoded\r\n"


class Asker:
    """A connection that sends one prepared request and reads its answer."""

    def __init__(self, about: dict[str, str], certificate: tuple[str, str], token: str) -> None:
        url = urlsplit(about["introspection_endpoint"])
        context = ssl.create_default_context(cafile=about["ca_file"])
        context.load_cert_chain(*certificate)
        import socket

        plain = socket.create_connection((url.hostname, url.port))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = context.wrap_socket(plain, server_hostname=url.hostname)
        body = urlencode({"token": token}).encode()
        head = f"POST {url.path} HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Length: {len(body)}\r\n"
        self.request = head.encode() + EMPTY_HEADERS + b"\r\n" + body
        self.owed = False

    def send(self) -> None:
        self.socket.sendall(self.request)
        self.owed = True

    def receive(self) -> bytes:
        """The body of the answer that is owed."""
        got = b""
        while b"\r\n\r\n" not in got:
            got += self.socket.recv(65536)
        head, _, body = got.partition(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        while len(body) < length:
            body += self.socket.recv(65536)
        self.owed = False
        return body


def load(about: dict[str, str], certificate: tuple[str, str], tokens: list[str], rate: int, seconds: float,
         stop: multiprocessing.synchronize.Event, done: "multiprocessing.Queue[int]") -> None:  # fmt: skip
    """Ask at a fixed rate over several connections until told to stop, or the time is over."""
    askers = [Asker(about, certificate, tokens[n % len(tokens)]) for n in range(CONNECTIONS)]
    began, asked = time.monotonic(), 0
    while not stop.is_set() and time.monotonic() - began < seconds:
        due = began + asked / rate
        if (ahead := due - time.monotonic()) > 0:
            time.sleep(ahead)
        asker = askers[asked % CONNECTIONS]
        if asker.owed:
            assert b'"active":true' in (answer := asker.receive()), answer
        asker.send()
        asked += 1
    done.put(round(asked / (time.monotonic() - began)))


def revoke_and_watch(sandbox: Running, database: Path, minted: dict[str, str], certificate: tuple[str, str]) -> float:
    """Milliseconds from commit to the first inactive answer."""
    asker = Asker(sandbox.about, certificate, minted["token"])
    seen: list[float] = []

    def watch() -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            asker.send()
            if asker.receive() == b'{"active":false}':
                seen.append(time.time())
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    key = str(uuid4())
    operator = sandbox.machine()
    status, answer = operator.call(
        "POST", f"/consents/{minted['consent_id']}/revoke", {"reason": "withdrawn"}, {"idempotency-key": key}
    )
    assert status == 200, answer
    watcher.join()
    operator.close()
    asker.socket.close()
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as ledger:
        (committed,) = ledger.execute("SELECT committed_at FROM idempotency WHERE key = ?", (key,)).fetchone()
    return (seen[0] - float(committed)) * 1e3


def series(sandbox: Running, count: int, rate: int) -> dict[str, object]:
    """Revoke `count` consents one after another, under `rate` introspections a second."""
    about, pki = sandbox.about, sandbox.state / "pki"
    certificate = (str(pki / "edp-1.pem"), str(pki / "edp-1.key"))
    minted = sandbox.tokens(count)
    context = multiprocessing.get_context("spawn")
    stop, done = context.Event(), context.Queue()
    process = None
    if rate:
        busy = [each["token"] for each in sandbox.tokens(64)]
        process = context.Process(target=load, args=(about, certificate, busy, rate, 120.0, stop, done))
        process.start()
        time.sleep(1.0)
    took = sorted(revoke_and_watch(sandbox, sandbox.state / "ledger/ledger.db", each, certificate) for each in minted)
    stop.set()
    reached = done.get(timeout=30) if process else 0
    if process:
        process.join(30)
    return {
        "introspections_per_second": reached,
        "revocations": count,
        "milliseconds": {f"p{q}": round(took[min(count - 1, int(count * q / 100))], 2) for q in (50, 95, 99)},
    }


def main() -> None:
    """Parse the command line, run both series, print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--revocations", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ccs-bench-") as directory:
        sandbox = Running(Path(directory) / "var").start()
        try:
            result: dict[str, object] = {
                "bench": "effect",
                "idle": series(sandbox, arguments.revocations, 0),
                **{name: series(sandbox, arguments.revocations, rate) for name, rate in LOADS.items()},
            }
        finally:
            sandbox.stop()
    print(json.dumps(result) if arguments.json else readable(result))


def readable(result: dict[str, object]) -> str:
    """One line a series."""
    lines = []
    for name in ("idle", *LOADS):
        one = result[name]
        assert isinstance(one, dict)
        lines.append(
            f"commit to inactive answer, {name} ({one['introspections_per_second']}/s): {one['milliseconds']} ms"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
