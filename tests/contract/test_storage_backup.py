"""Backups of real databases: restored unchanged, refused where they would destroy something, without passwords."""

import os
import shutil
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from typer.testing import CliRunner

from hpo.commands.database import app
from storage.database.backup import backup, restore
from storage.database.embedded import EmbeddedPostgres
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
def other_url(postgres: EmbeddedPostgres, database_url: str) -> str:
    """Return the URL of a second empty database, on the same server."""
    name = f"{make_url(database_url).database}_other"
    engine = create_engine(postgres.url)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return make_url(database_url).set(database=name).render_as_string(hide_password=False)


def test_a_restored_study_is_the_same_and_can_be_resumed(filled: Database, other_url: str, tmp_path: Path) -> None:
    """A backup must bring back everything: rows, numbers and the state of counters."""
    file = tmp_path / "it's a backup.dump"
    assert backup(filled.url, file) == file.stat().st_size > 0
    assert file.stat().st_mode & 0o077 == 0
    assert [path.name for path in tmp_path.glob("*.dump*")] == [file.name]
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
    backup(filled.url, tmp_path / "x.dump")
    with pytest.raises(InputError, match=r"holds studies \(1\), .* hpo delete NAME"):
        restore(filled.url, tmp_path / "x.dump")
    assert Records(filled.engine).study_names() == ["s"]
    with pytest.raises(InputError, match=r"exists already: .* --force"):
        backup(filled.url, tmp_path / "x.dump")
    assert backup(filled.url, tmp_path / "x.dump", force=True) > 0


def test_damaged_files_leave_nothing_behind(filled: Database, other_url: str, tmp_path: Path) -> None:
    """Half a study looks like a whole one."""
    file, damaged = tmp_path / "x.dump", tmp_path / "damaged.dump"
    backup(filled.url, file)
    for content in (b"", b"garbage", file.read_bytes()[:100]):
        damaged.write_bytes(content)
        with pytest.raises(InputError, match="cannot be read as a backup"):
            restore(other_url, damaged)
    damaged.write_bytes(file.read_bytes()[:-300])
    with pytest.raises(InputError, match="pg_restore failed"):
        restore(other_url, damaged)
    engine = create_engine(other_url)
    assert sa.inspect(engine).get_table_names() == []
    engine.dispose()
    with pytest.raises(InputError, match="is no file"):
        restore(other_url, tmp_path / "nowhere.dump")


def test_failed_backup_leaves_no_file(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A draft that stayed would be mistaken for a backup."""
    with pytest.raises(DatabaseUnreachable) as caught:
        backup("postgresql://u:secret7@127.0.0.1:1/d", tmp_path / "x.dump")
    assert "secret7" not in str(caught.value)
    with pytest.raises(InputError, match="cannot be written"):
        backup(database_url, tmp_path / "nowhere" / "x.dump")
    older = server_programs(Account(None)).parents[1] / "pginstall" / "bin"
    if not (older / "pg_dump").is_file():
        pytest.skip("the package holds no second, older PostgreSQL")
    monkeypatch.setenv("HPO_POSTGRES_BIN", str(older))
    with pytest.raises(InputError, match=r"is older than the server .* HPO_POSTGRES_BIN"):
        backup(database_url, tmp_path / "x.dump")
    assert not list(tmp_path.glob("*x.dump*"))


def test_password_is_on_no_command_line(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every user of the machine can read the arguments of every process."""
    programs = tmp_path / "bin"
    programs.mkdir()
    real = server_programs(Account(None))
    for name in ("pg_dump", "pg_restore"):
        script = f'#!/bin/sh\nprintf "%s|" "$PGPASSWORD" "$@" >> {tmp_path}/heard\nexec {real / name} "$@"\n'
        (programs / name).write_text(script)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("HPO_POSTGRES_BIN", str(programs))
    url = make_url(database_url).set(password="secret7").render_as_string(hide_password=False)
    backup(url, tmp_path / "x.dump")
    password, *arguments = (tmp_path / "heard").read_text().split("|")
    assert password == "secret7"
    assert "secret7" not in "".join(arguments)


def test_verbs_back_up_and_bring_back(filled: Database, other_url: str, tmp_path: Path) -> None:
    """What the verbs say is all that a user knows of where the data went, and of what is not among them."""
    runner, file = CliRunner(), str(tmp_path / "x.dump")
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
