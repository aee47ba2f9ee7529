"""`ccs guard` whose circuit waits a part of its time: a run of minutes sees outages end that would take hours.

Only the waits of the circuit itself are divided; everything else is the
program as it is shipped. At pace 1 nothing is changed, and `ccs guard` itself is started.
"""

import argparse
from pathlib import Path

from engine.clock import Seconds
from engine.guard import circuit
from engine.guard.config import load_guard_config
from engine.guard.process import run_guard

WAITS = ("BUFFER", "PROBE_EVERY", "PROBE_JITTER", "SUSPENDED_EVERY")


def quicken(pace: float) -> None:
    """Divide the circuit's waits."""
    for name in WAITS:
        setattr(circuit, name, Seconds(getattr(circuit, name) / pace))
    ramp = tuple((Seconds(until / pace), part) for until, part in circuit.RAMP)
    circuit.RAMP = ramp  # type: ignore[misc,assignment]  # a constant of the program, which only this run changes


def main() -> None:
    """Run until SIGTERM."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--pace", type=float, required=True)
    asked.add_argument("--config", type=Path, required=True)
    chosen = asked.parse_args()
    quicken(chosen.pace)
    run_guard(load_guard_config(chosen.config))


if __name__ == "__main__":
    main()
