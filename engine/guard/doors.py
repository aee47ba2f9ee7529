"""The sidecar's ways in: a unix socket in a folder of its owner, or loopback with a secret. Bound before anything else.

A unix socket is made with mode 0600 in a folder that nobody else may write to: else somebody could put another in its
place and be told every token. A socket that was left behind by a guard that died is cleared away; one that somebody
answers on is not.
"""

import contextlib
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from engine.config import BadConfig, read_private
from engine.guard.config import Sidecar
from engine.guard.doorkeeper import MIN_SECRET, Door, is_secret, loopback_hosts
from engine.listener.sockets import CannotListen, is_loopback, listen, port_of

_LONGEST_PATH: Final = 107  # bytes; `sun_path` of unix(7) less its final zero
_BACKLOG: Final = 1024
_OTHERS_MAY_WRITE: Final = 0o022


class Bound:
    """Open sockets, each with the door that stands behind it. hosts of a door hold the port that it got."""

    def __init__(self) -> None:
        self.doors: list[tuple[list[socket.socket], Door]] = []
        self.port: int | None = None  # of loopback
        self._paths: list[tuple[Path, int]] = []  # sockets in the file system, by inode

    def close(self) -> None:
        """Close what was not given away, and take the sockets out of the file system."""
        for sockets, _ in self.doors:
            for bound in sockets:
                bound.close()
        for path, inode in self._paths:
            with contextlib.suppress(OSError):
                if path.lstat().st_ino == inode:  # else it is somebody else's by now
                    path.unlink()

    def add_unix(self, path: Path) -> None:
        """Bind a unix socket. Raises BadConfig, CannotListen."""
        bound = _bind_unix(path)
        self._paths.append((path, path.lstat().st_ino))
        self.doors.append(([bound], Door()))

    def add_loopback(self, host: str, port: int, secret_file: Path) -> None:
        """Bind loopback, behind a secret. Raises BadConfig, CannotListen."""
        secret = read_secret(secret_file)
        sockets = listen(host, port)
        self.port = port_of(sockets)
        self.doors.append((sockets, Door(loopback_hosts(self.port), secret)))


@contextlib.contextmanager
def bind(config: Sidecar) -> Iterator[Bound]:
    """Open the ways in that the settings name. Raises BadConfig, CannotListen."""
    check(config)
    bound = Bound()
    try:
        if config.socket is not None:
            bound.add_unix(config.socket)
        if config.port is not None and config.secret_file is not None:
            bound.add_loopback(config.host, config.port, config.secret_file)
        yield bound
    finally:
        bound.close()


def check(config: Sidecar) -> None:
    """Raises BadConfig where there is no way in, or one that is open to others."""
    if config.socket is None and config.port is None:
        raise BadConfig("sidecar: needs `socket`, or `port` with `secret-file`")
    if config.port is None:
        return
    if not is_loopback(config.host):
        raise BadConfig(f"sidecar.host must be a loopback address, not {config.host}")
    if config.secret_file is None:
        raise BadConfig("sidecar.port needs `secret-file`: every program and user of this machine reaches loopback")
    read_secret(config.secret_file)


def read_secret(path: Path) -> bytes:
    """The secret in a private file, without the line end that editors leave. Raises BadConfig."""
    secret = read_private(path).strip()
    if not is_secret(secret):
        raise BadConfig(
            f"{path}: needs {MIN_SECRET} or more of letters, digits, - . _ ~ + / (try: openssl rand -hex 32)"
        )
    return secret


def _bind_unix(path: Path) -> socket.socket:
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise BadConfig(f"sidecar.socket: {path} is longer than {_LONGEST_PATH} bytes")
    try:
        _check_directory(path.parent)
        _clear_left_over(path)
        return _bound(path)
    except OSError as error:
        raise CannotListen(f"sidecar.socket {path}: {error.strerror or error}") from error


def _check_directory(directory: Path) -> None:
    """Ours, and writable for nobody else; made where it is missing."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = directory.stat()
    if found.st_uid != os.geteuid():
        raise BadConfig(f"sidecar.socket: {directory} belongs to another user")
    if found.st_mode & _OTHERS_MAY_WRITE:
        raise BadConfig(f"sidecar.socket: others may write to {directory}; run: chmod go-w {directory}")


def _clear_left_over(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise BadConfig(f"sidecar.socket: {path} is something else already")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as knock:
        knock.settimeout(1.0)
        try:
            knock.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except OSError:
            pass
    raise CannotListen(f"sidecar.socket: another program listens on {path}")


def _bound(path: Path) -> socket.socket:
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        before = os.umask(0o177)  # so that it is private from its first moment; nothing else runs yet
        try:
            bound.bind(os.fspath(path))
        finally:
            os.umask(before)
        bound.listen(_BACKLOG)
        bound.setblocking(False)  # noqa: FBT003 - the socket's own signature
    except BaseException:
        bound.close()
        raise
    return bound
