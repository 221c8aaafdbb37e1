"""Who works on which trial: a worker holds a lease on the trial that it runs, and renews it while it lives.

Whose lease ends is taken for dead, and its trial goes to the next worker. Two rules keep that from happening to the
living. All times are the server's, so no clock or time zone of a worker matters. And silence alone does not end a
lease: it makes the worker suspect, and only one that stays silent from then on has lost it. After an outage of the
database, when nobody's lease could be renewed, the living have time to renew theirs before anyone is found dead.
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

import psutil
import sqlalchemy as sa

from storage.database.records import metadata
from storage.database.retry import retry_transient

BEAT_SECONDS = 10.0
# A worker deep in native code may miss a beat or two.
SILENT_SECONDS = 30.0
SUSPECT_SECONDS = 30.0
# Between two readings of a process's start: the clock that it is computed from is adjusted now and then.
_SAME_START_SECONDS = 5.0

lease_table = sa.Table(
    "lease",
    metadata,
    sa.Column("study", sa.Text, primary_key=True),
    sa.Column("trial", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("worker", sa.Text, nullable=False),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("started", sa.Double, nullable=False),
    sa.Column("beat_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    sa.Column("suspected_at", sa.DateTime(timezone=True)),
    sa.Column("progress", sa.Double),
)
_columns = lease_table.c


@dataclass(frozen=True)
class Worker:
    """A process that runs trials.

    Attributes:
        name: unlike that of any other process, ever.
        host: the machine and its table of processes: where a process id means the same.
        pid: its process id there.
        started: when the process began, in seconds since the epoch by that machine's clock; tells a reused pid apart.
    """

    name: str
    host: str
    pid: int
    started: float

    @classmethod
    def here(cls) -> Worker:
        """This process."""
        pid = os.getpid()
        return cls(f"{socket.gethostname()}:{pid}:{uuid.uuid4().hex[:8]}", _host(), pid, psutil.Process().create_time())


@dataclass(frozen=True)
class Lease:
    """What is known of a trial that somebody works on.

    Attributes:
        progress: how much of the trial's training is done, from 0 to 1; None while unknown.
        silent_seconds: since the worker was last heard of, by the server's clock.
    """

    progress: float | None
    silent_seconds: float


class Leases:
    """The leases on one study's trials.

    Args:
        engine: the database.
        study: name of the Optuna study.
    """

    def __init__(self, engine: sa.Engine, study: str) -> None:
        self._engine, self._study = engine, study

    @retry_transient
    def take(self, trial: int, worker: Worker) -> bool:
        """Take the lease on a trial that nobody holds; return whether this worker has it now."""
        values = {"study": self._study, "trial": trial, "worker": worker.name}
        values |= {"host": worker.host, "pid": worker.pid, "started": worker.started}
        insert = sa.dialects.postgresql.insert(lease_table).values(values).on_conflict_do_nothing()
        with self._engine.begin() as connection:
            connection.execute(insert)
            holder = connection.scalar(sa.select(_columns.worker).where(*self._key(trial)))
        return bool(holder == worker.name)

    @retry_transient
    def renew(self, trial: int, worker: Worker, progress: float | None = None) -> bool:
        """Say that the worker lives, and how much of the trial is done; return whether the lease was still its own."""
        renewed = sa.update(lease_table).values(beat_at=sa.func.now(), suspected_at=None, progress=progress)
        with self._engine.begin() as connection:
            return connection.execute(renewed.where(*self._key(trial, worker))).rowcount == 1

    @retry_transient
    def all(self) -> dict[int, Lease]:
        """Return every lease by its trial, those of the dead too."""
        # `now` is when our transaction began: a beat that came since would be in the future.
        silent = sa.func.extract("epoch", sa.func.clock_timestamp() - _columns.beat_at).cast(sa.Double)
        query = sa.select(_columns.trial, _columns.progress, silent).where(_columns.study == self._study)
        with self._engine.connect() as connection:
            return {trial: Lease(*rest) for trial, *rest in connection.execute(query)}

    @retry_transient
    def held(self, trial: int, worker: Worker) -> bool:
        """Tell whether the lease is still this worker's."""
        with self._engine.connect() as connection:
            return connection.scalar(sa.select(sa.literal(1)).where(*self._key(trial, worker))) is not None

    @contextmanager
    def ending(self, trial: int, worker: Worker) -> Iterator[bool]:
        """Give the lease back when the block ends, which hears whether it was still the worker's.

        Nobody can end the lease while the block runs: what it writes of the trial is the last word of the one worker
        that had it.
        """
        mine = self._key(trial, worker)
        with self._engine.begin() as connection:
            yield connection.scalar(sa.select(sa.literal(1)).where(*mine).with_for_update()) is not None
            connection.execute(sa.delete(lease_table).where(*mine))

    @retry_transient
    def survey(self) -> tuple[dict[int, str], dict[int, str]]:
        """Tell the leases of the living from those of workers that are dead on this machine, or silent for long.

        Returns:
            The name of the worker that holds each trial, by trial: of those that live as far as is known, and of those
            that are lost. Who puts the trials of the latter back is to `end` their leases.
        """
        now = sa.func.now()
        ours = _columns.study == self._study
        silent = _columns.beat_at < now - timedelta(seconds=SILENT_SECONDS)
        suspicion = sa.update(lease_table).values(suspected_at=now)
        suspect_for_long = _columns.suspected_at < now - timedelta(seconds=SUSPECT_SECONDS)
        query = sa.select(lease_table, sa.func.coalesce(suspect_for_long, sa.false()).label("silent")).where(ours)
        with self._engine.begin() as connection:
            connection.execute(suspicion.where(ours, silent, _columns.suspected_at.is_(None)))
            rows = connection.execute(query).all()
        living, lost = dict[int, str](), dict[int, str]()
        for row in rows:
            dead = row.host == _host() and not _lives(row.pid, row.started)
            (lost if row.silent or dead else living)[row.trial] = row.worker
        return living, lost

    @retry_transient
    def end(self, lost: Mapping[int, str]) -> None:
        """End leases, each if it is still that worker's.

        Args:
            lost: of `survey`.
        """
        held = sa.tuple_(_columns.trial, _columns.worker).in_(list(lost.items()))
        with self._engine.begin() as connection:
            connection.execute(sa.delete(lease_table).where(_columns.study == self._study, held))

    def _key(self, trial: int, worker: Worker | None = None) -> list[sa.ColumnElement[bool]]:
        key = [_columns.study == self._study, _columns.trial == trial]
        return key if worker is None else [*key, _columns.worker == worker.name]


@functools.cache
def _host() -> str:
    """Name the machine since its last start and, where there are containers, the table of processes that we see."""
    parts = [socket.gethostname(), str(uuid.getnode())]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return "/".join(parts)


def _lives(pid: int, started: float) -> bool:
    try:
        process = psutil.Process(pid)
        same: bool = abs(process.create_time() - started) < _SAME_START_SECONDS
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
