"""The embedded server against real processes: raced, killed, copied, moved and deleted."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from threading import Timer

import psutil
import psycopg2
import pytest

from storage.database.embedded import EmbeddedPostgres
from storage.database.postgres import connect, create_engine, database_url, uses_embedded
from storage.database.records import Records
from storage.database.server_files import (
    Account,
    check_access,
    leftovers,
    recorded_socket,
    server_programs,
    socket_folder,
)
from storage.errors import EmbeddedServerError, InputError

ROOT = Path(__file__).parents[2]
# A test run under nohup hands its ignored hang-up down: the starter must die of it all the same.
START = "import signal, sys, pathlib, time; signal.signal(signal.SIGHUP, signal.SIG_DFL); \
from storage.database.embedded import EmbeddedPostgres as E; \
print(E(pathlib.Path(sys.argv[1])).start(), flush=True); time.sleep(float(sys.argv[2]))"
# In somebody's environment for good reasons, and none of the embedded server's.
OF_ANOTHER_SERVER = {
    "PGPORT": "1",
    "PGDATA": "/nowhere",
    "PGSERVICE": "nowhere",
    "PGHOSTADDR": "192.0.2.1",
    "PGREQUIREAUTH": "scram-sha-256",
    "PGGSSENCMODE": "require",
    "PGCHANNELBINDING": "require",
    "PGTARGETSESSIONATTRS": "standby",
    "PGCLIENTENCODING": "nonsense",
    "PGOPTIONS": "-c nonsense=1",
}
NewServer = Callable[[Path], EmbeddedPostgres]


@pytest.fixture
def new_server() -> Iterator[NewServer]:
    """Make servers that are stopped, and their folders removed, when the test ends."""
    made: list[EmbeddedPostgres] = []

    def make(home: Path) -> EmbeddedPostgres:
        made.append(EmbeddedPostgres(home))
        return made[-1]

    yield make
    for server in made:
        server.stop()
        remove(server.folder)


def remove(folder: Path) -> None:
    """Remove what a server had, its socket's folder too."""
    socket = recorded_socket(folder)
    if socket is not None:
        shutil.rmtree(socket, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def server(tmp_path: Path, new_server: NewServer) -> EmbeddedPostgres:
    return new_server(tmp_path / "home")


def start_elsewhere(home: Path, stay: float = 0, **options: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", START, str(home), str(stay)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload, no-any-return]


def execute(server: EmbeddedPostgres, statement: str) -> list[tuple[object, ...]]:
    with closing(psycopg2.connect(server.url.replace("+psycopg2", ""))) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []


def tables(server: EmbeddedPostgres) -> list[tuple[object, ...]]:
    return execute(server, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")


def postmaster(server: EmbeddedPostgres) -> int:
    return int((server.folder / "data" / "postmaster.pid").read_text().split()[0])


def wait_until_gone(server: EmbeddedPostgres) -> None:
    while server.running():
        time.sleep(0.01)


def test_start_and_stop_may_be_repeated(server: EmbeddedPostgres) -> None:
    """A second start must find the first one's server, or two would write the same files."""
    assert not server.running()
    assert not server.stop()
    with pytest.raises(InputError, match="hpo db up"):
        _ = server.url
    url = server.start()
    pid = postmaster(server)
    assert server.start() == url == server.url
    assert postmaster(server) == pid
    assert server.running()
    assert server.stop()
    assert not server.running()
    assert not server.stop()
    assert server.start() == url


def test_server_in_use_is_not_stopped_unless_forced(server: EmbeddedPostgres) -> None:
    """`hpo db down` in one terminal must not take the database from the workers of another."""
    engine = create_engine(server.start())
    postmaster_id, socket = postmaster(server), recorded_socket(server.folder)
    family = [psutil.Process(postmaster_id), *psutil.Process(postmaster_id).children(recursive=True)]
    with engine.connect(), pytest.raises(InputError, match=rf"1 of scenetune-{os.getpid()}; .* --force"):
        server.stop(force=False)
    assert server.running()
    assert server.stop()
    engine.dispose()
    assert socket is not None
    assert not socket.exists()
    assert not (server.folder / "data" / "postmaster.pid").exists()
    assert not [process for process in family if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    server.start()
    assert server.stop(force=False)


def test_server_has_the_settings_that_studies_need(server: EmbeddedPostgres) -> None:
    """Too few connections, a local time zone or an open port would only show on somebody else's machine."""
    server.start()
    names = ("max_connections", "TimeZone", "listen_addresses", "server_encoding")
    assert [execute(server, f"SHOW {name}")[0][0] for name in names] == ["200", "UTC", "", "UTF8"]


def test_processes_that_race_start_one_server(server: EmbeddedPostgres, tmp_path: Path) -> None:
    """Workers start together on a fresh machine; two initdb on one folder would destroy each other."""
    starters = [start_elsewhere(tmp_path / "home") for _ in range(4)]
    answers = {(starter.communicate()[0], starter.returncode) for starter in starters}
    assert answers == {(f"{server.url}\n", 0)}
    assert tables(server) == []


@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGHUP, signal.SIGKILL], ids=lambda blow: blow.name)
def test_server_outlives_its_starter(server: EmbeddedPostgres, tmp_path: Path, blow: signal.Signals) -> None:
    """Ctrl-C in the first worker's terminal must not take the database from all the others."""
    starter = start_elsewhere(tmp_path / "home", stay=600, start_new_session=True)
    assert starter.stdout is not None
    url = starter.stdout.readline().strip()
    os.killpg(starter.pid, blow)
    starter.communicate()
    assert starter.returncode != 0
    assert server.running()
    assert server.url == url
    assert execute(server, "SELECT 1") == [(1,)]


def test_committed_rows_and_url_survive_a_killed_server(server: EmbeddedPostgres) -> None:
    """After an out-of-memory kill the stale pid file must not keep the server down, nor the URL change."""
    url = server.start()
    execute(server, "CREATE TABLE kept (x int)")
    os.kill(postmaster(server), signal.SIGKILL)
    assert server.start() == url
    assert tables(server) == [("kept",)]


def test_stop_of_a_server_that_is_being_killed_waits_for_its_end(server: EmbeddedPostgres) -> None:
    """Its processes end a moment after the first one, for which pg_ctl looks in vain."""
    server.start()
    first = psutil.Process(postmaster(server))
    last = first.children()[0]
    last.suspend()
    first.kill()
    resumed = Timer(0.5, last.resume)
    resumed.start()
    assert server.stop()
    resumed.join()
    assert not server.running()


def test_a_killed_server_is_started_again_by_the_process_that_asked_for_it(
    tmp_path: Path, new_server: NewServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Workers wait for ten minutes for a server that nobody else would start; one that was stopped stays so."""
    home = tmp_path / "hpo"
    server = new_server(home)
    opened = connect(database_url(None))
    records = Records(opened.engine)
    records.save_study("kept", {}, "f")
    os.kill(postmaster(server), signal.SIGKILL)
    wait_until_gone(server)  # until then the open connection may be answered
    assert records.study_names() == ["kept"]
    opened.engine.dispose()

    server.stop()
    server.restart_if_killed()
    assert not server.running()

    server.start()
    os.kill(postmaster(server), signal.SIGKILL)
    wait_until_gone(server)
    home.rename(tmp_path / "moved")
    server.restart_if_killed()
    assert not home.exists(), "a home that is gone is not made again"
    (tmp_path / "moved").rename(home)

    settings = server.folder / "data" / "postgresql.conf"
    before = settings.read_text()
    settings.write_text("nonsense_setting = 1\n")
    caplog.clear()
    for _ in range(2):
        server.restart_if_killed()
    settings.write_text(before)
    server.restart_if_killed()
    failed, restarted = (record.getMessage() for record in caplog.records)
    assert "does not start again" in failed
    assert "nonsense_setting" in failed
    assert "has been started again" in restarted


def test_start_after_a_reboot_that_emptied_the_temporary_folder(server: EmbeddedPostgres) -> None:
    """Workers on other machines of a cluster keep the URL: it must not change with the folder's rebirth."""
    url = server.start()
    os.kill(postmaster(server), signal.SIGKILL)
    wait_until_gone(server)
    socket = recorded_socket(server.folder)
    assert socket is not None
    shutil.rmtree(socket)
    assert server.start() == url
    assert execute(server, "SELECT 1") == [(1,)]


def test_socket_folder_that_another_could_enter_is_given_up(server: EmbeddedPostgres) -> None:
    """A folder planted in the world-writable temporary folder would let its owner pose as the server."""
    server.start()
    server.stop()
    socket = recorded_socket(server.folder)
    assert socket is not None
    elsewhere = Path(tempfile.mkdtemp())
    socket.symlink_to(elsewhere)
    try:
        server.start()
        chosen = recorded_socket(server.folder)
        assert chosen is not None
        assert not chosen.is_symlink()
        assert not list(elsewhere.iterdir())
        assert execute(server, "SELECT 1") == [(1,)]
    finally:
        elsewhere.rmdir()
        with suppress(OSError):
            socket.unlink()


def test_pid_taken_by_another_program_does_not_keep_the_server_down(server: EmbeddedPostgres) -> None:
    """Restarted containers hand out the same small numbers again: such a program is no server of ours."""
    server.start()
    os.kill(postmaster(server), signal.SIGKILL)
    wait_until_gone(server)
    account = Account.of(server.folder / "data")
    with subprocess.Popen(["sleep", "600"], cwd="/", **account.arguments) as bystander:
        pid_file = server.folder / "data" / "postmaster.pid"
        _, *rest = pid_file.read_text().splitlines()
        pid_file.write_text("\n".join([str(bystander.pid), *rest]))
        try:
            assert not server.running()
            server.start()
            server.stop()
            assert bystander.poll() is None
        finally:
            bystander.kill()


def test_start_recovers_from_a_starter_killed_within_initdb(server: EmbeddedPostgres, tmp_path: Path) -> None:
    """Half a data folder must not be taken for a database, which would fail for ever after."""
    programs = Path(tempfile.mkdtemp())
    programs.chmod(0o755)
    for name in ("pg_ctl", "postgres", "initdb"):
        (programs / name).write_text('#!/bin/sh\necho 18 > "$2/PG_VERSION"; echo $$ > "$2/pid"\nexec sleep 600\n')
        (programs / name).chmod(0o755)
    starter = start_elsewhere(tmp_path / "home", env=os.environ | {"HPO_POSTGRES_BIN": str(programs)})
    while not (pids := [path.read_text() for path in server.folder.glob("data.*/pid")]) or not pids[0]:
        time.sleep(0.01)
    starter.kill()
    starter.communicate()
    server.start()
    os.kill(int(pids[0]), signal.SIGKILL)
    shutil.rmtree(programs)
    assert tables(server) == []
    assert not list(server.folder.glob("data.*"))


def test_failed_start_shows_the_log_and_where_it_is(server: EmbeddedPostgres) -> None:
    """`pg_ctl` only says "could not start"; the reason is in a file that nobody would look for."""
    server.start()
    server.stop()
    with (server.folder / "data" / "postgresql.conf").open("a") as settings:
        settings.write("nonsense_setting = 1\n")
    with pytest.raises(EmbeddedServerError, match="nonsense_setting") as caught:
        server.start()
    assert str(server.log) in str(caught.value)
    assert not server.running()


def test_long_and_odd_home_with_misleading_environment(
    tmp_path: Path, new_server: NewServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Socket paths end at 107 bytes, pg_ctl misquotes `$` and `"`, and libpq obeys some twenty variables silently."""
    long = tmp_path / ("deep" * 40)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))

    def mislead() -> None:
        for name, value in OF_ANOTHER_SERVER.items():
            monkeypatch.setenv(name, value)

    mislead()
    server = new_server(long / """it's "$HOME" é %s""")
    engine = create_engine(server.start())
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SHOW timezone").scalar() == "UTC"
    engine.dispose()
    mislead()
    assert server.stop(force=False)


def test_temporary_folder_whose_path_would_be_split_has_no_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A comma ends a path for PostgreSQL and for libpq: the server would listen elsewhere or not at all."""
    odd = tempfile.mkdtemp(suffix=",odd")
    monkeypatch.setattr(tempfile, "tempdir", odd)
    socket = socket_folder(tmp_path, tmp_path, Account(None))
    assert socket.parent == Path("/tmp")
    socket.rmdir()
    Path(odd).rmdir()


def test_folder_that_cannot_be_used_is_told_why(tmp_path: Path) -> None:
    """A read-only mount that is called another user's sends its owner to look for a user who does not exist."""
    check_access(tmp_path, tmp_path / "missing")
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    for _, place, _, options, *_ in mounts:
        if "ro" in options.split(",") and os.access(place, os.R_OK | os.X_OK) and Path(place).is_dir():
            with pytest.raises(InputError, match="is on a read-only file system: mount it for writing"):
                check_access(Path(place))
            break
    if os.geteuid() != 0:
        with pytest.raises(InputError, match="is another user's"):
            check_access(Path("/"))
        tmp_path.chmod(0o500)
        with pytest.raises(InputError, match="chmod"):
            check_access(tmp_path)


def test_deleted_home_means_a_new_database(
    tmp_path: Path, new_server: NewServer, caplog: pytest.LogCaptureFixture
) -> None:
    """`rm -rf .hpo` is how a user starts afresh; the orphaned server must not answer instead."""
    old = new_server(tmp_path / "home")
    old.start()
    execute(old, "CREATE TABLE old (x int)")
    caplog.clear()
    folder, socket, pid = old.folder, recorded_socket(old.folder), postmaster(old)
    assert socket is not None
    shutil.rmtree(tmp_path / "home")
    try:
        fresh = new_server(tmp_path / "home")
        fresh.start()
        assert tables(fresh) == []
        if folder.exists():
            assert leftovers()[folder] == tmp_path / "home"
            assert "of homes that are gone stay until you remove them, such as" in caplog.text
            assert fresh.folder not in leftovers()
    finally:
        os.kill(pid, signal.SIGKILL)
        shutil.rmtree(socket, ignore_errors=True)
        if folder != old.folder:
            remove(folder)


def test_copied_home_has_a_database_of_its_own(tmp_path: Path, new_server: NewServer) -> None:
    """Two copies of a project that shared a database would resume each other's studies."""
    original, copy = new_server(tmp_path / "home"), new_server(tmp_path / "copy")
    original.start()
    original.stop()
    shutil.copytree(tmp_path / "home", tmp_path / "copy", symlinks=True)
    assert original.start() != copy.start()
    execute(original, "CREATE TABLE mine (x int)")
    assert tables(copy) == []


def test_moved_home_keeps_its_database(tmp_path: Path, new_server: NewServer) -> None:
    """Renaming a project's folder must not lose its studies."""
    new_server(tmp_path / "home").start()
    execute(EmbeddedPostgres(tmp_path / "home"), "CREATE TABLE kept (x int)")
    EmbeddedPostgres(tmp_path / "home").stop()
    (tmp_path / "home").rename(tmp_path / "moved")
    moved = new_server(tmp_path / "moved")
    moved.start()
    assert tables(moved) == [("kept",)]


def test_files_are_private_and_the_home_keeps_its_permissions(tmp_path: Path, new_server: NewServer) -> None:
    """The server trusts whoever reaches its socket; other starters open the user's folders to everybody."""
    parent = tmp_path / "parent"
    parent.mkdir(mode=0o700)
    server = new_server(parent / "home")
    server.start()
    socket = recorded_socket(server.folder)
    assert socket is not None
    private = (parent, parent / "home", server.folder / "data", socket, server.log, server.folder / "lock")
    assert [oct(stat.S_IMODE(path.stat().st_mode) & 0o077) for path in private] == [oct(0)] * len(private)


def test_server_of_an_ordinary_user_lies_in_the_home_and_root_may_use_it(new_server: NewServer) -> None:
    """Run as root, this drops to `nobody` first: the path that most users take must not go untested in CI."""
    home = Path(tempfile.mkdtemp())
    ordinary = Account.of(home / "postgres" / "data")
    programs = server_programs(ordinary)
    ordinary.own(home)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if ordinary.drop_to is not None:
                os.setgroups([])
                os.setgid(ordinary.drop_to[1])
                os.setuid(ordinary.drop_to[0])
            os.environ["HPO_POSTGRES_BIN"] = str(programs)
            EmbeddedPostgres(home).start()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    server = new_server(home)
    assert server.folder == home.resolve() / "postgres"
    assert (server.folder / "data").stat().st_uid == ordinary.uid
    pid = postmaster(server)
    server.start()
    assert postmaster(server) == pid
    server.stop()
    server.start()
    assert (server.folder / "data").stat().st_uid == ordinary.uid
    server.stop()
    shutil.rmtree(home)


def test_named_programs_are_used_and_a_wrong_folder_is_refused(
    server: EmbeddedPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Falling back to the packaged server would hide which one holds the data."""
    monkeypatch.setenv("HPO_POSTGRES_BIN", str(tmp_path))
    with pytest.raises(InputError, match="has no initdb, pg_ctl, postgres"):
        server.start()


def test_database_url_starts_the_embedded_server_of_the_home(
    tmp_path: Path, new_server: NewServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing to set up is the promise: without a URL the server of $HPO_HOME must come up by itself."""
    server = new_server(tmp_path / "hpo")
    assert database_url(None) == server.url
    assert server.running()
    assert uses_embedded(None)
    assert not uses_embedded("postgres://u@h/explicit"), "`hpo run` would say that `hpo db down` stops it"
    monkeypatch.setenv("HPO_DATABASE_URL", "postgres://u@h/environment")
    assert not uses_embedded(None)
    assert database_url(None) == "postgresql+psycopg2://u@h/environment"
    assert database_url("postgres://u@h/explicit") == "postgresql+psycopg2://u@h/explicit"
