"""Opens a database by its URL: checks versions, creates or migrates tables, and returns a `Database`.

Optuna's tables and ours are in one schema, the first of the connection's search path; no query names it. They are made
there even if the next schema of the path holds tables of the same names, which belong to somebody else.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg2
import sqlalchemy
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError

from storage.database import migrations
from storage.database.connection.faults import fault_of, is_transient, message
from storage.database.connection.session import drop_when_read_only, open_session, refuse_read_only
from storage.database.embedded import EmbeddedPostgres
from storage.database.records import lock
from storage.database.retry import repair_with, retry_transient
from storage.database.schema import explain_missing_rights, missing_rights_explained, only_first_schema
from storage.database.urls import hide_password, normalise_url
from storage.errors import DatabaseUnreachable, InputError
from storage.home import home

# Optuna is imported where a storage is opened: `create_engine` and URLs need none of it.
if TYPE_CHECKING:
    from optuna.storages import RDBStorage

    from storage.database.retrying_storage import RetryingStorage

# Serialises the creation of tables in one schema. No study has a name with a leading dot.
_SETUP_LOCK = ".tables"

_OPTUNA_TABLES = "Optuna's tables"
_OUR_TABLES = "scenetune's tables"


class _Outdated(NamedTuple):
    tables: str
    version: str
    needed: str


@dataclass(frozen=True)
class Database:
    """An open database: Optuna's storage and our own tables, over one pool of connections.

    Attributes:
        url: Normalised; may hold a password, so show it through `hide_password` only.
        engine: For `storage.database.records`.
        storage: For `optuna.create_study` and `optuna.load_study`.
    """

    url: str
    engine: sqlalchemy.Engine
    storage: "RetryingStorage"


def database_url(explicit: str | None) -> str:
    """Return the database to use: `explicit`, else `$HPO_DATABASE_URL`, else the embedded server, which is started.

    A process that gets the embedded server here starts it again when it is killed.
    """
    if not uses_embedded(explicit):
        return normalise_url(explicit or os.environ["HPO_DATABASE_URL"])
    server = EmbeddedPostgres(home())
    url = server.start()
    repair_with(server.restart_if_killed)
    return url


def uses_embedded(explicit: str | None) -> bool:
    """Tell whether the embedded server is used, as nothing names another."""
    return not (explicit or os.environ.get("HPO_DATABASE_URL"))


def create_engine(url: str) -> sqlalchemy.Engine:
    """Return an engine with the settings of all our connections; it connects on first use."""
    parsed = make_url(normalise_url(url))
    engine = sqlalchemy.create_engine(parsed, **_engine_settings(parsed))
    explain_missing_rights(engine, url)
    drop_when_read_only(engine)
    return engine


def connected(engine: sqlalchemy.Engine, url: str) -> sqlalchemy.Connection:
    """Return a first connection, without retries.

    Raises:
        DatabaseUnreachable: The server does not answer or refuses.
    """
    try:
        return engine.connect()
    except DBAPIError as error:
        raise _unreachable(url, error) from error


def open_storage(url: str, *, writes: bool = True) -> "RetryingStorage":
    """Return Optuna's storage on a database, after checking versions and creating missing tables.

    Several processes may do so at once on an empty database. A server that does not answer is an error at once; calls
    of the opened storage are retried while the server is away (`storage.database.retry`).

    Args:
        url: URL of the database.
        writes: Whether the caller writes; one that only reads may use a standby.

    Raises:
        DatabaseUnreachable: The server does not answer, refuses, or is read-only.
        InputError: The tables are older or newer than this program, or may not be created; or the database has no
            usable schema or another encoding than UTF8.
    """
    url = normalise_url(url)
    with _setup(url, writes=writes) as (connection, storage):
        outdated = _outdated_tables(connection, storage, url)
        if outdated:
            have = " and ".join(
                f"{tables} of version {version}, {needed} is needed" for tables, version, needed in outdated
            )
            raise InputError(
                f"database {hide_password(url)} has {have}: stop all workers, run hpo db backup FILE, "
                "then hpo db upgrade"
            )
        migrations.upgrade(connection)
    return storage


def open_without_retry(url: str) -> "RDBStorage":
    """Return Optuna's storage on a database that is open already; its calls fail at once while the server is away."""
    from storage.database.trial_reader import ReadingStorage

    url = normalise_url(url)
    # Pinged before use, as a call on a dropped connection is not retried.
    settings = _engine_settings(make_url(url)) | {"pool_pre_ping": True}
    storage = ReadingStorage(url, settings, skip_compatibility_check=True, skip_table_creation=True)
    explain_missing_rights(storage.engine, url)
    drop_when_read_only(storage.engine)
    return storage


def upgrade_database(url: str) -> list[str]:
    """Migrate Optuna's tables and ours to the versions that this program needs; no worker may be running.

    Returns:
        One line for each set of tables that was outdated.

    Raises:
        DatabaseUnreachable: The server does not answer or refuses.
        InputError: The tables are newer than this program, or may not be changed.
    """
    url = normalise_url(url)
    with _setup(url) as (connection, storage):
        outdated = _outdated_tables(connection, storage, url)
        if any(tables == _OPTUNA_TABLES for tables, _, _ in outdated):
            storage.upgrade()
        migrations.upgrade(connection)
    return [f"{tables} from version {version} to {needed}" for tables, version, needed in outdated]


