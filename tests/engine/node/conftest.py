"""Nodes under test, each ended with its processes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mutual_tls import Authority
from tests.support.nodes import Caller, Connect, Running, Start


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def start(tmp_path: Path, authority: Authority) -> Iterator[Start]:
    started: list[Running] = []

    def run(environment: dict[str, str] | None = None, **settings: object) -> Running:
        directory = tmp_path / f"node-{len(started)}"
        directory.mkdir()
        started.append(Running(directory, authority, environment or {}, **settings))
        return started[-1]

    yield run
    for running in started:
        running.stop()


@pytest.fixture
def callers() -> Iterator[Connect]:
    opened: list[Caller] = []

    def connect(running: Running) -> Caller:
        opened.append(running.connect())
        return opened[-1]

    yield connect
    for caller in opened:
        caller.close()
