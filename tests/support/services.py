"""A sandbox whose services are started and stopped one by one, as in an installation, for losing and restoring them."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from admin.cli import embedded_redis
from admin.cli.children import Child
from tests.support.sandbox import Running, eventually

REDIS_MEMORY = "256mb"
START_WITHIN = 60.0


class Services:
    """Redis, admin and node on the state of a `ccs up` that has made everything and is gone."""

    def __init__(self, directory: Path, *, consents: int = 20) -> None:
        self.sandbox = Running(directory / "var", consents=consents, workers=1).start()
        description = (self.sandbox.state / "sandbox.json").read_bytes()
        assert self.sandbox.stop() == 0
        (self.sandbox.state / "sandbox.json").write_bytes(description)  # client commands look there
        self._place, self._key = directory / "second", directory / "backup.key"
        self._place.mkdir()
        self._key.touch(mode=0o600)
        self._key.write_bytes(os.urandom(32))
        self.redis = embedded_redis.start(self.sandbox.state / "redis", max_memory=REDIS_MEMORY)
        self.admin, self.node = self._service("admin"), self._service("node")

    def _service(self, name: str) -> Child:
        settings = self.sandbox.state / "config" / f"{name}.toml"
        words = [sys.executable, "-m", "admin.cli", name, "--config", str(settings)]
        return Child(name, words, self.sandbox.state / f"log/{name}.log")

    def start(self) -> "Services":
        self.start_admin()
        self.start_node()
        eventually(lambda: self.state() == "current", START_WITHIN)
        return self

    def start_admin(self) -> None:
        self.admin.start()
        eventually(lambda: self.ccs("ledger", "recovering").returncode == 0, START_WITHIN)

    def start_node(self) -> None:
        self.node.start()
        eventually(self._is_reached, START_WITHIN)

    def kill_admin(self) -> None:
        os.kill(self.admin.pid, signal.SIGKILL)
        self.admin.stop()

    def stop_node(self) -> None:
        self.sandbox.close_callers()
        self.node.stop()

    def stop(self) -> None:
        self.sandbox.close_callers()
        for child in (self.node, self.admin):
            child.stop()
        self.redis.stop()

    def ccs(self, *arguments: str) -> Any:
        return self.sandbox.ccs(*arguments)

    def done(self, *arguments: str) -> Any:
        """The JSON of a client command that must succeed."""
        done = self.ccs(*arguments)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def back_up(self) -> Any:
        return self.done("ledger", "backup", str(self._place), "--key", str(self._key), "--json")

    def lose_and_restore(self) -> Any:
        """Lose the ledger with whatever came after the backup, and make it anew. The admin service must not run."""
        for file in (self.sandbox.state / "ledger").iterdir():
            file.unlink()
        return self.done("ledger", "restore", str(self._place), "--key", str(self._key), "--json")

    def state(self) -> str:
        return str(self.sandbox.node_status()["state"])

    def tags(self, count: int = 200) -> list[str]:
        """Of the ledger's newest events."""
        lines = self.ccs("ledger", "tail", "-n", str(count), "--json").stdout.splitlines()
        return [json.loads(line)["tag"] for line in lines]

    def _is_reached(self) -> bool:
        try:
            return bool(self.sandbox.node_status())
        except OSError:
            return False
