"""Backs up the tables of Optuna and ours into one file, and restores it.

The file is a zip archive with the rows of each table, as PostgreSQL's COPY writes them, and a manifest that names the
columns. It holds data alone: no statement in it could run, and of the database nothing else is read or written.

Checkpoints and other artifacts are files below the home, not rows: a backup does not hold them.
"""

import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, Literal
from uuid import uuid4

import psycopg2
import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, ValidationError

from storage.database import control, leases, migrations, records
from storage.database.connection.faults import message
from storage.database.postgres import connect, connected, create_engine
from storage.database.schema import missing_rights_explained, only_first_schema
from storage.database.urls import hide_password, normalise_url
from storage.errors import InputError

_MANIFEST = "manifest.json"
_LONGEST_MANIFEST = 1_000_000
_OPTUNAS_VERSION = "alembic_version"
# How dates and intervals are written differs from role to role; a backup goes to another.
_SETTINGS = {"datestyle": "ISO, YMD", "intervalstyle": "postgres", "extra_float_digits": "3"}


class _Manifest(BaseModel):
    """What an archive says of its content.

    Attributes:
        format: Of the archive.
        programs: Versions of the packages that wrote it.
        tables: Columns of each table, in the order of the values in its member.
        versions: Of the tables, by the name of the table that holds the version.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    format: Literal[1] = 1
    programs: dict[str, str]
    tables: dict[str, list[str]]
    versions: dict[str, str]


def backup(url: str, file: Path, force: bool = False) -> int:
    """Write all studies, as they are at this moment, into a file that appears complete or not at all.

    Args:
        url: URL of the database; workers may keep using it, and the user may be one who only reads.
        file: The backup; only its owner may read it.
        force: Whether to replace an existing file.

    Returns:
        The file's size in bytes.

    Raises:
        DatabaseUnreachable: The server does not answer or refuses.
        InputError: The file exists or cannot be written, or the database has no tables of ours.
    """
    if not force and os.path.lexists(file):
        raise InputError(f"{file} exists already: name another file, or give --force to replace it")
    engine = create_engine(url)
    try:
        with missing_rights_explained(url), connected(engine, normalise_url(url)) as connection, _draft(file) as draft:
            # All tables are read as of one moment.
            connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            with connection.begin(), zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as archive:
                _write(connection, archive, url)
    finally:
        engine.dispose()
    return file.stat().st_size


def restore(url: str, file: Path) -> dict[str, str]:
    """Restore a backup into a schema that holds no studies, whose tables are made when missing.

    The file is read as data only. It is checked as a whole first, and after a failure no row of it is there. The
    restored studies get folders of their own, so that what becomes of them leaves the files of the others alone, and
    nobody works on them: leases are left out.

    Returns:
        What named the folders of each study where the backup was taken (`StudyRecord.files`), by the study's name.

    Raises:
        DatabaseUnreachable: The server does not answer or refuses.
        InputError: The file is no backup, is damaged or of another version, or the schema holds studies.
    """
    if not file.is_file():
        raise InputError(f"{file} is no file: name one that hpo db backup wrote")
    with _refused_unless_readable(file):
        archive = zipfile.ZipFile(file)
        manifest = _checked(archive, file)
    with archive:
        engine = connect(url).engine
        try:
            with missing_rights_explained(url), engine.begin() as connection:
                schema = only_first_schema(connection, url)[0]
                _refuse_other_versions(connection, manifest, file)
                _make_room(connection, f"schema {schema} of {hide_password(url)}")
                with _refused_unless_readable(file):
                    _fill(connection, archive, manifest)
                return _separate(connection)
        finally:
            engine.dispose()


@contextmanager
def _refused_unless_readable(file: Path) -> Iterator[None]:
    """Turn what the readers of zip archives raise, and the database about a row, into one error."""
    try:
        yield
    except (
        *(OSError, EOFError, ValueError, NotImplementedError, zipfile.BadZipFile, zlib.error),
        *(psycopg2.DataError, psycopg2.IntegrityError, sa.exc.DataError),
    ) as error:
        raise InputError(
            f"{file} cannot be read as a backup ({message(error)}): name a file that hpo db backup wrote"
        ) from error


def _tables() -> list[sa.Table]:
    """Return all tables with a study's rows, each after those that it refers to."""
    # Only here: the command line starts without Optuna.
    from optuna.storages._rdb.models import BaseModel, VersionInfoModel

    optunas = [table for table in BaseModel.metadata.sorted_tables if table is not VersionInfoModel.__table__]
    ours = records.metadata.sorted_tables
    # They add themselves when their modules are imported.
    assert {control.control_table, leases.lease_table} < set(ours)
    return optunas + ours


def _write(connection: sa.Connection, archive: zipfile.ZipFile, url: str) -> None:
    schema = only_first_schema(connection, url)[0]
    inspector = sa.inspect(connection)
    there = set(inspector.get_table_names(schema=schema))
    if not {_OPTUNAS_VERSION, migrations.VERSION_TABLE} <= there:
        raise InputError(
            f"schema {schema} of {hide_password(url)} has no tables of scenetune, so there is nothing to back up: name "
            "the database of your studies with --database or HPO_DATABASE_URL"
        )
    # The tables may be older than this program: what they have is read.
    columns = {
        table.name: [column["name"] for column in inspector.get_columns(table.name, schema=schema)]
        for table in _tables()
        if table.name in there
    }
    manifest = _Manifest(
        programs={name: version(name) for name in ("scenetune", "optuna")},
        tables=columns,
        versions=_versions(connection),
    )
    archive.writestr(_MANIFEST, manifest.model_dump_json(indent=2))
    with _cursor(connection) as cursor:
        for name, names in columns.items():
            with archive.open(name, "w", force_zip64=True) as member:
                cursor.copy_expert(f"COPY {_columns(connection, name, names)} TO STDOUT (ENCODING 'UTF8')", member)


