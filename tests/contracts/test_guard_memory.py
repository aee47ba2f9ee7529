"""The contract of a guard's memory on the dictionary that other tests use."""

import pytest

from engine.guard.memory import Memory
from tests.contracts.guard_memory import MemoryContract
from tests.support.guard_memory import InMemory


class TestInMemory(MemoryContract):
    """The rules and nothing else."""

    @pytest.fixture
    def memory(self) -> Memory:
        return InMemory()
