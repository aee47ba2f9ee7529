"""Many receivers at once on PostgreSQL."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.contracts.many_receivers import ManyReceiversContract
from tests.support.outboxes import House, house_in


@pytest.mark.postgres
class TestPostgresManyReceivers(ManyReceiversContract):
    """A server with fsync on."""

    @pytest.fixture
    async def house(self, tmp_path: Path, postgres_url: str) -> AsyncIterator[House]:
        async with house_in(tmp_path, postgres_url) as house:
            await house.settle()
            yield house
