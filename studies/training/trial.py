"""One configuration on its way from rung to rung: checkpoints, and fewer episodes at a time where memory runs out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from storage.errors import InputError, OutOfMemory
from storage.files import checkpoints
from studies.config.hyperparameters import Hyperparameters
from studies.config.validation_errors import show
from studies.evaluation.metrics import Evaluation
from studies.model.device import device
from studies.training.cost_model import rung_updates
from studies.training.out_of_memory import halved, recognised
from studies.training.outer_loop import Diverged, Trainer
from studies.training.problem import Problem

T = TypeVar("T")


@dataclass(frozen=True)
class RungReport:
    """What a trial has reached at a rung.

    Attributes:
        rung: position in `pruner.rungs`.
        step: meta-updates done.
        recall: validation recall@K, macro-averaged over scenes; NaN where training diverged.
        scene_recalls: recall per validation scene.
        cost_seconds: seconds of training and evaluation so far, those before a resume included.
        seconds_per_update: of training since the rung before.
        at_once: most episodes trained on at a time, where memory did not suffice for as many as planned.
    """

    rung: int
    step: int
    recall: float
    scene_recalls: dict[str, float]
    cost_seconds: float
    seconds_per_update: float = 0.0
    at_once: int | None = None


class Trial:
    """Trains one configuration from its newest checkpoint, or from its start; see `objective.run_trial`.

    Args:
        problem: the study's data.
        hyperparameters: the configuration.
        folder: where the trial's checkpoints live.
        advance: told after each meta-update how much of all of them is done, from 0 to 1.

    Attributes:
        reached: the last rung, of the checkpoint at first; its number is -1 before there is one.
    """

    def __init__(
        self, problem: Problem, hyperparameters: Hyperparameters, folder: Path, advance: Callable[[float], None]
    ) -> None:
        self.reached = RungReport(rung=-1, step=0, recall=float("nan"), scene_recalls={}, cost_seconds=0.0)
        self._problem, self._hyperparameters, self._folder, self._advance = problem, hyperparameters, folder, advance
        self._at_once: int | None = None
        self._rungs: list[int] = []
        self._trainer: Trainer | None = None
        self._in_memory(self._running)

    @property
    def goes_on(self) -> bool:
        """Whether there is a further rung and training has not diverged."""
        return self.reached.rung < 0 or (bool(self.reached.scene_recalls) and self.reached.rung + 1 < len(self._rungs))

    def next_rung(self, started: float) -> RungReport:
        """Trains to the next rung, evaluates and leaves a checkpoint there.

        Args:
            started: when the time to count began, by `time.perf_counter`.
        """
        recall, scene_recalls, pace = float("nan"), {}, 0.0
        try:
            trained = self._in_memory(self._train)
            result = self._evaluate()
            recall, scene_recalls = result.mean(), {name: scene.recall for name, scene in result.scenes.items()}
            pace = trained
        except (Diverged, FloatingPointError):
            pass  # the report says so: not a number
        spent = self.reached.cost_seconds + time.perf_counter() - started
        rung = self.reached.rung + 1
        self.reached = RungReport(rung, self._rungs[rung], recall, scene_recalls, spent, pace, self._at_once)
        if scene_recalls:
            tensors, metadata = self._running().state()
            metadata |= {"reached": asdict(self.reached), "rungs": self._rungs}
            checkpoints.save(self._folder, self.reached.step, tensors, metadata)
        return self.reached

    def _train(self) -> float:
        """Trains to the next rung; returns seconds per update."""
        trainer = self._running()
        before, started = trainer.step, time.perf_counter()
        trainer.train_to(self._rungs[self.reached.rung + 1], lambda step: self._advance(step / self._rungs[-1]))
        return (time.perf_counter() - started) / (trainer.step - before)

    def _evaluate(self) -> Evaluation:
        with recognised("evaluating ran out of memory: lower protocol.queries, or run fewer workers"):
            return self._problem.evaluate(self._running().learner, self._problem.validation)

    def _in_memory(self, work: Callable[[], T]) -> T:
        """What `work` returns; where memory runs out, anew with half as many episodes at a time."""
        while True:
            try:
                with recognised("training ran out of memory"):
                    return work()
            except OutOfMemory as error:
                shortage = str(error)
            self._trainer = None
            most = min(self._hyperparameters.meta_batch_size, len(self._problem.train))
            planned = min(self._problem.spec.search.episodes_at_once or most, most)
            self._at_once = halved(self._at_once or planned, shortage)

    def _running(self) -> Trainer:
        """The trainer; anew where there is none: as the newest checkpoint left it, or at the start."""
        if self._trainer is not None:
            return self._trainer
        stored = self._stored()
        if stored and self.reached.rung < 0:
            self.reached = RungReport(**stored[1]["reached"])
            self._at_once = self._at_once or self.reached.at_once
        section, seed, episodes = self._problem.spec.pruner, self._problem.spec.search.seed, self._problem.train
        learner = self._problem.learner(self._hyperparameters, self._at_once)
        self._rungs = stored[1]["rungs"] if stored else rung_updates(section, learner, episodes, seed)
        trainer = Trainer(learner, episodes, self._rungs[-1], seed)
        if stored:
            trainer.restore(*stored)
        self._trainer = trainer
        return trainer

    def _stored(self) -> checkpoints.Checkpoint | None:
        """The checkpoint to go on from.

        Raises:
            InputError: it is of another configuration.
        """
        stored = checkpoints.newest_valid(self._folder, str(device()))
        if stored is None:
            return None
        found, wanted = stored[1].get("hyperparameters"), self._hyperparameters.to_dict()
        if found != wanted or "rungs" not in stored[1]:
            raise InputError(
                f"the checkpoint {self._folder} is of another trial or version ({show(found)}, this one has "
                f"{show(wanted)}); remove that folder to train the trial from its start, or delete the study"
            )
        return stored
