"""Opening a database: raced, upgraded, too new, cut off, and with workers that die."""

import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from optuna.trial import TrialState

from storage import records
from storage.errors import InputError
from storage.migrations import SCHEMA
from storage.postgres import Database, connect, create_engine

ROOT = Path(__file__).parents[2]
VERSION = sa.text(f"SELECT version_num FROM {SCHEMA}.alembic_version")


def in_our_schema(name: str | None, kind: str, parents: object) -> bool:
    return kind != "schema" or name == SCHEMA


def test_processes_that_open_an_empty_database_at_once_all_succeed(database_url: str) -> None:
    """Workers start together: both would find no tables, both make them, and all but one would die."""
    code = (
        "import sys, storage.migrations, optuna.storages._rdb.storage\nfrom storage.postgres import connect\n"
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
        assert connection.execute(VERSION).scalars().all() == ["0002"]


def test_migrations_make_exactly_the_tables_that_the_code_uses(database: Database) -> None:
    """A column added to the code without a migration works on no existing database."""
    with database.engine.connect() as connection:
        options = {"include_schemas": True, "version_table_schema": SCHEMA, "include_name": in_our_schema}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, records.metadata) == []


def test_plain_optuna_opens_the_same_database(database: Database) -> None:
    """With our version table in Optuna's way, its dashboard would call the database too new."""
    optuna.create_study(storage=database.storage, study_name="shared")
    assert optuna.load_study(study_name="shared", storage=database.url).trials == []
    assert connect(database.url).storage.get_study_id_from_name("shared") > 0


def test_database_of_optuna_or_of_an_older_version_is_upgraded(database_url: str) -> None:
    """A user's existing studies must stay when our tables join them."""
    plain = optuna.storages.RDBStorage(connect(database_url).url)
    optuna.create_study(storage=plain, study_name="old")
    with plain.engine.begin() as connection:
        records.metadata.drop_all(connection)
        connection.execute(sa.text(f"DELETE FROM {SCHEMA}.alembic_version"))
    opened = connect(database_url)
    assert records.Records(opened.engine).study_names() == []
    assert [study.study_name for study in opened.storage.get_all_studies()] == ["old"]


def test_newer_tables_are_refused(database: Database) -> None:
    """An old worker that wrote into tables it does not know would spoil them for the new ones."""
    with database.engine.begin() as connection:
        connection.execute(sa.text(f"UPDATE {SCHEMA}.alembic_version SET version_num = '9999'"))
    with pytest.raises(InputError, match="version 9999, this scenetune knows versions up to 0002"):
        connect(database.url)
    with database.engine.begin() as connection:
        connection.execute(sa.text(f"UPDATE {SCHEMA}.alembic_version SET version_num = '0002'"))
        connection.execute(sa.text("UPDATE public.alembic_version SET version_num = 'v99'"))
    with pytest.raises(InputError, match="optuna"):
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
    """Heartbeats compare local times: a worker in another zone would be taken for dead by hours."""
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
    """A connection dropped by the network would end the heartbeat, and the live trial be given away."""
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


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_trial_of_a_killed_worker_is_queued_again(database: Database) -> None:
    """Without a heartbeat the trial of a preempted worker stays "running" for ever and is never redone."""
    study = optuna.create_study(storage=database.storage, study_name="killed")
    code = (
        "import sys, time, optuna\nfrom storage.postgres import connect\n"
        "study = optuna.load_study(study_name='killed', storage=connect(sys.argv[1]).storage)\n"
        "def objective(trial):\n    trial.suggest_float('x', 0, 1)\n    time.sleep(600)\n"
        "study.optimize(objective)\n"
    )
    count = sa.text("SELECT count(*) FROM trial_heartbeats")
    with subprocess.Popen([sys.executable, "-c", code, database.url], cwd=ROOT, stderr=subprocess.DEVNULL) as worker:
        beats = 0
        while not beats or not study.trials[0].params:
            assert worker.poll() is None
            time.sleep(0.05)
            with database.engine.connect() as connection:
                beats = connection.execute(count).scalar_one()
        worker.kill()
    optuna.storages.fail_stale_trials(study)
    assert [trial.state for trial in study.trials] == [TrialState.RUNNING]
    with database.engine.begin() as connection:
        connection.execute(sa.text("UPDATE trial_heartbeats SET heartbeat = heartbeat - interval '61 seconds'"))
    optuna.storages.fail_stale_trials(study)
    failed, again = study.trials
    assert (failed.state, again.state) == (TrialState.FAIL, TrialState.WAITING)
    assert again.params == failed.params
