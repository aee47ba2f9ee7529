"""A pusher in memory, under the test's clock."""

import io
from collections.abc import Iterator

import pytest
import structlog

from engine.telemetry import logs
from tests.support.push_service import MemoryPushService
from tests.support.pushers import Clocks, Receivers


@pytest.fixture(autouse=True)
def log() -> Iterator[io.BytesIO]:
    """What is logged, as the process would write it."""
    written = io.BytesIO()
    logs.configure("info", stream=written)
    yield written
    structlog.reset_defaults()


@pytest.fixture
def service() -> MemoryPushService:
    return MemoryPushService(Clocks().wall)


@pytest.fixture
def receivers() -> Receivers:
    return Receivers()
