"""What holds for a stream over all processes, on SQLite."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.contracts.stream_calls import StreamCallsContract
from tests.support.outboxes import House, house_in


class TestSqliteStreamCalls(StreamCallsContract):
    """A file in write-ahead mode."""

    @pytest.fixture
    async def house(self, tmp_path: Path) -> AsyncIterator[House]:
        async with house_in(tmp_path) as house:
            yield house

    @pytest.fixture
    async def elsewhere(self, tmp_path: Path, house: House) -> AsyncIterator[House]:  # noqa: ARG002 - made before it
        async with house_in(tmp_path) as elsewhere:
            yield elsewhere