def connect(url: str, *, wait: bool = False, writes: bool = True) -> Database:
    """Open a database as `open_storage` does and return it with its engine.

    Args:
        url: URL of the database.
        wait: Whether to retry while the server is away, as a worker does that starts during an outage.
        writes: As for `open_storage`.
    """
    storage = _open_with_retry(url) if wait else open_storage(url, writes=writes)
    return Database(normalise_url(url), storage.engine, storage)


def _open_with_retry(url: str) -> "RetryingStorage":
    @retry_transient
    def attempt() -> "RetryingStorage":
        try:
            return open_storage(url)
        except DatabaseUnreachable as error:
            if error.__cause__ is not None and is_transient(error.__cause__):
                raise error.__cause__ from None
            raise

    return attempt()


def _engine_settings(url: URL, only: str | None = None) -> dict[str, Any]:
    """Return `sqlalchemy.create_engine`'s arguments; the URL's own parameters, TLS among them, win.

    Args:
        url: URL of the database.
        only: The one schema to look for tables in, in place of the search path.
    """
    # A peer that vanished is noticed after a minute, not after the system's two hours.
    alive = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3, "tcp_user_timeout": 30_000}
    # The process id lets an administrator find the process of a connection.
    defaults: dict[str, Any] = {"application_name": f"scenetune-{os.getpid()}", "connect_timeout": 10} | alive
    settings = {name: value for name, value in defaults.items() if name not in url.query}
    # Optuna stores and reads times without their zone.
    own = url.query.get("options", "")
    options = [own] if isinstance(own, str) else [*own]
    if only is not None:
        quoted = '"' + only.replace('"', '""') + '"'
        options.append("-c search_path=" + re.sub(r"([\\\s])", r"\\\1", quoted))
    settings["options"] = " ".join([*options, "-c timezone=UTC"]).strip()
    # Else PGCLIENTENCODING, or the role's setting, decides which texts can be sent.
    settings["client_encoding"] = "utf8"
    # Two connections per process stay open, so that 64 workers leave room on a server of 200 connections; the others
    # are for moments, such as a lock that is held while other threads write. None is pinged before use, which would
    # double the round trips: a call on a dropped connection is retried (`storage.database.retry`).
    return {"pool_size": 2, "max_overflow": 8, "connect_args": settings | {"connection_factory": open_session}}


@contextmanager
def _setup(url: str, *, writes: bool = True) -> Iterator[tuple[sqlalchemy.Connection, "RetryingStorage"]]:
    """Yield a transaction with the sole right to change tables, and the storage on Optuna's tables, made if missing."""
    engine = create_engine(url)
    try:
        with missing_rights_explained(url), connected(engine, url) as connection, connection.begin():
            if writes:
                refuse_read_only(connection)
            path = only_first_schema(connection, url)
            lock(connection, _SETUP_LOCK)
            yield connection, _optuna_storage(connection, url, path)
    except (DBAPIError, psycopg2.Error) as error:
        if fault_of(error) is None:
            raise
        raise _unreachable(url, error) from error
    finally:
        engine.dispose()


def _optuna_storage(connection: sqlalchemy.Connection, url: str, path: list[str]) -> "RetryingStorage":
    from optuna.storages import RDBStorage

    from storage.database.retrying_storage import RetryingStorage

    settings = _engine_settings(make_url(url))
    # Tables of another version stay as they are: `_outdated_tables` reports them.
    tables = sqlalchemy.inspect(connection).get_table_names(schema=path[0])
    if not {"version_info", "alembic_version"} <= set(tables):
        making = _engine_settings(make_url(url), only=path[0] if len(path) > 1 else None)
        retry_transient(RDBStorage)(url, making, skip_compatibility_check=True).engine.dispose()
    # A missing right is raised here as what it is; Optuna would hide it in an error of its own.
    connection.execute(sqlalchemy.text("SELECT FROM version_info, alembic_version LIMIT 0"))
    storage = retry_transient(RetryingStorage)(url, settings, skip_compatibility_check=True, skip_table_creation=True)
    explain_missing_rights(storage.engine, url)
    drop_when_read_only(storage.engine)
    return storage


def _outdated_tables(connection: sqlalchemy.Connection, storage: "RetryingStorage", url: str) -> list[_Outdated]:
    """Return which existing tables are older than this program.

    Raises:
        InputError: Some are of a version that this program does not know.
    """
    found = [(_OPTUNA_TABLES, storage.get_current_version(), storage.get_all_versions())]
    ours = migrations.current_version(connection)
    if ours is not None:
        found.append((_OUR_TABLES, ours, migrations.known_versions()))
    for tables, version, known in found:
        if version not in known:
            raise InputError(
                f"database {hide_password(url)} has {tables} of version {version}, this installation knows versions "
                f"up to {known[0]}: upgrade scenetune, or use another database"
            )
    return [_Outdated(tables, version, known[0]) for tables, version, known in found if version != known[0]]


def _unreachable(url: str, error: Exception) -> DatabaseUnreachable:
    fault = fault_of(error)
    remedy = "check the URL with psql" if fault is None else fault.remedy
    return DatabaseUnreachable(
        f"database {hide_password(url)} cannot be used ({message(error)}): {remedy}; without --database and "
        "HPO_DATABASE_URL the embedded server is used"
    )
