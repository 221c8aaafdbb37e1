"""Migrations of our own tables, which `storage.database.postgres` applies.

They name no schema: tables are found and created in the first schema of the connection's search path, as Optuna's are.
"""

import sqlalchemy
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

# Not `alembic_version`, which holds the version of Optuna's tables in the same schema.
VERSION_TABLE = "scenetune_version"


def current_version(connection: sqlalchemy.Connection) -> str | None:
    """Return the version of our tables in a database; None where there are none."""
    return MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()


def known_versions() -> list[str]:
    """Return all versions that this program knows, newest first; the newest is the one that it needs."""
    return [script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()]


def upgrade(connection: sqlalchemy.Connection) -> None:
    """Create our tables, or migrate them from a known version to the newest, inside the caller's transaction."""
    if current_version(connection) == known_versions()[0]:
        return
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _config() -> Config:
    config = Config()
    # A package's name, not a path: it works from a wheel, and a `%` in a folder's name does no harm.
    config.set_main_option("script_location", "storage.database:migrations")
    config.set_main_option("path_separator", "os")
    return config
