"""From a URL to the one object that the rest of the program passes around: a checked, migrated `Database`."""

import os
import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from storage.embedded import EmbeddedPostgres
from storage.errors import DatabaseUnreachable, InputError
from storage.home import home

if TYPE_CHECKING:
    import optuna

DRIVER = "postgresql+psycopg2"
# A trial whose worker died is found after the grace period: short, because zombies slow every pruner down,
# and several intervals long, because a worker deep in native code may miss a beat.
HEARTBEAT_SECONDS = 10
GRACE_SECONDS = 60
MAX_RETRIES = 3
# Any number that is nobody else's: it serialises the making of tables on one database.
_SETUP_LOCK = 0x5CE7E70E
_ACCEPTED = "accepted is postgresql://user:password@host:5432/database, percent-encoded where needed"


@dataclass(frozen=True)
class Database:
    """An open database: Optuna's storage and our own tables, over one pool of connections.

    Attributes:
        url: Normalised; may hold a password, so show it through `hide_password` only.
        engine: For `storage.records`.
        storage: For `optuna.create_study` and `optuna.load_study`.
    """

    url: str
    engine: sqlalchemy.Engine
    storage: "optuna.storages.RDBStorage"


def normalise_url(url: str) -> str:
    """Return a PostgreSQL URL in the one form used inside, `postgresql+psycopg2://`, its parameters kept.

    Raises:
        InputError: It is not the URL of a PostgreSQL database.
    """
    try:
        parsed = make_url(url.strip())
    except (ArgumentError, ValueError) as error:
        raise InputError(f"database URL {hide_password(url)!r} cannot be read: {_ACCEPTED}") from error
    if parsed.drivername not in ("postgres", "postgresql", DRIVER):
        raise InputError(f"database URL {hide_password(url)!r} is not for PostgreSQL: {_ACCEPTED}")
    if "@" in (parsed.host or ""):
        # The rest of the password would be taken for the host, and shown as one when it is not found.
        raise InputError(f"database URL {hide_password(url)!r} has two @: write %40 for one in a password")
    return parsed.set(drivername=DRIVER).render_as_string(hide_password=False)


def hide_password(url: str) -> str:
    """Return the text with every place where a password may stand masked; it need not be a valid URL.

    It would rather hide too much than show a character of a password that was not percent-encoded.
    """
    hidden = re.sub(r"(password\s*=)[^&]*", r"\1***", url, flags=re.IGNORECASE)
    with_user = re.sub(r"^([^:]*://[^:]*:|[^:/]*:(?!//)).*@", r"\1***@", hidden, flags=re.DOTALL)
    if with_user != hidden:
        return with_user
    # No host after a colon, and no number: perhaps a password whose `@host` was forgotten.
    return re.sub(r"(://[^:]*:)(?!\d*(?:[/?]|$)).*", r"\1***", hidden, flags=re.DOTALL)


def database_url(explicit: str | None) -> str:
    """Choose the database: `explicit`, else `$HPO_DATABASE_URL`, else the embedded server, started for it."""
    chosen = explicit or os.environ.get("HPO_DATABASE_URL")
    return normalise_url(chosen) if chosen else EmbeddedPostgres(home()).start()


def create_engine(url: str) -> sqlalchemy.Engine:
    """Return an engine with the settings that every connection of ours has; it connects on first use."""
    parsed = make_url(normalise_url(url))
    return sqlalchemy.create_engine(parsed, **_engine_settings(parsed))


def open_storage(url: str) -> "optuna.storages.RDBStorage":
    """Return Optuna's storage on a database that was checked, with its tables and ours made or upgraded.

    Several processes may do so at once on an empty database. A trial whose worker stops sending heartbeats is
    failed and queued again, at most `MAX_RETRIES` times.

    Raises:
        DatabaseUnreachable: The server does not answer or refuses.
        InputError: The tables are newer than this program, or may not be made.
    """
    url = normalise_url(url)
    engine = create_engine(url)
    try:
        with _connected(engine, url) as connection, connection.begin():
            from storage.migrations import upgrade

            connection.execute(sqlalchemy.select(sqlalchemy.func.pg_advisory_xact_lock(_SETUP_LOCK)))
            storage = _optuna_storage(url)
            upgrade(connection)
    except DBAPIError as error:
        from psycopg2.errors import InsufficientPrivilege  # type: ignore[import-untyped]

        if isinstance(error.orig, InsufficientPrivilege):
            raise InputError(
                f"the user of {hide_password(url)} may not make tables ({_reason(error)}): "
                "grant it CREATE on the database and on its schema public"
            ) from error
        raise
    finally:
        engine.dispose()
    return storage


def connect(url: str) -> Database:
    """Open a database as `open_storage` does and return it with its engine."""
    storage = open_storage(url)
    return Database(normalise_url(url), storage.engine, storage)


def retry_callback(max_retries: int | None) -> "optuna.storages.RetryHeartbeatStaleTrialCallback":
    """Return what queues a trial again after its worker was lost, with the values that it had reported.

    Args:
        max_retries: `None` for no limit, where the user rather than a fault stopped the trial.
    """
    import optuna

    return optuna.storages.RetryHeartbeatStaleTrialCallback(max_retries, inherit_intermediate_values=True)


def _engine_settings(url: URL) -> dict[str, Any]:
    """Return `sqlalchemy.create_engine`'s arguments; the URL's own parameters win."""
    defaults: dict[str, Any] = {"application_name": "scenetune", "connect_timeout": 10}
    settings = {name: value for name, value in defaults.items() if name not in url.query}
    # Heartbeats compare session-local times.
    own = url.query.get("options", "")
    settings["options"] = f"{own if isinstance(own, str) else ' '.join(own)} -c timezone=UTC".strip()
    # A dropped connection would end the heartbeat's thread, and another worker would get the live trial.
    return {"pool_pre_ping": True, "connect_args": settings}


def _connected(engine: sqlalchemy.Engine, url: str) -> sqlalchemy.Connection:
    try:
        return engine.connect()
    except DBAPIError as error:
        raise DatabaseUnreachable(
            f"database {hide_password(url)} does not answer ({_reason(error)}): check the URL with psql, "
            "or leave out --database and HPO_DATABASE_URL to use the embedded server"
        ) from error


def _optuna_storage(url: str) -> "optuna.storages.RDBStorage":
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        try:
            return optuna.storages.RDBStorage(
                url,
                engine_kwargs=_engine_settings(make_url(url)),
                heartbeat_interval=HEARTBEAT_SECONDS,
                grace_period=GRACE_SECONDS,
                heartbeat_stale_trial_callback=retry_callback(MAX_RETRIES),
            )
        except RuntimeError as error:
            # Optuna's own tables are older or newer than its code; its message says which, and the remedy.
            raise InputError(f"database {hide_password(url)}: {error}") from error


def _reason(error: DBAPIError) -> str:
    """Return the server's words on one line."""
    return hide_password(" ".join(str(error.orig).split()))
