"""The folder of `ccs up`: certificates, keys, settings files, data. Made at the first start, kept for the next ones.

A marker says what the folder is. It is written first and completed last, so that a start that was broken off is
taken up again, and a folder that belongs to something else is never touched.
"""

import fcntl
import os
import socket
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from admin.cli.free_ports import bound_to, bound_to_any
from engine.config import Base, Port, decode
from engine.errors import Fault, Kind

FORMAT: Final = 1
HOST: Final = "127.0.0.1"
EDPS: Final = ("edp-1", "edp-2", "edp-3")
ATPS: Final = ("atp-1", "atp-2")
NODE: Final = "node-1"
OPERATOR: Final = "operator-1"
PUSHER: Final = "pusher-1"


class BadState(Fault):
    """The folder cannot be used; one sentence says why."""

    kind = Kind.INVALID


class SandboxConfig(Base, frozen=True, kw_only=True):
    """Settings of `ccs up --config FILE`. Ports: 0 = any free one. urls: "" = embedded, in the state folder."""

    introspection_port: Port = 8440
    status_port: Port = 8441
    public_port: Port = 8450
    machine_port: Port = 8451
    console_port: Port = 8452
    pusher_status_port: Port = 8443
    workers: Annotated[int, Meta(ge=0)] = 0
    consents: Annotated[int, Meta(ge=0, le=1_000_000)] = 1_000  # of made people, at the first start
    ledger_url: str = ""
    redis_url: str = ""
    log_level: str = "info"


class Marker(msgspec.Struct, frozen=True):
    """What stands in `state.json`."""

    format: int
    complete: bool
    has_ledger: bool = False  # one was begun; a complete folder has one in any case


def load_sandbox_config(path: Path | None) -> SandboxConfig:
    """Defaults where no file is named. Raises engine.config.BadConfig."""
    return decode(path, SandboxConfig) if path else SandboxConfig()


class StateFolder:
    """Paths below one folder, and the lock that keeps a second `ccs up` out."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        self.pki = self.directory / "pki"
        self.keys = self.directory / "keys"
        self.settings = self.directory / "config"
        self.logs = self.directory / "log"
        self.run = self.directory / "run"
        self.redis = self.directory / "redis"
        self.ledger = self.directory / "ledger"
        self.description = self.directory / "sandbox.json"
        self._marker = self.directory / "state.json"
        self._lock: int | None = None
        self.has_ledger = False  # a ledger was begun in this folder; once it was, an empty database means a loss

    def open(self) -> bool:
        """Take the folder for this process. Returns whether it is new. Raises BadState."""
        if set(str(self.directory)) & set('"\\\n'):
            raise BadState(f"settings files cannot hold such a name: {self.directory!r}")
        try:
            new = self._look()
            for path in (self.pki, self.keys, self.settings, self.logs, self.run, self.redis, self.ledger):
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._take_lock()
        except OSError as error:
            raise BadState(f"{self.directory}: {error.strerror}") from error
        if new:
            self._mark(complete=False)
        return new

    def close(self) -> None:
        """Let go of the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def note_ledger(self) -> None:
        """From now on the ledger must be there."""
        self.has_ledger = True
        self._mark(complete=False)

    def complete(self) -> None:
        """Everything that a later start relies on has been made."""
        self._mark(complete=True)

    def check_files(self, *paths: Path) -> None:
        """Refuse a folder that has lost something it cannot make again."""
        missing = [str(path.relative_to(self.directory)) for path in paths if not path.is_file()]
        if missing:
            raise BadState(
                f"{self.directory}: {', '.join(missing)} is missing; put it back or start with --state elsewhere"
            )

    def _look(self) -> bool:
        if not self.directory.exists() or not any(self.directory.iterdir()):
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            return True
        try:
            marker = msgspec.json.decode(self._marker.read_bytes(), type=Marker)
        except FileNotFoundError:
            raise BadState(f"{self.directory} holds something else: name an empty folder with --state") from None
        except msgspec.MsgspecError:
            raise BadState(f"{self._marker} cannot be read: name another folder with --state") from None
        if marker.format != FORMAT:
            raise BadState(
                f"{self.directory} was made by another version (format {marker.format}, this one has {FORMAT})"
            )
        self.has_ledger = marker.has_ledger or marker.complete
        return not marker.complete

    def _take_lock(self) -> None:
        self._lock = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadState(f"another `ccs up` runs on {self.directory}") from None

    def _mark(self, *, complete: bool) -> None:
        write_atomically(self._marker, msgspec.json.encode(Marker(FORMAT, complete, self.has_ledger)))


def write_atomically(path: Path, content: bytes) -> None:
    """Readers see the old file or the new one, never a part; mode 0600."""
    fresh = path.with_name(path.name + ".new")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
    fresh.replace(path)


def settle_ports(config: SandboxConfig) -> SandboxConfig:
    """Choose free ports for zeros and check the others. Raises BadState naming the setting and the port."""
    names = [name for name in config.__struct_fields__ if name.endswith("_port")]
    names.sort(key=lambda name: getattr(config, name) == 0)  # those that are named first, or one might be drawn
    held: list[socket.socket] = []
    try:
        chosen = {name: _bind(name, getattr(config, name), held) for name in names}
    finally:
        for one in held:
            one.close()
    return msgspec.structs.replace(config, **chosen)


def _bind(name: str, port: int, held: list[socket.socket]) -> int:
    try:
        probe = bound_to(HOST, port) if port else bound_to_any(HOST)
    except OSError as error:
        setting = name.replace("_", "-")
        raise BadState(
            f"port {port} is in use ({error.strerror}): free it or set {setting} in a file for --config"
        ) from None
    held.append(probe)
    number: int = probe.getsockname()[1]
    return number
