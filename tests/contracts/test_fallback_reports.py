"""The contract of fallback reports on SQLite and on PostgreSQL."""

from pathlib import Path

import pytest

from admin.config import Ledger
from tests.contracts.fallback_reports import FallbackReportsContract
from tests.support.ledger import ledger_config


class TestSqlite(FallbackReportsContract):
    """A file in write-ahead mode."""

    @pytest.fixture
    def ledger_settings(self, tmp_path: Path) -> Ledger:
        return ledger_config(tmp_path, f"sqlite:///{tmp_path}/ledger.db")


@pytest.mark.postgres
class TestPostgres(FallbackReportsContract):
    """A server with fsync on."""

    @pytest.fixture
    def ledger_settings(self, tmp_path: Path, postgres_url: str) -> Ledger:
        return ledger_config(tmp_path, postgres_url)
