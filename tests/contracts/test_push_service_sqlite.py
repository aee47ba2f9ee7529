"""The push service on SQLite, in the same process and over real HTTPS."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from engine.pusher.over_https import HttpsPushService
from engine.pusher.service import PushService
from tests.contracts.push_service import PushServiceContract
from tests.support.outboxes import PUSHER, Furnished, House, furnished, house_like
from tests.support.pki import Pki
from tests.support.push_services import served


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, pki: Pki) -> Furnished:
    return furnished(tmp_path_factory.mktemp("house"), certificates=(pki.client(PUSHER).certificate,))


@pytest.fixture
async def house(tmp_path: Path, made: Furnished) -> AsyncIterator[House]:
    async with house_like(made, tmp_path) as house:
        yield house


class TestSqlitePushService(PushServiceContract):
    """A file in write-ahead mode."""

    @pytest.fixture
    def service(self, house: House) -> PushService:
        return house.door


class TestHttpsPushService(PushServiceContract):
    """The same behind our own listener, with mTLS on loopback."""

    @pytest.fixture
    async def service(self, house: House, pki: Pki) -> AsyncIterator[PushService]:
        async with served(house, pki) as url:
            service = HttpsPushService(url, pki.client_context(PUSHER))
            yield service
            await service.aclose()
