"""Does meta-learning pay? Every learner at its best of an equal budget, on test scenes, against what learns nothing.

    python benchmarks/learners.py [--quick] [--minutes N] [--no-products] [--layers N ...] [--json FILE]

Each learner gets a search of its own over the study's space: random and TPE proposals, pruned at the study's rungs,
until so many minutes of training and evaluation are spent. The best trial by validation recall is scored on the test
scenes, once, at the main number of shots and by shots. Differences are paired bootstraps over scenes.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
from rich.console import Console
from rich.table import Table

from hpo.search.pruner import RecallPruner
from hpo.search.space import proposer, suggest
from storage.files.atomic import atomic_write
from storage.home import cache_folder
from studies.config.hyperparameters import ENCODER
from studies.config.ranking_spec import RankingSpec
from studies.config.spec import StudySpec, load_spec
from studies.evaluation.baselines import TEXT_FREE, build_baselines
from studies.evaluation.evaluate import Adapted, ItemVectors, System, evaluate
from studies.evaluation.intervals import bootstrap
from studies.evaluation.metrics import Evaluation, compare
from studies.learners.base import Learner
from studies.learners.registry import RANKING_LEARNERS
from studies.model.device import full_precision
from studies.training.objective import load_teacher, run_trial
from studies.training.prepare import prepare
from studies.training.problem import Problem
from studies.training.rungs import RungReport

# System → figure ("main", or a number of shots) → evaluation.
Results = dict[str, dict[str, Evaluation]]


@dataclass(frozen=True)
class Best:
    """A learner's best trial: its validation recall, its parameters, and how many trials it is the best of."""

    learner: Learner
    recall: float
    trials: int
    params: dict[str, object]


def search(problem: Problem, name: str, seconds: float, folder: Path) -> Best:
    """The best trial of one learner within a budget of measured cost."""
    section = problem.spec.search
    section = section.model_copy(update={"space": section.space | {"learner": name}})
    pruner = problem.spec.pruner
    judge = RecallPruner(pruner.rungs, pruner.eta, seed=section.seed)
    study = optuna.create_study(direction="maximize", sampler=proposer(section, section.seed), pruner=judge)
    spent = 0.0
    while spent < seconds:
        trial = study.ask()
        cost = 0.0

        def report(reached: RungReport, trial: optuna.Trial = trial) -> None:
            nonlocal cost
            cost = reached.cost_seconds
            trial.report(reached.recall, pruner.rungs[reached.rung])
            if trial.should_prune():
                raise optuna.TrialPruned

        try:
            recall = run_trial(problem, suggest(trial, section), folder / name / str(trial.number), report)
            study.tell(trial, recall)
        except optuna.TrialPruned:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        spent += cost
        print(f"{name}: {spent:.0f} of {seconds:.0f} s, {trial.number + 1} trials", file=sys.stderr, flush=True)
    best = study.best_trial
    learner = load_teacher(problem, folder / name / str(best.number))
    return Best(learner, float(best.value or 0.0), len(study.trials), best.params)


def score(problem: Problem, system: System) -> dict[str, Evaluation]:
    """A system's figures on the test scenes, by what they are called: "main", or the number of shots."""
    k, scenes = problem.spec.protocol.k, problem.data.scenes
    found = {"main": evaluate(system, problem.test, scenes, k)}
    for shots, episodes in problem.by_shots("test").items():
        found[str(shots)] = evaluate(system, episodes, scenes, k)
    return found


def score_all(problem: Problem, bests: dict[str, Best]) -> Results:
    """Baselines and every learner's best, on the test scenes."""
    training, until = problem.split.scenes["train"], problem.split.period["test"][0]
    products = problem.spec.protocol.products
    systems = dict(build_baselines(problem.data, training, until, problem.cache.pooled(), products=products))
    episodes = [*problem.test, *(e for group in problem.by_shots("test").values() for e in group)]
    for name, best in bests.items():
        vectors = ItemVectors(best.learner.model.tower, episodes, problem.tokens.lengths)
        systems[name] = Adapted(best.learner, vectors)
    with full_precision():
        return {name: score(problem, system) for name, system in systems.items()}


def rows_of(results: Results, bests: dict[str, Best], minutes: float) -> list[dict[str, object]]:
    """One row for each learner, figure and peer: recall@K, and the paired difference with its interval."""
    rows: list[dict[str, object]] = []
    for figure in next(iter(results.values())):
        free = [name for name in TEXT_FREE if name in results]
        best_free = max(free, key=lambda name: results[name][figure].mean())
        plain = [name for name, entry in RANKING_LEARNERS.items() if entry.baseline]
        baselines = {best_free, "support popularity", *plain}
        for name in bests:
            for peer in sorted(baselines & set(results) - {name}):
                ours, theirs = results[name][figure], results[peer][figure]
                gain = compare(ours, theirs)
                rows.append(
                    {
                        "measure": f"test recall@K, {name}, {figure if figure == 'main' else figure + ' shots'}, "
                        f"{minutes:g} min each",
                        "ours": ours.mean(),
                        "peer": peer,
                        "peer_value": theirs.mean(),
                        "ratio": ours.mean() / theirs.mean(),
                        "unit": "recall",
                        "difference": [gain.mean, gain.low, gain.high],
                    }
                )
    return rows


def show(results: Results, bests: dict[str, Best]) -> None:
    """The table."""
    figures = list(next(iter(results.values())))
    table = Table("system", "trials", "validation", *figures, box=None)
    order = sorted(results, key=lambda name: results[name]["main"].mean())
    for name in order:
        best = bests.get(name)
        cells = []
        for figure in figures:
            found = bootstrap(results[name][figure].values())
            cells.append(f"{found.mean:.4f} [{found.low:.3f}, {found.high:.3f}]")
        table.add_row(name, str(best.trials) if best else "", f"{best.recall:.4f}" if best else "", *cells)
    Console(width=200).print(table)
    for name, best in bests.items():
        print(f"{name}: {best.params}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the quickstart's scenes, seconds for each learner")
    parser.add_argument("--study", type=Path, help="the study file; studies/completejourney.toml if left out")
    parser.add_argument("--minutes", type=float, default=6.0, help="of training and evaluation for each learner")
    parser.add_argument("--no-products", action="store_true", help="no system knows how many products share a text")
    parser.add_argument("--layers", type=int, nargs="+", default=[0], help="choices of trainable_layers")
    every = list(RANKING_LEARNERS)
    parser.add_argument("--learners", nargs="+", default=every, choices=every, help="all if left out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    chosen = parser.parse_args(arguments)
    minutes = 0.1 if chosen.quick else chosen.minutes
    file = chosen.study or Path("studies", "quickstart.toml" if chosen.quick else "completejourney.toml")
    problem = prepare(_spec(load_spec(file), chosen), cache_folder())
    with tempfile.TemporaryDirectory() as folder:
        bests = {name: search(problem, name, 60 * minutes, Path(folder)) for name in chosen.learners}
        results = score_all(problem, bests)
    show(results, bests)
    if chosen.json:
        atomic_write(chosen.json, json.dumps(rows_of(results, bests, minutes), indent=2).encode())


def _spec(spec: StudySpec, chosen: argparse.Namespace) -> StudySpec:
    raw = spec.model_dump(mode="json")
    raw["protocol"]["products"] = spec.protocol.products and not chosen.no_products
    raw["search"]["space"]["trainable_layers"] = chosen.layers
    if max(chosen.layers) == 0:
        for name in ENCODER:
            raw["search"]["space"].pop(name, None)
    return RankingSpec.model_validate(raw)


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    main()
