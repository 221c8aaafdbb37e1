"""Does the shop's own training of the encoder pay? Cheap learners over the pretrained and over adapted encoders.

    python benchmarks/adaptation.py [STUDY.toml] [--quick] [--recipes NAME+NAME ...] [--steps N] [--lr X]
        [--shots K ...] [--part validation|test] [--layers N] [--updates N] [--encoder-lr X] [--json FILE]

STUDY.toml is a file of any task; by default studies/products.toml. A recipe is the objectives of `[teacher.adapt]`,
joined by "+", with its other keys behind a colon: "labels:lr=1e-4,steps=100". Each encoder is scored with the baseline
that knows nothing else, with a prototypical network over frozen vectors, and with --layers over trained layers.
Learners train on the first of --shots and are scored on all of them, the same queries under each.
Differences are paired bootstraps over scenes, or episodes, against the pretrained encoder under the same learner.
Choose on validation; score the chosen ones on test once. Online Retail: ONLINE_RETAIL names the folder that holds
shop.toml, purchases.parquet and items.parquet, and "online_retail" in place of a file reads it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from hpo.results.task_stages import STAGES
from storage.files.atomic import atomic_write
from storage.home import cache_folder
from studies.config.hyperparameters import ENCODER, Hyperparameters
from studies.config.spec import StudySpec, load_spec, parse_spec
from studies.evaluation.metrics import Evaluation, compare
from studies.model.device import full_precision
from studies.training.outer_loop import Trainer
from studies.training.prepare import load_data, prepare
from studies.training.problem import Problem, TaskData

PRETRAINED = "pretrained"
DEFAULT = {"ranking": ["mlm", "contrastive", "cooccurrence"], "classification": ["mlm", "contrastive", "labels"]}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="?", default="studies/products.toml")
    parser.add_argument("--quick", action="store_true", help="a minute or two: ten steps, ten updates")
    parser.add_argument("--recipes", nargs="+", help="by default every objective of the task alone")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--shots", type=int, nargs="+", default=[1])
    parser.add_argument("--part", choices=["validation", "test"], default="validation")
    parser.add_argument("--updates", type=int, default=90, help="of the prototypical network")
    parser.add_argument("--layers", type=int, default=0, help="also with so many trained layers")
    parser.add_argument("--encoder-lr", type=float, default=3e-5, help="of trained layers")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    chosen = parser.parse_args(arguments)
    if chosen.quick:
        chosen.steps, chosen.updates = 10, 10
    spec = study(chosen.study, chosen.shots, chosen.layers)
    data = load_data(spec, cache_folder())
    found: dict[str, dict[tuple[str, int], Evaluation]] = {}
    minutes: dict[str, float] = {}
    for recipe in [PRETRAINED, *(chosen.recipes or DEFAULT[spec.task])]:
        settings = None if recipe == PRETRAINED else settings_of(recipe, chosen.steps, chosen.lr)
        problem = prepared(spec, data, settings)
        adaptation = problem.encoder.adaptation
        minutes[recipe] = 0.0 if adaptation is None else adaptation.seconds / 60
        layers = [0, chosen.layers] if chosen.layers else [0]
        found[recipe] = scores(problem, layers, chosen)
        for (name, shots), evaluation in found[recipe].items():
            print(f"{recipe}, {name}, {shots} shots: {evaluation.mean():.4f}", file=sys.stderr, flush=True)
    rows = rows_of(spec, found, minutes, chosen)
    show(rows)
    if chosen.json:
        atomic_write(chosen.json, json.dumps(rows, indent=2).encode())


def study(name: str, shots: Sequence[int], layers: int) -> StudySpec:
    """The study, at numbers of shots of its own, with no more activations cached than are read."""
    if name == "online_retail":
        if not (folder := os.environ.get("ONLINE_RETAIL")):
            sys.exit("ONLINE_RETAIL names no folder with shop.toml, purchases.parquet and items.parquet")
        name = f"{folder}/shop.toml"
    raw = load_spec(Path(name)).model_dump(mode="json")
    raw["protocol"]["shots"] = shots[0]
    raw["protocol"]["report_shots"] = sorted(shots)
    space = raw["search"]["space"]
    raw["search"]["space"] = {name: domain for name, domain in space.items() if name not in ENCODER}
    raw["search"]["space"]["trainable_layers"] = [0, layers] if layers else 0
    return parse_spec(raw)


def settings_of(recipe: str, steps: int, lr: float) -> dict[str, Any]:
    """The keys of `[teacher.adapt]` that a recipe names."""
    names, _, keys = recipe.partition(":")
    given = tomllib.loads("\n".join(keys.split(","))) if keys else {}
    return {"objectives": names.split("+"), "steps": steps, "lr": lr} | given


def prepared(spec: StudySpec, data: TaskData, settings: dict[str, Any] | None) -> Problem:
    """The problem, over an encoder that is adapted so."""
    raw = spec.model_dump(mode="json")
    raw["teacher"]["adapt"] = settings
    return prepare(parse_spec(raw), cache_folder(), data=data)


def scores(problem: Problem, layers: Sequence[int], chosen: argparse.Namespace) -> dict[tuple[str, int], Evaluation]:
    """The encoder alone, and prototypical networks over so many trained layers of it, at each number of shots."""
    part, updates = chosen.part, chosen.updates
    by_shots, frozen = problem.by_shots(part), STAGES[problem.spec.task].frozen
    found = {}
    with full_precision():
        for shots, episodes in by_shots.items():
            found[frozen, shots] = problem.score(problem.baselines(part)[frozen], episodes)
    for count in layers:
        learner = problem.learner(values(problem.spec.task, count, chosen.encoder_lr))
        started = time.process_time()
        Trainer(learner, problem.train, updates, seed=0).train_to(updates)
        name = f"protonet, {count} layers trained" if count else "protonet, frozen encoder"
        print(f"{name}: {time.process_time() - started:.0f} CPU s of training", file=sys.stderr, flush=True)
        with full_precision():
            for shots, episodes in by_shots.items():
                found[name, shots] = problem.evaluate(learner, episodes)
    return found


def values(task: str, layers: int, encoder_lr: float) -> Hyperparameters:
    """What the prototypical networks train with, the same over every encoder."""
    own: dict[str, Any] = {"outer_lr": 3e-4, "meta_batch_size": 4, "trainable_layers": layers}
    if layers:
        own |= {"encoder_lr": encoder_lr, "dropout": 0.0, "head": "scalars"}
    if task == "classification":
        own |= {"temperature": 0.1, "label_smoothing": 0.0, "class_names": "ignore", "head": "projection"}
    return Hyperparameters(learner="protonet", **own)


def rows_of(
    spec: StudySpec,
    found: dict[str, dict[tuple[str, int], Evaluation]],
    minutes: dict[str, float],
    chosen: argparse.Namespace,
) -> list[dict[str, Any]]:
    """One row for each recipe and learner, against the pretrained encoder."""
    rows = []
    for recipe, systems in found.items():
        for (name, shots), ours in systems.items():
            theirs = found[PRETRAINED][name, shots]
            gain = compare(ours, theirs)
            rows.append(
                {
                    "measure": f"{spec.name}, {chosen.part} {spec.metric}, {shots} shots, {name}, {recipe}",
                    "recipe": recipe,
                    "learner": name,
                    "shots": shots,
                    "ours": ours.mean(),
                    "peer": PRETRAINED,
                    "peer_value": theirs.mean(),
                    "ratio": ours.mean() / theirs.mean(),
                    "unit": spec.metric,
                    "difference": [gain.mean, gain.low, gain.high],
                    "minutes": minutes[recipe],
                }
            )
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """The table."""
    table = Table("recipe", "minutes", "learner", "shots", "recall", "over the pretrained encoder", box=None)
    for row in rows:
        mean, low, high = row["difference"]
        paired = "" if row["recipe"] == PRETRAINED else f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]"
        table.add_row(
            row["recipe"], f"{row['minutes']:.1f}", row["learner"], str(row["shots"]), f"{row['ours']:.4f}", paired
        )
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
