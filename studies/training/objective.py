"""What one trial does: meta-train a learner rung by rung, reporting validation recall and measured cost at each.

It knows no Optuna: the caller's `report` decides what a report is worth and raises to stop the trial.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from storage.errors import InputError
from storage.files import checkpoints
from studies.config.hyperparameters import Hyperparameters
from studies.learners.base import Learner
from studies.model.device import device
from studies.training.outer_loop import load_weights
from studies.training.problem import Problem
from studies.training.trial import RungReport, Trial


def run_trial(
    problem: Problem,
    hyperparameters: Hyperparameters,
    folder: Path,
    report: Callable[[RungReport], None],
    advance: Callable[[float], None] = lambda share: None,
) -> float:
    """Trains one configuration to the last rung and returns its validation recall there.

    A checkpoint is written at each rung before it is reported. Where `folder` already holds one (the trial was
    interrupted), its rung is reported again, in case the interruption came before the report was heard, and training
    continues from there. Where memory runs out while training, it continues from there with half as many episodes at a
    time, with the same result.

    Args:
        problem: the study's data.
        hyperparameters: the configuration.
        folder: where the trial's checkpoints live.
        report: told of each rung; raises to stop the trial.
        advance: told after each meta-update how much of all of them is done, from 0 to 1.

    Raises:
        InputError: the newest checkpoint is of another configuration.
        OutOfMemory: one episode at a time, or the evaluation, needs more memory than there is.
        ScenetuneError: a checkpoint cannot be written or uploaded.
    """
    started = time.perf_counter()
    trial = Trial(problem, hyperparameters, folder, advance)
    if trial.reached.rung >= 0:
        report(trial.reached)
    while trial.goes_on:
        report(trial.next_rung(started))
        started = time.perf_counter()
    return trial.reached.recall


def load_teacher(problem: Problem, folder: Path) -> Learner:
    """The learner that a finished trial left in `folder`: of its last checkpoint, never of an earlier one.

    Raises:
        InputError: the checkpoint is missing, damaged, or of another architecture.
    """
    tensors, metadata = checkpoints.last(folder, str(device()))
    learner = problem.learner(Hyperparameters(**metadata["hyperparameters"]))
    try:
        load_weights(learner.model, tensors)
    except (KeyError, RuntimeError) as error:
        raise InputError(
            f"the checkpoint {folder} does not fit this study's recommender ({error}); "
            "it was written by another version: delete the study and launch it again"
        ) from error
    return learner
