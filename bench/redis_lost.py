"""Redis killed under load, and started again: how many answers were not `current`, and how many requests failed.

A whole installation: Redis, admin application with its ledger, one node with one worker. An open-loop generator offers
introspections; in the middle Redis is killed with SIGKILL, stays away for longer than a node is current by itself, and
is started again on its files. Each request asks about one of many tokens that stand. The worst of all rounds counts.

    .venv/bin/python -m bench.redis_lost [--quick] [--json]

JSON: not_current_share (of all that was offered: flagged, refused or failed), failed (neither answered 200 nor in
time), longest_gap_ms (between two `current` answers), by_https (checks that carried the node meanwhile), rounds.
"""

import argparse
import json
import time
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from bench.openloop import Load, Offering, Tally, milliseconds
from bench.target import Door, ending_of, note
from tests.support.outages import KNOWING, Site

RATE = 3_000  # introspections a second
CONNECTIONS = 64
TOKENS = 500
BEFORE, AWAY, AFTER = 3.0, 5.0, 4.0  # seconds of a round; AFTER covers the return of every link
ROUNDS = 3
CURRENT = b'"ccs_freshness":"current"'


def load_of(rate: int, seconds: float) -> Load:
    """The callers of one round. A good answer is a `current` one."""
    return Load(rate=rate, count=round(rate * seconds), connections=CONNECTIONS, expected=CURRENT, spin=False)


def a_round(site: Site, offering: Offering, rate: int) -> dict[str, object]:
    """One loss of Redis."""
    site.whole()
    checks = site.feed_checks()
    load = load_of(rate, BEFORE + AWAY + AFTER)
    offering.begin(load)
    time.sleep(BEFORE)
    site.redis.kill()
    time.sleep(AWAY)
    site.redis.restart()
    tally = offering.finish()
    site.wait_asking_redis()
    return {**told(tally, load), "by_https": round(site.feed_checks() - checks)}


def told(tally: Tally, load: Load) -> dict[str, object]:
    """What one round says."""
    not_current = load.count - len(tally.good) - tally.late
    refused = tally.answered - tally.statuses.get("200", 0)
    return {
        "offered": load.count,
        "current": load.count - not_current,
        "not_current": not_current,
        "flagged": tally.wrong,  # 200, and not `current`
        "failed": refused + tally.timeouts + tally.given_up + tally.broken,
        "statuses": tally.statuses,
        "longest_gap_ms": longest_gap(tally),
        "latency_ms": milliseconds(tally.good),
    }


def longest_gap(tally: Tally) -> float:
    """Milliseconds between two `current` answers, the arrivals of which are spread evenly enough to see one."""
    came = sorted(due + took for due, took in zip(tally.due, tally.good, strict=True))
    return round(max((later - sooner for sooner, later in pairwise(came)), default=0.0) * 1e3, 1)


def measure(*, rate: int, rounds: int) -> dict[str, object]:
    """A whole run."""
    with TemporaryDirectory(prefix="ccs-bench-") as directory:
        site = Site(Path(directory), workers=1)
        try:
            note("minting tokens")
            endings = [ending_of(each["token"].encode()) for each in site.tokens(KNOWING, TOKENS)]
            pki = site.folder.pki
            files = (str(pki / "ca.pem"), str(pki / f"{KNOWING}.pem"), str(pki / f"{KNOWING}.key"))
            door = Door(site.settings.introspection_port, *files, site.workers[0])
            with Offering(door, endings) as offering:
                results = []
                for number in range(rounds):
                    note(f"round {number + 1}: {rate}/s, Redis killed after {BEFORE:.0f} s for {AWAY:.0f} s")
                    results.append(a_round(site, offering, rate))
        finally:
            site.close()
    return {"bench": "redis_lost", "offered_per_second": rate, **summary(results), "rounds": results}


def summary(rounds: list[dict[str, object]]) -> dict[str, object]:
    """The worst of the rounds."""

    def worst(name: str) -> float:
        return max(msgspec.convert(each[name], float) for each in rounds)

    shares = [msgspec.convert(r["not_current"], float) / msgspec.convert(r["offered"], float) for r in rounds]
    return {
        "not_current_share": round(max(shares), 6),
        "failed": round(worst("failed")),
        "longest_gap_ms": worst("longest_gap_ms"),
    }


def readable(result: dict[str, object]) -> str:
    """A line for each round."""
    lines = [
        f"{each['offered']} offered: {each['current']} current, {each['flagged']} flagged, {each['failed']} failed; "
        f"longest gap {each['longest_gap_ms']} ms; {each['by_https']} checks over HTTPS; {each['latency_ms']} ms"
        for each in msgspec.convert(result["rounds"], list[dict[str, object]])
    ]
    return "\n".join(lines)


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=int, default=RATE)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    arguments = parser.parse_args()
    result = measure(rate=arguments.rate, rounds=1 if arguments.quick else ROUNDS)
    print(readable(result))
    if arguments.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
