"""What one introspection costs between parsed request and rendered answer: processor time, no sockets, no TLS.

    .venv/bin/python bench/introspection.py [--json] [--seconds 1.0]

The endpoint as a worker has it, on a replica of 10,000 consents on disk. Each line is the best of three runs, in
microseconds of one core; `verified anew` asks about tokens never seen before, the others about the same hundred.
"""

import argparse
import json
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from admin.authorization.minting import Minter, Order
from admin.pki.keys import FileTokenSigner, new_token_key
from bench.tokens import EDP, ISSUER, METER_KEY, NOW, POINT, order
from engine.clock import BootTime, Seconds, UnixTime
from engine.consent.records import Certificate, ClientId, ConsentId, ParticipantRecord, Role, Thumbprint
from engine.decision.freshness import MAX_SILENCE, Bound
from engine.decision.questions import ClaimResult
from engine.feed.entries import Entry, EntryKind
from engine.listener.callers import Callers
from engine.listener.http1 import Headers, Request, Response
from engine.listener.introspection import Introspection, Outcome
from engine.listener.issuer_keys import IssuerKeys
from engine.listener.read_through import NoReadThrough
from engine.listener.security import SecurityEvent
from engine.listener.tls import Peer
from engine.replica.reader import Replica
from engine.replica.store import ReplicaStore
from engine.tokens.grants import consent_key
from engine.tokens.keys import JwkSet, PublishedKeys
from engine.tokens.memo import VerifiedTokens

CONSENTS = 10_000
TOKENS = 100
FRESH_TOKENS = 1500
RUNS = 3
INCARNATION, BOOT_ID, UP = "00000000000000a1", "11111111-1111-4111-8111-111111111111", BootTime(5000.0)
THUMBPRINT = Thumbprint(b"e" * 32)
HEAD: Headers = (
    (b"host", b"localhost:8440"),
    (b"content-type", b"application/x-www-form-urlencoded"),
    (b"accept", b"application/json"),
    (b"content-length", b"1204"),
)
SHARE = {
    "ccs_dataset_id": "hh-electricity-import",
    "ccs_mpxn": POINT,
    "ccs_from": "2026-12-01T00:00:00Z",
    "ccs_to": "2027-01-01T00:00:00Z",
}


class StandingClock:
    def now(self) -> UnixTime:
        return NOW

    def boot(self) -> BootTime:
        return UP


class Nobody:
    """No claims and no security events come up here."""

    async def claim(self, _consent: ConsentId, _edp: ClientId, _share: str) -> ClaimResult:
        raise NotImplementedError

    def record(self, event: SecurityEvent) -> None:
        raise NotImplementedError(event.kind)


def fill(directory: Path, published: bytes) -> None:
    """A replica as a feeder leaves it."""
    store = ReplicaStore(directory, map_size=1 << 30, boot_id=BOOT_ID)
    generation = store.begin_generation()
    generation.seal(Bound(INCARNATION, 0, "", BootTime(0.0), UnixTime(0)))
    store.adopt(generation)
    store.put_keys(published)
    certificate = Certificate(THUMBPRINT, UnixTime(NOW + 86_400))
    edp = ParticipantRecord(EDP, Role.EDP, suspended=False, certificates=(certificate,), max_requests_per_second=10**9)
    records: list[tuple[EntryKind, bytes, Any]] = [
        (EntryKind.PARTICIPANT, EDP.encode(), edp),
        (EntryKind.PARTICIPANT, order(0).atp.client_id.encode(), order(0).atp),
    ]
    for number in range(CONSENTS):
        granted = order(number).consents[0]
        records.append((EntryKind.CONSENT, consent_key(granted.consent_id), granted.record))
    entries = [
        Entry(INCARNATION, seq, kind, key, msgspec.msgpack.encode(record))
        for seq, (kind, key, record) in enumerate(records, 1)
    ]
    store.apply(entries, Bound(INCARNATION, len(entries), BOOT_ID, BootTime(UP + MAX_SILENCE), NOW))
    store.close()


