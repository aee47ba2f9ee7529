"""What tokens cost: verification of one never seen, refusal of garbage, a hit in the memo, minting, memory.

    .venv/bin/python bench/tokens.py [--json] [--seconds 1.0]

One process, one thread, figures per second of processor time: one core's, also on a machine that is shared. Each
line is the best of three runs; spread is how far the worst was behind, in per cent. The line of the signature
alone is OpenSSL's part.
"""

import argparse
import json
import os
import sys
import time
import tracemalloc
import uuid
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from admin.authorization.minting import GrantedConsent, Minted, Minter, Order
from admin.pki.keys import FileTokenSigner, new_token_key
from engine.clock import Seconds, UnixTime
from engine.consent.meter_points import meter_digest
from engine.consent.records import (
    AccessMode,
    Certificate,
    ClientId,
    ConsentId,
    ConsentRecord,
    ParticipantRecord,
    Role,
    Thumbprint,
)
from engine.consent.states import State
from engine.tokens.claims import VerifiedToken
from engine.tokens.grants import consent_key
from engine.tokens.jws import Compact, split
from engine.tokens.keys import KeySet
from engine.tokens.memo import VerifiedTokens
from engine.tokens.verify import token_digest, verify

ISSUER = "https://localhost:8450"
NOW = UnixTime(1_795_341_600)
METER_KEY = bytes(32)
EDP, ATP = ClientId("edp-1"), ClientId("atp-1")
POINT = "mpan:1000000000012"
RUNS = 3


def order(number: int) -> Order:
    """One consent of its own for each token."""
    consent_id = ConsentId(str(uuid.UUID(int=number, version=4)))
    digest = meter_digest(METER_KEY, consent_key(consent_id), POINT)
    record = ConsentRecord(
        State.ACTIVE,
        1,
        ATP,
        "hh-electricity-import",
        AccessMode.ENDURING,
        NOW,
        UnixTime(NOW + 31_536_000),
        NOW,
        None,
        (digest,),
        (EDP,),
    )
    certificate = Certificate(Thumbprint(bytes(32)), UnixTime(NOW + 31_536_000))
    atp = ParticipantRecord(ATP, Role.ATP, suspended=False, certificates=(certificate,))
    return Order(atp, EDP, (GrantedConsent(consent_id, record, (POINT,)),))


def rate(work: Callable[[int], object], seconds: float) -> tuple[float, float]:
    """Calls a second: the best of some runs, and how far the worst lay behind it, in per cent."""
    rates = []
    for _ in range(RUNS):
        done, started = 0, time.process_time()
        while (elapsed := time.process_time() - started) < seconds:
            for index in range(done, done + 50):
                work(index)
            done += 50
        rates.append(done / elapsed)
    return max(rates), 100 * (1 - min(rates) / max(rates))


class Bench:
    """Gathers figures and prints each as it comes."""

    def __init__(self, seconds: float, *, as_json: bool) -> None:
        self._seconds = seconds
        self._as_json = as_json
        self.figures: dict[str, float] = {}

    def measure(self, name: str, work: Callable[[int], object]) -> None:
        best, spread = rate(work, self._seconds)
        self.note(name, best, f"{best:>12,.0f}/s  {1e6 / best:>9.2f} us  spread {spread:.0f} %")

    def note(self, name: str, value: float, text: str) -> None:
        self.figures[name] = round(value, 1)
        if not self._as_json:
            print(f"{name:<42}{text}")


