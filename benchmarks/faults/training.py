"""The searches of benchmarks/chaos.py: their studies, the journal of their workers, training that sleeps or is real."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from hpo.registry import load_spec_of
from hpo.search.loop import Search
from hpo.workers.parent_watchdog import start_parent_watchdog
from storage.database.postgres import connect
from storage.files import checkpoints
from storage.files.atomic import sha256
from studies.config.hyperparameters import Hyperparameters
from studies.config.spec import StudySpec, parse_spec
from studies.training.objective import run_trial
from studies.training.prepare import prepare
from studies.training.problem import Problem
from studies.training.rungs import RungReport

ROOT = Path(__file__).parents[2]
RUNGS = [10, 30, 90]
STEP_SECONDS = 0.01
SCENES = ("tea", "cheese")
Report = Callable[[RungReport], None]


def study(name: str, trials: int, seed: int = 0) -> StudySpec:
    """Return a search with simulated training whose workers may be lost any number of times."""
    space = {"learner": "protonet", "trainable_layers": 0, "outer_lr": {"low": 1e-4, "high": 1e-3}}
    return parse_spec(
        {
            "name": name,
            "data": {"source": "completejourney"},
            "search": {"trials": trials, "seed": seed, "space": space, "retries": 1000},
            "pruner": {"rungs": RUNGS, "keep": 0.1},
        }
    )


def trained_study(name: str, trials: int, seed: int = 0, *, encoder: Path) -> StudySpec:
    """Return such a search with real training: of a layer of a small BERT, with dropout and without, in a planted shop.

    Args:
        name: Its name.
        trials: Of the search.
        seed: Of the search.
        encoder: Folder of the BERT, made if it is missing.
    """
    sys.path.append(str(ROOT))  # the shop is a test's, and tests are not installed
    from tests.synthetic import tiny_encoder, tiny_spec

    space = {"learner": ["protonet", "fomaml"], "trainable_layers": 1, "dropout": [0.0, 0.1], "inner_steps": 1}
    return tiny_spec(
        encoder if encoder.exists() else tiny_encoder(encoder),
        name=name,
        search={"trials": trials, "seed": seed, "space": space, "retries": 1000},
        pruner={"rungs": RUNGS, "keep": 0.1},
    )


class Journal:
    """A file to which processes append lines: what they did, and when."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, **entry: Any) -> None:
        """Append an entry as one line, in one write."""
        line = json.dumps(entry | {"pid": os.getpid()}) + "\n"
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, line.encode())
        os.close(descriptor)

    def read(self) -> list[dict[str, Any]]:
        """Return all entries."""
        return [json.loads(line) for line in self._path.read_text().splitlines()] if self._path.exists() else []


def simulate_training(journal: Journal, values: Hyperparameters, folder: Path, report: Report) -> float:
    """Take the time and write the checkpoints of a training, as `objective.run_trial` does; return the last recall."""
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


def train(journal: Journal, problem: Problem, values: Hyperparameters, folder: Path, report: Report) -> float:
    """Train for real, with the digest of the weights at each rung in the journal; return the last recall."""
    known = {path.name for path in folder.glob("step-*")}

    def journalled(reached: RungReport) -> None:
        step = f"step-{reached.step:06d}"
        if step not in known:  # a resumed trial reports its last rung again
            weights = sha256(folder / step / checkpoints.WEIGHTS)
            journal.write(trained=folder.name, rung=reached.rung, weights=weights)
        report(reached)

    return run_trial(problem, values, folder, journalled)


def work(name: str, journal: Journal) -> None:
    """Run a worker until the search ends."""
    start_parent_watchdog()
    database = connect(os.environ["HPO_DATABASE_URL"], wait=True)
    spec = load_spec_of(database, name)
    if spec.search.space["trainable_layers"] == 0:
        search = Search(database, spec, SCENES, partial(simulate_training, journal))
    else:
        sys.path.append(str(ROOT))
        from tests.synthetic import planted_dataset

        torch.set_num_threads(1)  # the model is so small that threads would wait for each other
        problem = prepare(spec, Path(spec.teacher.encoder).parent / "cache", data=planted_dataset())
        scenes = {problem.data.scenes[episode.scene] for episode in problem.validation}
        search = Search(database, spec, scenes, partial(train, journal, problem))
    for _ in search.run_all():
        pass
