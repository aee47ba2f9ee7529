"""What holds for a stream over all processes, on PostgreSQL."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.contracts.stream_calls import StreamCallsContract
from tests.support.outboxes import House, house_in


@pytest.mark.postgres
class TestPostgresStreamCalls(StreamCallsContract):
    """A server with fsync on."""

    @pytest.fixture
    async def house(self, tmp_path: Path, postgres_url: str) -> AsyncIterator[House]:
        async with house_in(tmp_path, postgres_url) as house:
            yield house

    @pytest.fixture
    async def elsewhere(self, tmp_path: Path, postgres_url: str, house: House) -> AsyncIterator[House]:  # noqa: ARG002 - made before it
        async with house_in(tmp_path, postgres_url) as elsewhere:
            yield elsewhere
