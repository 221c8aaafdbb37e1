"""A database that goes away for a while, on a real server: cut connections, restarts, unacknowledged commits."""

import inspect
import logging
import re
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import psycopg2
import psycopg2.errorcodes
import pytest
import sqlalchemy as sa
from optuna.storages import RDBStorage, _CachedStorage
from optuna.trial import TrialState
from postgres_proxy import Proxy
from sqlalchemy.engine import make_url

from storage.database import retry
from storage.database.connection import session
from storage.database.connection.faults import FAULTS, is_transient
from storage.database.embedded import EmbeddedPostgres
from storage.database.postgres import Database, connect, create_engine
from storage.database.records import Records, RungResult
from storage.database.retry import retry_transient, retrying
from storage.database.retrying_storage import RetryingStorage
from storage.database.server_files import recorded_socket
from storage.errors import DatabaseFailed, DatabaseUnreachable, LockLost

FLOAT = optuna.distributions.FloatDistribution(0, 1)
RESULT = RungResult("s", 0, 0, 10, 0.5, {"tea": 0.5}, 1.5)


def through(port: int, url: str, query: str = "") -> str:
    """Return the URL of the same database, reached through a proxy."""
    return f"postgresql://scenetune@127.0.0.1:{port}/{make_url(url).database}{query}"


@pytest.fixture
def proxy(postgres: EmbeddedPostgres) -> Iterator[Proxy]:
    socket = recorded_socket(postgres.folder)
    assert socket is not None
    made = Proxy(socket)
    yield made
    made.close()


@pytest.fixture
def lossy(proxy: Proxy, database_url: str) -> Iterator[Database]:
    """Return a database whose acknowledgements `proxy` can lose."""
    opened = connect(through(proxy.port, database_url))
    yield opened
    opened.engine.dispose()


