"""What one search trial does: meta-train a learner rung by rung, reporting validation recall and cost at each.

It knows nothing of Optuna: the caller's `report` decides whether the trial continues, and raises to end it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from storage.errors import InputError
from storage.files import checkpoints
from studies.config.hyperparameters import Hyperparameters
from studies.learners.base import Learner
from studies.training.outer_loop import load_weights
from studies.training.problem import Problem
from studies.training.rungs import RungReport, run_rungs
from studies.training.trial import Trial


def run_trial(
    problem: Problem,
    hyperparameters: Hyperparameters,
    folder: Path,
    report: Callable[[RungReport], None],
    advance: Callable[[float], None] = lambda progress: None,
) -> float:
    """Train one configuration to the last rung and return its validation recall there, NaN where training diverged.

    Where `folder` holds a checkpoint of an interrupted trial, its rung is reported again and training continues from
    there. Where memory runs out while training, training continues from the last checkpoint with half as many episodes
    at a time, with the same result.

    Args:
        problem: The study's data.
        hyperparameters: The configuration.
        folder: Where the trial's checkpoints are kept.
        report: Called at each rung, after its checkpoint was written; raises to end the trial.
        advance: Called after each meta-update with the fraction of all of them that is done.

    Raises:
        InputError: The newest checkpoint is of another configuration.
        OutOfMemory: One episode at a time, or the evaluation, needs more memory than there is.
        ScenetuneError: A checkpoint cannot be written or uploaded.
    """
    started = time.perf_counter()
    trial = Trial(problem, hyperparameters, folder, advance)
    return run_rungs(trial, folder, report, started, trial.reached)


def load_teacher(problem: Problem, folder: Path) -> Learner:
    """Return the learner that a finished trial saved in `folder`: of its last checkpoint, never of an earlier one.

    Raises:
        InputError: The checkpoint is missing, damaged, or of another architecture.
    """
    tensors, metadata = checkpoints.last(folder)
    learner = problem.learner(Hyperparameters(**metadata["hyperparameters"]))
    try:
        load_weights(learner.model, tensors)
    except (KeyError, RuntimeError) as error:
        raise InputError(
            f"the checkpoint {folder} does not fit this study's model ({error}); "
            "it was written by another version: delete the study and launch it again"
        ) from error
    return learner
