"""Alembic's entry: runs on the connection that `migrations.upgrade` was given; no settings file, no logging."""

from alembic import context

from admin.ledger.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite changes a table by copying it
    transactional_ddl=True,  # also on SQLite, where Alembic would not assume it
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
