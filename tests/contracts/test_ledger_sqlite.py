"""The ledger contract on SQLite."""

from pathlib import Path

import pytest

from admin.config import Ledger
from tests.contracts.ledger import LedgerContract
from tests.support.ledger import ledger_config


class TestSqliteLedger(LedgerContract):
    """A file in write-ahead mode."""

    @pytest.fixture
    def ledger_settings(self, tmp_path: Path) -> Ledger:
        return ledger_config(tmp_path, f"sqlite:///{tmp_path}/ledger.db")
