"""What each lever of the distillation is worth on classification: one student, changed in one thing at a time.

    python benchmarks/distillation.py [--quick] [--folder DIR] [--json FILE]

Complete Journey's products as in studies/products.toml. Teachers are trained first: ridge and a prototypical network,
each with the top two layers of the encoder, and ridge with all six. The student has two layers with half of the
feed-forward units; it learns from the first teacher, on all texts of the catalogue. Each other student differs from it
in its texts, losses, teachers, steps, start or shape. Differences of macro recall are paired over the 100 validation
episodes, and over the 100 of test, which nothing is chosen by, with bootstrap intervals. What is in --folder already is
not trained again. A full run leaves a dated table in benchmarks/results/.

Augmented texts are copies of the catalogue's that lost one field or one word; they stand in the data as texts without a
label, so that teachers encode them like any other.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from rich.console import Console
from rich.table import Table

from distill.hyperparameters import StudentHyperparameters
from distill.objective import Distillation, Teacher, load_student
from distill.student_training import evaluate
from distill.targets import Targets
from storage.files.atomic import atomic_write
from storage.home import cache_folder
from studies.classification.data.coding import build_labelled
from studies.classification.data.completejourney import LabelledCompleteJourney
from studies.config.hyperparameters import Hyperparameters
from studies.config.spec import StudySpec, load_spec
from studies.evaluation.intervals import bootstrap
from studies.training.objective import load_teacher, run_trial
from studies.training.prepare import prepare
from studies.training.problem import Problem

SHARED = {"outer_lr": 1e-3, "meta_batch_size": 4, "encoder_lr": 1e-4, "temperature": 0.1, "class_names": "read"}
TEACHERS = {
    "ridge": Hyperparameters(learner="ridge", trainable_layers=2, head="projection", **SHARED),
    "protonet": Hyperparameters(learner="protonet", trainable_layers=2, head="projection", **SHARED),
    "ridge, six layers": Hyperparameters(learner="ridge", trainable_layers=6, head="projection", **SHARED),
}
BASE = StudentHyperparameters(layers=2, feed_forward=768)
SEED = 20261128


@dataclass(frozen=True)
class Lever:
    """How a student differs from the first one.

    Attributes:
        changes: of its values.
        weights: of its losses.
        steps: on texts, and on rankings; those of the study unless given.
        teachers: names, best first.
        texts: "catalogue", "training classes" or "augmented".
        alone: whether it is trained on labels alone.
    """

    changes: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    steps: tuple[int, int] | None = None
    teachers: tuple[str, ...] = ("ridge",)
    texts: str = "catalogue"
    alone: bool = False


LEVERS: dict[str, Lever] = {
    "the student": Lever(),
    "labels alone": Lever(alone=True),
    "texts of training classes": Lever(texts="training classes"),
    "augmented texts too": Lever(texts="augmented"),
    "texts only, as many steps": Lever(steps=(280, 0)),
    "rankings only, as many steps": Lever(steps=(0, 280)),
    "no listwise loss": Lever(weights={"listwise": 0.0}),
    "no hard loss": Lever(weights={"hard": 0.0}),
    "margin loss": Lever(weights={"margin": 1.0}),
    "hidden states": Lever(weights={"hidden": 1.0}),
    "relational loss": Lever(weights={"relational": 10.0}),
    "embedding loss × 10": Lever(weights={"embedding": 100.0}),
    "three times the steps": Lever(steps=(750, 90)),
    "a third of the steps": Lever(steps=(83, 10)),
    "teacher of six trained layers": Lever(teachers=("ridge, six layers",)),
    "two teachers": Lever(changes={"teachers": 2}, teachers=("ridge", "protonet")),
    "first layers": Lever(changes={"init": "first"}),
    "last layers": Lever(changes={"init": "last"}),
    "whole feed-forward": Lever(changes={"feed_forward": 0}),
    "three layers": Lever(changes={"layers": 3}),
    "one layer": Lever(changes={"layers": 1}),
    "whole vocabulary": Lever(changes={"vocabulary": "full"}),
    "no spelling": Lever(changes={"subword_dropout": 0.0}),
}
QUICK = ("the student", "labels alone", "augmented texts too", "two teachers")


def shortened(text: str, rng: np.random.Generator) -> str:
    """A text without one of its fields, or of its words where it is one field; "" where nothing would be left."""
    parts, between = text.split(", "), ", "
    if len(parts) < 2:
        parts, between = text.split(), " "
    lost = int(rng.integers(len(parts)))
    return between.join(parts[:lost] + parts[lost + 1 :])


def study(quick: bool) -> tuple[StudySpec, Problem, set[str]]:
    """The study, its data with the augmented texts, and these."""
    spec = load_spec(Path("studies/products.toml"))
    if quick:
        protocol = spec.protocol.model_copy(update={"episodes": 20, "train_episodes": 100})
        spec = spec.model_copy(update={"protocol": protocol})
    rows = LabelledCompleteJourney(source="completejourney").read()
    rng, known = np.random.default_rng(SEED), sorted(set(rows.rows["text"].drop_nulls()))
    more = {shortened(text, rng) for text in known} - {*known, ""}
    added = pl.DataFrame({"text": sorted(more)}).with_columns(
        label=pl.lit(None, pl.String), group=pl.lit(None, pl.String)
    )
    columns = ["text", "label", "group"]
    data = build_labelled(replace(rows, rows=pl.concat([rows.rows.select(columns), added.select(columns)])))
    return spec, prepare(spec, cache_folder(), data=data), more


def teachers(problem: Problem, folder: Path) -> dict[str, Teacher]:
    """The teachers, trained or from the folder."""
    found = {}
    for number, (name, values) in enumerate(TEACHERS.items()):
        recall = run_trial(problem, values, folder / f"teacher {name}", lambda reached: None)
        found[name] = Teacher(number, recall, load_teacher(problem, folder / f"teacher {name}"))
    return found


def pool(problem: Problem, added: set[str], texts: str) -> torch.Tensor:
    """(N,) codes of the texts of a pool, ascending."""
    items = problem.visible_items.cpu()
    kept = torch.tensor([problem.data.texts[code] not in added for code in items])
    if texts == "training classes":
        read = {int(code) for episode in problem.train for code in episode.items.cpu()}
        kept = torch.tensor([int(code) in read for code in items])
    return items if texts == "augmented" else items[kept]


def restricted(targets: Targets, items: torch.Tensor) -> Targets:
    """The targets of some of their texts."""
    return replace(targets, items=items, vectors=targets.of(items))


class Students:
    """Trains and scores students.

    Args:
        problem: the data with the augmented texts.
        added: these.
        known: the teachers by name.
        folder: of what is trained.
    """

    def __init__(self, problem: Problem, added: set[str], known: dict[str, Teacher], folder: Path) -> None:
        self._problem, self._added, self._known, self._folder = problem, added, known, folder

    def recalls(self, name: str, lever: Lever) -> dict[str, dict[str, float]]:
        """Recall per episode on validation and test."""
        where = self._folder / name
        result = where / "recalls.json"
        if result.exists():
            found: dict[str, dict[str, float]] = json.loads(result.read_text())
            return found
        shared = self._shared(lever)
        weights = {**BASE.weights, **lever.weights}
        values = replace(BASE, weights=weights, **lever.changes)
        if lever.alone:
            student = shared.train_without_teacher(values, where, lambda done, total: None)
        else:
            shared.run_trial(values, where, lambda reached: None)
            student = load_student(shared.problem, where)
        found = {
            part: scenes(evaluate(student, self._problem, self._problem.episodes(part)))
            for part in ("validation", "test")
        }
        atomic_write(result, json.dumps(found).encode())
        return found

    def _shared(self, lever: Lever) -> Distillation:
        problem = self._problem
        spec = problem.spec
        steps = lever.steps or (spec.distill.embed_steps, spec.distill.rank_steps)
        section = spec.distill.model_copy(update={"embed_steps": steps[0], "rank_steps": steps[1]})
        problem.spec = spec.model_copy(update={"distill": section})
        shared = Distillation(problem, [self._known[name] for name in lever.teachers], self._folder)
        shared.targets = restricted(shared.targets, pool(problem, self._added, lever.texts))
        return shared


def scenes(evaluation: Any) -> dict[str, float]:
    """Recall by episode."""
    return {name: scene.recall for name, scene in evaluation.scenes.items()}


def main() -> None:
    """Trains what is missing, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few students and few episodes")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="by default build/distillation")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    arguments = parser.parse_args()
    folder = arguments.folder or Path("build", "distillation-quick" if arguments.quick else "distillation")
    console = Console(width=120, record=True)
    spec, problem, added = study(arguments.quick)
    known = teachers(problem, folder)
    found = {
        f"teacher: {name}": {
            part: scenes(problem.evaluate(teacher.learner, problem.episodes(part))) for part in ("validation", "test")
        }
        for name, teacher in known.items()
    }
    students = Students(problem, added, known, folder)
    for name in QUICK if arguments.quick else LEVERS:
        problem.spec = spec
        found[name] = students.recalls(name, LEVERS[name])
        Console(stderr=True).print(f"{name}: {np.mean(list(found[name]['validation'].values())):.4f} on validation")
    console.print(table_of(found))
    if not arguments.quick:
        result = Path(f"benchmarks/results/distillation-{datetime.now(UTC).date()}.md")
        atomic_write(result, f"# `python benchmarks/distillation.py`\n\n```\n{console.export_text()}```\n".encode())
    if arguments.json:
        atomic_write(arguments.json, json.dumps(found, indent=2).encode())


def table_of(found: dict[str, dict[str, dict[str, float]]]) -> Table:
    """Macro recalls, and differences from the first student."""
    title = "Macro recall, and its difference from the student's [95 %], paired over episodes"
    table = Table("", "validation", "difference", "test", "difference", title=title, title_justify="left", box=None)
    for name, parts in found.items():
        cells = [name]
        for part in ("validation", "test"):
            base = found["the student"][part]
            own = np.array([parts[part][scene] for scene in base])
            gap = bootstrap(own - np.array(list(base.values())))
            shown = "" if name == "the student" else f"{gap.mean:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}]"
            cells += [f"{own.mean():.4f}", shown]
        table.add_row(*cells)
    return table


if __name__ == "__main__":
    main()