def verification(bench: Bench, alg: str) -> list[Minted]:
    """Minting and cold verification with one algorithm."""
    signer = FileTokenSigner(new_token_key(alg))
    minter = Minter(ISSUER, signer, Seconds(600.0))
    keys = KeySet.from_jwks(json.dumps({"keys": [json.loads(_jwk(signer))]}).encode(), ISSUER)
    orders = [order(number) for number in range(1000)]
    minted = [minter.mint(one, NOW) for one in orders]
    bench.measure(f"mint {alg}", lambda index: minter.mint(orders[index % 1000], NOW))
    tokens = [one.token for one in minted]
    assert all(isinstance(verify(token, keys, METER_KEY, NOW), VerifiedToken) for token in tokens)
    bench.measure(f"verify a token never seen, {alg}", lambda i: verify(tokens[i % 1000], keys, METER_KEY, NOW))
    if alg == "PS256":
        parts = [one for token in tokens if isinstance(one := split(token), Compact)]
        key = keys.for_header(tokens[0].split(b".")[0])
        assert key is not None
        bench.measure(
            "the signature alone, PS256",
            lambda i: key.verifies(parts[i % 1000].signature, parts[i % 1000].signing_input),
        )
        refusals(bench, keys, tokens)
        memo(bench, keys, tokens)
    return minted


def _jwk(signer: FileTokenSigner) -> bytes:
    import msgspec

    return msgspec.json.encode(signer.public)


def refusals(bench: Bench, keys: KeySet, tokens: list[bytes]) -> None:
    """What garbage costs, from the cheapest kind to the dearest."""
    other = KeySet.from_jwks(
        json.dumps({"keys": [json.loads(_jwk(FileTokenSigner(new_token_key("ES256"))))]}).encode(), ISSUER
    )
    late = UnixTime(NOW + 10_000)
    bad = [token[:-6] + b"AAAAAA" for token in tokens]
    random = [os.urandom(600).hex().encode() for _ in range(1000)]
    bench.measure("refuse a random string", lambda i: verify(random[i % 1000], keys, METER_KEY, NOW))
    bench.measure("refuse an unknown kid", lambda i: verify(tokens[i % 1000], other, METER_KEY, NOW))
    bench.measure("refuse an expired token", lambda i: verify(tokens[i % 1000], keys, METER_KEY, late))
    bench.measure("refuse a bad signature, PS256", lambda i: verify(bad[i % 1000], keys, METER_KEY, NOW))


def remember(memo: VerifiedTokens, found: object) -> VerifiedToken:
    """Put a token that must have been found good."""
    assert isinstance(found, VerifiedToken)
    memo.put(found)
    return found


def memo(bench: Bench, keys: KeySet, tokens: list[bytes]) -> None:
    """A repeat: look-up alone, and with the hash over the token that names it."""
    remembered = VerifiedTokens(1000)
    for token in tokens:
        last = remember(remembered, verify(token, keys, METER_KEY, NOW))
    digests = [token_digest(token) for token in tokens]
    bench.measure("memo hit", lambda i: remembered.get(digests[i % 1000], keys, NOW))
    bench.measure("hash a token and hit", lambda i: remembered.get(token_digest(tokens[i % 1000]), keys, NOW))
    bench.measure("put into a full memo", lambda _: remembered.put(last))


def memory(bench: Bench) -> None:
    """Bytes that one remembered token takes, all told."""
    signer = FileTokenSigner(new_token_key("ES256"))
    minter = Minter(ISSUER, signer, Seconds(600.0))
    keys = KeySet.from_jwks(json.dumps({"keys": [json.loads(_jwk(signer))]}).encode(), ISSUER)
    tokens = [minter.mint(order(number), NOW).token for number in range(2000)]
    remembered = VerifiedTokens(2000)
    tracemalloc.start()
    for token in tokens:
        remember(remembered, verify(token, keys, METER_KEY, NOW))
    used = tracemalloc.get_traced_memory()[0] / 2000
    tracemalloc.stop()
    bench.note("memory of a remembered token", used, f"{used:>12,.0f} B")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object at the end in place of lines")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each of the three runs of a figure")
    options = parser.parse_args()
    bench = Bench(options.seconds, as_json=options.json)
    sizes = [len(one.token) for alg in ("PS256", "ES256", "EdDSA") for one in verification(bench, alg)[:1]]
    memory(bench)
    bench.note("bytes of a token, PS256", sizes[0], f"{sizes[0]:>12,} B")
    if options.json:
        print(json.dumps(bench.figures))


if __name__ == "__main__":
    main()
