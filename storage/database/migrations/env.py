"""Run by alembic, never imported: migrates on the connection that `storage.database.migrations.upgrade` passes."""

from alembic import context

from storage.database.migrations import VERSION_TABLE

context.configure(connection=context.config.attributes["connection"], version_table=VERSION_TABLE)
with context.begin_transaction():
    context.run_migrations()
