"""The push service on PostgreSQL."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from admin.ledger.sql import open_ledger
from engine.pusher.service import PushService
from tests.contracts.push_service import PushServiceContract
from tests.support.ledger import HandClock, ledger_config
from tests.support.outboxes import House


@pytest.mark.postgres
class TestPostgresPushService(PushServiceContract):
    """A server with fsync on."""

    @pytest.fixture
    async def house(self, tmp_path: Path, postgres_url: str) -> AsyncIterator[House]:
        clock = HandClock()
        config = ledger_config(tmp_path, postgres_url)
        async with open_ledger(config, clock, wall=clock.wall) as ledger:
            house = House(ledger, clock)
            await house.furnish()
            yield house

    @pytest.fixture
    def service(self, house: House) -> PushService:
        return house.door
