"""Many workers on one study: trials per second, and the latency of a trial's ask and of its reports.

    python benchmarks/many_workers.py [--quick] [--workers N …] [--rounds N] [--json FILE]

One embedded PostgreSQL, made for the run; 1, 8, 32 and 64 worker processes; trials that train nothing and report at
three rungs, so that all time is book-keeping. Compared are our search with its pruner, leases and rung records; plain
Optuna on PostgreSQL, with `optimize`, `MaxTrialsCallback`, the median pruner and heartbeats; and the same through
Optuna's gRPC proxy, which knows no heartbeats. All draw at random from the same space.

All workers are connected before the clock starts; it stops when the last trial has ended. An ask is counted until the
trial has all its parameters, a report until the pruner has decided. The pruners differ in how many rungs a trial
reaches, hence the column "reports". Commits are the server's own count and include what only reads; "syncs" are writes
that waited for the disk. Several rounds are pooled. A full run leaves a dated table in benchmarks/results/.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import itertools
import json
import logging
import multiprocessing
import os
import platform
import random
import socket
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import sqlalchemy as sa
from optuna.study import MaxTrialsCallback
from optuna.trial import TrialState
from rich.console import Console
from rich.table import Table

from hpo.registry import register
from hpo.search.loop import Search
from hpo.search.space import suggest
from hpo.search.trial_chains import chains, counts
from storage.database.embedded import EmbeddedPostgres
from storage.database.postgres import connect
from storage.files.atomic import atomic_write
from studies.config.spec import StudySpec, parse_spec
from studies.training.rungs import RungReport

OURS, PLAIN, PROXY = "ours", "Optuna", "Optuna, gRPC proxy"
# Trials by number of workers, so that most cells take ten to twenty seconds on two slow cores.
BUDGETS = {1: 40, 8: 60, 32: 80, 64: 96}
QUICK_BUDGETS = {1: 30, 8: 40}
RUNGS = [10, 30, 90]
SCENES = ("tea", "cheese")
BEAT_SECONDS, GRACE_SECONDS = 10, 60
# A worker that says nothing for so long has died.
RETRY_SECONDS = 300
# Imported once, in the process that all workers are forked from; that process never connects to anything.
PRELOADED = [
    "studies.training.objective",
    "hpo.search.trial_queue",
    "hpo.search.asha",
    "hpo.search.pruner",
    "hpo.search.loop",
    "hpo.search.space",
]
PRELOADED += [
    "hpo.search.trial_run",
    "storage.database.migrations",
    "psycopg2",
    "alembic.runtime.migration",
    "rich.table",
]


@dataclass
class Timings:
    """What one worker saw.

    Attributes:
        asks: seconds of each.
        reports: seconds of each.
        ended: when its last trial had ended, by the machine's monotonic clock.
        errors: in words.
    """

    asks: list[float] = field(default_factory=list)
    reports: list[float] = field(default_factory=list)
    ended: float = 0.0
    errors: list[str] = field(default_factory=list)


@dataclass
class Cell:
    """One system with one number of workers.

    Attributes:
        wanted: trials, the budget.
        trials: that were run.
        seconds: until the last one had ended.
        timings: of all workers.
        commits: of the server.
        syncs: of the server's log to disk.
    """

    wanted: int = 0
    trials: int = 0
    seconds: float = 0.0
    timings: list[Timings] = field(default_factory=list)
    commits: int = 0
    syncs: int = 0

    def add(self, other: Cell) -> None:
        """Pools another round of the same."""
        self.wanted += other.wanted
        self.trials += other.trials
        self.seconds += other.seconds
        self.timings += other.timings
        self.commits += other.commits
        self.syncs += other.syncs

    @property
    def rate(self) -> float:
        """Trials per second."""
        return self.trials / self.seconds

    @property
    def errors(self) -> list[str]:
        """Of all workers."""
        return [error for each in self.timings for error in each.errors]

    def milliseconds(self, what: str, percentile: float) -> float:
        """Of `asks` or `reports`."""
        return 1e3 * float(np.percentile([each for seen in self.timings for each in getattr(seen, what)], percentile))


def spec_of(name: str, trials: int) -> StudySpec:
    """The study: the default search space and pruner, random proposals."""
    search, pruner = {"trials": trials, "sampler": "random"}, {"rungs": RUNGS}
    return parse_spec({"name": name, "data": {"source": "completejourney"}, "search": search, "pruner": pruner})


def recall_of(values: Any, rung: int) -> float:
    """What a trial reaches: known from its configuration, the same for every system."""
    return 0.9 * random.Random(repr(values)).random() + 0.01 * rung


class OurWorker:
    """A worker of ours; training is played, with a checkpoint, since stopped trials go on."""

    def __init__(self, address: str, spec: StudySpec) -> None:
        self._seen, self._began = Timings(), 0.0
        self._search = Search(connect(address), spec, SCENES, self._train)

    def flush(self) -> None:
        """Has the server count what connecting took."""
        _flush(self._search._records._engine)

    def work(self) -> Timings:
        """Runs trials until the search has ended."""
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
    """A worker as Optuna's documentation has it."""

    def __init__(self, address: str, spec: StudySpec) -> None:
        self._seen, self._began, self._spec = Timings(), 0.0, spec
        pruner, sampler = optuna.pruners.MedianPruner(), optuna.samplers.RandomSampler()
        self._storage = optuna_storage(address)
        self._study = optuna.load_study(storage=self._storage, study_name=spec.name, pruner=pruner, sampler=sampler)
        self._study.get_trials()

    def flush(self) -> None:
        """Has the server count what connecting took."""
        if isinstance(self._storage, optuna.storages.RDBStorage):
            _flush(self._storage.engine)

    def work(self) -> Timings:
        """Runs trials until the budget is spent."""
        self._began = time.monotonic()
        # Running trials count as well: else every worker would begin one too many.
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
    """Optuna's storage at a URL of PostgreSQL, or at `host:port` of its proxy."""
    if "://" in address:
        return optuna.storages.RDBStorage(address, heartbeat_interval=BEAT_SECONDS, grace_period=GRACE_SECONDS)
    host, port = address.split(":")
    return optuna.storages.GrpcStorageProxy(host=host, port=int(port))


