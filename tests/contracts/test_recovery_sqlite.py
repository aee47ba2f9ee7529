"""The recovery's contract on SQLite."""

from pathlib import Path

import pytest

from admin.config import Ledger
from tests.contracts.recovery import RecoveryContract
from tests.support.ledger import ledger_config


class TestSqliteRecovery(RecoveryContract):
    """A file in write-ahead mode."""

    @pytest.fixture
    def ledger_settings(self, tmp_path: Path) -> Ledger:
        return ledger_config(tmp_path, f"sqlite:///{tmp_path}/ledger.db")
