"""Backups of real databases: of our tables alone, restored unchanged, refused where they would destroy something."""

import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from typer.testing import CliRunner

from hpo.commands.database import app
from storage.database.backup import backup, restore
from storage.database.embedded import NAME, SUPERUSER, EmbeddedPostgres
from storage.database.postgres import Database, connect, create_engine
from storage.database.records import Records, RungResult
from storage.database.server_files import Account, server_programs
from storage.errors import DatabaseUnreachable, InputError
from storage.home import home

RESULT = RungResult("s", 0, 0, 10, 0.5, {"tea": 0.5}, 1.5)


@pytest.fixture
def filled(database: Database) -> Database:
    study = optuna.create_study(storage=database.storage, study_name="s")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    records = Records(database.engine)
    records.save_study("s", {"a": 1}, "f")
    records.record_rung(RESULT)
    return database


@pytest.fixture
def other_url(superuser_url: str, database_url: str) -> str:
    """Return the URL of a second empty database, on the same server."""
    name = f"{make_url(database_url).database}_other"
    engine = create_engine(superuser_url)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
        connection.execute(sa.text(f"CREATE DATABASE {name} OWNER {NAME}"))
    engine.dispose()
    return make_url(database_url).set(database=name).render_as_string(hide_password=False)


def test_a_restored_study_is_the_same_and_can_be_resumed(filled: Database, other_url: str, tmp_path: Path) -> None:
    """A backup must bring back everything: rows, numbers and the state of counters."""
    file = tmp_path / "it's a backup.zip"
    assert backup(f"{filled.url}&options=-c%20datestyle%3DSQL,DMY", file) == file.stat().st_size > 0
    assert file.stat().st_mode & 0o077 == 0
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    not_rows = {"version_info", "alembic_version", "scenetune_version"}
    assert {*zipfile.ZipFile(file).namelist()} - {"manifest.json"} == {
        *sa.inspect(filled.engine).get_table_names()
    } - not_rows
    connect(other_url).engine.dispose()  # `hpo status` on the new database: tables, but no studies
    restore(other_url, file)
    there = connect(other_url)
    study = optuna.load_study(study_name="s", storage=there.storage)
    assert study.trials == optuna.load_study(study_name="s", storage=filled.storage).trials
    records = Records(there.engine)
    assert records.rung_results("s") == [RESULT]
    arrival = records.rung_results_since("s", 0)[0][0]
    records.record_rung(RESULT)
    assert records.rung_results_since("s", arrival) != []
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    assert len(study.trials) == 4
    there.engine.dispose()


def test_studies_are_not_overwritten(filled: Database, tmp_path: Path) -> None:
    """The wrong URL in the shell's history must not replace this week's studies by last week's."""
    backup(filled.url, tmp_path / "x.zip")
    with pytest.raises(InputError, match=r"holds studies \(1\), .* hpo delete NAME"):
        restore(filled.url, tmp_path / "x.zip")
    assert Records(filled.engine).study_names() == ["s"]
    with pytest.raises(InputError, match=r"exists already: .* --force"):
        backup(filled.url, tmp_path / "x.zip")
    assert backup(filled.url, tmp_path / "x.zip", force=True) > 0


def run(url: str, *statements: str) -> None:
    """Run statements in a database as its administrator."""
    engine = create_engine(url.replace(f"{NAME}@", f"{SUPERUSER}@"))
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


