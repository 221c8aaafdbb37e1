"""The history of our own PostgreSQL schema, which `storage.postgres.open_storage` applies.

Optuna keeps its tables and its `alembic_version` in `public`; ours are apart, so that neither meets the
other. That is also why the schema is not named just `scenetune`: PostgreSQL looks for unqualified tables
first in the schema that is named like the user, who would find our version in place of Optuna's.
"""

import sqlalchemy
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from storage.errors import InputError

SCHEMA = "scenetune_records"


def upgrade(connection: sqlalchemy.Connection) -> None:
    """Bring our tables to the newest version, inside the caller's transaction.

    Raises:
        InputError: A newer program has upgraded them already.
    """
    config = Config()
    # A package's name, not a path: works from a wheel, and no `%` in a folder's name can upset it.
    config.set_main_option("script_location", "storage:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    scripts = ScriptDirectory.from_config(config)
    current = MigrationContext.configure(connection, opts={"version_table_schema": SCHEMA}).get_current_revision()
    newest = scripts.get_current_head()
    if current == newest:
        return
    known = {script.revision for script in scripts.walk_revisions()}
    if current is not None and current not in known:
        raise InputError(
            f"the database's tables have version {current}, this scenetune knows versions up to {newest}: "
            "upgrade scenetune, or use another database"
        )
    connection.execute(sqlalchemy.schema.CreateSchema(SCHEMA, if_not_exists=True))
    command.upgrade(config, "head")
