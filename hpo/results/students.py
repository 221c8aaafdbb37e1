"""The Optuna study of a distillation: its students, the front of them, the one to export, and who trains longer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from distill.evaluation import StudentProgress, StudentRow
from hpo.ownership import owned_distillation
from hpo.search.space import SeededByTrial
from hpo.search.trial_chains import EXTENDS, REASON
from storage.database.postgres import Database
from storage.errors import InputError
from studies.config.distill_section import EXTENSION, DistillSection
from studies.config.spec import StudySpec

# Attribute of a finished trial: the figures of `StudentProgress`.
TRAINING = "training"
# Attribute of an extension (`EXTENDS`): for how many steps on texts it trains.
EMBED_STEPS = "embed_steps"


class Objectives(NamedTuple):
    """What students are compared by; latency and size are over those of the teacher's encoder."""

    recall: float
    latency: float
    size: float


def open_distillation(database: Database, spec: StudySpec) -> optuna.Study:
    """Return the Optuna study of a search's students.

    Raises:
        TrialsMissing: It has not begun, or is gone.
    """
    return owned_distillation(database, spec.name).open(sampler=SeededByTrial(_sampler, spec.distill.seed))


def create_distillation(database: Database, spec: StudySpec) -> optuna.Study:
    """Return the Optuna study of a search's students, created if it is new; only while holding its lock.

    Raises:
        InputError: An Optuna study that was not made here has its name.
    """
    maximise, minimise = StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE
    objectives = spec.distill.objectives
    owned_distillation(database, spec.name).create([maximise if name == "recall" else minimise for name in objectives])
    study = open_distillation(database, spec)
    study.set_user_attr("search study", spec.name)
    study.set_metric_names([spec.metric, *objectives[1:]])
    return study


def choose_student(study: optuna.Study, spec: StudySpec) -> FrozenTrial:
    """Return the trial to export: of best validation recall, or of a front the fastest with enough of it.

    Among students of equal recall the smallest is taken; latency would let the noise of its measurement choose.

    Raises:
        InputError: No student has finished.
    """
    finished = [t for t in study.get_trials(deepcopy=False) if t.state == TrialState.COMPLETE]
    if not finished:
        raise InputError(
            f"the distillation of {spec.name!r} has no finished student; its trials say why: "
            f"hpo distill {spec.name} continues it with more --trials"
        )
    best = max(trial.values[0] for trial in finished)
    if len(spec.distill.objectives) == 1:
        return min(finished, key=lambda trial: (-trial.values[0], trial.user_attrs.get("size", math.inf), trial.number))
    enough = [trial for trial in finished if trial.values[0] >= spec.distill.retain * best]
    return min(enough, key=lambda trial: (trial.values[1], -trial.values[0], trial.number))


def students_wanted(section: DistillSection, trials: Sequence[FrozenTrial]) -> int:
    """Return how many trials a distillation runs, extensions included."""
    return section.trials + sum(EXTENDS in trial.user_attrs for trial in trials)


def extension(study: optuna.Study, spec: StudySpec) -> dict[str, int] | None:
    """Return the attributes of the trial that trains the chosen student for longer; None where there is none to run.

    It is for a student that is surely below its teacher and was not extended yet: one whose extension was no better
    stays the chosen one.

    Raises:
        InputError: No student has finished.
    """
    section, chosen = spec.distill, choose_student(study, spec)
    extended = [trial.user_attrs[EXTENDS] for trial in study.get_trials(deepcopy=False) if EXTENDS in trial.user_attrs]
    training = chosen.user_attrs.get(TRAINING)
    if training is None or not StudentProgress.model_validate(training).may_gain:
        return None
    if chosen.number in extended or len(extended) >= section.extensions:
        return None
    return {EXTENDS: chosen.number, EMBED_STEPS: EXTENSION * chosen.user_attrs.get(EMBED_STEPS, section.embed_steps)}


def student_rows(study: optuna.Study, spec: StudySpec) -> tuple[StudentRow, ...]:
    """Return every trial of a distillation, by number."""
    trials = study.get_trials(deepcopy=False)
    finished = {trial.number: found for trial in trials if (found := _objectives(trial)) is not None}
    chosen = choose_student(study, spec).number if finished else None
    return tuple(
        StudentRow(
            trial=trial.number,
            state=trial.state.name.lower(),
            recall=_recall(trial),
            latency=trial.user_attrs.get("latency"),
            size=trial.user_attrs.get("size"),
            params=trial.params,
            reason=trial.user_attrs.get(REASON),
            training=trial.user_attrs.get(TRAINING),
            extends=trial.user_attrs.get(EXTENDS),
            embed_steps=trial.user_attrs.get(EMBED_STEPS),
            front=_on_front(finished.get(trial.number), list(finished.values())),
            taken=trial.number == chosen,
        )
        for trial in trials
    )


def dominates(one: Objectives, other: Objectives) -> bool:
    """Return whether a student is nowhere worse than another in recall, latency and size, and better in one."""
    ours, theirs = ((-each.recall, each.latency, each.size) for each in (one, other))
    return ours != theirs and all(a <= b for a, b in zip(ours, theirs, strict=True))


def _recall(trial: FrozenTrial) -> float | None:
    """Return a trial's recall at the last rung that it reached; None where it is not finite, or before the first."""
    values = trial.values or list(trial.intermediate_values.values())[-1:]
    return values[0] if values and math.isfinite(values[0]) else None


def _objectives(trial: FrozenTrial) -> Objectives | None:
    """Return what a finished student is compared by; None of any other trial."""
    recall, attributes = _recall(trial), trial.user_attrs
    if trial.state != TrialState.COMPLETE or recall is None or "latency" not in attributes:
        return None
    return Objectives(recall, attributes["latency"], attributes["size"])


def _on_front(student: Objectives | None, others: Sequence[Objectives]) -> bool:
    return student is not None and not any(dominates(other, student) for other in others)


def _sampler(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=3)