def endpoint_on(directory: Path) -> Introspection:
    return Introspection(
        replica=Replica(directory, map_size=1 << 30),
        memo=VerifiedTokens(100_000),
        meter_key=METER_KEY,
        clock=StandingClock(),
        boot_id=BOOT_ID,
        read_through=NoReadThrough(),
        claims=Nobody(),
        callers=Callers(Nobody()),
        keys=IssuerKeys(ISSUER),
        counts={outcome: lambda: None for outcome in Outcome},
    )


def requests_for(tokens: Sequence[bytes], **fields: str) -> list[Request]:
    bodies = [urlencode({"token": token.decode(), **fields}).encode() for token in tokens]
    return [Request(b"POST", b"/introspect", HEAD, body, keep_alive=True) for body in bodies]


def for_another(mine: Order) -> Order:
    """The same consent with the data at another EDP."""
    other = ClientId("edp-2")
    (consent,) = mine.consents
    there = msgspec.structs.replace(consent, record=msgspec.structs.replace(consent.record, edps=(other,)))
    return msgspec.structs.replace(mine, edp=other, consents=(there,))


def said(answer: Response | Awaitable[Response]) -> Response:
    """None of these requests has to wait for anything."""
    assert isinstance(answer, Response)
    return answer


def cost(endpoint: Introspection, requests: list[Request], expected: bytes, seconds: float) -> float:
    """Microseconds of processor time an answer, the best of three runs."""
    peer = Peer(THUMBPRINT, UnixTime(NOW + 86_400))
    assert all(said(endpoint(request, peer)).body.startswith(expected) for request in requests)
    best = float("inf")
    for _ in range(RUNS):
        done, used = 0, time.process_time()
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            for request in requests:
                said(endpoint(request, peer))
            done += len(requests)
        best = min(best, (time.process_time() - used) / done)
    return best * 1e6


def cost_of_new(endpoint: Introspection, requests: list[Request]) -> float:
    peer = Peer(THUMBPRINT, UnixTime(NOW + 86_400))
    used = time.process_time()
    for request in requests:
        said(endpoint(request, peer))
    return (time.process_time() - used) / len(requests) * 1e6


def measure(directory: Path, seconds: float) -> dict[str, float]:
    signer = FileTokenSigner(new_token_key("PS256"))
    fill(directory, msgspec.json.encode(PublishedKeys(ISSUER, JwkSet((signer.public,)))))
    minter = Minter(ISSUER, signer, Seconds(600.0))
    tokens = [minter.mint(order(number), NOW).token for number in range(TOKENS)]
    fresh = [minter.mint(order(TOKENS + number), NOW).token for number in range(FRESH_TOKENS)]
    foreign = [minter.mint(for_another(order(number)), NOW).token for number in range(TOKENS)]
    endpoint = endpoint_on(directory)
    yes, no = b'{"active":true', b'{"active":false}'
    return {
        "active": cost(endpoint, requests_for(tokens), yes, seconds),
        "active, with a share": cost(endpoint, requests_for(tokens, **SHARE), yes, seconds),
        "inactive, another audience": cost(endpoint, requests_for(foreign), no, seconds),
        "inactive, garbage": cost(endpoint, requests_for([uuid.uuid4().hex.encode()]), no, seconds),
        "active, verified anew": cost_of_new(endpoint, requests_for(fresh)),
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--json", action="store_true")
    options.add_argument("--seconds", type=float, default=1.0)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="ccs-") as directory:
        figures = measure(Path(directory) / "replica", chosen.seconds)
    if chosen.json:
        print(json.dumps({name: round(value, 2) for name, value in figures.items()}))
        return
    for name, value in figures.items():
        print(f"{name:28}{value:8.1f} µs {1e6 / value:10,.0f}/s")


if __name__ == "__main__":
    main()
