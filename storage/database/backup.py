"""Backs up a database into one file and restores it, with PostgreSQL's own `pg_dump` and `pg_restore`.

Checkpoints and other artifacts are files below the home, not rows: a backup does not hold them.
"""

import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import sqlalchemy
from psycopg2.extensions import make_dsn

from storage.database.postgres import connected, create_engine
from storage.database.records import SCHEMA
from storage.database.server_files import Account, server_programs
from storage.database.urls import hide_password, normalise_url
from storage.errors import InputError

_PROGRAMS = ("pg_dump", "pg_restore")
# Roles and grants are a server's own, and the file may go to another.
_WITHOUT_OWNERS = ("--no-owner", "--no-privileges")


def backup(url: str, file: Path, force: bool = False) -> int:
    """Write a whole database, as it is at this moment, into a file that appears complete or not at all.

    Args:
        url: URL of the database; workers may keep using it.
        file: The backup; only its owner may read it.
        force: Whether to replace an existing file.

    Returns:
        The file's size in bytes.

    Raises:
        DatabaseUnreachable: The server does not answer or refuses.
        InputError: The file exists or cannot be written, or `pg_dump` is older than the server.
    """
    if not force and os.path.lexists(file):
        raise InputError(f"{file} exists already: name another file, or give --force to replace it")
    engine = create_engine(url)
    try:
        connected(engine, normalise_url(url)).close()
        descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", suffix=".new", dir=file.parent)
        os.close(descriptor)
    except OSError as error:
        raise InputError(f"{file} cannot be written ({error.strerror}): name a file in a folder of yours") from error
    finally:
        engine.dispose()
    draft = Path(name)
    try:
        # pg_dump flushes the file to disk itself.
        _run(["pg_dump", "--format=custom", *_WITHOUT_OWNERS, f"--file={draft}", "--dbname", _address(engine)], engine)
        draft.replace(file)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    return file.stat().st_size


def restore(url: str, file: Path) -> None:
    """Restore a backup into a database that holds no studies; a failure leaves nothing behind.

    Raises:
        DatabaseUnreachable: The server does not answer or refuses.
        InputError: The file is no backup or is damaged, or the database holds studies.
    """
    if not file.is_file():
        raise InputError(f"{file} is no file: name one that hpo db backup wrote")
    engine = create_engine(url)
    try:
        try:
            _run(["pg_restore", "--list", str(file.absolute())], engine)
        except InputError as error:
            raise InputError(f"{file} cannot be read as a backup ({error}): name a file of hpo db backup") from error
        with connected(engine, normalise_url(url)) as connection:
            _make_room(connection, hide_password(url))
        safely = ("--single-transaction", "--exit-on-error", *_WITHOUT_OWNERS)
        _run(["pg_restore", *safely, "--dbname", _address(engine), str(file.absolute())], engine)
    finally:
        engine.dispose()


def _make_room(connection: sqlalchemy.Connection, shown: str) -> None:
    """Drop tables that were created by opening the database and never used."""
    # For restoring alone: a backup needs no Optuna.
    from optuna.storages._rdb.models import BaseModel

    inspector = sqlalchemy.inspect(connection)
    counted = [("studies", None), ("study", SCHEMA)]
    for name, schema in counted:
        if inspector.has_table(name, schema=schema):
            table = sqlalchemy.table(name, schema=schema)
            count = connection.scalar(sqlalchemy.select(sqlalchemy.func.count()).select_from(table))
            if count:
                raise InputError(
                    f"database {shown} holds studies ({count}), which a backup does not overwrite: restore into "
                    "another database or with HPO_HOME set to another folder, or remove them with hpo delete NAME"
                )
    connection.execute(sqlalchemy.schema.DropSchema(SCHEMA, cascade=True, if_exists=True))
    if inspector.has_table("version_info"):
        BaseModel.metadata.drop_all(connection)
        connection.execute(sqlalchemy.text("DROP TABLE IF EXISTS alembic_version"))
    connection.commit()


def _address(engine: sqlalchemy.Engine) -> str:
    """Return the URL's parameters as libpq takes them, without secrets: every user can see a command line."""
    secret = ("password", "sslpassword")
    return str(make_dsn(**{name: value for name, value in _parameters(engine).items() if name not in secret}))


def _parameters(engine: sqlalchemy.Engine) -> dict[str, str]:
    _, parameters = engine.dialect.create_connect_args(engine.url)
    return dict(parameters)


def _run(command: Sequence[str], engine: sqlalchemy.Engine) -> None:
    name, *arguments = command
    # As the current user, not as the server's account, so that the file belongs to the user.
    program = server_programs(Account(None), _PROGRAMS) / name
    environment = os.environ | {"LC_ALL": "C"}
    password = _parameters(engine).get("password")
    if password is not None:
        environment["PGPASSWORD"] = str(password)
    done = subprocess.run(
        [program, *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    if done.returncode == 0:
        return
    message = hide_password(" ".join(done.stderr.split()))
    if "server version mismatch" in message:
        raise InputError(
            f"{program} is older than the server ({message}): set HPO_POSTGRES_BIN to the bin folder of a PostgreSQL "
            "of the server's version"
        )
    raise InputError(f"{name} failed: {message}")
