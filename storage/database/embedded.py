"""The embedded PostgreSQL: one server per home, started on demand, reached by a Unix socket.

The server keeps running when the process that started it ends, and the next start recovers from any kill. Every process
of the server inherits a lock on a file, which tells whether the server runs: unlike a process id a lock cannot be
reused, and it holds across containers and, where the file system supports locks, across machines.
"""

import fcntl
import logging
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from urllib.parse import quote

from filelock import FileLock, Timeout

from storage.database.connection.environment import ignore_libpq_variables
from storage.database.server_files import (
    Account,
    check_access,
    claim_folder,
    drop_stale_pids,
    recorded_socket,
    server_programs,
    socket_folder,
)
from storage.errors import EmbeddedServerError, InputError, ScenetuneError

log = logging.getLogger(__name__)

NAME = "scenetune"  # of the database, and of the ordinary role that owns it
SUPERUSER = "postgres"
PORT = 5432
MAX_CONNECTIONS = 200
_SOCKET = f".s.PGSQL.{PORT}"
_TIMEOUT_SECONDS = 120
_POLL_SECONDS = 0.05
_LOG_LINES = 8


class EmbeddedPostgres:
    """The server of one home; several objects and processes may use the same one.

    Args:
        home: The folder that holds the project's state; `start` creates it when missing.
    """

    def __init__(self, home: Path) -> None:
        self._home, self._reported = home.absolute(), False

    @property
    def folder(self) -> Path:
        """Folder of the server's data, log and lock."""
        return (self._home / "postgres").resolve()

    @property
    def log(self) -> Path:
        """The server's log file."""
        return self.folder / "server.log"

    @property
    def url(self) -> str:
        """URL of the database, without a password; the same after every restart.

        Raises:
            InputError: The server was never started.
        """
        # With an explicit port, as libpq and the server would otherwise use $PGPORT.
        return f"postgresql+psycopg2://{NAME}@/{NAME}?host={quote(str(self._socket), safe='')}&port={PORT}"

    def start(self) -> str:
        """Start the server unless it runs, creating its data folder and database when missing; return the URL.

        Raises:
            EmbeddedServerError: It did not start; the message ends with its log.
        """
        ignore_libpq_variables()
        self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_access(self._home, self.folder)
        with self._locked():
            claim_folder(self._home)
            deadline = time.monotonic() + _TIMEOUT_SECONDS
            while not (self.running() and self._answers()):
                if not self.running():
                    self._launch()
                elif time.monotonic() > deadline:
                    raise EmbeddedServerError(self._unreachable())
                else:
                    time.sleep(_POLL_SECONDS)
            self._create_database()
        return self.url

    def restart_if_killed(self) -> None:
        """Start the server again if it was killed, not stopped on request or deleted; log the first failure."""
        try:
            if self._data.exists() and not (self._stopped.exists() or self.running()):
                self.start()
                log.warning("the embedded PostgreSQL was killed and has been started again")
                self._reported = False
        except (ScenetuneError, OSError) as error:
            if not self._reported:
                words = " ".join(str(error).split())
                log.warning("the embedded PostgreSQL was killed and does not start again: %s", words)
                self._reported = True

    def stop(self, force: bool = True) -> bool:
        """Stop the server; return whether it ran.

        Args:
            force: Cut open connections.

        Raises:
            InputError: There are open connections, and `force` is not set.
            EmbeddedServerError: It runs where this process cannot reach it, or does not stop.
        """
        if not self.running():
            return False
        ignore_libpq_variables()
        with self._locked():
            if not self.running():
                return False
            if not (self._socket / _SOCKET).exists():
                raise EmbeddedServerError(self._unreachable())
            if not force:
                self._refuse_if_in_use()
            self._stopped.touch(mode=0o600)
            account = Account.of(self._data)
            command = ["stop", "-D", "data", "-m", "fast", "-w", "-t", str(_TIMEOUT_SECONDS)]
            try:
                self._run([server_programs(account) / "pg_ctl", *command], account)
            except EmbeddedServerError:
                time.sleep(2)  # one that was killed ends a moment after pg_ctl finds it gone
                if self.running():
                    raise
            while self.running():
                time.sleep(_POLL_SECONDS)
            with suppress(OSError):
                self._socket.rmdir()
        return True

    def running(self) -> bool:
        """Tell whether any process of the server runs, be it starting, serving or stopping."""
        check_access(self._home, self.folder)
        try:
            file = (self.folder / "lock").open("r")
        except FileNotFoundError:
            return False
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    @property
    def _stopped(self) -> Path:
        """A file that is there after the server was stopped on request."""
        return self.folder / "stopped"

    @property
    def _socket(self) -> Path:
        socket = recorded_socket(self.folder)
        if socket is None:
            raise InputError(f"the embedded PostgreSQL of {self._home} was never started: run `hpo db up`")
        return socket

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Let one process at a time start or stop the server."""
        try:
            with FileLock(self._home / "postgres.lock", timeout=2 * _TIMEOUT_SECONDS):
                yield
        except Timeout as error:
            raise EmbeddedServerError(
                f"another process has been starting the server of {self._home} for "
                f"{2 * _TIMEOUT_SECONDS} s: see {self.log}, end that process and try again"
            ) from error

    def _launch(self) -> None:
        """Start the server; only while none runs."""
        folder = self.folder
        account = Account.of(self._data)
        programs = server_programs(account)
        self._stopped.unlink(missing_ok=True)
        for draft in folder.glob("data.*"):
            shutil.rmtree(draft, ignore_errors=True)
        if not self._data.exists():
            self._initialise(programs, account)
        self.log.touch(mode=0o600)
        account.own(self.log)
        options = {
            "max_connections": MAX_CONNECTIONS,
            "timezone": "UTC",
            "log_timezone": "UTC",
            "unix_socket_permissions": "0700",
        }
        socket = socket_folder(self._home, folder, account)
        drop_stale_pids(self._data / "postmaster.pid", socket / f"{_SOCKET}.lock")
        server = ["-h", "", "-p", str(PORT), "-k", str(socket)]
        server += [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        command = ["start", "-D", "data", "-l", "server.log", "-w", "-t", str(_TIMEOUT_SECONDS)]
        (folder / "lock").touch(mode=0o600)
        with (folder / "lock").open("a") as lock:
            # Waits at most for a call of `running`, which holds the lock for a moment.
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._run([programs / "pg_ctl", *command, "-o", shlex.join(server)], account, inherit=(lock.fileno(),))

    def _initialise(self, programs: Path, account: Account) -> None:
        """Create the data folder, first under another name: a killed `initdb` must not look like a database."""
        # A new name each time: an orphaned initdb may still be writing to the last one.
        draft = self.folder / f"data.{token_hex(4)}"
        draft.mkdir(mode=0o700)
        account.own(draft)
        # No password: only the account can enter the socket's folder. C locale: the user's may not be installed.
        choices = ["-U", SUPERUSER, "-A", "trust", "-E", "UTF8", "--no-locale"]
        self._run([programs / "initdb", "-D", draft.name, *choices], account)
        draft.rename(self._data)

    def _run(self, command: Sequence[str | Path], account: Account, inherit: Sequence[int] = ()) -> None:
        done = subprocess.run(
            command,
            # Relative names inside: pg_ctl quotes a path with `$` or `"` wrongly.
            cwd=self.folder,
            env=os.environ | {"LC_ALL": "C", "TZ": "UTC"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            # In a session of its own, Ctrl-C in the terminal does not reach the server.
            start_new_session=True,
            pass_fds=inherit,
            **account.arguments,
        )
        if done.returncode != 0:
            tail = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
            raise EmbeddedServerError(
                f"{Path(command[0]).name} of the embedded PostgreSQL failed; its log is {self.log}:\n"
                + "\n".join([*done.stdout.splitlines()[-_LOG_LINES:], *tail[-_LOG_LINES:]])
            )

    def _answers(self) -> bool:
        # Here and below, for connecting alone: `hpo db` and `hpo --help` start without it.
        import psycopg2

        try:
            psycopg2.connect(**self._connection("postgres")).close()
        except psycopg2.OperationalError:
            return False
        return True

    def _create_database(self) -> None:
        import psycopg2

        with closing(psycopg2.connect(**self._connection("postgres"))) as connection, connection.cursor() as cursor:
            connection.autocommit = True
            cursor.execute("SELECT FROM pg_database WHERE datname = %s", (NAME,))
            if cursor.fetchone() is None:
                # A start that was killed here left the role.
                cursor.execute(f"DROP ROLE IF EXISTS {NAME}; CREATE ROLE {NAME} LOGIN")
                cursor.execute(f"CREATE DATABASE {NAME} OWNER {NAME}")

    def _refuse_if_in_use(self) -> None:
        import psycopg2

        query = (
            "SELECT coalesce(nullif(application_name, ''), 'unnamed'), count(*) FROM pg_stat_activity "
            "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() GROUP BY 1 ORDER BY 1"
        )
        with closing(psycopg2.connect(**self._connection("postgres"))) as connection, connection.cursor() as cursor:
            cursor.execute(query)
            found = cursor.fetchall()
        if found:
            # The names of our own connections end with a process id.
            names = ", ".join(f"{count} of {name}" for name, count in found)
            raise InputError(
                f"the embedded PostgreSQL is in use, by connections: {names}; end these programs first, "
                "or give --force to cut them off"
            )

    def _connection(self, database: str) -> dict[str, str | int]:
        socket = str(self._socket)
        return {"host": socket, "port": PORT, "user": SUPERUSER, "dbname": database, "connect_timeout": 10}

    def _unreachable(self) -> str:
        return (
            f"a PostgreSQL server holds {self.folder} but does not answer on {self._socket}: it runs in "
            "another container or on another machine, or its socket was deleted. Stop the process named "
            f"first in {self._data / 'postmaster.pid'} where it runs, then try again; its log is {self.log}"
        )
