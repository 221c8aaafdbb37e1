"""One embedded PostgreSQL for the whole run, one empty database per test, and no way to the real `.hpo`."""

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

from storage.embedded import EmbeddedPostgres
from storage.postgres import Database, connect

optuna.logging.set_verbosity(optuna.logging.WARNING)
# The models of the tests are so small that threads would only wait for each other.
torch.set_num_threads(1)
# Where the tests run in the background, as under some CI, SIGINT is ignored and every process they start inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)
_numbers = count()


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point every test at a home of its own: the developer's studies must survive the tests."""
    monkeypatch.setenv("HPO_HOME", str(tmp_path / "hpo"))
    monkeypatch.delenv("HPO_DATABASE_URL", raising=False)
    monkeypatch.delenv("HPO_CACHE_GIB", raising=False)
    monkeypatch.delenv("HPO_ARTIFACTS", raising=False)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """The run's server; it and its folder, wherever that is, are gone afterwards."""
    server = EmbeddedPostgres(tmp_path_factory.mktemp("postgres"))
    server.start()
    yield server
    server.stop()
    shutil.rmtree(server.folder)


@pytest.fixture
def database_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    """The URL of an empty database that only this test has."""
    name = f"test_{next(_numbers)}"
    base, _, query = postgres.url.partition("?")
    _administer(postgres, f"CREATE DATABASE {name}")
    yield f"{base.rpartition('/')[0]}/{name}?{query}"
    _administer(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """An open database of this test's own."""
    opened = connect(database_url)
    yield opened
    opened.engine.dispose()


def _administer(server: EmbeddedPostgres, statement: str) -> None:
    with closing(psycopg2.connect(server.url.replace("+psycopg2", ""))) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