def _checked(archive: zipfile.ZipFile, file: Path) -> _Manifest:
    """Return the manifest of an archive that holds the known tables and nothing else, all of it readable."""
    described = next((member for member in archive.infolist() if member.filename == _MANIFEST), None)
    if described is None or described.file_size > _LONGEST_MANIFEST:
        raise zipfile.BadZipFile("it has no manifest")
    methods = {member.compress_type for member in archive.infolist()}
    if not methods <= {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED} or any(m.flag_bits & 1 for m in archive.infolist()):
        raise zipfile.BadZipFile("it is compressed in another way or encrypted")
    try:
        manifest = _Manifest.model_validate_json(archive.read(described))
    except ValidationError as error:
        raise zipfile.BadZipFile("its manifest is of another form") from error
    known = {table.name: table.columns.keys() for table in _tables()}
    for tables in (manifest.tables, [name for name in archive.namelist() if name != _MANIFEST]):
        if sorted(tables) != sorted(known):
            raise _other_version(manifest, file, "other tables")
    if any(sorted(manifest.tables[name]) != sorted(known[name]) for name in known):
        raise _other_version(manifest, file, "other columns")
    if (damaged := archive.testzip()) is not None:
        raise zipfile.BadZipFile(f"{damaged} is damaged")
    return manifest


def _refuse_other_versions(connection: sa.Connection, manifest: _Manifest, file: Path) -> None:
    if manifest.versions != _versions(connection):
        raise _other_version(manifest, file, "tables of other versions")


def _other_version(manifest: _Manifest, file: Path, what: str) -> InputError:
    programs = " and ".join(f"{name} {number}" for name, number in sorted(manifest.programs.items()))
    return InputError(
        f"{file} has {what} than this program's: restore it with the versions that wrote it ({programs}), then run hpo "
        "db upgrade; a file that hpo db backup did not write is not restored"
    )


def _make_room(connection: sa.Connection, place: str) -> None:
    """Keep others from adding studies until the end of the transaction, and refuse if there are any."""
    from optuna.storages._rdb.models import StudyModel

    for table in (StudyModel.__table__, records.study_table):
        connection.exec_driver_sql(f"LOCK TABLE {table.name} IN SHARE ROW EXCLUSIVE MODE")
        count = connection.scalar(sa.select(sa.func.count()).select_from(table))
        if count:
            raise InputError(
                f"{place} holds studies ({count}), which a backup does not overwrite: restore into another database or "
                "with HPO_HOME set to another folder, or remove them with hpo delete NAME"
            )
    for table in reversed(_tables()):
        # What is left of deleted studies.
        connection.execute(sa.delete(table))


def _fill(connection: sa.Connection, archive: zipfile.ZipFile, manifest: _Manifest) -> None:
    with _cursor(connection) as cursor:
        for table in _tables():
            target = _columns(connection, table.name, manifest.tables[table.name])
            with archive.open(table.name) as member:
                cursor.copy_expert(f"COPY {target} FROM STDIN (ENCODING 'UTF8')", member)
    for table in _tables():
        for column in table.columns:
            sequence = _sequence(connection, column)
            if sequence is not None:
                following = sa.select(sa.func.setval(sequence, sa.func.max(column)))
                connection.execute(following.having(sa.func.max(column).is_not(None)))


def _separate(connection: sa.Connection) -> dict[str, str]:
    """Separate restored studies from those of the backup: no leases, other folders; return what named the folders."""
    connection.execute(sa.delete(leases.lease_table))
    columns = records.study_table.c
    rows = connection.execute(sa.select(columns.name, columns.files))
    earlier = {row.name: row.files for row in rows}
    for name in earlier:
        statement = sa.update(records.study_table).where(columns.name == name)
        connection.execute(statement.values(files=uuid4().hex))
    return earlier


def _sequence(connection: sa.Connection, column: sa.Column[Any]) -> str | None:
    """Return the sequence that numbers a column's new rows."""
    if isinstance(column.default, sa.Sequence):
        return column.default.name
    return connection.scalar(sa.select(sa.func.pg_get_serial_sequence(column.table.name, column.name)))


def _versions(connection: sa.Connection) -> dict[str, str]:
    tables = (_OPTUNAS_VERSION, migrations.VERSION_TABLE)
    return {table: connection.exec_driver_sql(f"SELECT version_num FROM {table}").scalar_one() for table in tables}


def _columns(connection: sa.Connection, table: str, names: Sequence[str]) -> str:
    quote = connection.dialect.identifier_preparer.quote_identifier
    return f"{quote(table)} ({', '.join(map(quote, names))})"


@contextmanager
def _cursor(connection: sa.Connection) -> Iterator[Any]:
    """Yield the driver's cursor, in the connection's transaction."""
    for name, value in _SETTINGS.items():
        connection.execute(sa.select(sa.func.set_config(name, value, True)))
    with closing(connection.connection.cursor()) as cursor:
        yield cursor


@contextmanager
def _draft(file: Path) -> Iterator[IO[bytes]]:
    """Yield a new file that takes the place of `file` at the end, or is gone after an exception."""
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", suffix=".new", dir=file.parent)
        draft = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            draft.replace(file)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise InputError(
            f"{file} cannot be written ({error.strerror}): name a file in a folder of yours with free space"
        ) from error
