"""Leases on running trials: a worker holds a lease on the trial that it runs, and renews it with every heartbeat.

A worker is *lost* when its process is gone from this machine, or when its lease was not renewed for a long time; its
trial then goes to the next worker. Two rules keep live workers from being taken for lost. All times are the server's,
so the clock and time zone of a worker do not matter. And a lease that was not renewed in time is first marked as
*suspect*; its worker is lost only if it does not renew it from then on. So after an outage of the database, during
which no lease could be renewed, every live worker has time to renew its own.
"""

from __future__ import annotations

import functools
import os
import socket
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import psutil
import sqlalchemy as sa

from storage.database.records import metadata
from storage.database.retry import retry_transient

HEARTBEAT_SECONDS = 10.0
# Without a renewal until the lease is suspect: a worker deep in native code may miss a heartbeat or two.
SUSPECT_AFTER_SECONDS = 30.0
# Suspect until the worker is lost.
LOST_AFTER_SECONDS = 30.0
# Tolerance between two readings of a process's start, which is computed from a clock that is adjusted now and then.
_SAME_START_SECONDS = 5.0

lease_table = sa.Table(
    "scenetune_lease",
    metadata,
    sa.Column("study", sa.Text, primary_key=True),
    sa.Column("trial", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("worker", sa.Text, nullable=False),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("started", sa.Double, nullable=False),
    sa.Column("acquired_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    sa.Column("renewed_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    sa.Column("suspected_at", sa.DateTime(timezone=True)),
    sa.Column("progress", sa.Double),
)
_columns = lease_table.c


@dataclass(frozen=True)
class Worker:
    """A process that runs trials.

    Attributes:
        name: Unique among all processes, past ones included.
        host: The machine and its process table, within which a process id is unique.
        pid: The process id there.
        started: When the process began, in seconds since the epoch by that machine's clock; tells a reused pid apart.
    """

    name: str
    host: str
    pid: int
    started: float

    @classmethod
    def here(cls) -> Worker:
        """Return this process."""
        pid = os.getpid()
        return cls(f"{socket.gethostname()}:{pid}:{uuid.uuid4().hex[:8]}", _host(), pid, psutil.Process().create_time())


@dataclass(frozen=True)
class Lease:
    """The state of a leased trial.

    Attributes:
        progress: How much of the trial's training is done, from 0 to 1; None while unknown.
        seconds_since_renewal: Since the last heartbeat, by the server's clock.
        seconds_held: Since the worker acquired it, by the same clock.
    """

    progress: float | None
    seconds_since_renewal: float
    seconds_held: float = 0.0


class Workers(NamedTuple):
    """Names of the workers that hold a study's leases, by trial.

    Attributes:
        live: Of those that live as far as is known.
        lost: Of those that are lost.
    """

    live: dict[int, str]
    lost: dict[int, str]


class Leases:
    """The leases on one study's trials.

    Args:
        engine: The database.
        study: Name of the Optuna study.
    """

    def __init__(self, engine: sa.Engine, study: str) -> None:
        self._engine, self._study = engine, study

    @retry_transient
    def acquire(self, trial: int, worker: Worker) -> bool:
        """Acquire the lease on a trial unless another worker holds it; return whether this worker holds it now."""
        values = {"study": self._study, "trial": trial, "worker": worker.name}
        values |= {"host": worker.host, "pid": worker.pid, "started": worker.started}
        insert = sa.dialects.postgresql.insert(lease_table).values(values).on_conflict_do_nothing()
        with self._engine.begin() as connection:
            connection.execute(insert)
            holder = connection.scalar(sa.select(_columns.worker).where(*self._key(trial)))
        return bool(holder == worker.name)

    @retry_transient
    def renew(self, trial: int, worker: Worker, progress: float | None = None) -> bool:
        """Renew a lease and store how much of the trial is done; return whether the worker still held it."""
        renewed = sa.update(lease_table).values(renewed_at=sa.func.now(), suspected_at=None, progress=progress)
        with self._engine.begin() as connection:
            return connection.execute(renewed.where(*self._key(trial, worker))).rowcount == 1

    @retry_transient
    def all(self) -> dict[int, Lease]:
        """Return every lease by its trial, those of lost workers included."""
        # `now` is when our transaction began: a renewal since then would be in the future.
        renewed, held = (
            sa.func.extract("epoch", sa.func.clock_timestamp() - then).cast(sa.Double)
            for then in (_columns.renewed_at, _columns.acquired_at)
        )
        query = sa.select(_columns.trial, _columns.progress, renewed, held).where(_columns.study == self._study)
        with self._engine.connect() as connection:
            return {trial: Lease(*rest) for trial, *rest in connection.execute(query)}

    @retry_transient
    def is_held(self, trial: int, worker: Worker) -> bool:
        """Tell whether the worker still holds the lease."""
        with self._engine.connect() as connection:
            return connection.scalar(sa.select(sa.literal(1)).where(*self._key(trial, worker))) is not None

    @contextmanager
    def releasing(self, trial: int, worker: Worker) -> Iterator[bool]:
        """Yield whether the worker still holds the lease, and release it when the block ends.

        The lease is locked while the block runs, so no other worker can acquire the trial until its end is written.
        """
        mine = self._key(trial, worker)
        with self._engine.begin() as connection:
            yield connection.scalar(sa.select(sa.literal(1)).where(*mine).with_for_update()) is not None
            connection.execute(sa.delete(lease_table).where(*mine))

    @retry_transient
    def workers(self) -> Workers:
        """Return which worker holds each trial, live and lost ones apart; mark leases that are suspect now.

        The leases of lost workers stay until the caller has requeued their trials and calls `release`.
        """
        now = sa.func.now()
        ours = _columns.study == self._study
        unrenewed = _columns.renewed_at < now - timedelta(seconds=SUSPECT_AFTER_SECONDS)
        suspicion = sa.update(lease_table).values(suspected_at=now)
        expired = _columns.suspected_at < now - timedelta(seconds=LOST_AFTER_SECONDS)
        query = sa.select(lease_table, sa.func.coalesce(expired, sa.false()).label("expired")).where(ours)
        with self._engine.begin() as connection:
            connection.execute(suspicion.where(ours, unrenewed, _columns.suspected_at.is_(None)))
            rows = connection.execute(query).all()
        workers = Workers({}, {})
        for row in rows:
            exited = row.host == _host() and not _is_running(row.pid, row.started)
            (workers.lost if row.expired or exited else workers.live)[row.trial] = row.worker
        return workers

    @retry_transient
    def take_over(self, trial: int, worker: Worker, lost: str) -> bool:
        """Give the lease of a lost worker to another; return whether that one holds it now.

        Args:
            trial: Number of the trial.
            worker: The next holder.
            lost: Name of the worker that is lost.
        """
        values = {"worker": worker.name, "host": worker.host, "pid": worker.pid, "started": worker.started}
        values |= {"acquired_at": sa.func.now(), "renewed_at": sa.func.now(), "suspected_at": None, "progress": None}
        with self._engine.begin() as connection:
            connection.execute(sa.update(lease_table).where(*self._key(trial), _columns.worker == lost).values(values))
            holder = connection.scalar(sa.select(_columns.worker).where(*self._key(trial)))
        return bool(holder == worker.name)

    @retry_transient
    def release(self, lost: Mapping[int, str]) -> None:
        """Release leases, each if that worker still holds it.

        Args:
            lost: Names of workers by trial, as of `workers`.
        """
        held = sa.tuple_(_columns.trial, _columns.worker).in_(list(lost.items()))
        with self._engine.begin() as connection:
            connection.execute(sa.delete(lease_table).where(_columns.study == self._study, held))

    def _key(self, trial: int, worker: Worker | None = None) -> list[sa.ColumnElement[bool]]:
        key = [_columns.study == self._study, _columns.trial == trial]
        return key if worker is None else [*key, _columns.worker == worker.name]


@functools.cache
def _host() -> str:
    """Return a name of the machine since its last start and, in a container, of the process table that we see."""
    parts = [socket.gethostname(), str(uuid.getnode())]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return "/".join(parts)


def _is_running(pid: int, started: float) -> bool:
    try:
        process = psutil.Process(pid)
        same: bool = abs(process.create_time() - started) < _SAME_START_SECONDS
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
