"""The lease on a whole study: every process that works on it holds one, whatever the stage, and hpo delete waits.

Workers of the search need none: each trial that they run has a lease of its own.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
from collections.abc import Iterator

from storage.database.leases import HEARTBEAT_SECONDS, Leases, Worker
from storage.database.postgres import Database
from storage.database.records import Records
from storage.errors import DatabaseFailed

log = logging.getLogger(__name__)


@contextlib.contextmanager
def study_lease(database: Database, name: str) -> Iterator[None]:
    """Hold a lease on a study while the block works on it; any number of processes may.

    Args:
        database: Where the study lives.
        name: The study, registered or about to be.
    """
    leases, worker, number = _leases(database, name), Worker.here(), secrets.randbelow(2**31)
    # A deletion holds this lock: whoever comes during one waits, and then finds no study.
    with Records(database.engine).exclusive(name):
        leases.acquire(number, worker)
    done = threading.Event()
    thread = threading.Thread(target=_renew, args=(leases, number, worker, done), daemon=True, name=f"lease of {name}")
    thread.start()
    away = False
    try:
        yield
    except DatabaseFailed:
        away = True
        raise
    finally:
        done.set()
        if not away:  # else the lease ends by itself
            leases.release({number: worker.name})


def holders(database: Database, name: str) -> list[str]:
    """Return the names of the live processes that hold a lease on a study."""
    leases = _leases(database, name)
    workers = leases.workers()
    if workers.lost:
        leases.release(workers.lost)
    return sorted(workers.live.values())


def _leases(database: Database, name: str) -> Leases:
    # No study is called so: names hold no slash.
    return Leases(database.engine, f"{name}/")


def _renew(leases: Leases, number: int, worker: Worker, done: threading.Event) -> None:
    while not done.wait(HEARTBEAT_SECONDS):
        try:
            leases.renew(number, worker)
        except DatabaseFailed as error:
            log.warning("the lease on the study was not renewed: %s", error)
        except Exception:
            log.warning("the lease on the study was not renewed; trying again", exc_info=True)
