"""What signed answers cost: a signature alone, and a whole signed body around a plain one.

    .venv/bin/python bench/signed.py [--json] [--seconds 1.0]

One process, one thread, figures per second of processor time: one core's, also on a machine that is shared. Each
line is the best of three runs; spread is how far the worst was behind, in per cent.
"""

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from engine.clock import UnixTime
from engine.consent.records import ClientId
from engine.decision.answers import INACTIVE
from engine.listener.signed_answers import TYPE, signed_body
from engine.tokens.answer_keys import PemAnswerSigner, new_answer_key

NOW = UnixTime(1_795_341_600)
ISSUER, EDP = "https://localhost:8450", ClientId("edp-3")
RUNS = 3
# As long as an answer about one consent is.
ACTIVE: Final = json.dumps({"active": True, "iss": ISSUER, "authorization_details": "x" * 750}).encode()


def rate(work: Callable[[], object], seconds: float) -> tuple[float, float]:
    """Calls a second: the best of some runs, and how far the worst lay behind it, in per cent."""
    rates = []
    for _ in range(RUNS):
        done, started = 0, time.process_time()
        while (elapsed := time.process_time() - started) < seconds:
            for _ in range(50):
                work()
            done += 50
        rates.append(done / elapsed)
    return max(rates), 100 * (1 - min(rates) / max(rates))


def measure(seconds: float, *, as_json: bool) -> dict[str, float]:
    """All figures, by name."""
    signer, bare = PemAnswerSigner.from_pem(new_answer_key()), ec.generate_private_key(ec.SECP256R1())
    algorithm, digest = ec.ECDSA(SHA256()), hashlib.sha256(b"token").digest()
    works: dict[str, Callable[[], object]] = {
        "the signature alone, P-256": lambda: bare.sign(ACTIVE, algorithm),
        "sign claims as a compact JWS": lambda: signer.sign(TYPE, ACTIVE),
        f"signed yes, {len(ACTIVE)} B": lambda: signed_body(signer, ISSUER, EDP, NOW, digest, ACTIVE),
        "signed no": lambda: signed_body(signer, ISSUER, EDP, NOW, digest, INACTIVE),
    }
    figures = {}
    for name, work in works.items():
        best, spread = rate(work, seconds)
        figures[name] = round(best, 1)
        if not as_json:
            print(f"{name:<42}{best:>12,.0f}/s  {1e6 / best:>9.2f} us  spread {spread:.0f} %")
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object at the end in place of lines")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each of the three runs of a figure")
    options = parser.parse_args()
    figures = measure(options.seconds, as_json=options.json)
    if options.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
