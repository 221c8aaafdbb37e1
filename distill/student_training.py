"""A student in training, from rung to rung, and its evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from distill.student import Student
from distill.trainer import Distiller
from storage.files import checkpoints
from studies.evaluation.metrics import Evaluation
from studies.model.device import full_precision
from studies.progress import SILENT, ProgressReporter
from studies.training.out_of_memory import recognised
from studies.training.problem import Problem
from studies.training.rungs import timed

OUT_OF_MEMORY = "distilling ran out of memory: lower distill.space.batch_size, or run fewer workers"


class StudentTraining:
    """A student in training, as `run_rungs` drives it.

    Args:
        problem: The study's data.
        distiller: Trains the student.
        rungs: Steps at each rung.
        progress: Called with the number of steps done, after each.

    Attributes:
        recalls: By step of each rung that it has reached, its recall per validation scene.
    """

    micro_batch_size = None

    def __init__(
        self,
        problem: Problem,
        distiller: Distiller,
        rungs: Sequence[int],
        progress: Callable[[int], None] | None,
    ) -> None:
        self._problem, self._distiller, self._rungs, self._progress = problem, distiller, rungs, progress
        self.recalls: dict[int, dict[str, float]] = {}

    @property
    def rungs(self) -> Sequence[int]:
        """Steps at each rung."""
        return self._rungs

    @property
    def step(self) -> int:
        """Steps done."""
        return self._distiller.step

    def train_to(self, step: int) -> float:
        """Train until `step` steps are done; return seconds per step.

        Raises:
            Diverged: The loss or its gradient is not finite.
            OutOfMemory: There is too little memory for this student.
        """
        with recognised(OUT_OF_MEMORY):
            return timed(self._distiller, step, self._progress)

    def evaluate(self) -> Evaluation:
        """Return the figures on the validation episodes.

        Raises:
            OutOfMemory: There is too little memory for this student.
        """
        with recognised(OUT_OF_MEMORY):
            found = evaluate(self._distiller.student, self._problem, self._problem.validation)
        self.recalls[self.step] = {name: scene.recall for name, scene in found.scenes.items()}
        return found

    def state(self) -> checkpoints.Checkpoint:
        """Return tensors and metadata of a checkpoint."""
        student = self._distiller.student
        metadata = {
            "encoder": self._problem.encoder.identity,
            "step": self.step,
            "learner": student.learner.hyperparameters.to_dict(),
            "hyperparameters": student.hyperparameters.to_dict(),
            "recalls": self.recalls,
        }
        return self._distiller.state(), metadata


def validation_recalls(folder: Path) -> dict[int, dict[str, float]]:
    """Return a trained student's recall per validation scene, by step of each rung, in order.

    Raises:
        InputError: The last checkpoint in `folder` is missing or damaged.
    """
    return recalls_in(checkpoints.last(folder)[1])


def recalls_in(metadata: Mapping[str, Any]) -> dict[int, dict[str, float]]:
    """Return the recalls that a checkpoint's metadata hold."""
    return {int(step): scenes for step, scenes in metadata["recalls"].items()}  # JSON has no whole numbers as keys


def evaluate(
    student: Student,
    problem: Problem,
    episodes: Sequence[Any],
    reporter: ProgressReporter = SILENT,
    dump: Any = None,
) -> Evaluation:
    """Return a student's figures on `episodes`, in fp32: they are published, and the export must reproduce them.

    Args:
        student: Its tower must hold the tokens of `problem`'s items.
        problem: The study's data.
        episodes: What to score.
        reporter: Shows how many texts are encoded and how many episodes are scored.
        dump: Called with each episode and its ranking.
    """
    with full_precision():
        return problem.evaluate(student.learner, episodes, tower=student.tower, reporter=reporter, dump=dump)
