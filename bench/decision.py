"""What a decision costs: judging freshness, deciding, rendering; and, on the writing side, reading and granting.

    .venv/bin/python bench/decision.py [--json] [--seconds 0.5]

One process, one thread, microseconds of processor time a call. Each line is the best of three runs; spread is how
far the worst was behind, in per cent. The cases are decision vectors, so what is timed is what is tested.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from admin.consents.commands import grant
from admin.consents.forms import read_grant
from engine.clock import BootTime
from engine.decision.answers import render
from engine.decision.decide import decide
from engine.decision.freshness import freshness_of
from engine.decision.questions import Active
from tests.support import consents
from tests.support.decision_vectors import METER_KEY, NOW, Case, cases

RUNS = 3
BOOT = BootTime(200_000.0)
VECTORS = {
    "decide: one consent": "the provider that the token is for is told what it may release",
    "decide: share covered": "a share inside the consent is good, its edges included",
    "decide: two consents": "two consents are both shown, in the token's order",
    "decide: revoked": "a revoked consent is not active",
}


def deciding(case: Case) -> Callable[[], object]:
    ask, token, records, fresh = (
        case.question(NOW),
        case.verified(NOW, METER_KEY),
        case.records(NOW, METER_KEY),
        case.freshness(NOW),
    )
    return lambda: decide(ask, token, records, fresh, NOW)


def subjects() -> dict[str, Callable[[], object]]:
    by_name = {case.name: case for case in cases()}
    plain = by_name[VECTORS["decide: one consent"]]
    cut = by_name["a window that was cut after the token was issued is shown cut"]
    bound, policy = plain.bound(NOW, BOOT, "boot", "i", 1), plain.policy()
    timed: dict[str, Callable[[], object]] = {
        "freshness": lambda: freshness_of(bound, policy, boot_id="boot", boot=BOOT, now=NOW)
    }
    timed |= {line: deciding(by_name[name]) for line, name in VECTORS.items()}
    for line, case in (("render: as issued", plain), ("render: window cut since", cut)):
        answer = deciding(case)()
        assert isinstance(answer, Active)
        timed[line] = partial(render, answer)
    form, parties = consents.grant_form(), consents.participants()
    asked = read_grant(form, consents.NOW)
    timed["read a grant's form"] = lambda: read_grant(form, consents.NOW)
    timed["grant"] = lambda: grant(
        asked,
        parties,
        consent_id=consents.CONSENT_ID,
        meter_key=consents.METER_KEY,
        act=consents.act(),
        now=consents.NOW,
    )
    return timed


def microseconds(call: Callable[[], object], seconds: float) -> float:
    """Processor time of one call, over a run of about so many seconds."""
    count, began = 0, time.process_time()
    while (spent := time.process_time() - began) < seconds:
        for _ in range(1000):
            call()
        count += 1000
    return spent / count * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seconds", type=float, default=0.5, help="length of each of three runs of each line")
    options = parser.parse_args()
    found = {name: [microseconds(call, options.seconds) for _ in range(RUNS)] for name, call in subjects().items()}
    lines = {name: (min(runs), (max(runs) / min(runs) - 1) * 100) for name, runs in found.items()}
    if options.json:
        print(json.dumps({name: {"us": best, "spread_percent": spread} for name, (best, spread) in lines.items()}))
        return
    for name, (best, spread) in lines.items():
        print(f"{name:<28}{best:>9.2f} us   spread {spread:>4.0f} %")


if __name__ == "__main__":
    main()
