"""The cost of faults in a search: workers killed at random moments; a database restarted, disconnected and killed.

    python benchmarks/chaos.py [--quick] [--kills N] [--restarts N] [--seed N] [--json FILE]

Real worker processes run under the real supervisor on a real PostgreSQL. Training is simulated where nothing is said of
it: it sleeps, writes checkpoints as real training does, and reaches a recall that its configuration sets. Three runs:

- kills: one worker, killed by SIGKILL repeatedly, and the same search undisturbed. One worker makes a search
  deterministic, so both must end with the same trials, and no rung may have been trained twice.
- kills in real training: the same, with a fifth of the kills; a layer of a small BERT trains, with dropout and without.
  The weights at every rung must be the same to the last bit.
- restarts: four workers, while the server in turn is stopped and started, killed and started, and loses all its
  connections. No trial may be taken from a live worker, and no worker may end.

A full run leaves a dated table in benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import psycopg2
from faults.training import Journal, study, trained_study, work
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.table import Table

from hpo.ownership import owned_search
from hpo.registry import register
from hpo.search.trial_chains import LOST
from hpo.status.snapshot import snapshot
from hpo.workers.engines.local import Process
from hpo.workers.supervisor import supervise
from storage.database.embedded import EmbeddedPostgres
from storage.database.postgres import Database, connect
from storage.files.atomic import atomic_write
from studies.config.spec import StudySpec

# A line of the report: measure, value, peer, the peer's value, unit.
Row = tuple[str, float, str, float, str]


class Workers:
    """An engine whose workers run `faults.training.work`.

    Args:
        name: Name of the study.
        url: URL of its database.
        folder: Folder of the journal and the logs.
    """

    def __init__(self, name: str, url: str, folder: Path) -> None:
        self._name, self._url, self._folder = name, url, folder
        self.journal = folder / f"{name}.jsonl"
        self.running: dict[int, Process] = {}
        self.started = 0

    def start(self, number: int) -> Process:
        """Start a worker process."""
        command = [sys.executable, __file__, "--worker", self._name, str(self.journal)]
        environment = os.environ | {"HPO_DATABASE_URL": self._url, "PYTHONPATH": os.pathsep.join(sys.path)}
        process = Process(command, environment, self._folder / f"{self._name}-{number}.log")
        self.running[number] = process
        self.started += 1
        return process


@dataclass(frozen=True)
class Outcome:
    """The result of a search.

    Attributes:
        trials: All its trials.
        journal: Entries of its workers' journal.
        seconds: Its wall-clock time.
        started: Number of worker processes started.
    """

    trials: list[FrozenTrial]
    journal: list[dict[str, Any]]
    seconds: float
    started: int

    def trained(self) -> dict[tuple[str, int], int]:
        """Return how often each rung of each trial was trained."""
        return dict(Counter((entry["trained"], entry["rung"]) for entry in self.journal if "trained" in entry))

    def weights(self) -> dict[tuple[str, int], str]:
        """Return the digest of the weights at each rung of each trial, of real training."""
        return {(entry["trained"], entry["rung"]): entry["weights"] for entry in self.journal if "weights" in entry}

    def summary(self) -> list[tuple[Any, ...]]:
        """Return parameters, state and learning curve of every trial."""
        return [(t.number, t.params, t.state.name, t.intermediate_values, t.value) for t in self.trials]

    def faults(self, trials: int) -> list[str]:
        """Return a sentence for each fault of the result."""
        numbers = [trial.number for trial in self.trials]
        found = []
        if numbers != list(range(len(numbers))) or len(numbers) < trials:
            found.append(f"trial numbers {numbers}")
        if left := [t.number for t in self.trials if not t.state.is_finished()]:
            found.append(f"trials {left} did not end")
        if failed := [t.number for t in self.trials if t.state == TrialState.FAIL]:
            found.append(f"trials {failed} failed")
        return found


def search(
    database: Database, spec: StudySpec, folder: Path, workers: int, disturb: Callable[[Workers, threading.Event], None]
) -> Outcome:
    """Run a search to its end while `disturb` runs in a thread, which the event ends."""
    register(database, spec, "simulated")
    engine, over = Workers(spec.name, database.url, folder), threading.Event()
    thread = threading.Thread(target=disturb, args=(engine, over))
    began = time.monotonic()
    thread.start()
    try:
        supervise(engine, workers, lambda: snapshot(database, spec).reached, lambda: False, poll=0.1)
    finally:
        seconds = time.monotonic() - began
        over.set()
        thread.join()
    trials = owned_search(database, spec.name).open().get_trials(deepcopy=False)
    return Outcome(trials, Journal(engine.journal).read(), seconds, engine.started)


def undisturbed(engine: Workers, over: threading.Event) -> None:
    """Do not disturb a search."""


def kills(count: int, seed: int) -> Callable[[Workers, threading.Event], None]:
    """Return a function that kills the worker `count` times: after 0 to 3 more journal entries, at a random moment."""

    def disturb(engine: Workers, over: threading.Event) -> None:
        rng, journal = random.Random(seed), Journal(engine.journal)
        for _ in range(count):
            enough = len(journal.read()) + rng.choice((0, 1, 2, 3))
            while len(journal.read()) < enough and not over.wait(0.02):
                pass
            if over.wait(rng.uniform(0.0, 0.7)):
                return
            with suppress(KeyError):
                engine.running.pop(0).kill()

    return disturb


def outages(
    server: EmbeddedPostgres, count: int, seconds: float, ups: list[float]
) -> Callable[[Workers, threading.Event], None]:
    """Return a function that interrupts the database `count` times, in three ways, and appends its returns to `ups`."""

    def stopped() -> None:
        server.stop()
        time.sleep(seconds)
        server.start()

    def killed() -> None:
        os.kill(int((server.folder / "data" / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
        time.sleep(seconds)
        server.start()

    def cut() -> None:
        with (
            closing(psycopg2.connect(server.url.replace("+psycopg2", ""))) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
                           "AND usename = current_user")  # fmt: skip

    def disturb(engine: Workers, over: threading.Event) -> None:
        for number in range(count):
            if over.wait(2.0):
                return
            (stopped, killed, cut)[number % 3]()
            ups.append(time.time())

    return disturb


def lost_seconds(journal: Sequence[dict[str, Any]], ups: Sequence[float]) -> list[float]:
    """Return the seconds from each return of the database until the last report that had waited for it."""
    reports = [(entry["began"], entry["ended"]) for entry in journal if "reported" in entry]
    return [max((ended - up for began, ended in reports if began < up < ended), default=0.0) for up in ups]


def killed_search(
    database: Database, folder: Path, count: int, seed: int, *, real: bool = False
) -> tuple[Outcome, Outcome, list[str]]:
    """Return the search under kills, the same one undisturbed, and the faults; with `real`, of real training."""
    trials, names = max(6, count), ("calm-real", "wild-real") if real else ("calm", "wild")
    make = partial(trained_study, encoder=folder / "encoder") if real else study
    calm = search(database, make(names[0], trials, seed), folder, 1, undisturbed)
    wild = search(database, make(names[1], trials, seed), folder, 1, kills(count, seed))
    wrong = wild.faults(trials) + calm.faults(trials)
    if repeated := {rung: times for rung, times in wild.trained().items() if times > 1}:
        wrong.append(f"trained more than once: {repeated}")
    if wild.summary() != calm.summary():
        wrong.append("the search and the undisturbed one have different trials")
    if wild.weights() != calm.weights() or real > bool(calm.weights()):
        wrong.append("the search and the undisturbed one have different weights")
    return wild, calm, wrong


def restarted_search(
    database: Database, server: EmbeddedPostgres, folder: Path, count: int
) -> tuple[Outcome, list[float], list[str]]:
    """Return the search under outages, the seconds that each cost after its end, and the faults."""
    ups: list[float] = []
    trials = 6 * count + 8
    outcome = search(database, study("outages", trials), folder, 4, outages(server, count, 1.0, ups))
    wrong = outcome.faults(trials)
    if outcome.started != 4:
        wrong.append(f"{outcome.started - 4} workers ended before the search did")
    if reaped := [trial.number for trial in outcome.trials if LOST in trial.user_attrs]:
        wrong.append(f"trials {reaped} were taken from live workers")
    if len(ups) < count:
        wrong.append(f"the search was over after {len(ups)} outages")
    return outcome, lost_seconds(outcome.journal, ups), wrong


def main() -> None:
    """Run both searches and report them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="ten kills, three outages")
    parser.add_argument("--kills", type=int, default=100, metavar="N")
    parser.add_argument("--restarts", type=int, default=10, metavar="N", help="outages of the database")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if options.worker:
        work(options.worker[0], Journal(Path(options.worker[1])))
        return
    count, outages = (10, 3) if options.quick else (options.kills, options.restarts)
    folder = Path(tempfile.mkdtemp())
    os.environ["HPO_HOME"] = str(folder / "home")
    server = EmbeddedPostgres(folder / "home")
    database = connect(server.start())
    try:
        wild, calm, faults = killed_search(database, folder, count, options.seed)
        trained, _, training_faults = killed_search(database, folder, max(2, count // 5), options.seed, real=True)
        restarted, lost, more_faults = restarted_search(database, server, folder, outages)
    finally:
        database.engine.dispose()
        server.stop()
        shutil.rmtree(server.folder, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
    faults += training_faults + more_faults
    continued = sum(len(trial.user_attrs.get(LOST, [])) for trial in wild.trials)
    rows: list[Row] = [
        ("workers killed", wild.started - 1, "nothing", 0, "times"),
        ("trials continued after a kill", continued, "nothing", 0, "times"),
        ("workers killed in real training", trained.started - 1, "nothing", 0, "times"),
        ("weights compared bit for bit", len(trained.weights()), "nothing", 0, "rungs"),
        ("search under kills", round(wild.seconds, 1), "the same undisturbed", round(calm.seconds, 1), "s"),
        ("outages of the database", len(lost), "nothing", 0, "times"),
        ("lost after an outage, the longest", round(max(lost), 2), "goal", 5.0, "s"),
        ("faults found", len(faults), "goal", 0, "faults"),
    ]
    title = f"{len(wild.trials)} trials under kills, {len(restarted.trials)} under outages"
    report(title, rows, faults, options.json, keep=not options.quick)
    sys.exit(1 if faults else 0)


def report(title: str, rows: Sequence[Row], faults: Sequence[str], json_file: Path | None, *, keep: bool) -> None:
    """Print the table and the faults; write them as JSON, and with `keep` to benchmarks/results/."""
    table = Table(title=title, box=None)
    for heading in ("measure", "here", "beside", "", "unit"):
        table.add_column(heading)
    for measure, ours, peer, value, unit in rows:
        table.add_row(measure, str(ours), peer, str(value), unit)
    console = Console(width=110, record=True)
    console.print(table)
    for fault in faults:
        console.print(f"WRONG: {fault}", markup=False)
    if json_file:
        keys = ("measure", "ours", "peer", "peer_value", "unit")
        entries = [dict(zip(keys, row, strict=True)) | {"ratio": None} for row in rows]
        atomic_write(json_file, json.dumps(entries, indent=2).encode())
    if keep:
        today = datetime.now(UTC).date().isoformat()
        path = Path(__file__).parent / "results" / f"chaos-{today}.md"
        atomic_write(path, f"```\n{console.export_text()}```\n".encode())


if __name__ == "__main__":
    main()
