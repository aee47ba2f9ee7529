"""The recovery's contract on PostgreSQL."""

from pathlib import Path

import pytest

from admin.config import Ledger
from tests.contracts.recovery import RecoveryContract
from tests.support.ledger import ledger_config


@pytest.mark.postgres
class TestPostgresRecovery(RecoveryContract):
    """A server with fsync on."""

    @pytest.fixture
    def ledger_settings(self, tmp_path: Path, postgres_url: str) -> Ledger:
        return ledger_config(tmp_path, postgres_url)
