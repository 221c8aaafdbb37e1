"""Opening a database: concurrently, with outdated or unknown versions, without rights, with cut connections."""

import subprocess
import sys
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from optuna.trial import TrialState

from storage.database import control, leases, records
from storage.database.migrations import known_versions
from storage.database.postgres import Database, connect, create_engine, upgrade_database
from storage.database.records import SCHEMA
from storage.errors import InputError

ROOT = Path(__file__).parents[2]
NEWEST = known_versions()[0]
VERSION = sa.text(f"SELECT version_num FROM {SCHEMA}.alembic_version")


def in_our_schema(name: str | None, kind: str, parents: object) -> bool:
    return kind != "schema" or name == SCHEMA


def test_processes_that_open_an_empty_database_at_once_all_succeed(database_url: str) -> None:
    """Workers start together: all would find no tables and create them, and all but one would fail."""
    code = (
        "import sys, storage.database.migrations, optuna.storages._rdb.storage\n"
        "from storage.database.postgres import connect\n"
        "print('ready', flush=True); sys.stdin.readline(); connect(sys.argv[1])"
    )
    command = [sys.executable, "-c", code, database_url]
    pipe = subprocess.PIPE
    openers = [subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(4)]
    # Importing takes longer than creating tables: started together after it, or they would never collide.
    for opener in openers:
        assert opener.stdout is not None
        assert opener.stdout.readline() == "ready\n"
    for opener in openers:
        assert opener.stdin is not None
        opener.stdin.write("go\n")
        opener.stdin.flush()
    assert [(opener.communicate()[1], opener.returncode) for opener in openers] == [("", 0)] * 4
    with connect(database_url).engine.connect() as connection:
        assert connection.execute(VERSION).scalars().all() == [NEWEST]


def test_migrations_make_exactly_the_tables_that_the_code_uses(database: Database) -> None:
    """A column added to the code without a migration works on no existing database."""
    assert {control.control_table, leases.lease_table} < set(records.metadata.tables.values())
    with database.engine.connect() as connection:
        options = {"include_schemas": True, "version_table_schema": SCHEMA, "include_name": in_our_schema}
        options |= {"compare_server_default": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, records.metadata) == []


def test_plain_optuna_opens_the_same_database(database: Database) -> None:
    """With our version table in Optuna's way, its dashboard would call the database too new."""
    optuna.create_study(storage=database.storage, study_name="shared")
    assert optuna.load_study(study_name="shared", storage=database.url).trials == []
    assert connect(database.url).storage.get_study_id_from_name("shared") > 0


def test_our_tables_join_those_of_optuna(database_url: str) -> None:
    """A user's existing studies must stay when our tables join them."""
    plain = optuna.storages.RDBStorage(create_engine(database_url).url.render_as_string(hide_password=False))
    optuna.create_study(storage=plain, study_name="old")
    opened = connect(database_url)
    assert records.Records(opened.engine).study_names() == []
    assert [study.study_name for study in opened.storage.get_all_studies()] == ["old"]


def set_version(database: Database, schema: str, version: str) -> None:
    with database.engine.begin() as connection:
        connection.execute(sa.text(f"UPDATE {schema}.alembic_version SET version_num = '{version}'"))


def versions(database: Database) -> list[str]:
    with database.engine.connect() as connection:
        schemas = ("public", SCHEMA)
        return [connection.scalar(sa.text(f"SELECT version_num FROM {schema}.alembic_version")) for schema in schemas]


def test_outdated_tables_of_optuna_are_refused_until_they_are_upgraded(database: Database) -> None:
    """Upgraded by the first process that opens them, they would break under running workers, without a backup."""
    records.Records(database.engine).save_study("kept", {}, "f")
    newest = versions(database)
    set_version(database, "public", "v3.0.0.d")
    remedy = "stop all workers, run hpo db backup FILE, then hpo db upgrade"
    with pytest.raises(InputError, match=f"Optuna's tables of version v3.0.0.d, {newest[0]} is needed: {remedy}"):
        connect(database.url)
    assert versions(database)[0] == "v3.0.0.d"
    assert upgrade_database(database.url) == [f"Optuna's tables from version v3.0.0.d to {newest[0]}"]
    assert upgrade_database(database.url) == []
    assert versions(database) == newest
    assert records.Records(connect(database.url).engine).study_names() == ["kept"]


