"""From a URL to the one object that the rest of the program passes around: a checked, migrated `Database`."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError

from storage.database import migrations
from storage.database.embedded import EmbeddedPostgres
from storage.database.retry import is_transient, retry_transient
from storage.database.urls import hide_password, normalise_url
from storage.errors import DatabaseUnreachable, InputError
from storage.home import home

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

    from storage.database.retrying_storage import RetryingStorage

# Any number that is nobody else's: it serialises the making of tables on one database.
_SETUP_LOCK = 0x5CE7E70E

_OPTUNAS = "Optuna's tables"
_OURS = "scenetune's tables"


class _Older(NamedTuple):
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
    """Choose the database: `explicit`, else `$HPO_DATABASE_URL`, else the embedded server, started for it."""
    chosen = explicit or os.environ.get("HPO_DATABASE_URL")
    return normalise_url(chosen) if chosen else EmbeddedPostgres(home()).start()


def create_engine(url: str) -> sqlalchemy.Engine:
    """Return an engine with the settings that every connection of ours has; it connects on first use."""
    parsed = make_url(normalise_url(url))
    return sqlalchemy.create_engine(parsed, **_engine_settings(parsed))


def connected(engine: sqlalchemy.Engine, url: str) -> sqlalchemy.Connection:
    """Return a first connection, from a server that must answer now.

    Raises:
        DatabaseUnreachable: It does not, or refuses.
    """
    try:
        return engine.connect()
    except DBAPIError as error:
        raise DatabaseUnreachable(
            f"database {hide_password(url)} does not answer ({_reason(error)}): check the URL with psql, "
            "or leave out --database and HPO_DATABASE_URL to use the embedded server"
        ) from error


def open_storage(url: str) -> "RetryingStorage":
    """Return Optuna's storage on a database that was checked, with its tables and ours made when there are none.

    Several processes may do so at once on an empty database. A server that does not answer is an error here and now;
    once open, the storage waits for one that is away for a while (`storage.database.retry`).

    Raises:
        DatabaseUnreachable: The server does not answer or refuses.
        InputError: The tables are older or newer than this program, or may not be made.
    """
    url = normalise_url(url)
    with _setup(url) as (connection, storage):
        older = _older_tables(connection, storage, url)
        if older:
            have = " and ".join(
                f"{tables} of version {version}, {needed} is needed" for tables, version, needed in older
            )
            raise InputError(
                f"database {hide_password(url)} has {have}: stop all workers, run hpo db backup FILE, "
                "then hpo db upgrade"
            )
        migrations.upgrade(connection)
    return storage


def failing_storage(url: str) -> "RDBStorage":
    """Return Optuna's storage on an opened database for one who watches: a call fails at once while it is away."""
    from optuna.storages import RDBStorage

    url = normalise_url(url)
    # Pinged: nobody tries again for the one who finds a connection dropped.
    settings = _engine_settings(make_url(url)) | {"pool_pre_ping": True}
    return RDBStorage(url, settings, skip_compatibility_check=True, skip_table_creation=True)


def upgrade_database(url: str) -> list[str]:
    """Bring Optuna's tables and ours to the versions that this program needs, while nobody works with them.

    Returns:
        A few words about each that was older.

    Raises:
        DatabaseUnreachable: The server does not answer or refuses.
        InputError: The tables are newer than this program, or may not be changed.
    """
    url = normalise_url(url)
    with _setup(url) as (connection, storage):
        older = _older_tables(connection, storage, url)
        if any(tables == _OPTUNAS for tables, _, _ in older):
            storage.upgrade()
        migrations.upgrade(connection)
    return [f"{tables} from version {version} to {needed}" for tables, version, needed in older]


def connect(url: str, *, wait: bool = False) -> Database:
    """Open a database as `open_storage` does and return it with its engine.

    Args:
        url: Of the database.
        wait: Whether to wait for a server that is away for a while, as a worker that starts meanwhile should.
    """
    storage = _open_when_back(url) if wait else open_storage(url)
    return Database(normalise_url(url), storage.engine, storage)


def _open_when_back(url: str) -> "RetryingStorage":

    @retry_transient
    def attempt() -> "RetryingStorage":
        try:
            return open_storage(url)
        except DatabaseUnreachable as error:
            if error.__cause__ is not None and is_transient(error.__cause__):
                raise error.__cause__ from None
            raise

    return attempt()


def _engine_settings(url: URL) -> dict[str, Any]:
    """Return `sqlalchemy.create_engine`'s arguments; the URL's own parameters, TLS among them, win."""
    # A peer that vanished without a word is noticed after a minute, not after the system's two hours.
    alive = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3, "tcp_user_timeout": 30_000}
    # The process is named, so that one who looks at the server's connections can find it.
    defaults: dict[str, Any] = {"application_name": f"scenetune-{os.getpid()}", "connect_timeout": 10} | alive
    settings = {name: value for name, value in defaults.items() if name not in url.query}
    # Optuna stores and reads times without their zone.
    own = url.query.get("options", "")
    settings["options"] = f"{own if isinstance(own, str) else ' '.join(own)} -c timezone=UTC".strip()
    # Kept are two connections per process, so that 64 workers leave a server of 200 connections room; the others are
    # for moments: a lock that is held while other threads write. None is pinged before
    # use, which would double the round trips: who finds one dropped tries again (`storage.database.retry`).
    return {"pool_size": 2, "max_overflow": 8, "connect_args": settings}


@contextmanager
def _setup(url: str) -> Iterator[tuple[sqlalchemy.Connection, "RetryingStorage"]]:
    """Yield a transaction that alone may make or change tables, and the storage on Optuna's, made when missing."""
    engine = create_engine(url)
    try:
        with connected(engine, url) as connection, connection.begin():
            connection.execute(sqlalchemy.select(sqlalchemy.func.pg_advisory_xact_lock(_SETUP_LOCK)))
            yield connection, _optuna_storage(connection, url)
    except DBAPIError as error:
        from psycopg2.errors import InsufficientPrivilege

        if isinstance(error.orig, InsufficientPrivilege):
            raise InputError(
                f"the user of {hide_password(url)} may not make tables ({_reason(error)}): "
                "grant it CREATE on the database and on its schema public"
            ) from error
        raise
    finally:
        engine.dispose()


def _optuna_storage(connection: sqlalchemy.Connection, url: str) -> "RetryingStorage":
    from storage.database.retrying_storage import RetryingStorage

    # Tables of another version stay as they are: `_older_tables` speaks of them in our words.
    exist = sqlalchemy.inspect(connection).has_table("version_info")
    settings = _engine_settings(make_url(url))
    return retry_transient(RetryingStorage)(url, settings, skip_compatibility_check=True, skip_table_creation=exist)


def _older_tables(connection: sqlalchemy.Connection, storage: "RetryingStorage", url: str) -> list[_Older]:
    """Return which tables are older than this program; those that are not there are none.

    Raises:
        InputError: Some are newer.
    """
    stands = [(_OPTUNAS, storage.get_current_version(), storage.get_all_versions())]
    ours = migrations.current_version(connection)
    if ours is not None:
        stands.append((_OURS, ours, migrations.known_versions()))
    for tables, version, known in stands:
        if version not in known:
            raise InputError(
                f"database {hide_password(url)} has {tables} of version {version}, this installation knows versions "
                f"up to {known[0]}: upgrade scenetune, or use another database"
            )
    return [_Older(tables, version, known[0]) for tables, version, known in stands if version != known[0]]


def _reason(error: DBAPIError) -> str:
    """Return the server's words on one line."""
    return hide_password(" ".join(str(error.orig).split()))
