"""The listings on SQLite."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.contracts.listings import ListingsContract, move_in
from tests.support.outboxes import House, house_in


class TestSqliteListings(ListingsContract):
    """A file in write-ahead mode."""

    @pytest.fixture
    async def house(self, tmp_path: Path) -> AsyncIterator[House]:
        async with house_in(tmp_path) as house:
            await move_in(house)
            yield house