def cut(url: str) -> None:
    """End all other connections to a database, as an administrator does."""
    engine = create_engine(url)
    with engine.connect() as connection:
        connection.execute(
            sa.text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
    engine.dispose()


def running_trial(storage: RDBStorage, name: str = "s") -> int:
    study = optuna.create_study(storage=storage, study_name=name, direction="maximize")
    return study.ask()._trial_id


def test_every_call_of_optunas_storage_is_retried() -> None:
    """A method that a new Optuna adds, or calls behind its cache, would end the worker at the first restart."""
    called = set(re.findall(r"_backend\.(\w+)", inspect.getsource(_CachedStorage)))
    own = {
        name
        for name, function in inspect.getmembers(RDBStorage, inspect.isfunction)
        if "_create_scoped_session" in inspect.getsource(function) and not name.startswith("__")
    }
    local = {"get_heartbeat_interval", "get_heartbeat_stale_trial_callback"}
    missing = {name for name in called | own if not hasattr(getattr(RetryingStorage, name), "__wrapped__")}
    assert missing - local == set()


@pytest.mark.parametrize(
    ("statement", "transient"),
    [
        ("SELECT pg_terminate_backend(pg_backend_pid())", True),
        ("DO $$ BEGIN RAISE SQLSTATE '40P01'; END $$", True),
        ("DO $$ BEGIN RAISE SQLSTATE '40001'; END $$", True),
        ("DO $$ BEGIN RAISE SQLSTATE '53300'; END $$", True),
        ("DO $$ BEGIN RAISE SQLSTATE '57P02'; END $$", True),
        ("DO $$ BEGIN RAISE SQLSTATE '25006'; END $$", True),
        ("DO $$ BEGIN RAISE SQLSTATE '25P02'; END $$", False),
        ("DO $$ BEGIN RAISE SQLSTATE '53100'; END $$", True),
        ("DO $$ BEGIN RAISE SQLSTATE '53400'; END $$", False),
        ("DO $$ BEGIN RAISE SQLSTATE '55006'; END $$", False),
        ("DO $$ BEGIN RAISE SQLSTATE '55P03'; END $$", True),
        ("DO $$ BEGIN RAISE SQLSTATE '57014'; END $$", True),
        ("DO $$ BEGIN RAISE SQLSTATE '57P04'; END $$", False),
        ("DO $$ BEGIN RAISE SQLSTATE '57P99'; END $$", True),
        ("DO $$ BEGIN RAISE SQLSTATE '55P99'; END $$", False),
        ("DO $$ BEGIN RAISE SQLSTATE '23505'; END $$", False),
        ("SELECT * FROM nothing_of_that_name", False),
        ("SELEC 1", False),
    ],
)
def test_only_transient_faults_are_retried(database: Database, statement: str, transient: bool) -> None:
    """A wrong statement repeated for ten minutes looks like a program that hangs."""
    with pytest.raises(sa.exc.DBAPIError) as caught, database.engine.connect() as connection:
        connection.exec_driver_sql(statement)
    assert is_transient(caught.value) is transient
    wrapped = optuna.exceptions.StorageInternalError("during the commit")
    wrapped.__cause__ = caught.value
    assert is_transient(wrapped) is transient
    given_up = DatabaseFailed("given up")
    given_up.__cause__ = caught.value
    assert not is_transient(given_up)
    assert not is_transient(KeyboardInterrupt())


def test_every_code_of_the_classes_of_outages_is_sorted() -> None:
    """A code that nobody thought of ends all workers, or makes them wait ten minutes for nothing."""
    classes = ("08", "25", "40", "53", "55", "57")
    known = {code for name, code in vars(psycopg2.errorcodes).items() if name.isupper() and code[:2] in classes}
    assert {code for code in known if len(code) == 5} == FAULTS.keys()
    assert len(FAULTS) > 40


def test_a_fault_that_does_not_pass_is_told_with_its_remedy(database: Database) -> None:
    """Thirty lines of SQL and Python hide the one that says that the database was dropped."""

    @retry_transient
    def fail() -> None:
        with database.engine.connect() as connection:
            connection.exec_driver_sql("DO $$ BEGIN RAISE SQLSTATE '57P04' USING MESSAGE = 'it is gone'; END $$")

    with pytest.raises(DatabaseFailed, match=r"refused \(it is gone .*\): the database was dropped: .* hpo db restore"):
        fail()


@pytest.mark.parametrize(
    ("user", "change", "transient"),
    [
        ("scenetune", {"dbname": "nowhere"}, False),
        ("unknown_user", {}, False),
        ("scenetune", {"port": 1}, True),
        ("scenetune", {"host": "no-such-host.invalid"}, True),
    ],
)
def test_a_refused_connection_is_told_from_an_unanswered_one(
    database_url: str, user: str, change: dict[str, object], transient: bool
) -> None:
    """Both come as the same class of error without a code; a mistyped name never becomes right by waiting."""
    url = make_url(database_url)
    address = {"host": url.query["host"], "port": url.query["port"], "dbname": url.database, "user": user}
    with pytest.raises(psycopg2.OperationalError) as caught:
        psycopg2.connect(**address | change)
    assert is_transient(caught.value) is transient


@pytest.mark.parametrize(
    ("message", "transient"),
    [
        ('FATAL:  password authentication failed for user "u"', False),
        ('FATAL:  no pg_hba.conf entry for host "1.2.3.4"', False),
        ("fe_sendauth: no password supplied", False),
        ("FATAL:  the database system is starting up", True),
        ("FATAL:  sorry, too many clients already", True),
        ('FATAL:  too many connections for role "u"', True),
        ("session is read-only", True),
        ('FATAL:  unrecognized configuration parameter "work_memory"', False),
        ('FATAL:  parameter "shared_buffers" cannot be changed without restarting the server', False),
    ],
)
def test_a_refused_connection_is_judged_by_its_message(message: str, transient: bool) -> None:
    """A server that starts up again would be taken for one that refuses workers, or a wrong password for an outage."""
    assert is_transient(psycopg2.OperationalError(message)) is transient


def test_calls_succeed_after_their_connections_were_cut(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    """An administrator's pg_terminate_backend, or a failover, must not end the trial."""
    records = Records(database.engine)
    records.save_study("s", {}, "f")
    trial = running_trial(database.storage)
    calls: list[bool] = []

    def cut_first(connection: sa.Connection, *_: object) -> None:
        if not calls:
            calls.append(True)
            cut(database.url)

    sa.event.listen(database.engine, "before_cursor_execute", cut_first)
    work = [
        lambda: database.storage.set_trial_intermediate_value(trial, 1, 0.5),
        lambda: database.storage.set_trial_param(trial, "x", 0.5, FLOAT),
        lambda: database.storage.set_trial_state_values(trial, TrialState.COMPLETE, [0.5]),
        lambda: records.record_rung(RESULT),
        lambda: records.finish_stage("s", "search", {}),
    ]
    with caplog.at_level(logging.INFO, "storage.database.retry"):
        for call in work:
            calls.clear()
            call()
    stored = database.storage.get_trial(trial)
    assert (stored.params, stored.value, stored.intermediate_values) == ({"x": 0.5}, 0.5, {1: 0.5})
    assert records.rung_results("s") == [RESULT]
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"] * len(work)


def test_a_writer_survives_the_restart_of_its_server(tmp_path: Path) -> None:
    """Hours of every worker's training would be lost to one minute of a server's maintenance."""
    server = EmbeddedPostgres(tmp_path)
    database = connect(server.start())
    try:
        records = Records(database.engine)
        records.save_study("s", {}, "f")
        trial = running_trial(database.storage)
        done = threading.Event()
        failures: list[BaseException] = []

        def write() -> None:
            try:
                step = 0
                while not done.is_set():
                    database.storage.set_trial_intermediate_value(trial, step, step)
                    records.record_rung(RungResult("s", 0, step, step, 0.5, {}, 1.0))
                    step += 1
            except BaseException as error:
                failures.append(error)

        writer = threading.Thread(target=write)
        writer.start()
        time.sleep(0.2)
        assert server.stop()
        time.sleep(0.3)
        server.start()
        before = len(records.rung_results("s"))
        while len(records.rung_results("s")) < before + 3 and writer.is_alive():
            time.sleep(0.05)
        done.set()
        writer.join()
        assert failures == []
        steps = [result.rung for result in records.rung_results("s")]
        assert steps == list(range(len(steps)))
        assert list(database.storage.get_trial(trial).intermediate_values) == steps
    finally:
        database.engine.dispose()
        server.stop()
        shutil.rmtree(server.folder)


def test_an_unacknowledged_commit_is_not_taken_for_that_of_another_worker(lossy: Database, proxy: Proxy) -> None:
    """The commit arrived, its acknowledgement did not: the repeated call would find the trial finished and fail it."""
    trial = running_trial(lossy.storage)
    other = running_trial(lossy.storage, "other")
    for call in (
        lambda: lossy.storage.set_trial_param(trial, "x", 0.5, FLOAT),
        lambda: lossy.storage.set_trial_state_values(trial, TrialState.COMPLETE, [0.5]),
        lambda: lossy.storage.delete_study(lossy.storage.get_study_id_from_name("other")),
    ):
        lossy.engine.dispose()
        proxy.lose.set()
        call()
        assert not proxy.lose.is_set()
    stored = lossy.storage.get_trial(trial)
    assert (stored.state, stored.values, stored.params) == (TrialState.COMPLETE, [0.5], {"x": 0.5})
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        lossy.storage.set_trial_state_values(trial, TrialState.COMPLETE, [0.5])
    with pytest.raises(KeyError):
        lossy.storage.get_trial(other)


def test_a_rung_recorded_by_an_unacknowledged_commit_counts_once(lossy: Database, proxy: Proxy) -> None:
    """A result that counted twice would pull the pruner's quantile."""
    records = Records(lossy.engine)
    records.save_study("s", {}, "f")
    proxy.lose.set()
    records.record_rung(RESULT)
    assert not proxy.lose.is_set()
    assert records.rung_results("s") == [RESULT]


def test_trial_finished_otherwise_meanwhile_is_an_error(lossy: Database, proxy: Proxy) -> None:
    """Two workers that believe they have finished one trial would each report their own value."""
    trial = running_trial(lossy.storage)

    @retry_transient
    def finish_twice() -> None:
        lossy.storage.set_trial_state_values(trial, TrialState.COMPLETE, [0.9 if retrying() else 0.5])

    proxy.lose.set()
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        finish_twice()


def test_a_lock_lost_with_its_connection_is_reported(database: Database) -> None:
    """Another process may have held the lock too: the budget may be overspent without a notice."""
    records = Records(database.engine)
    with pytest.raises(LockLost), records.exclusive("s"):
        cut(database.url)

    def fail_inside() -> None:
        cut(database.url)
        raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"), records.exclusive("s"):
        fail_inside()
    with records.exclusive("s"):
        pass
    assert database.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


def test_waiting_for_a_lock_survives_a_cut_connection(database: Database) -> None:
    """The wait for a lock is the longest call of all: most restarts happen during it."""
    records, entered = Records(database.engine), threading.Event()

    def enter() -> None:
        with records.exclusive("s"):
            entered.set()

    waiter = threading.Thread(target=enter)

    def cut_while_it_waits() -> None:
        waiter.start()
        time.sleep(0.2)
        assert not entered.is_set()
        cut(database.url)

    with pytest.raises(LockLost), records.exclusive("s"):
        cut_while_it_waits()
    waiter.join(5)
    assert entered.is_set()


def test_retries_end_with_the_servers_message(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for ever hides a dead server; ten minutes at each of several levels is as good as for ever."""
    monkeypatch.setattr(retry, "RETRY_SECONDS", 0.3)
    calls = []

    def fail() -> None:
        calls.append(time.monotonic())
        with database.engine.connect() as connection:
            connection.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")

    with pytest.raises(DatabaseFailed, match=r"failed for \d s \(.*terminat.*\): .* run the same command") as caught:
        retry_transient(retry_transient(fail))()
    assert caught.value.exit_code == 1
    assert 1 < len(calls) < 10
    assert calls[-1] - calls[0] < 3

    # What the process tidies up before it ends does not wait as long again.
    calls.clear()
    with pytest.raises(DatabaseFailed):
        retry_transient(fail)()
    assert len(calls) == 1
    retry_transient(list)()
    with pytest.raises(DatabaseFailed):
        retry_transient(fail)()
    assert len(calls) > 2, "another outage is waited for again"


@pytest.fixture
def read_only(database: Database) -> Callable[[bool], None]:
    """Switch the test's database to read-only and back, for connections that are made from then on."""

    def switch(on: bool) -> None:
        administrator = create_engine(database.url)
        with administrator.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("SET default_transaction_read_only = off")
            name = connection.exec_driver_sql("SELECT current_database()").scalar_one()
            state = "on" if on else "off"
            connection.exec_driver_sql(f"ALTER DATABASE {name} SET default_transaction_read_only = {state}")
        administrator.dispose()

    return switch


def test_a_writer_survives_a_failover_to_a_server_that_is_read_only_at_first(
    database: Database, read_only: Callable[[bool], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Sessions of the pool stay read-only for good, while the server has long been promoted."""
    records = Records(database.engine)
    read_only(True)
    cut(database.url)
    back = threading.Timer(0.5, read_only, (False,))
    back.start()
    records.save_study("ours", {}, "f")
    optuna.create_study(storage=database.storage, study_name="optunas")
    back.join()
    assert records.study_names() == ["ours"]
    assert "read-only transaction): retrying for up to 600 s; studies are written to" in caplog.text


def test_a_read_only_database_is_named_at_the_first_connection_and_may_be_read(
    database: Database, read_only: Callable[[bool], None]
) -> None:
    """The first write comes after minutes of reading data; `hpo status` on a replica needs none."""
    Records(database.engine).save_study("kept", {}, "f")
    read_only(True)
    with pytest.raises(DatabaseUnreachable, match=r"\(default_transaction_read_only is on\): .* name the primary"):
        connect(database.url)
    opened = connect(database.url, writes=False)
    assert Records(opened.engine).study_names() == ["kept"]
    back = threading.Timer(0.3, read_only, (False,))
    back.start()
    waited = connect(database.url, wait=True)
    Records(waited.engine).save_study("more", {}, "f")
    back.join()
    for each in (opened, waited):
        each.engine.dispose()


def test_time_limits_of_the_role_do_not_end_waits_for_locks(database: Database) -> None:
    """Limits for interactive users: each trial waits for the lock of its study, longer than any of them."""
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        name = connection.exec_driver_sql("SELECT current_database()").scalar_one()
        limits = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "transaction_timeout")
        for limit in limits:
            connection.exec_driver_sql(f"ALTER DATABASE {name} SET {limit} = 100")
    held, waiting = connect(database.url), connect(database.url)
    entered = threading.Event()

    def enter() -> None:
        with Records(waiting.engine).exclusive("s"):
            entered.set()

    waiter = threading.Thread(target=enter)
    with Records(held.engine).exclusive("s"):
        waiter.start()
        time.sleep(0.5)
        assert not entered.is_set()
    waiter.join()
    assert entered.is_set()
    mine = create_engine(f"{database.url}&options=-c%20lock_timeout%3D7s")
    with mine.connect() as connection:
        shown = [connection.exec_driver_sql(f"SHOW {limit}").scalar_one() for limit in limits]
    assert shown == ["0", "7s", "0", "0"]
    for engine in (held.engine, waiting.engine, mine):
        engine.dispose()


def test_a_pooler_without_a_free_connection_is_told_of(
    proxy: Proxy, database_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """PgBouncer accepts every client at once, and lets its first statement wait without a word."""
    monkeypatch.setattr(session, "SILENCE_SECONDS", 0.1)
    proxy.hold.set()
    free = threading.Timer(0.5, proxy.hold.clear)
    free.start()
    engine = create_engine(through(proxy.port, database_url))
    with caplog.at_level(logging.INFO, "storage.database.connection.session"):
        engine.connect().close()
    waits, over = (record.getMessage() for record in caplog.records)
    assert "has not answered for 0 s: a pooler such as PgBouncer waits for a free connection" in waits
    assert over == "the database answers"
    engine.dispose()
    free.join()


def test_interrupt_ends_the_wait_at_once() -> None:
    """Ctrl-C during an outage must not wait for the server."""
    calls = []

    @retry_transient
    def interrupted() -> None:
        calls.append(True)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(calls) == 1
    assert not retrying()


def test_encrypted_server_is_checked_by_the_certificate_that_the_url_names(
    postgres: EmbeddedPostgres, database_url: str, tmp_path: Path
) -> None:
    """A lost `sslmode=verify-full` would send passwords to any machine in between."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    try:
        subprocess.run([*make, *names, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("needs openssl to make a certificate")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    socket = recorded_socket(postgres.folder)
    assert socket is not None
    proxy = Proxy(socket, context)
    opened = connect(through(proxy.port, database_url, f"?sslmode=verify-full&sslrootcert={certificate}"))
    with opened.engine.connect() as connection:
        assert connection.connection.dbapi_connection.info.ssl_in_use  # type: ignore[union-attr]
    opened.engine.dispose()
    with pytest.raises(DatabaseUnreachable, match="certificate"):
        connect(through(proxy.port, database_url, f"?sslmode=verify-full&sslrootcert={tmp_path / 'none.pem'}"))
    proxy.close()


def test_a_worker_that_starts_during_an_outage_waits_for_its_end(tmp_path: Path) -> None:
    """A machine and its database are often restarted together: the worker must not lose the race."""
    server = EmbeddedPostgres(tmp_path / "server")
    url = server.start()
    connect(url).engine.dispose()
    server.stop()
    with pytest.raises(DatabaseUnreachable):
        connect(url)
    back = threading.Timer(1.0, server.start)
    back.start()
    try:
        opened = connect(url, wait=True)
        assert Records(opened.engine).study_names() == []
        opened.engine.dispose()
    finally:
        back.join()
        server.stop()
        shutil.rmtree(server.folder)


def test_waiting_for_a_database_ends_at_a_refusal_that_will_not_pass(database_url: str) -> None:
    """Ten minutes without output over a typo in its name would look like a hang."""
    with pytest.raises(DatabaseUnreachable, match="does not exist"):
        connect(database_url.replace("/test_", "/nothing_"), wait=True)


def test_writes_of_one_transaction_are_stored_together_pruned_or_not(database: Database) -> None:
    """Each of a trial's dozen values would wait for the disk on its own; a pruned trial must not lose its last one."""
    study = optuna.create_study(storage=database.storage, study_name="s")
    trial = study.ask()

    def rung() -> None:
        with database.storage.one_transaction():
            trial.suggest_float("x", 0, 1)
            trial.suggest_categorical("y", ["a", "b"])
            trial.report(0.5, 10)
            trial.set_user_attr("reason", "too low")
            database.storage.set_trial_system_attr(trial._trial_id, "where", "here")
            assert study.trials[0].params == {}
            assert database.storage.get_trial_system_attrs(trial._trial_id) == {}
            raise optuna.TrialPruned

    with pytest.raises(optuna.TrialPruned):
        rung()
    (stored,) = study.get_trials()
    assert stored.params == trial.params
    assert stored.intermediate_values == {10: 0.5}
    assert stored.user_attrs == {"reason": "too low"}
    assert database.storage.get_trial_system_attrs(trial._trial_id) == {"where": "here"}


def test_writes_of_an_interrupted_transaction_are_not_stored_by_half(database: Database) -> None:
    """Half a configuration would be completed from other random numbers than the whole one."""
    study = optuna.create_study(storage=database.storage, study_name="s")
    trial = study.ask()

    def suggest() -> None:
        with database.storage.one_transaction():
            trial.suggest_float("x", 0, 1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        suggest()
    assert study.get_trials()[0].params == {}