def _flush(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        connection.execute(sa.text("SELECT pg_stat_force_next_flush()"))


def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("hpo").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")


def _work(system: str, address: str, spec: StudySpec, connected: Any, begin: Any, answers: Any) -> None:
    """A worker process."""
    _quiet()
    seen = Timings()
    try:
        worker = OurWorker(address, spec) if system == OURS else OptunaWorker(address, spec)
        seen = worker._seen
        worker.flush()
        connected.wait(RETRY_SECONDS)
        begin.wait(RETRY_SECONDS)
        worker.work()
    except Exception as error:
        connected.abort()  # nobody shall wait for this one
        seen.errors.append(f"{type(error).__name__}: {error}"[:300])
    answers.put(seen)


def _proxy(url: str, port: int) -> None:
    """The proxy's process."""
    _quiet()
    optuna.storages.run_grpc_proxy_server(optuna.storages.get_storage(url), host="localhost", port=port)


@contextlib.contextmanager
def proxy_of(context: Any, url: str) -> Iterator[str]:
    """A proxy in a process of its own, its address."""
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


def counted(engine: sa.Engine) -> tuple[int, int]:
    """The server's commits and syncs so far."""
    with engine.connect() as connection:
        version = connection.dialect.server_version_info or (0,)
        newer = "SELECT sum(fsyncs) FROM pg_stat_io WHERE object = 'wal'"
        syncs = newer if version[0] >= 18 else "SELECT wal_sync FROM pg_stat_wal"
        query = f"SELECT (SELECT sum(xact_commit) FROM pg_stat_database), ({syncs})"
        commits, synced = connection.execute(sa.text(query)).one()
    return int(commits), int(synced)


def measure(context: Any, url: str, address: str, system: str, name: str, workers: int, trials: int) -> Cell:
    """Runs a study of so many trials with so many workers."""
    spec, database = spec_of(name, trials), connect(url)
    if system == OURS:
        spec = register(database, spec, "fingerprint")
    else:
        optuna.create_study(storage=database.storage, study_name=name, direction="maximize")
    answers, connected, begin = context.Queue(), context.Barrier(workers + 1), context.Barrier(workers + 1)
    arguments = (system, address, spec, connected, begin, answers)
    processes = [context.Process(target=_work, args=arguments, daemon=True) for _ in range(workers)]
    for process in processes:
        process.start()
    connected.wait(RETRY_SECONDS)
    commits, syncs = counted(database.engine)
    begin.wait(RETRY_SECONDS)
    started = time.monotonic()
    timings = [answers.get(timeout=RETRY_SECONDS) for _ in processes]
    for process in processes:
        process.join()
    time.sleep(0.5)  # the server's processes leave their counts as they end
    after = counted(database.engine)
    found = optuna.load_study(storage=database.storage, study_name=name).get_trials(deepcopy=False)
    run = sum(map(counts, chains(found).values())) if system == OURS else len(found)
    database.engine.dispose()
    seconds = max(each.ended for each in timings) - started
    return Cell(trials, run, seconds, timings, after[0] - commits, after[1] - syncs)


def systems() -> list[str]:
    """Those that can be run here."""
    if importlib.util.find_spec("grpc") is None:
        print("no gRPC proxy: pip install grpcio protobuf", flush=True)
        return [OURS, PLAIN]
    return [OURS, PLAIN, PROXY]


def measure_all(budgets: dict[int, int], rounds: int) -> dict[tuple[int, str], Cell]:
    """Every number of workers with every system, side by side."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    cells: dict[tuple[int, str], Cell] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HPO_HOME"] = folder
        server = EmbeddedPostgres(Path(folder))
        url = server.start()
        connect(url).engine.dispose()
        try:
            for repeat, (workers, trials), system in itertools.product(range(rounds), budgets.items(), systems()):
                name = f"{system} {workers} {repeat}".replace(",", "").replace(" ", "-").lower()
                with proxy_of(context, url) if system == PROXY else contextlib.nullcontext(url) as address:
                    cell = measure(context, url, address, system, name, workers, trials)
                print(f"{workers} workers, {system}: {cell.rate:.1f} trials/s in {cell.seconds:.1f} s", flush=True)
                cells.setdefault((workers, system), Cell()).add(cell)
        finally:
            server.stop()
    return cells


def table_of(cells: dict[tuple[int, str], Cell]) -> Table:
    """Everything."""
    heads = ["workers", "system", "trials/s", "ask ms: p50", "p99", "report ms: p50", "p99"]
    heads += ["a trial's: reports", "commits", "syncs", "errors", "trials", "of"]
    table = Table(*heads, box=None)
    for (workers, system), cell in cells.items():
        latencies = [f"{cell.milliseconds(what, part):.1f}" for what in ("asks", "reports") for part in (50, 99)]
        reports = sum(len(each.reports) for each in cell.timings)
        per_trial = [f"{count / cell.trials:.1f}" for count in (reports, cell.commits, cell.syncs)]
        ends = [str(len(cell.errors)), str(cell.trials), str(cell.wanted)]
        table.add_row(str(workers), system, f"{cell.rate:.1f}", *latencies, *per_trial, *ends)
    return table


def rows_of(cells: dict[tuple[int, str], Cell]) -> list[dict[str, Any]]:
    """For --json: ours against each of the others; a ratio above 1 says that ours is better."""
    rows = []
    for (workers, system), theirs in cells.items():
        if system == OURS:
            continue
        ours, where = cells[workers, OURS], f"at {workers} workers"
        pairs = [("trials per second", ours.rate, theirs.rate, ours.rate / theirs.rate, "trials/s")]
        for what in ("asks", "reports"):
            for part in (50, 99):
                mine, other = ours.milliseconds(what, part), theirs.milliseconds(what, part)
                pairs.append((f"{what[:-1]}, percentile {part}", mine, other, other / mine, "ms"))
        mine, other = ours.commits / ours.trials, theirs.commits / theirs.trials
        pairs.append(("commits per trial", mine, other, other / mine, "commits"))
        for measured, mine, other, ratio, unit in pairs:
            line = {"measure": f"{measured} {where}", "ours": mine, "peer": system, "peer_value": other}
            rows.append(line | {"ratio": ratio, "unit": unit})
        for measured, mine, other in [
            ("errors", len(ours.errors), len(theirs.errors)),
            ("trials beyond the budget", ours.trials - ours.wanted, theirs.trials - theirs.wanted),
        ]:
            line = {"measure": f"{measured} {where}", "ours": mine, "peer": system, "peer_value": other}
            rows.append(line | {"ratio": None, "unit": measured.split()[0]})
    return rows


def main() -> None:
    """Measures everything."""
    _quiet()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1 and 8 workers, fewer trials")
    parser.add_argument("--workers", type=int, nargs="+", metavar="N", help="numbers of workers")
    parser.add_argument("--rounds", type=int, default=1, metavar="N", help="through all cells; pooled")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    arguments = parser.parse_args()
    budgets = QUICK_BUDGETS if arguments.quick else BUDGETS
    if arguments.workers:
        budgets = {workers: BUDGETS.get(workers, 2 * workers) for workers in arguments.workers}
    cells = measure_all(budgets, arguments.rounds)
    console = Console(width=150, record=True)
    console.print(f"{platform.machine()}, {os.cpu_count()} cores, optuna {optuna.__version__}", table_of(cells))
    for error in sorted({error for cell in cells.values() for error in cell.errors}):
        console.print(error)
    if not (arguments.quick or arguments.workers):
        result = Path(f"benchmarks/results/many_workers-{datetime.now(UTC).date()}.md")
        atomic_write(result, f"# `python benchmarks/many_workers.py`\n\n```\n{console.export_text()}```\n".encode())
    if arguments.json:
        atomic_write(arguments.json, json.dumps(rows_of(cells), indent=2).encode())


if __name__ == "__main__":
    main()
