"""Opening a database: raced, older, upgraded, newer, cut off."""

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
from storage.database.migrations import SCHEMA, known_versions
from storage.database.postgres import Database, connect, create_engine, upgrade_database
from storage.errors import InputError

ROOT = Path(__file__).parents[2]
NEWEST = known_versions()[0]
VERSION = sa.text(f"SELECT version_num FROM {SCHEMA}.alembic_version")


def in_our_schema(name: str | None, kind: str, parents: object) -> bool:
    return kind != "schema" or name == SCHEMA


def test_processes_that_open_an_empty_database_at_once_all_succeed(database_url: str) -> None:
    """Workers start together: both would find no tables, both make them, and all but one would die."""
    code = (
        "import sys, storage.database.migrations, optuna.storages._rdb.storage\n"
        "from storage.database.postgres import connect\n"
        "print('ready', flush=True); sys.stdin.readline(); connect(sys.argv[1])"
    )
    command = [sys.executable, "-c", code, database_url]
    pipe = subprocess.PIPE
    openers = [subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(4)]
    # Importing takes longer than making tables: let go together, or they would never meet.
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


def make_older(database: Database, optunas: bool, ours: bool) -> None:
    """Undo the last step of the history of Optuna's tables, which is an index of another name by now, and of ours."""
    with database.engine.begin() as connection:
        if optunas:
            connection.execute(sa.text("UPDATE public.alembic_version SET version_num = 'v3.0.0.d'"))
        if ours:
            for table in ("control", "lease"):
                connection.execute(sa.text(f"DROP TABLE {SCHEMA}.{table}"))
            connection.execute(sa.text(f"UPDATE {SCHEMA}.alembic_version SET version_num = '0002'"))


@pytest.mark.parametrize(("optunas", "ours"), [(True, False), (False, True), (True, True)])
def test_older_tables_are_refused_until_they_are_upgraded(database: Database, optunas: bool, ours: bool) -> None:
    """Upgraded by whoever comes first, they would break under the workers that still run, without a backup."""
    records.Records(database.engine).save_study("kept", {}, "f")
    make_older(database, optunas, ours)
    with pytest.raises(InputError, match="stop all workers, run hpo db backup FILE, then hpo db upgrade") as caught:
        connect(database.url)
    assert ("Optuna's tables of version v3.0.0.d, v3.2.0.a is needed" in str(caught.value)) is optunas
    assert (f"scenetune's tables of version 0002, {NEWEST} is needed" in str(caught.value)) is ours
    assert len(upgrade_database(database.url)) == optunas + ours
    assert upgrade_database(database.url) == []
    assert records.Records(connect(database.url).engine).study_names() == ["kept"]


def test_newer_tables_are_refused(database: Database) -> None:
    """An old worker that wrote into tables it does not know would spoil them for the new ones."""
    with database.engine.begin() as connection:
        connection.execute(sa.text(f"UPDATE {SCHEMA}.alembic_version SET version_num = '9999'"))
    for opening in (connect, upgrade_database):
        with pytest.raises(InputError, match=f"version 9999, this installation knows versions up to {NEWEST}"):
            opening(database.url)
    with database.engine.begin() as connection:
        connection.execute(sa.text(f"UPDATE {SCHEMA}.alembic_version SET version_num = '{NEWEST}'"))
        connection.execute(sa.text("UPDATE public.alembic_version SET version_num = 'v99'"))
    with pytest.raises(InputError, match="Optuna's tables of version v99"):
        connect(database.url)


def test_user_who_may_not_make_tables_is_told_what_to_grant(database_url: str) -> None:
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
