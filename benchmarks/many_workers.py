"""Many workers on one study: trials per second, and the latency of a trial's ask and of its reports.

    python benchmarks/many_workers.py [--quick] [--workers N …] [--rounds N] [--json FILE]

One embedded PostgreSQL, made for the run; 1, 8, 32 and 64 worker processes; trials that train nothing and report at
three rungs, so that all time is book-keeping. It compares our search with its pruner, leases and rung records; plain
Optuna on PostgreSQL, with `optimize`, `MaxTrialsCallback`, the median pruner and heartbeats; and the same through
Optuna's gRPC proxy, which has no heartbeats. All sample at random from the same space.

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
import multiprocessing
import os
import platform
import tempfile
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import sqlalchemy as sa
from contention.workers import OURS, PLAIN, PROXY, TIMEOUT_SECONDS, Timings, proxy_of, silence_logs, spec_of, work
from rich.console import Console
from rich.table import Table

from hpo.registry import register
from hpo.search.trial_chains import chains, spends_budget
from storage.database.embedded import EmbeddedPostgres
from storage.database.postgres import connect
from storage.files.atomic import atomic_write

# Trials by number of workers, so that most cells take ten to twenty seconds on two slow cores.
BUDGETS = {1: 40, 8: 60, 32: 80, 64: 96}
QUICK_BUDGETS = {1: 30, 8: 40}
# Imported once, in the process that all workers are forked from; that process never connects to anything.
PRELOADED = [
    "contention.workers",
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
class Cell:
    """One system with one number of workers.

    Attributes:
        wanted: Budget of trials.
        trials: Trials that were run.
        seconds: Seconds until the last one had ended.
        timings: Measurements of all workers.
        commits: Commits of the server.
        syncs: Syncs of the server's log to disk.
    """

    wanted: int = 0
    trials: int = 0
    seconds: float = 0.0
    timings: list[Timings] = field(default_factory=list)
    commits: int = 0
    syncs: int = 0

    def add(self, other: Cell) -> None:
        """Add another round of the same."""
        self.wanted += other.wanted
        self.trials += other.trials
        self.seconds += other.seconds
        self.timings += other.timings
        self.commits += other.commits
        self.syncs += other.syncs

    @property
    def rate(self) -> float:
        """Return the trials per second."""
        return self.trials / self.seconds

    @property
    def errors(self) -> list[str]:
        """Return the errors of all workers."""
        return [error for each in self.timings for error in each.errors]

    def milliseconds(self, what: str, percentile: float) -> float:
        """Return a percentile of `asks` or `reports`."""
        return 1e3 * float(np.percentile([each for seen in self.timings for each in getattr(seen, what)], percentile))


def counted(engine: sa.Engine) -> tuple[int, int]:
    """Return the server's commits and syncs so far."""
    with engine.connect() as connection:
        version = connection.dialect.server_version_info or (0,)
        newer = "SELECT sum(fsyncs) FROM pg_stat_io WHERE object = 'wal'"
        syncs = newer if version[0] >= 18 else "SELECT wal_sync FROM pg_stat_wal"
        query = f"SELECT (SELECT sum(xact_commit) FROM pg_stat_database), ({syncs})"
        commits, synced = connection.execute(sa.text(query)).one()
    return int(commits), int(synced)


def measure(context: Any, url: str, address: str, system: str, name: str, workers: int, trials: int) -> Cell:
    """Run a study with the given numbers of workers and trials."""
    spec, database = spec_of(name, trials), connect(url)
    if system == OURS:
        spec = register(database, spec, "fingerprint")
    else:
        optuna.create_study(storage=database.storage, study_name=name, direction="maximize")
    answers, connected, begin = context.Queue(), context.Barrier(workers + 1), context.Barrier(workers + 1)
    arguments = (system, address, spec, connected, begin, answers)
    processes = [context.Process(target=work, args=arguments, daemon=True) for _ in range(workers)]
    for process in processes:
        process.start()
    connected.wait(TIMEOUT_SECONDS)
    commits, syncs = counted(database.engine)
    begin.wait(TIMEOUT_SECONDS)
    started = time.monotonic()
    timings = [answers.get(timeout=TIMEOUT_SECONDS) for _ in processes]
    for process in processes:
        process.join()
    time.sleep(0.5)  # the server's processes write their counts as they end
    after = counted(database.engine)
    found = optuna.load_study(storage=database.storage, study_name=name).get_trials(deepcopy=False)
    run = sum(map(spends_budget, chains(found).values())) if system == OURS else len(found)
    database.engine.dispose()
    seconds = max(each.ended for each in timings) - started
    return Cell(trials, run, seconds, timings, after[0] - commits, after[1] - syncs)


def systems() -> list[str]:
    """Return the systems that can run here."""
    if importlib.util.find_spec("grpc") is None:
        print("no gRPC proxy: pip install grpcio protobuf", flush=True)
        return [OURS, PLAIN]
    return [OURS, PLAIN, PROXY]


def measure_all(budgets: dict[int, int], rounds: int) -> dict[tuple[int, str], Cell]:
    """Measure every number of workers with every system."""
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
    """Return the table of all cells."""
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
    """Return the rows of --json: ours against each other system; a ratio above 1 means that ours is better."""
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
    """Measure all cells and report them."""
    silence_logs()
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
