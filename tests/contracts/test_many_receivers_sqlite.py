"""Many receivers at once on SQLite."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.contracts.many_receivers import ManyReceiversContract
from tests.support.outboxes import House, house_in


class TestSqliteManyReceivers(ManyReceiversContract):
    """A file in write-ahead mode."""

    @pytest.fixture
    async def house(self, tmp_path: Path) -> AsyncIterator[House]:
        async with house_in(tmp_path) as house:
            await house.settle()
            yield house
