"""What faults cost a search: workers killed at random moments, and a database that is restarted, cut off and killed.

    python benchmarks/chaos.py [--quick] [--kills N] [--restarts N] [--seed N] [--json FILE]

Real worker processes under the real supervision on a real PostgreSQL; only training is played: it sleeps, keeps
checkpoints as real training does, and reaches a recall that its configuration sets. Two runs:

- kills: one worker, killed by SIGKILL again and again; beside it the same search undisturbed. One worker makes a search
  deterministic, so both must end with the same trials, and no rung may have been trained twice.
- restarts: four workers, while the server is stopped and started, killed and started, and loses all its connections,
  in turn. No trial may be taken from a living worker, and no worker may end.

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
from pathlib import Path
from typing import Any

import optuna
import psycopg2
import torch
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.table import Table

from hpo.registry import load_spec_of, register
from hpo.search.loop import Search
from hpo.search.trial_chains import LOST
from hpo.search.trial_run import open_study
from hpo.status.snapshot import snapshot
from hpo.workers.engines.local import Process
from hpo.workers.parent_watchdog import follow_launcher
from hpo.workers.supervisor import supervise
from storage.database.embedded import EmbeddedPostgres
from storage.database.postgres import Database, connect
from storage.files import checkpoints
from storage.files.atomic import atomic_write
from studies.config.hyperparameters import Hyperparameters
from studies.config.spec import StudySpec, parse_spec
from studies.training.rungs import RungReport

RUNGS = [10, 30, 90]
STEP_SECONDS = 0.01
SCENES = ("tea", "cheese")
Report = Callable[[RungReport], None]


def study(name: str, trials: int, seed: int = 0) -> StudySpec:
    """A search whose training is played; its workers may be lost any number of times."""
    space = {"learner": "protonet", "trainable_layers": 0, "outer_lr": {"low": 1e-4, "high": 1e-3}}
    return parse_spec(
        {
            "name": name,
            "data": {"source": "completejourney"},
            "search": {"trials": trials, "seed": seed, "space": space, "retries": 1000},
            "pruner": {"rungs": RUNGS, "keep": 0.1},
        }
    )


class Journal:
    """Lines that processes append to one file: what they did, and when."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, **entry: Any) -> None:
        """Appends an entry; a line is written whole or not at all."""
        line = json.dumps(entry | {"pid": os.getpid()}) + "\n"
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, line.encode())
        os.close(descriptor)

    def read(self) -> list[dict[str, Any]]:
        """All entries."""
        return [json.loads(line) for line in self._path.read_text().splitlines()] if self._path.exists() else []


def play(journal: Journal, values: Hyperparameters, folder: Path, report: Report) -> float:
    """Trains nothing, in the time and with the checkpoints of a training, as `objective.run_trial` does."""
    stored = checkpoints.newest_valid(folder)
    done, recall = -1, 0.0
    if stored is not None:
        reached = RungReport(**stored[1]["reached"])
        done, recall = reached.rung, reached.recall
        report(reached)
    for rung in range(done + 1, len(RUNGS)):
        for _ in range(RUNGS[rung] - (RUNGS[rung - 1] if rung else 0)):
            time.sleep(STEP_SECONDS)
        recall = min(1.0, values.outer_lr * 900 + rung * 0.01)
        reached = RungReport(rung, RUNGS[rung], recall, dict.fromkeys(SCENES, recall), float(RUNGS[rung]))
        checkpoints.save(folder, RUNGS[rung], {"weight": torch.zeros(1000)}, {"reached": vars(reached)})
        journal.write(trained=folder.name, rung=rung)
        began = time.time()
        report(reached)
        journal.write(reported=folder.name, began=began, ended=time.time())
    return recall


def work(name: str, journal: Journal) -> None:
    """A worker process."""
    follow_launcher()
    database = connect(os.environ["HPO_DATABASE_URL"], wait=True)
    search = Search(
        database,
        load_spec_of(database, name),
        SCENES,
        lambda values, folder, heard: play(journal, values, folder, heard),
    )
    for _ in search.run_all():
        pass


class Workers:
    """An engine of such workers.

    Args:
        name: the study.
        url: its database.
        folder: for journal and logs.
    """

    def __init__(self, name: str, url: str, folder: Path) -> None:
        self._name, self._url, self._folder = name, url, folder
        self.journal = folder / f"{name}.jsonl"
        self.running: dict[int, Process] = {}
        self.started = 0

    def start(self, number: int) -> Process:
        """Starts a worker process."""
        command = [sys.executable, __file__, "--worker", self._name, str(self.journal)]
        environment = os.environ | {"HPO_DATABASE_URL": self._url, "PYTHONPATH": os.pathsep.join(sys.path)}
        process = Process(command, environment, self._folder / f"{self._name}-{number}.log")
        self.running[number] = process
        self.started += 1
        return process


