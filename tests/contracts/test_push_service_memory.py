"""The model that simulations run the pusher against keeps the real push service's contract."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest

from engine.pusher.service import PushService
from tests.contracts.push_service import PushServiceContract
from tests.support.memory_house import MemoryHouse
from tests.support.outboxes import Furnished, House, furnished, house_like


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Furnished:
    return furnished(tmp_path_factory.mktemp("house"))


class TestMemoryPushService(PushServiceContract):
    """By the rules of the real outbox, on a real ledger's events."""

    @pytest.fixture
    async def house(self, tmp_path: Path, made: Furnished) -> AsyncIterator[House]:
        async with house_like(made, tmp_path) as real:
            house = MemoryHouse(real)
            await house.settle()
            yield cast("House", house)

    @pytest.fixture
    def service(self, house: House) -> PushService:
        return cast("MemoryHouse", house).memory
