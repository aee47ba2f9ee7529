"""The push service on PostgreSQL."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from engine.pusher.service import PushService
from tests.contracts.push_service import PushServiceContract
from tests.support.outboxes import House, house_in


@pytest.mark.postgres
class TestPostgresPushService(PushServiceContract):
    """A server with fsync on."""

    @pytest.fixture
    async def house(self, tmp_path: Path, postgres_url: str) -> AsyncIterator[House]:
        async with house_in(tmp_path, postgres_url) as house:
            await house.furnish()
            yield house

    @pytest.fixture
    def service(self, house: House) -> PushService:
        return house.door
