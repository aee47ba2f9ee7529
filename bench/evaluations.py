"""What one decision of a batch costs between parsed request and rendered answer: processor time, no sockets, no TLS.

    .venv/bin/python bench/evaluations.py [--json] [--seconds 1.0] [--items 100]

The endpoint as a worker has it, on a replica of 10,000 consents on disk; each item asks about another token that the
worker has verified before, and one meter point. Each line is the best of three runs, in microseconds of one core for
one decision. `batch_body` and `make_items` serve whoever drives a listener over TLS.
"""

import argparse
import base64
import inspect
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import trio

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from admin.authorization.minting import Minted, Minter
from admin.pki.keys import FileTokenSigner, new_token_key
from bench.introspection import BOOT_ID, THUMBPRINT, Nobody, StandingClock, fill
from bench.tokens import ISSUER, METER_KEY, NOW, POINT, order
from engine.clock import Seconds, UnixTime
from engine.decision.evaluations import Outcome
from engine.listener.callers import Callers
from engine.listener.digests import NoTokenLookups, TokenDigests
from engine.listener.evaluation_answers import BATCH_PATH
from engine.listener.evaluations import Evaluations, Rules
from engine.listener.http1 import Headers, Request
from engine.listener.issuer_keys import IssuerKeys
from engine.listener.read_through import NoReadThrough
from engine.listener.tls import Peer
from engine.replica.reader import Replica
from engine.tokens.claims import VerifiedToken
from engine.tokens.keys import JwkSet, KeySet, PublishedKeys
from engine.tokens.memo import VerifiedTokens
from engine.tokens.verify import verify

RUNS = 3
HEAD: Headers = (
    (b"host", b"localhost:8440"),
    (b"content-type", b"application/json"),
    (b"accept", b"application/json"),
)
ACTION = {
    "name": "share",
    "properties": {
        "dataset_id": "hh-electricity-import",
        "from": "2026-12-01T00:00:00Z",
        "to": "2027-01-01T00:00:00Z",
    },
}


def make_items(tokens: Sequence[Minted], point: str = POINT) -> list[dict[str, object]]:
    """One item for each token."""
    named = [base64.urlsafe_b64encode(one.digest).rstrip(b"=").decode() for one in tokens]
    resource = {"type": "meter_point", "id": point}
    return [{"subject": {"type": "access_token", "id": name}, "resource": resource} for name in named]


def batch_body(items: list[dict[str, object]]) -> bytes:
    """The body of a batch about one window."""
    return json.dumps({"action": ACTION, "evaluations": items}, separators=(",", ":")).encode()


def endpoint_on(directory: Path, memo: VerifiedTokens) -> Evaluations:
    return Evaluations(
        replica=Replica(directory, map_size=1 << 30),
        digests=TokenDigests(memo, NoTokenLookups(), 1000),
        meter_key=METER_KEY,
        clock=StandingClock(),
        boot_id=BOOT_ID,
        read_through=NoReadThrough(),
        claims=Nobody(),
        callers=Callers(Nobody()),
        keys=IssuerKeys(ISSUER),
        counts={outcome: lambda _count: None for outcome in Outcome},
        rules=Rules("https://localhost:8440"),
        draw_id=lambda: "01J",
    )


async def cost(endpoint: Evaluations, bodies: list[bytes], items: int, seconds: float) -> float:
    """Microseconds of processor time a decision, the best of three runs; all must be yes."""
    peer = Peer(THUMBPRINT, UnixTime(NOW + 86_400))
    requests = [Request(b"POST", BATCH_PATH, HEAD, body, keep_alive=True) for body in bodies]
    best = float("inf")
    for _ in range(RUNS):
        done, used = 0, time.process_time()
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            for request in requests:
                answer = endpoint.batch(request, peer)
                response = await answer if inspect.isawaitable(answer) else answer
                assert response.body.count(b'"decision":true') == items, response.body[:300]
            done += items * len(requests)
        best = min(best, (time.process_time() - used) / done)
    return best * 1e6


class Elsewhere(Evaluations):
    """As if something else had been written before each batch: all that was read has to be compared."""

    def batch(self, request, peer):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201 - as the one it stands for
        for kept in self._bearers._kept.values():
            kept.version = -1
        return super().batch(request, peer)


class Touched(Evaluations):
    """As if these very consents had been written before each batch: nothing that was read stays valid."""

    def batch(self, request, peer):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201 - as the one it stands for
        self._bearers._kept.clear()
        return super().batch(request, peer)


async def measure(directory: Path, seconds: float, items: int) -> dict[str, float]:
    signer = FileTokenSigner(new_token_key("PS256"))
    published = msgspec.json.encode(PublishedKeys(ISSUER, JwkSet((signer.public,))))
    fill(directory, published)
    minter, memo = Minter(ISSUER, signer, Seconds(600.0)), VerifiedTokens(100_000)
    tokens = [minter.mint(order(number), NOW) for number in range(items)]
    keys = KeySet.from_published(published, ISSUER)
    for one in tokens:
        found = verify(one.token, keys, METER_KEY, NOW)
        assert isinstance(found, VerifiedToken)
        memo.put(found)
    endpoint = endpoint_on(directory, memo)
    listed = make_items(tokens)
    spaced = json.dumps({"action": ACTION, "evaluations": listed}).encode()
    odd = batch_body([{**item, "unknown": 1} for item in listed])
    figures = {
        f"batch of {items}": await cost(endpoint, [batch_body(listed)], items, seconds),
        "with white space": await cost(endpoint, [spaced], items, seconds),
        "with unknown members": await cost(endpoint, [odd], items, seconds),
        "single items in batches of 1": await cost(endpoint, [batch_body([item]) for item in listed], 1, seconds),
    }
    endpoint.__class__ = Elsewhere
    figures["something else was written"] = await cost(endpoint, [batch_body(listed)], items, seconds)
    endpoint.__class__ = Touched
    figures["records read anew"] = await cost(endpoint, [batch_body(listed)], items, seconds)
    return figures


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--json", action="store_true")
    options.add_argument("--seconds", type=float, default=1.0)
    options.add_argument("--items", type=int, default=100)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="ccs-") as directory:
        figures = trio.run(measure, Path(directory) / "replica", chosen.seconds, chosen.items)
    for name, value in figures.items():
        print(f"{name:32}{value:8.2f} µs {1e6 / value:10,.0f}/s")
    if chosen.json:
        print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
