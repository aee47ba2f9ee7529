"""The database's schema, step by step: the same revisions on SQLite and PostgreSQL, run on a passed connection.

All steps run in the caller's one transaction (both databases roll back table definitions), under a lock, so that of
several processes that start together one migrates and the others find it done.
"""

import io
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError as UnknownRevision

__all__ = ["UnknownRevision", "check", "newest", "revision_of", "upgrade"]

_LOCK: Final = 0x6363732E6C656467  # "ccs.ledg": the advisory lock's number


def upgrade(connection: sa.Connection) -> None:
    """Bring the schema to the newest revision. Call in a thread, in a read-write transaction.

    Raises UnknownRevision when the database has a revision that this program does not know.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    command.upgrade(_config(connection), "head")


def newest() -> str:
    """The revision that this program brings databases to."""
    script = ScriptDirectory(str(Path(__file__).parent))
    found = script.get_current_head()
    assert found is not None  # noqa: S101 - there are revisions beside this file
    return found


def revision_of(connection: sa.Connection) -> str | None:
    """The database's revision; None where nothing was ever migrated."""
    return MigrationContext.configure(connection).get_current_revision()


def check(connection: sa.Connection) -> None:
    """Compare the database with `schema`. Raises alembic.util.CommandError when they differ."""
    command.check(_config(connection))


def _config(connection: sa.Connection) -> Config:
    config = Config(stdout=io.StringIO())
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
