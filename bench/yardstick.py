"""How fast the machine is at this moment: what makes figures of two days comparable on a machine that others share.

The yardstick is work that this project has no part in: raw PS256 verifications by OpenSSL, one core, CPU clock. One
that takes REFERENCE is a machine of speed 1.0, on which the targets were set. The speed tells what a figure is worth;
no figure is corrected by it.

    .venv/bin/python -m bench.yardstick
"""

import time
from functools import partial
from statistics import median
from typing import Final

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

REFERENCE: Final = 24.0  # microseconds of one verification with a key of 2,048 bits
PIECES: Final = 9  # short ones, of which the median counts: a neighbour's burst spoils few of them
EACH: Final = 600  # verifications in a piece: about 15 ms
BETWEEN: Final = 3.0  # seconds between two looks at a machine that is too slow


def speed() -> float:
    """The machine's speed now; 1.0 = the targets' own machine. Takes about a fifth of a second."""
    key = rsa.generate_private_key(65_537, 2_048)
    form = padding.PSS(padding.MGF1(SHA256()), 32)
    verify = partial(key.public_key().verify, key.sign(b"yardstick", form, SHA256()), b"yardstick", form, SHA256())
    return REFERENCE / median(_microseconds(verify) for _ in range(PIECES))


def wait_for(least: float, patience: float) -> float:
    """Wait until the machine is as fast as that, at most `patience` seconds; its speed then.

    The moment is chosen by the yardstick alone, before anything is measured: no figure chooses itself.
    """
    until = time.monotonic() + patience
    while (now := speed()) < least and time.monotonic() < until:
        time.sleep(BETWEEN)
    return now


def _microseconds(verify: "partial[None]") -> float:
    begun = time.process_time_ns()
    for _ in range(EACH):
        verify()
    return (time.process_time_ns() - begun) / EACH / 1_000


if __name__ == "__main__":
    print(f"speed {speed():.2f}")
