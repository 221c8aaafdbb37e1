"""`hpo dashboard`: serves optuna-dashboard on the database of this project until it is interrupted.

address ─▶ requests that would harm a study refused ─▶ optuna-dashboard over a cached storage ─▶ notes kept current
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import socket
import threading
import time
import webbrowser
from collections.abc import Collection, Iterable
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import bottle
import sqlalchemy as sa
from optuna.storages import BaseStorage
from optuna.storages._cached_storage import _CachedStorage

from hpo.dashboard.downloads import HEADERS, ToBrowsers
from hpo.dashboard.guard import Guard
from hpo.dashboard.page import SECONDS_BETWEEN_WRITES, Page
from hpo.host_names import is_loopback
from hpo.light_imports import without_scikit_learn
from hpo.ownership import load_record, owned_search
from hpo.registry import load_spec_of
from hpo.status.console import Console
from storage.database.connection.faults import is_transient
from storage.database.postgres import Database, open_without_retry
from storage.database.records import Records
from storage.database.retry import repair
from storage.database.urls import hide_password
from storage.errors import InputError, ScenetuneError

if TYPE_CHECKING:
    # Known to type checkers alone.
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

LOOPBACK = "127.0.0.1"
PORT = 8080
PORTS_TO_TRY = 50
# The browser's first page is served before any note is written.
SECONDS_BEFORE_WRITING = 20.0


def serve(
    database: Database,
    name: str | None,
    console: Console,
    *,
    host: str = LOOPBACK,
    port: int = PORT,
    allowed_hosts: Collection[str] = (),
    read_only: bool = False,
    browser: bool = False,
) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Args:
        database: Of the studies.
        name: The study whose page is opened; by default the list of all.
        console: For the address, on stdout, and for notes.
        host: Address to listen on.
        port: The first to try; 0 for any.
        allowed_hosts: Further names under which browsers may reach it, such as a reverse proxy's.
        read_only: Answer no request that changes the database, and write no notes.
        browser: Open the page in the browser.

    Raises:
        InputError: There is no such study, its trials are gone, or there is no such address or free port.
    """
    path = f"/dashboard/studies/{_study_id(database, name)}" if name else "/dashboard"
    server = listen(host, port, console)
    try:
        storage = watched_storage(database, console)
        guard = Guard(host, allowed_hosts, read_only=read_only)
        server.set_app(application(storage, ToBrowsers(database), guard))
        shown = f"[{host}]" if ":" in host else host
        url = f"http://{shown}:{server.server_port}{path}"
        if not is_loopback(host):
            console.note(
                f"{host} is reached from other machines and there is no login: anyone who reaches it "
                f"sees all studies{'' if read_only else ', and may write into their notes unless --read-only is given'}"
            )
        console.out.print(url, soft_wrap=True)
        console.note("Ctrl-C stops it")
        if not read_only:
            threading.Thread(target=_keep_current, args=(database, storage), daemon=True, name="pages").start()
        if browser:
            webbrowser.open(url)
        server.serve_forever()
    except KeyboardInterrupt:
        console.note("stopped")
    finally:
        server.server_close()


def watched_storage(database: Database, console: Console) -> BaseStorage:
    """Return Optuna's storage with finished trials in memory; it fails with a reason while the database is away."""
    storage = open_without_retry(database.url)
    _report_outages(storage.engine, console)
    return _CachedStorage(storage)


def application(storage: BaseStorage, artifacts: ToBrowsers, guard: Guard) -> WSGIApplication:
    """Return optuna-dashboard on a storage and its artifacts, with the requests that the guard lets through."""
    with without_scikit_learn():
        import optuna_dashboard
    app: WSGIApplication = optuna_dashboard.wsgi(storage, artifact_store=artifacts)

    def guarded(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        def answer(status: str, headers: list[tuple[str, str]], *error: Any) -> Any:
            # With that header any page in the same browser could read checkpoints.
            kept = [header for header in headers if header[0] != "Access-Control-Allow-Origin"]
            return start_response(status, kept + environ.get(HEADERS, []), *error)

        reason = guard.refusal(environ)
        if reason is None:
            return app(environ, answer)
        body = json.dumps({"reason": reason}).encode()
        start_response("403 Forbidden", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]

    return guarded


class _Server(ThreadingMixIn, WSGIServer):
    # Requests under way do not keep the program from ending.
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, host: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)


class _Handler(WSGIRequestHandler):
    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        """Log no requests."""


def listen(host: str, port: int, console: Console) -> _Server:
    """Return a server on the port or the next free one, with a note on which.

    Raises:
        InputError: The address is none of this machine's, or no port is free.
    """
    last = min(port + PORTS_TO_TRY, 65535) if port else 0
    for candidate in range(port, last + 1):
        try:
            server = _Server(host, candidate)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                continue
            raise InputError(
                f"cannot listen on --host {host} --port {candidate} ({error.strerror}): accepted are an address of "
                f"this machine and a port that its user may take; leave --host out for {LOOPBACK}"
            ) from error
        if candidate != port:
            console.note(f"port {port} is in use; {candidate} is taken instead")
        return server
    raise InputError(f"ports {port} to {last} are all in use; name another with --port, or 0 for any free one")


def _study_id(database: Database, name: str) -> int:
    return owned_search(database, name).open()._study_id


def _report_outages(engine: sa.Engine, console: Console) -> None:
    """Let requests fail with a reason while the database is away; the browser shows it over its last page."""
    away = threading.Event()

    @sa.event.listens_for(engine, "handle_error")
    def failed(context: sa.engine.ExceptionContext) -> None:
        error = context.sqlalchemy_exception
        if context.is_pre_ping or error is None or not is_transient(error):
            return
        if not away.is_set():
            away.set()
            words = hide_password(" ".join(str(context.original_exception).split()))
            console.note(f"the database is away ({words}); pages keep their last state until it is back")
        repair()
        raise bottle.HTTPError(503, "the database is away; this is the last state until it is back")

    @sa.event.listens_for(engine, "engine_connect")
    def connected(connection: sa.Connection) -> None:
        if away.is_set():
            away.clear()
            console.note("the database is back")


def _keep_current(database: Database, storage: BaseStorage) -> None:
    """Write the page of each study again and again, where there is something new."""
    time.sleep(SECONDS_BEFORE_WRITING)

    # Outages are reported by requests.
    logging.getLogger("storage.database.retry").setLevel(logging.ERROR)
    pages: dict[str, Page] = {}
    while True:
        with contextlib.suppress(ScenetuneError):
            for name in Records(database.engine).study_names():
                # One that was deleted and made anew has the same name and another id.
                known = load_record(database, name).id
                if known not in pages:
                    pages[known] = Page(database, load_spec_of(database, name), storage)
                pages[known].write()
        time.sleep(SECONDS_BETWEEN_WRITES)