@dataclass(frozen=True)
class Outcome:
    """How a search ended.

    Attributes:
        trials: all of it.
        journal: what its workers did.
        seconds: it took.
        started: worker processes.
    """

    trials: list[FrozenTrial]
    journal: list[dict[str, Any]]
    seconds: float
    started: int

    def figures(self) -> dict[tuple[str, int], int]:
        """How often each rung of each trial was trained."""
        return dict(Counter((entry["trained"], entry["rung"]) for entry in self.journal if "trained" in entry))

    def story(self) -> list[tuple[Any, ...]]:
        """What the search came to: parameters, state and curve of every trial."""
        return [(t.number, t.params, t.state.name, t.intermediate_values, t.value) for t in self.trials]

    def faults(self, trials: int) -> list[str]:
        """What must not be, in words."""
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
    """Runs a search to its end while `disturb` runs beside it, until the event."""
    register(database, spec, "played")
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
    trials = open_study(database.storage, spec.name).get_trials(deepcopy=False)
    return Outcome(trials, Journal(engine.journal).read(), seconds, engine.started)


def undisturbed(engine: Workers, over: threading.Event) -> None:
    """Leaves a search alone."""


def kills(count: int, seed: int) -> Callable[[Workers, threading.Event], None]:
    """Kills the worker so many times: each after a few more rungs, or none, and at a random moment then."""

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
    """Takes the database away so many times, in three ways, for so many seconds; notes when it is back."""

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
                           "AND backend_type = 'client backend'")  # fmt: skip

    def disturb(engine: Workers, over: threading.Event) -> None:
        for number in range(count):
            if over.wait(2.0):
                return
            (stopped, killed, cut)[number % 3]()
            ups.append(time.time())

    return disturb


def lost_seconds(journal: Sequence[dict[str, Any]], ups: Sequence[float]) -> list[float]:
    """For each time the database came back: until the last report that had waited for it was heard."""
    reports = [(entry["began"], entry["ended"]) for entry in journal if "reported" in entry]
    return [max((ended - up for began, ended in reports if began < up < ended), default=0.0) for up in ups]


def killed_search(database: Database, folder: Path, count: int, seed: int) -> tuple[Outcome, Outcome, list[str]]:
    """The search under kills, the same one undisturbed, and what is wrong."""
    trials = max(6, count)
    calm = search(database, study("calm", trials, seed), folder, 1, undisturbed)
    wild = search(database, study("wild", trials, seed), folder, 1, kills(count, seed))
    wrong = wild.faults(trials) + calm.faults(trials)
    if repeated := {rung: times for rung, times in wild.figures().items() if times > 1}:
        wrong.append(f"trained more than once: {repeated}")
    if wild.story() != calm.story():
        wrong.append("the search ended otherwise than undisturbed")
    return wild, calm, wrong


def restarted_search(
    database: Database, server: EmbeddedPostgres, folder: Path, count: int
) -> tuple[Outcome, list[float], list[str]]:
    """The search under outages, the seconds that each cost after it was over, and what is wrong."""
    ups: list[float] = []
    trials = 6 * count + 8
    outcome = search(database, study("outages", trials), folder, 4, outages(server, count, 1.0, ups))
    wrong = outcome.faults(trials)
    if outcome.started != 4:
        wrong.append(f"{outcome.started - 4} workers ended before the search did")
    if reaped := [trial.number for trial in outcome.trials if LOST in trial.user_attrs]:
        wrong.append(f"trials {reaped} were taken from living workers")
    if len(ups) < count:
        wrong.append(f"the search was over after {len(ups)} outages")
    return outcome, lost_seconds(outcome.journal, ups), wrong


def main() -> None:
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
        wild, calm, wrong = killed_search(database, folder, count, options.seed)
        restarted, lost, also_wrong = restarted_search(database, server, folder, outages)
    finally:
        database.engine.dispose()
        server.stop()
        shutil.rmtree(server.folder, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
    losses = sum(len(trial.user_attrs.get(LOST, [])) for trial in wild.trials)
    figures = [
        ("workers killed", wild.started - 1, "nothing", 0, "times"),
        ("trials continued after a kill", losses, "nothing", 0, "times"),
        ("search under kills", round(wild.seconds, 1), "the same undisturbed", round(calm.seconds, 1), "s"),
        ("outages of the database", len(lost), "nothing", 0, "times"),
        ("lost after an outage, the longest", round(max(lost), 2), "goal", 5.0, "s"),
        ("faults found", len(wrong + also_wrong), "goal", 0, "faults"),
    ]
    table = Table(title=f"{len(wild.trials)} trials under kills, {len(restarted.trials)} under outages", box=None)
    for heading in ("measure", "here", "beside", "", "unit"):
        table.add_column(heading)
    for measure, ours, peer, value, unit in figures:
        table.add_row(measure, str(ours), peer, str(value), unit)
    console = Console(width=110, record=True)
    console.print(table)
    for words in wrong + also_wrong:
        console.print(f"WRONG: {words}", markup=False)
    if options.json:
        keys = ("measure", "ours", "peer", "peer_value", "unit")
        entries = [dict(zip(keys, row, strict=True)) | {"ratio": None} for row in figures]
        atomic_write(options.json, json.dumps(entries, indent=2).encode())
    if not options.quick:
        today = datetime.now(UTC).date().isoformat()
        path = Path(__file__).parent / "results" / f"chaos-{today}.md"
        atomic_write(path, f"```\n{console.export_text()}```\n".encode())
    sys.exit(1 if wrong + also_wrong else 0)


if __name__ == "__main__":
    main()
