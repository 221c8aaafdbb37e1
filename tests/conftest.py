"""One embedded PostgreSQL for the whole run, one empty database per test, and no way to the real `.hpo`."""

import multiprocessing
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path

import optuna
import psycopg2
import pytest
import torch

from storage.database.embedded import NAME, SUPERUSER, EmbeddedPostgres
from storage.database.postgres import Database, connect
from tests.forked import PRELOADED
from tests.mini import end_all

optuna.logging.set_verbosity(optuna.logging.WARNING)
# The models of the tests are so small that threads would only wait for each other, here and in what the tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Where the tests run in the background, as under some CI, SIGINT is ignored and every process they start inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)
# There is one such server in a process, which takes what it loads from whoever asks first.
multiprocessing.get_context("forkserver").set_forkserver_preload(
    ["tests.cache_builder", "tests.checkpoint_writer", "tests.forked", *PRELOADED]
)
_numbers = count()


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Point every test at a home of its own, as the developer's studies must survive the tests, and at one thread."""
    torch.set_num_threads(1)  # a test that runs a worker in its own process has set others, and with them other bits
    monkeypatch.setenv("HPO_HOME", str(tmp_path / "hpo"))
    monkeypatch.delenv("HPO_DATABASE_URL", raising=False)
    monkeypatch.delenv("HPO_CACHE_GIB", raising=False)
    monkeypatch.delenv("HPO_ARTIFACTS", raising=False)
    yield
    end_all()


@pytest.fixture(scope="session")
def _caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for the whole run, for all of pytest-xdist's processes."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "caches"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture
def shared_caches(_own_home: None, _caches: Path) -> None:
    """What was read and encoded for one test serves the next: on the miniature, that takes longer than all else."""
    home = Path(os.environ["HPO_HOME"])
    home.mkdir()
    (home / "cache").symlink_to(_caches)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """The run's server; it and its folder, wherever that is, are gone afterwards."""
    server = EmbeddedPostgres(tmp_path_factory.mktemp("postgres"))
    server.start()
    # No test survives the machine's power failure: none has to wait for the disk.
    _administer(server, "ALTER SYSTEM SET fsync = off")
    _administer(server, "SELECT pg_reload_conf()")
    yield server
    server.stop()
    shutil.rmtree(server.folder)


@pytest.fixture(scope="session")
def _template(postgres: EmbeddedPostgres) -> str:
    """The name of a database with all tables: a copy is there sooner than the tables are made."""
    _administer(postgres, f"CREATE DATABASE opened OWNER {NAME}")
    connect(_url(postgres, "opened")).engine.dispose()
    return "opened"


@pytest.fixture
def database_url(request: pytest.FixtureRequest, postgres: EmbeddedPostgres) -> Iterator[str]:
    """The URL of a database that only this test has; empty, unless the test has it opened by `database`."""
    name = f"test_{next(_numbers)}"
    template = request.getfixturevalue("_template") if "database" in request.fixturenames else "template1"
    _administer(postgres, f"CREATE DATABASE {name} OWNER {NAME} TEMPLATE {template}")
    yield _url(postgres, name)
    _administer(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def superuser_url(database_url: str) -> str:
    """The URL of the same database for its administrator, who makes roles and databases."""
    return database_url.replace(f"{NAME}@", f"{SUPERUSER}@")


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """An open database of this test's own."""
    opened = connect(database_url)
    yield opened
    opened.engine.dispose()


def _url(server: EmbeddedPostgres, name: str) -> str:
    base, _, query = server.url.partition("?")
    return f"{base.rpartition('/')[0]}/{name}?{query}"


def _administer(server: EmbeddedPostgres, statement: str) -> None:
    url = server.url.replace("+psycopg2", "").replace(f"{NAME}@", f"{SUPERUSER}@")
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