def test_a_backup_holds_nothing_of_others_and_needs_no_right_on_it(
    filled: Database, other_url: str, tmp_path: Path
) -> None:
    """A table that another program keeps in the schema would fail the backup, or leave the house with it."""
    run(filled.url, "CREATE ROLE reader LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")
    run(filled.url, "CREATE TABLE payroll AS SELECT 'of another' AS salary; CREATE SCHEMA empty; ")
    run(other_url, "CREATE ROLE owner LOGIN; CREATE SCHEMA owned AUTHORIZATION owner")
    reading = filled.url.replace(f"{NAME}@", "reader@")
    owning = f"{other_url}&options=-csearch_path%3Downed".replace(f"{NAME}@", "owner@")
    try:
        backup(reading, tmp_path / "x.zip")
        restore(owning, tmp_path / "x.zip")
        with zipfile.ZipFile(tmp_path / "x.zip") as archive:
            assert not [name for name in archive.namelist() if b"another" in archive.read(name)]
        there = connect(owning)
        assert Records(there.engine).rung_results("s") == [RESULT]
        there.engine.dispose()
        run(filled.url, "GRANT USAGE ON SCHEMA empty TO reader; REVOKE SELECT ON trials FROM reader")
        with pytest.raises(InputError, match=r"schema empty of .* has no tables of scenetune"):
            backup(f"{reading}&options=-csearch_path%3Dempty", tmp_path / "y.zip")
        with pytest.raises(InputError, match=r"permission denied for table trials.*: grant it"):
            backup(reading, tmp_path / "y.zip")
        assert [path.name for path in tmp_path.glob("*.zip*")] == ["x.zip"]
    finally:
        run(filled.url, "DROP OWNED BY reader; DROP ROLE reader")
        run(other_url, "DROP OWNED BY owner CASCADE; DROP ROLE owner")


def test_restoring_runs_nothing_that_the_file_says(other_url: str, tmp_path: Path) -> None:
    """A dump of PostgreSQL is a program: one from a stranger would run any command as the server."""
    mark = Path("/tmp", f"scenetune-{tmp_path.name}-{os.getpid()}")
    # A program that does not read what it is given may end before it is written: a broken pipe.
    copy = f"EXECUTE $x$COPY (SELECT 1) TO PROGRAM 'cat > {mark}'$x$"
    run(
        other_url,
        f"CREATE FUNCTION act() RETURNS int LANGUAGE plpgsql AS $$ BEGIN {copy}; RETURN 1; END $$",
        "CREATE MATERIALIZED VIEW trap AS SELECT act()",
    )
    assert mark.exists()
    mark.unlink()
    administrator = other_url.replace(f"{NAME}@", f"{SUPERUSER}@")
    command = [server_programs(Account(None)) / "pg_dump", "--format=custom", f"--file={tmp_path / 'x.dump'}"]
    subprocess.run([*command, f"--dbname={administrator.replace('+psycopg2', '')}"], check=True)
    run(other_url, "DROP MATERIALIZED VIEW trap; DROP FUNCTION act")
    with pytest.raises(InputError, match="cannot be read as a backup"):
        restore(administrator, tmp_path / "x.dump")
    assert not mark.exists()
    engine = create_engine(other_url)
    assert sa.inspect(engine).get_table_names() == []
    # Nor could our own role: the program's statements run as an ordinary one.
    with engine.connect() as connection, pytest.raises(InputError, match="pg_execute_server_program"):
        connection.exec_driver_sql(f"COPY (SELECT 1) TO PROGRAM 'cat > {mark}'")
    engine.dispose()


def altered(file: Path, target: Path, changes: dict[str, bytes]) -> Path:
    """Copy an archive with other contents for some of its members, or with more members."""
    with zipfile.ZipFile(file) as archive, zipfile.ZipFile(target, "w") as copy:
        for name in archive.namelist():
            if name not in changes:
                copy.writestr(name, archive.read(name))
        for name, content in changes.items():
            copy.writestr(name, content)
    return target


