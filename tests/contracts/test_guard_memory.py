"""The contract of a guard's memory, on disk and on the dictionary that other tests use."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.guard.memory import Memory
from tests.contracts.guard_memory import MemoryContract
from tests.support.guard_memory import InMemory
from tests.support.guard_stores import opened


class TestInMemory(MemoryContract):
    """The rules and nothing else."""

    @pytest.fixture
    def memory(self) -> Memory:
        return InMemory()


class TestOnDisk(MemoryContract):
    """The sealed store."""

    @pytest.fixture
    def memory(self, tmp_path: Path) -> Iterator[Memory]:
        with opened(tmp_path) as store:
            yield store
