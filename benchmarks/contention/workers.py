"""The workers that benchmarks/many_workers.py compares: ours, plain Optuna's, and Optuna's through its gRPC proxy."""

from __future__ import annotations

import contextlib
import logging
import random
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.study import MaxTrialsCallback
from optuna.trial import TrialState

from hpo.search.loop import Search
from hpo.search.space import suggest
from storage.database.postgres import connect
from studies.config.spec import StudySpec, parse_spec
from studies.training.rungs import RungReport

OURS, PLAIN, PROXY = "ours", "Optuna", "Optuna, gRPC proxy"
RUNGS = [10, 30, 90]
SCENES = ("tea", "cheese")
BEAT_SECONDS, GRACE_SECONDS = 10, 60
# A worker without any answer for this long counts as lost.
TIMEOUT_SECONDS = 300


@dataclass
class Timings:
    """The measurements of one worker.

    Attributes:
        asks: Seconds of each ask.
        reports: Seconds of each report.
        ended: End of its last trial, by the machine's monotonic clock.
        errors: Messages of its errors.
    """

    asks: list[float] = field(default_factory=list)
    reports: list[float] = field(default_factory=list)
    ended: float = 0.0
    errors: list[str] = field(default_factory=list)


def spec_of(name: str, trials: int) -> StudySpec:
    """Return the study: the default search space and pruner, random sampling."""
    search, pruner = {"trials": trials, "sampler": "random"}, {"rungs": RUNGS}
    return parse_spec({"name": name, "data": {"source": "completejourney"}, "search": search, "pruner": pruner})


def recall_of(values: Any, rung: int) -> float:
    """Return the recall of a trial at a rung: a function of its configuration, equal for every system."""
    return 0.9 * random.Random(repr(values)).random() + 0.01 * rung


class OurWorker:
    """A worker of ours; training is simulated, with a checkpoint, since pruned trials may be resumed."""

    def __init__(self, address: str, spec: StudySpec) -> None:
        self._seen, self._began = Timings(), 0.0
        self._search = Search(connect(address), spec, SCENES, self._train)

    def flush(self) -> None:
        """Make the server count the commits of connecting."""
        _flush(self._search._records._engine)

    def work(self) -> Timings:
        """Run trials until the search has ended."""
        self._began = time.monotonic()
        for state in self._search.run_all():
            self._seen.ended = self._began = time.monotonic()
            if state == TrialState.FAIL:
                self._seen.errors.append("a trial failed")
        return self._seen

    def _train(self, values: Any, folder: Path, report: Callable[[RungReport], None]) -> float:
        self._seen.asks.append(time.monotonic() - self._began)
        marker, value = folder / "rung", 0.0
        folder.mkdir(parents=True, exist_ok=True)
        for rung in range(int(marker.read_text()) if marker.exists() else 0, len(RUNGS)):
            value = recall_of(values, rung)
            marker.write_text(str(rung))
            started = time.monotonic()
            try:
                report(RungReport(rung, RUNGS[rung], value, dict.fromkeys(SCENES, value), float(RUNGS[rung])))
            finally:
                self._seen.reports.append(time.monotonic() - started)
        return value


class OptunaWorker:
    """A worker as in Optuna's documentation."""

    def __init__(self, address: str, spec: StudySpec) -> None:
        self._seen, self._began, self._spec = Timings(), 0.0, spec
        pruner, sampler = optuna.pruners.MedianPruner(), optuna.samplers.RandomSampler()
        self._storage = optuna_storage(address)
        self._study = optuna.load_study(storage=self._storage, study_name=spec.name, pruner=pruner, sampler=sampler)
        self._study.get_trials()

    def flush(self) -> None:
        """Make the server count the commits of connecting."""
        if isinstance(self._storage, optuna.storages.RDBStorage):
            _flush(self._storage.engine)

    def work(self) -> Timings:
        """Run trials until the budget is spent."""
        self._began = time.monotonic()
        # Count running trials too: otherwise every worker would start one too many.
        limit = MaxTrialsCallback(self._spec.search.trials, states=None)
        self._study.optimize(self._objective, callbacks=[limit, self._end])
        return self._seen

    def _end(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        self._seen.ended = self._began = time.monotonic()

    def _objective(self, trial: optuna.Trial) -> float:
        values, value = suggest(trial, self._spec.search), 0.0
        self._seen.asks.append(time.monotonic() - self._began)
        for rung, step in enumerate(RUNGS):
            value, started = recall_of(values, rung), time.monotonic()
            trial.report(value, step)
            stop = trial.should_prune()
            self._seen.reports.append(time.monotonic() - started)
            if stop:
                raise optuna.TrialPruned
        return value


def optuna_storage(address: str) -> Any:
    """Return Optuna's storage at a URL of PostgreSQL, or at `host:port` of its proxy."""
    if "://" in address:
        return optuna.storages.RDBStorage(address, heartbeat_interval=BEAT_SECONDS, grace_period=GRACE_SECONDS)
    host, port = address.split(":")
    return optuna.storages.GrpcStorageProxy(host=host, port=int(port))


def _flush(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        connection.execute(sa.text("SELECT pg_stat_force_next_flush()"))


def silence_logs() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("hpo").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")


def work(system: str, address: str, spec: StudySpec, connected: Any, begin: Any, answers: Any) -> None:
    """Run a worker process: connect, wait for all others, run trials, put the timings into `answers`."""
    silence_logs()
    seen = Timings()
    try:
        worker = OurWorker(address, spec) if system == OURS else OptunaWorker(address, spec)
        seen = worker._seen
        worker.flush()
        connected.wait(TIMEOUT_SECONDS)
        begin.wait(TIMEOUT_SECONDS)
        worker.work()
    except Exception as error:
        connected.abort()  # the others must not wait for this one
        seen.errors.append(f"{type(error).__name__}: {error}"[:300])
    answers.put(seen)


def _proxy(url: str, port: int) -> None:
    """Run the proxy's process."""
    silence_logs()
    optuna.storages.run_grpc_proxy_server(optuna.storages.get_storage(url), host="localhost", port=port)


@contextlib.contextmanager
def proxy_of(context: Any, url: str) -> Iterator[str]:
    """Start a proxy in a process of its own; yield its address."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    process = context.Process(target=_proxy, args=(url, port), daemon=True)
    process.start()
    try:
        optuna.storages.GrpcStorageProxy(host="localhost", port=port).wait_server_ready(60)
        yield f"localhost:{port}"
    finally:
        process.kill()
        process.join()
