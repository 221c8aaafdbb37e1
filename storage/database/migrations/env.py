"""Run by alembic, never imported: migrates on the connection that `storage.database.migrations.upgrade` passes."""

from alembic import context

from storage.database.records import SCHEMA

context.configure(connection=context.config.attributes["connection"], version_table_schema=SCHEMA)
with context.begin_transaction():
    context.run_migrations()
