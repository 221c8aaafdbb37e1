"""The loop of a trial from rung to rung: train, evaluate, keep a checkpoint, report.

Search trials (`studies/training/objective.py`) and distillation trials (`distill/objective.py`) both run it. It knows
nothing of Optuna: the caller's `report` decides whether the trial continues, and raises to end it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from storage.files import checkpoints
from studies.evaluation.metrics import Evaluation
from studies.training.outer_loop import Diverged


@dataclass(frozen=True)
class RungReport:
    """What a trial has reached at a rung.

    Attributes:
        rung: Position of the rung, from 0.
        step: Steps done: meta-updates of a search trial, training steps of a student.
        recall: Validation recall@K, macro-averaged over scenes; NaN where training diverged.
        scene_recalls: Recall per validation scene; empty where training diverged.
        cost_seconds: Seconds of training and evaluation so far, those before a resume included.
        seconds_per_update: Seconds per step since the rung before.
        micro_batch_size: Most episodes trained on at a time, where memory did not suffice for as many as planned.
    """

    rung: int
    step: int
    recall: float
    scene_recalls: dict[str, float]
    cost_seconds: float
    seconds_per_update: float = 0.0
    micro_batch_size: int | None = None


class RungTraining(Protocol):
    """A configuration in training, as `run_rungs` drives it."""

    @property
    def rungs(self) -> Sequence[int]:
        """Steps at each rung; the last one ends the trial."""

    @property
    def step(self) -> int:
        """Steps done."""

    @property
    def micro_batch_size(self) -> int | None:
        """See `RungReport`."""

    def train_to(self, step: int) -> float:
        """Train until `step` steps are done; return seconds per step.

        Raises:
            Diverged: The loss or its gradient is not finite.
        """

    def evaluate(self) -> Evaluation:
        """Return the figures on the validation episodes.

        Raises:
            FloatingPointError: A score is not finite.
        """

    def state(self) -> checkpoints.Checkpoint:
        """Return tensors and metadata of a checkpoint, from which training continues bit for bit."""


def run_rungs(
    training: RungTraining,
    folder: Path,
    report: Callable[[RungReport], None],
    started: float,
    reached: RungReport | None = None,
) -> float:
    """Train to the last rung and return the validation recall there, NaN where training diverged.

    A checkpoint is written at each rung before the rung is reported. A resumed trial reports the rung of its checkpoint
    again, since the interruption may have come before that report was stored.

    Args:
        training: Restored from its newest checkpoint, or at its start.
        folder: Where the trial's checkpoints are kept.
        report: Called at each rung; raises to end the trial.
        started: When the time to count began, by `time.perf_counter`.
        reached: The rung of the checkpoint; None at the start.

    Raises:
        OutOfMemory: Training or evaluation needs more memory than there is.
        ScenetuneError: A checkpoint cannot be written or uploaded.
    """
    if reached is not None:
        report(reached)
    while reached is None or (reached.scene_recalls and reached.rung + 1 < len(training.rungs)):
        reached = _next_rung(training, folder, reached, started)
        report(reached)
        started = time.perf_counter()
    return reached.recall


def _next_rung(training: RungTraining, folder: Path, before: RungReport | None, started: float) -> RungReport:
    """Train to the next rung, evaluate and write a checkpoint there; none where training diverged."""
    rung, spent = (0, 0.0) if before is None else (before.rung + 1, before.cost_seconds)
    recall, scene_recalls, seconds_per_update = float("nan"), dict[str, float](), 0.0
    try:
        trained = training.train_to(training.rungs[rung])
        result = training.evaluate()
        recall, scene_recalls = result.mean(), {name: scene.recall for name, scene in result.scenes.items()}
        seconds_per_update = trained
    except (Diverged, FloatingPointError):
        pass  # the report holds NaN
    spent += time.perf_counter() - started
    size = training.micro_batch_size
    reached = RungReport(rung, training.step, recall, scene_recalls, spent, seconds_per_update, size)
    if scene_recalls:
        tensors, metadata = training.state()
        checkpoints.save(folder, reached.step, tensors, metadata | {"reached": asdict(reached)})
    return reached


class Steps(Protocol):
    """What trains step by step: `Trainer`, `Distiller`."""

    @property
    def step(self) -> int:
        """Steps done."""

    def train_to(self, step: int, progress: Callable[[int], None] | None = None) -> None:
        """Train until `step` steps are done."""


def timed(trainer: Steps, step: int, progress: Callable[[int], None] | None) -> float:
    """Train until `step` steps are done; return seconds per step.

    Args:
        trainer: Trains.
        step: Where to stop, beyond the steps done.
        progress: Called with the number of steps done, after each.
    """
    before, started = trainer.step, time.perf_counter()
    trainer.train_to(step, progress)
    return (time.perf_counter() - started) / (trainer.step - before)
