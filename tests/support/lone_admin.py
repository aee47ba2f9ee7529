"""The admin application in a process of its own on a sandbox's state folder: no Redis, no engine, the same ports."""

import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from admin.cli.sandbox_identities import make_identities
from admin.cli.state_folder import SandboxConfig, StateFolder, load_sandbox_config, settle_ports
from admin.cli.up_settings import LEDGER_FILE, describe, write_admin_settings

ROOT = Path(__file__).parents[2]
WITHIN = 60  # seconds: a bound against hanging


class LoneAdmin:
    """What runs on the folder. config: with the ports that it takes at each start."""

    def __init__(self, directory: Path) -> None:
        self.folder = StateFolder(directory)
        make_identities(self.folder, new=self.folder.open())
        self.config = settle_ports(_all_free())
        settings = write_admin_settings(self.folder, self.config, "")
        settings.write_text(settings.read_text().replace('[redis]\nurl = ""\n', ""))
        self._argv = [sys.executable, "-m", "admin.cli", "admin", "--config", str(settings)]
        self._runtime = self.folder.run / "admin.json"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> "LoneAdmin":
        """It serves when this returns."""
        self._runtime.unlink(missing_ok=True)
        self.process = subprocess.Popen(
            [*self._argv, "--runtime", str(self._runtime)],
            cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + WITHIN
        while not self._runtime.exists():
            assert self.process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        describe(self.folder, self.config, "", {"admin": self.process.pid})
        return self

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(WITHIN)

    def argv(self, *arguments: str) -> list[str]:
        """A client command on this folder."""
        return [sys.executable, "-m", "admin.cli", *arguments, "--state", str(self.folder.directory)]

    def ccs(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.argv(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=WITHIN, check=False
        )

    def rows(self, query: str) -> list[Any]:
        """What the ledger's file holds."""
        with closing(sqlite3.connect(f"file:{self.folder.ledger / LEDGER_FILE}?mode=ro", uri=True)) as ledger:
            return ledger.execute(query).fetchall()


def _all_free() -> SandboxConfig:
    config = load_sandbox_config(None)
    ports = dict.fromkeys((name for name in config.__struct_fields__ if name.endswith("_port")), 0)
    return msgspec.structs.replace(config, **ports)
