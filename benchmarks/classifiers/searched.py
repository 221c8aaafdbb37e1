"""Our searches over a study's space, each of equal cost, and the distillation of the best trial.

Costs are the CPU's seconds, which work beside this one changes little.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.trial import TrialState
from students.origin import origin_of

from distill.export.tasks.classification import ClassificationExport
from distill.export.writer import export
from distill.objective import Distillation, Teacher, load_student
from hpo.search.pruner import RecallPruner
from hpo.search.space import proposer, student_start, suggest, suggest_student
from studies.config.search_domains import Domain
from studies.training.objective import load_teacher, run_trial
from studies.training.problem import Problem
from studies.training.rungs import RungReport

COST = "cpu_seconds"


@dataclass(frozen=True)
class Best:
    """The best trial of a search.

    Attributes:
        folder: Of its checkpoint.
        recall: Its validation recall.
        params: Its parameters.
        trials: Of how many trials.
        cost: CPU seconds of all trials, training and evaluation.
    """

    folder: Path
    recall: float
    params: dict[str, Any]
    trials: int
    cost: float

    def teacher(self, problem: Problem) -> Teacher:
        """The trial as a teacher."""
        return Teacher(0, self.recall, load_teacher(problem, self.folder))


def search(
    problem: Problem, folder: Path, changes: Mapping[str, Domain], trials: int | None, budget: float | None = None
) -> Best:
    """The best trial of a search that ends after so many trials, or when so many CPU seconds are spent.

    Args:
        problem: The study's data; its search space holds but for the changes.
        folder: Of the search; one that was cut off goes on there.
        changes: Domains by the names of their parameters.
        trials: How many at most; any number if left out.
        budget: CPU seconds; without a limit if left out.
    """
    section = problem.spec.search.model_copy(update={"space": problem.spec.search.space | dict(changes)})
    pruner = problem.spec.pruner
    study = _study(folder, proposer(section, section.seed), RecallPruner(pruner.rungs, pruner.eta, seed=section.seed))
    while (trials is None or len(_done(study)) < trials) and (budget is None or _cost(study) < budget):
        trial = study.ask()
        started = time.process_time()

        def report(reached: RungReport, trial: optuna.Trial = trial) -> None:
            trial.report(reached.recall, pruner.rungs[reached.rung])
            if trial.should_prune():
                raise optuna.TrialPruned

        recall, state = None, TrialState.PRUNED
        with contextlib.suppress(optuna.TrialPruned):
            recall, state = run_trial(problem, suggest(trial, section), _of(folder, trial.number), report), None
        trial.set_user_attr(COST, time.process_time() - started)
        study.tell(trial, recall, state)
        print(f"{folder.name}, trial {trial.number}: {recall or 'pruned'}, {_cost(study):.0f} s in all", flush=True)
    best = study.best_trial
    return Best(_of(folder, best.number), best.value or 0.0, best.params, len(_done(study)), _cost(study))


def distil(problem: Problem, best: Best, folder: Path) -> tuple[Path, float]:
    """The export of the best student of a search's best trial, and the CPU seconds of all students."""
    teacher, section = best.teacher(problem), problem.spec.distill
    study = _study(folder, optuna.samplers.TPESampler(seed=section.seed, n_startup_trials=3), None)
    shared = Distillation(problem, [teacher], folder)
    study.enqueue_trial(student_start(section), skip_if_exists=True)
    while len(_done(study)) < section.trials:
        trial = study.ask()
        started = time.process_time()
        recall = shared.run_trial(suggest_student(trial, section), _of(folder, trial.number), lambda reached: None)
        trial.set_user_attr(COST, time.process_time() - started)
        study.tell(trial, recall)
        print(f"{folder.name}, trial {trial.number}: {recall:.4f}, {_cost(study):.0f} s in all", flush=True)
    where = folder / "export"
    if not where.exists():
        student = load_student(problem, _of(folder, study.best_trial.number))
        export(student, ClassificationExport.of(problem), where, origin_of(problem, "benchmark"), problem=problem)
    return where, _cost(study)


def _study(
    folder: Path, sampler: optuna.samplers.BaseSampler, pruner: optuna.pruners.BasePruner | None
) -> optuna.Study:
    """The study that a folder keeps; trials that were cut off do not count."""
    folder.mkdir(parents=True, exist_ok=True)
    storage = JournalStorage(JournalFileBackend(str(folder / "study.log")))
    study = optuna.create_study(
        direction="maximize", sampler=sampler, pruner=pruner, storage=storage, study_name="search", load_if_exists=True
    )
    for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        study.tell(trial.number, state=TrialState.FAIL)
    return study


def _of(folder: Path, number: int) -> Path:
    return folder / f"trial-{number}"


def _done(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """The trials that ended on their own, those that diverged too."""
    return [
        trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished() and COST in trial.user_attrs
    ]


def _cost(study: optuna.Study) -> float:
    return sum(trial.user_attrs[COST] for trial in _done(study))
