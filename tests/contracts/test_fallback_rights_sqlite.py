"""Rights to fall back on SQLite."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.contracts.fallback_rights import FallbackRightsContract
from tests.support.outboxes import House, house_in


class TestSqliteFallbackRights(FallbackRightsContract):
    """A file in write-ahead mode."""

    @pytest.fixture
    async def house(self, tmp_path: Path) -> AsyncIterator[House]:
        async with house_in(tmp_path) as house:
            await house.furnish()
            yield house
