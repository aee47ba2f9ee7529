"""A million consents: an empty node until it is `current`, and a restart with its replica until the first answer.

A sandbox is seeded through its own API and stopped; then Redis, the admin application and a node are started one by
one, as their services would be, and the node is timed from its start.

    .venv/bin/python -m bench.million [--consents 1000000] [--json]
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
import tomllib
from pathlib import Path

from admin.cli import embedded_redis
from admin.cli.children import Child
from admin.cli.up import REDIS_MEMORY, answers
from engine.clock import Seconds
from tests.support.sandbox import Caller, Running

PATIENCE = Seconds(600.0)


def service(name: str, sandbox: Running) -> Child:
    """One service of the sandbox, as `ccs up` starts it."""
    settings = sandbox.state / "config" / f"{name}.toml"
    return Child(
        name, [sys.executable, "-m", "admin.cli", name, "--config", str(settings)], sandbox.state / "log/bench.log"
    )


def seconds_to(child: Child, ready: str, ca_file: Path | None = None) -> float:
    """Start a service; how long until the address answers 200."""
    began = time.monotonic()
    child.start()
    child.wait_ready(lambda: answers(ready, ca_file), PATIENCE)
    return time.monotonic() - began


def seconds_to_first_answer(child: Child, sandbox: Running, about: dict[str, str], token: str) -> float:
    """Start a node; how long until an introspection is answered 200."""
    context = sandbox.context("edp-1")
    began = time.monotonic()
    child.start()
    while time.monotonic() - began < PATIENCE:
        caller = Caller(about["introspection_endpoint"], context)
        try:
            if caller.introspect(token)[0] == 200:
                break
        except OSError:
            time.sleep(0.005)
        finally:
            caller.close()
    return time.monotonic() - began


def worker_pids(sandbox: Running) -> list[int]:
    """The workers of the node that runs on this sandbox's folder."""
    found: list[int] = json.loads((sandbox.state / "run/node/node.json").read_text())["pids"]["workers"]
    return found


def private_megabytes(pid: int) -> float:
    """What a process holds for itself alone; the replica's pages are shared with the other workers."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private_")) / 1024


def measure(directory: Path, consents: int) -> dict[str, object]:
    """Seed, stop, start one by one, time."""
    sandbox = Running(directory / "var", consents=consents, patience=PATIENCE)
    began = time.monotonic()
    sandbox.start()
    seeded = time.monotonic() - began
    about, (minted,) = sandbox.about, sandbox.tokens()
    sandbox.stop()
    node_settings = tomllib.loads((sandbox.state / "config/node.toml").read_text())
    redis = embedded_redis.start(sandbox.state / "redis", max_memory=REDIS_MEMORY)
    admin, node = service("admin", sandbox), service("node", sandbox)
    current = f"{about['node_status_url']}/readyz/current"
    try:
        admin_ready = seconds_to(admin, f"{about['issuer']}/jwks", sandbox.state / "pki/ca.pem")
        shutil.rmtree(node_settings["replica"]["directory"])
        empty = seconds_to(node, current)
        node.stop()
        again = seconds_to(node, current)
        node.stop()
        first = seconds_to_first_answer(node, sandbox, about, minted["token"])
        private = max(private_megabytes(pid) for pid in worker_pids(sandbox))
    finally:
        node.stop()
        admin.stop()
        redis.stop()
    return {
        "bench": "million",
        "consents": consents,
        "worker_private_megabytes": round(private, 1),
        "seconds": {
            "seeding through the API": round(seeded, 1),
            "admin restart to ready": round(admin_ready, 2),
            "empty node to current": round(empty, 2),
            "node restart to current": round(again, 2),
            "node restart to first answer": round(first, 2),
        },
    }


def main() -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--consents", type=int, default=1_000_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ccs-bench-") as directory:
        result = measure(Path(directory), arguments.consents)
    if arguments.json:
        print(json.dumps(result))
        return
    assert isinstance(result["seconds"], dict)
    print(f"{'private memory of a worker':<32}{result['worker_private_megabytes']:>8} MB")
    for name, seconds in result["seconds"].items():
        print(f"{name:<32}{seconds:>8} s")


if __name__ == "__main__":
    main()