@pytest.mark.parametrize(
    ("schema", "tables", "version"),
    [
        (SCHEMA, "scenetune's tables", "9999"),
        (SCHEMA, "scenetune's tables", "0000"),
        ("public", "Optuna's tables", "v99"),
    ],
)
def test_tables_of_an_unknown_version_are_refused_and_left_alone(
    database: Database, schema: str, tables: str, version: str
) -> None:
    """A worker that wrote into tables of another version would spoil them for the program that made them."""
    records.Records(database.engine).save_study("kept", {}, "f")
    set_version(database, schema, version)
    found = versions(database)
    for opening in (connect, upgrade_database):
        with pytest.raises(InputError, match=f"{tables} of version {version}, this installation knows versions up to"):
            opening(database.url)
    assert versions(database) == found
    assert records.Records(database.engine).study_names() == ["kept"]


def test_upgrade_creates_missing_tables(database_url: str) -> None:
    """`hpo db upgrade` on a database of plain Optuna must leave one that opens, and say nothing was outdated."""
    plain = optuna.storages.RDBStorage(create_engine(database_url).url.render_as_string(hide_password=False))
    optuna.create_study(storage=plain, study_name="old")
    assert upgrade_database(database_url) == []
    opened = connect(database_url)
    assert versions(opened)[1] == NEWEST
    assert [study.study_name for study in opened.storage.get_all_studies()] == ["old"]


def test_a_failed_migration_leaves_nothing_behind(database_url: str) -> None:
    """Half of the tables under no version could be neither used nor created again."""
    engine = create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(sa.schema.CreateSchema(SCHEMA))
        connection.execute(sa.text(f"CREATE TABLE {SCHEMA}.lease (of_another_program int)"))
    with pytest.raises(sa.exc.ProgrammingError, match="already exists"):
        connect(database_url)
    assert sa.inspect(engine).get_table_names(schema=SCHEMA) == ["lease"]
    with engine.begin() as connection:
        connection.execute(sa.text(f"DROP TABLE {SCHEMA}.lease"))
    assert versions(connect(database_url))[1] == NEWEST
    engine.dispose()


def test_user_who_may_not_create_tables_is_told_what_to_grant(database_url: str) -> None:
    """Database administrators seldom give CREATE; a traceback from deep inside does not ask for it."""
    owner = create_engine(database_url)
    with owner.begin() as connection:
        connection.execute(sa.text("DROP ROLE IF EXISTS guest"))
        connection.execute(sa.text("CREATE ROLE guest LOGIN"))
    with pytest.raises(InputError, match="grant it CREATE"):
        connect(database_url.replace("scenetune@", "guest@"))
    with owner.begin() as connection:
        connection.execute(sa.text("DROP ROLE guest"))
    owner.dispose()


def test_sessions_are_in_utc_whatever_the_server_says_and_keep_the_users_options(database_url: str) -> None:
    """Optuna stores local times without their zone: those of a worker elsewhere would be off by hours."""
    base = create_engine(database_url)
    with base.begin() as connection:
        name = connection.execute(sa.text("SELECT current_database()")).scalar_one()
        connection.execute(sa.text(f"ALTER DATABASE {name} SET timezone = 'Asia/Tokyo'"))
    base.dispose()
    engine = create_engine(f"{database_url}&options=-c%20work_mem%3D1MB&application_name=mine")
    with engine.connect() as connection:
        names = ("TimeZone", "work_mem", "application_name")
        shown = [connection.execute(sa.text(f"SHOW {name}")).scalar_one() for name in names]
    engine.dispose()
    assert shown == ["UTC", "1MB", "mine"]


def test_cut_connections_are_replaced(database: Database) -> None:
    """After a night of training, the first connection of the pool is one that a firewall has dropped."""
    study = optuna.create_study(storage=database.storage)
    other = create_engine(database.url)
    with other.connect() as connection:
        cut = sa.text(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert connection.execute(cut).scalar_one() > 0
    other.dispose()
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE]