def test_archives_that_hold_anything_else_are_refused(
    filled: Database, other_url: str, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    """A table's or a column's name goes into a statement: it must be one that this program knows."""
    backup(filled.url, tmp_path / "x.zip")
    manifest = zipfile.ZipFile(tmp_path / "x.zip").read("manifest.json")
    refused = {
        "another member": ({"pg_proc": b"1"}, "other tables"),
        "another table": ({"manifest.json": manifest.replace(b'"trials"', b'"pg_authid"')}, "other tables"),
        "a column": (
            {"manifest.json": manifest.replace(b'"study_name"', b'"study_name\\") FROM PROGRAM"')},
            "other col",
        ),
        "a version": ({"manifest.json": manifest.replace(b'"0001"', b'"0002"')}, r"of other versions .*\(optuna \d"),
        "a key": ({"manifest.json": manifest.replace(b'"format": 1', b'"format": 1, "sql": "x"')}, "another form"),
        "no manifest": ({"manifest.json": b""}, "another form"),
        "rows of another form": ({"studies": b"1\ts\tx\n"}, "cannot be read as a backup"),
        "a number below the first": ({"trial_heartbeats": b"-1\t1\t2026-01-01\n"}, "cannot be read as a backup"),
        "rows twice": ({"studies": b"1\ts\n1\ts\n"}, "cannot be read as a backup"),
        "rows that refer to none": ({"trial_values": b"1\t999\t0\t0.5\tFINITE\n"}, "cannot be read as a backup"),
    }
    for words, (changes, message) in refused.items():
        with subtests.test(msg=words), pytest.raises(InputError, match=message):
            restore(other_url, altered(tmp_path / "x.zip", tmp_path / "altered.zip", changes))
    there = connect(other_url)
    assert there.storage.get_all_studies() == []
    there.engine.dispose()
    restore(other_url, altered(tmp_path / "x.zip", tmp_path / "altered.zip", {}))


def test_damaged_files_leave_nothing_behind(filled: Database, other_url: str, tmp_path: Path) -> None:
    """Half a study looks like a whole one."""
    file, damaged = tmp_path / "x.zip", tmp_path / "damaged.zip"
    backup(filled.url, file)
    whole = file.read_bytes()
    rows = whole.index(b"trial_params") + 40
    flipped = whole[:rows] + bytes([whole[rows] ^ 1]) + whole[rows + 1 :]
    # What the directory at the end says of the first member: a newer form of archive, a name that is no UTF-8.
    directory = whole.rindex(b"PK\1\2", 0, whole.rindex(b"manifest.json"))
    newer = whole[: directory + 6] + b"\xff" + whole[directory + 7 :]
    unnamed = (
        whole[: directory + 9] + b"\x08" + whole[directory + 10 : directory + 46] + b"\xff" + whole[directory + 47 :]
    )
    for content in (b"", b"garbage", whole[:100], whole[:-300], flipped, newer, unnamed):
        damaged.write_bytes(content)
        with pytest.raises(InputError, match="cannot be read as a backup"):
            restore(other_url, damaged)
    engine = create_engine(other_url)
    assert sa.inspect(engine).get_table_names() == []
    engine.dispose()
    with pytest.raises(InputError, match="is no file"):
        restore(other_url, tmp_path / "nowhere.zip")


def test_failed_backup_leaves_no_file(database: Database, tmp_path: Path) -> None:
    """A draft that stayed would be mistaken for a backup."""
    with pytest.raises(DatabaseUnreachable) as caught:
        backup("postgresql://u:secret7@127.0.0.1:1/d", tmp_path / "x.zip")
    assert "secret7" not in str(caught.value)
    with pytest.raises(InputError, match="cannot be written"):
        backup(database.url, tmp_path / "nowhere" / "x.zip")
    assert not list(tmp_path.glob("*x.zip*"))


def test_verbs_back_up_and_bring_back(filled: Database, other_url: str, tmp_path: Path) -> None:
    """What the verbs say is all that a user knows of where the data went, and of what is not among them."""
    runner, file = CliRunner(), str(tmp_path / "x.zip")
    done = runner.invoke(app, ["backup", file, "--database", filled.url])
    assert done.exit_code == 0, done.output
    assert "kB)" in done.stderr
    assert "checkpoints are files" in done.stderr
    again = runner.invoke(app, ["backup", file, "--database", filled.url])
    assert (again.exit_code, again.stderr.count("error:")) == (2, 1)
    done = runner.invoke(app, ["restore", file, "--database", other_url])
    assert done.exit_code == 0, done.output
    done = runner.invoke(app, ["upgrade", "--database", other_url])
    assert (done.exit_code, "up to date" in done.stderr) == (0, True)


def test_down_is_refused_while_the_database_is_used() -> None:
    """The workers of another terminal would wait ten minutes and then fail."""
    runner = CliRunner()
    try:
        database = connect(runner.invoke(app, ["up"]).stdout.strip())
        refused = runner.invoke(app, ["down"])
        assert (refused.exit_code, f"scenetune-{os.getpid()}" in refused.stderr) == (2, True)
        database.engine.dispose()
        assert runner.invoke(app, ["down", "--force"]).stderr == "stopped\n"
        assert runner.invoke(app, ["down"]).stderr == "was not running\n"
    finally:
        runner.invoke(app, ["down", "--force"])
        shutil.rmtree(EmbeddedPostgres(home()).folder)
