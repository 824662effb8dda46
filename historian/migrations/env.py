"""Alembic environment: runs on the connection `historian.store` hands over, never on one of its own."""

from alembic import context

from historian.schema import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
