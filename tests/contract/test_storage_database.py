"""Opening a database: concurrently, with outdated or unknown versions, without rights, with cut connections."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import optuna
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from optuna.trial import TrialState
from sqlalchemy.engine import make_url

from storage.database import control, leases, records
from storage.database.migrations import known_versions
from storage.database.postgres import Database, connect, create_engine, upgrade_database
from storage.errors import InputError

ROOT = Path(__file__).parents[2]
NEWEST = known_versions()[0]
VERSION = sa.text("SELECT version_num FROM scenetune_version")
OPTUNAS, OURS = "alembic_version", "scenetune_version"


def is_ours(name: str | None, kind: str, parents: object) -> bool:
    return kind != "table" or (name or "").startswith("scenetune_")


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
        options = {"version_table": OURS, "include_name": is_ours, "compare_server_default": True}
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


def set_version(database: Database, table: str, version: str) -> None:
    with database.engine.begin() as connection:
        connection.execute(sa.text(f"UPDATE {table} SET version_num = '{version}'"))


def versions(database: Database) -> list[str]:
    with database.engine.connect() as connection:
        return [connection.scalar(sa.text(f"SELECT version_num FROM {table}")) for table in (OPTUNAS, OURS)]


def test_outdated_tables_of_optuna_are_refused_until_they_are_upgraded(database: Database) -> None:
    """Upgraded by the first process that opens them, they would break under running workers, without a backup."""
    records.Records(database.engine).save_study("kept", {}, "f")
    newest = versions(database)
    set_version(database, OPTUNAS, "v3.0.0.d")
    remedy = "stop all workers, run hpo db backup FILE, then hpo db upgrade"
    with pytest.raises(InputError, match=f"Optuna's tables of version v3.0.0.d, {newest[0]} is needed: {remedy}"):
        connect(database.url)
    assert versions(database)[0] == "v3.0.0.d"
    assert upgrade_database(database.url) == [f"Optuna's tables from version v3.0.0.d to {newest[0]}"]
    assert upgrade_database(database.url) == []
    assert versions(database) == newest
    assert records.Records(connect(database.url).engine).study_names() == ["kept"]


@pytest.mark.parametrize(
    ("table", "tables", "version"),
    [
        (OURS, "scenetune's tables", "9999"),
        (OURS, "scenetune's tables", "0000"),
        (OPTUNAS, "Optuna's tables", "v99"),
    ],
)
def test_tables_of_an_unknown_version_are_refused_and_left_alone(
    database: Database, table: str, tables: str, version: str
) -> None:
    """A worker that wrote into tables of another version would spoil them for the program that made them."""
    records.Records(database.engine).save_study("kept", {}, "f")
    set_version(database, table, version)
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
        connection.execute(sa.text("CREATE TABLE scenetune_lease (of_another_program int)"))
    with pytest.raises(sa.exc.ProgrammingError, match="already exists"):
        connect(database_url)
    assert [name for name in sa.inspect(engine).get_table_names() if is_ours(name, "table", {})] == ["scenetune_lease"]
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE scenetune_lease"))
    assert versions(connect(database_url))[1] == NEWEST
    engine.dispose()


@pytest.fixture
def run(superuser_url: str) -> Iterator[Callable[..., None]]:
    """Run statements as the database's administrator; a role of the tests is gone afterwards."""
    engine = create_engine(superuser_url)

    def run(*statements: str) -> None:
        with engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    yield run
    with engine.begin() as connection:
        for role in connection.scalars(sa.text("SELECT rolname FROM pg_roles WHERE rolname LIKE 'team%'")).all():
            connection.exec_driver_sql(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")
    engine.dispose()


def as_team(url: str, role: str = "team", **options: str) -> str:
    """Return the URL of the same database for another role, with settings."""
    settings = "&options=" + quote(" ".join(f"-c {name}={value}" for name, value in options.items()))
    return url.replace("scenetune@", f"{role}@") + (settings if options else "")


TABLES = "CREATE TABLE {0}.studies (of_another int); CREATE TABLE {0}.alembic_version (version_num text)"


def test_teams_in_two_schemas_share_nothing(database_url: str, run: Callable[..., None]) -> None:
    """One team would meet the other's definitions, or a program's tables of the same names; and wait for its locks."""
    run(TABLES.format("public"), "INSERT INTO public.alembic_version VALUES ('of another')")
    opened = []
    for role, schema in (("team_a", "team_a"), ("team_b", '"Team B, ""new"""')):
        run(f"CREATE ROLE {role} LOGIN", f"CREATE SCHEMA {schema} AUTHORIZATION {role}")
        escaped = schema.replace(" ", "\\ ")
        opened.append(connect(as_team(database_url, role, search_path=f"{escaped},public")))
    mine, other = (records.Records(database.engine) for database in opened)
    for database, made in zip(opened, (mine, other), strict=True):
        optuna.create_study(storage=database.storage, study_name="twin")
        made.save_study("twin", {"of": len(made.study_names())}, "f")
    mine.delete_study("twin")
    opened[0].storage.delete_study(opened[0].storage.get_study_id_from_name("twin"))
    assert (mine.study_names(), other.study_names()) == ([], ["twin"])
    assert optuna.load_study(study_name="twin", storage=opened[1].storage).trials == []
    with mine.exclusive("twin"), opened[1].engine.connect() as connection:
        connection.exec_driver_sql("SET LOCAL lock_timeout = '5s'")
        records.lock(connection, "twin")
    with opened[0].engine.connect() as connection:
        public = sa.inspect(connection).get_table_names(schema="public")
    assert sorted(public) == ["alembic_version", "studies"]
    for database in opened:
        assert optuna.load_study(study_name=optuna.create_study(storage=database.url).study_name, storage=database.url)
        database.engine.dispose()


def test_a_role_that_may_create_nothing_uses_what_exists(database_url: str, run: Callable[..., None]) -> None:
    """An administrator makes the tables once; asking for more rights than are needed would end there."""
    run("CREATE ROLE team LOGIN", "REVOKE ALL ON SCHEMA public FROM public", "CREATE SCHEMA made")
    path = {"search_path": "made"}
    with pytest.raises(InputError, match=r"search path \(made\) none exists that this user may use"):
        connect(as_team(database_url, **path))
    run("GRANT USAGE ON SCHEMA made TO team")
    with pytest.raises(InputError, match=r"permission denied for schema made.*: grant it CREATE on the schema"):
        connect(as_team(database_url, **path))
    connect(as_team(database_url, "postgres", **path)).engine.dispose()
    with pytest.raises(InputError, match=r"permission denied for .*: grant it .* all rights on these"):
        connect(as_team(database_url, **path))
    run("GRANT ALL ON ALL TABLES IN SCHEMA made TO team")
    opened = connect(as_team(database_url, **path))
    with pytest.raises(InputError, match=r"permission denied for sequence studies_.* and on their sequences"):
        optuna.create_study(storage=opened.storage)
    run("GRANT ALL ON ALL SEQUENCES IN SCHEMA made TO team")
    made = records.Records(opened.engine)
    made.save_study("s", {}, "f")
    made.record_rung(records.RungResult("s", 0, 0, 10, 0.5, {}, 1.5))
    assert len(optuna.create_study(storage=opened.storage).trials) == 0
    opened.engine.dispose()
    with pytest.raises(InputError, match=r"search path \(nowhere,other\) none exists"):
        connect(as_team(database_url, search_path="nowhere,other"))


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


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_that_cannot_hold_all_texts_is_refused_at_once(
    database_url: str, superuser_url: str, encoding: str
) -> None:
    """Each trial would fail at the first scene with a Chinese name, after hours of training."""
    name = make_url(database_url).database
    with create_engine(superuser_url).connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}_other ENCODING '{encoding}' TEMPLATE template0")
        with pytest.raises(InputError, match=f"has the encoding {encoding}.*CREATE DATABASE name ENCODING 'UTF8'"):
            connect(database_url.replace(f"/{name}", f"/{name}_other"))
        connection.exec_driver_sql(f"DROP DATABASE {name}_other WITH (FORCE)")


def test_texts_of_all_scripts_are_stored_whatever_the_client_encoding(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable of the shell, or of the role, would decide which scenes can be recorded."""
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    opened = connect(f"{database.url}&client_encoding=SQL_ASCII")
    made = records.Records(opened.engine)
    optuna.create_study(storage=opened.storage, study_name="学习é")
    made.save_study("学习é", {"a": "茶"}, "f")
    made.record_rung(records.RungResult("学习é", 0, 0, 10, 0.5, {"茶": 0.5}, 1.5))
    opened.engine.dispose()
    assert records.Records(database.engine).rung_results("学习é")[0].scene_recalls == {"茶": 0.5}
    assert database.storage.get_study_id_from_name("学习é") > 0


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
