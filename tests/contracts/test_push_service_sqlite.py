"""The push service on SQLite."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from admin.ledger.sql import open_ledger
from engine.pusher.service import PushService
from tests.contracts.push_service import PushServiceContract
from tests.support.ledger import HandClock, ledger_config
from tests.support.outboxes import House


class TestSqlitePushService(PushServiceContract):
    """A file in write-ahead mode."""

    @pytest.fixture
    async def house(self, tmp_path: Path) -> AsyncIterator[House]:
        clock = HandClock()
        config = ledger_config(tmp_path, f"sqlite:///{tmp_path}/ledger.db")
        async with open_ledger(config, clock, wall=clock.wall) as ledger:
            house = House(ledger, clock)
            await house.furnish()
            yield house

    @pytest.fixture
    def service(self, house: House) -> PushService:
        return house.door
