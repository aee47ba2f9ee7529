"""A ledger is lost with its last minutes and restored from a backup, while the node goes on; all real processes.

The node was told of a revocation that the restored ledger no longer knows. It must not forget it, and must not call
itself `current` by anything of the ledger that is gone.
"""

import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from admin.cli import embedded_redis
from admin.cli.children import Child
from admin.cli.up import answers
from engine.feed.redis_names import HEAD
from tests.support.sandbox import Caller, Running, eventually

REDIS_MEMORY = "256mb"
FAR = 10**14  # a ledger that is thirty years old: numbers of its size must pass everywhere


class Parts:
    """A sandbox whose parts are started and stopped one by one, as services are. `ccs up` made it and is gone."""

    def __init__(self, directory: Path) -> None:
        self.sandbox = Running(directory / "var", consents=20, workers=1).start()
        description = (self.sandbox.state / "sandbox.json").read_bytes()
        assert self.sandbox.stop() == 0
        (self.sandbox.state / "sandbox.json").write_bytes(description)  # client commands look there
        self.redis = embedded_redis.start(self.sandbox.state / "redis", max_memory=REDIS_MEMORY)
        self.admin, self.node = self._service("admin"), self._service("node")

    def _service(self, name: str) -> Child:
        settings = self.sandbox.state / "config" / f"{name}.toml"
        words = [sys.executable, "-m", "admin.cli", name, "--config", str(settings)]
        return Child(name, words, self.sandbox.state / f"log/{name}.log")

    def stop(self) -> None:
        self.sandbox.close_callers()
        for child in (self.node, self.admin):
            child.stop()
        self.redis.stop()

    def state(self) -> str:
        return str(self.sandbox.node_status()["state"])

    def revoke(self, consent_id: str) -> dict[str, object]:
        done = self.sandbox.ccs("sandbox", "revoke", consent_id, "--wait-effective")
        told: dict[str, object] = json.loads(done.stdout)
        assert (done.returncode, told["state"]) == (0, "effective"), done.stderr
        return told

    def redis_head(self) -> bytes:
        """Incarnation and position of the feed's copy in Redis."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(20)
            connection.connect(str(self.redis.socket_path))
            connection.sendall(b"GET " + HEAD + b"\r\n")
            return connection.recv(1_000)

    def is_served(self) -> bool:
        """Whether both services answer; a node may be current for two seconds by what the last one heard."""
        about = self.sandbox.about
        return answers(f"{about['issuer']}/jwks", Path(about["ca_file"])) and answers(
            f"{about['node_status_url']}/healthz"
        )


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    made = Parts(tmp_path)
    try:
        made.admin.start()
        made.node.start()
        eventually(made.is_served, 60)
        eventually(lambda: made.state() == "current", 60)
        yield made
    finally:
        made.stop()


class Watch:
    """Asks about tokens without rest; `wrong` holds every active answer that called itself current."""

    def __init__(self, caller: Caller, tokens: list[str]) -> None:
        self.asked = 0
        self.wrong: list[dict[str, object]] = []
        self._caller = caller
        self._tokens = tokens
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(30)

    def _ask(self) -> None:
        while not self._over.is_set():
            for token in self._tokens:
                status, answer = self._caller.introspect(token)
                self.asked += 1
                if status == 200 and answer["active"] and answer.get("ccs_freshness") == "current":
                    self.wrong.append(answer)


def test_a_restored_ledger_is_served_and_nothing_revoked_comes_back(parts: Parts, tmp_path: Path) -> None:
    sandbox, place, key = parts.sandbox, tmp_path / "second", tmp_path / "backup.key"
    place.mkdir()
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(32))
    kept, before, within = sandbox.tokens(3)
    caller = sandbox.caller("edp-1")
    assert all(caller.introspect(minted["token"])[1]["active"] for minted in (kept, before, within))

    parts.revoke(before["consent_id"])
    backed_up = sandbox.ccs("ledger", "backup", str(place), "--key", str(key), "--json")
    assert backed_up.returncode == 0, backed_up.stderr
    parts.revoke(within["consent_id"])
    (lost,) = sandbox.tokens(1)
    assert caller.introspect(lost["token"])[1]["active"] is True
    old = sandbox.node_status()

    with Watch(sandbox.caller("edp-1"), [before["token"], within["token"]]) as watch:
        os.kill(parts.admin.pid, signal.SIGKILL)
        parts.admin.stop()
        for file in (sandbox.state / "ledger").iterdir():
            file.unlink()
        eventually(lambda: parts.state() != "current")
        restored = sandbox.ccs("ledger", "restore", str(place), "--key", str(key), "--json", "--above", str(FAR))
        assert restored.returncode == 0, restored.stderr
        made = json.loads(restored.stdout)
        assert made["previous_incarnation"] == old["incarnation"] != made["incarnation"]
        assert made["restored_seq"] == json.loads(backed_up.stdout)["seq"] < old["applied"] < FAR < made["seq"]
        parts.admin.start()
        eventually(parts.is_served, 60)  # the node may hear of the new incarnation through Redis before calls are taken
        eventually(lambda: sandbox.node_status()["incarnation"] == made["incarnation"], 60)
        eventually(lambda: caller.introspect(kept["token"])[1].get("active") is True, 60)
        asked = watch.asked
        eventually(lambda: watch.asked > asked + 50)
    assert watch.wrong == []

    assert parts.sandbox.node_status()["applied"] >= made["seq"]
    eventually(lambda: made["incarnation"].encode() in parts.redis_head())
    for minted in (before, within, lost):
        eventually(lambda token=minted["token"]: caller.introspect(token) == (200, {"active": False}))
    verified = sandbox.ccs("ledger", "verify", "--json")
    assert verified.returncode == 0, verified.stderr
    assert json.loads(verified.stdout)["head"]["incarnation"] == made["incarnation"]
    assert "ledger.restored" in sandbox.ccs("ledger", "tail", "-n", "30").stdout
    told = parts.revoke(kept["consent_id"])  # what is written from now on reaches the node
    answer = caller.introspect(kept["token"])[1]
    assert not answer["active"] or answer["ccs_freshness"] != "current", (told, answer)
    eventually(lambda: caller.introspect(kept["token"]) == (200, {"active": False}))
