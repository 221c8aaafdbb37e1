"""One configuration in training: resumed from its checkpoint, in smaller micro-batches where memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from storage.errors import InputError, OutOfMemory
from storage.files import checkpoints
from studies.config.hyperparameters import Hyperparameters
from studies.config.search_domains import show
from studies.evaluation.metrics import Evaluation
from studies.training.cost_model import rung_updates
from studies.training.memory import fitting
from studies.training.out_of_memory import halved, recognised
from studies.training.outer_loop import Trainer
from studies.training.problem import Problem
from studies.training.rungs import RungReport, timed

T = TypeVar("T")


class Trial:
    """Trains one configuration from its newest checkpoint, or from its start; `run_rungs` drives it.

    Args:
        problem: The study's data.
        hyperparameters: The configuration.
        folder: Where the trial's checkpoints are kept.
        advance: Called after each meta-update with the fraction of all of them that is done.

    Attributes:
        reached: The rung of the newest checkpoint; None where there is none.
        micro_batch_size: Most episodes trained on at a time, where memory did not suffice for as many as planned.

    Raises:
        InputError: The newest checkpoint is of another configuration.
        OutOfMemory: One episode at a time needs more memory than there is.
    """

    def __init__(
        self, problem: Problem, hyperparameters: Hyperparameters, folder: Path, advance: Callable[[float], None]
    ) -> None:
        self.reached: RungReport | None = None
        self.micro_batch_size: int | None = None
        self._problem, self._hyperparameters, self._folder, self._advance = problem, hyperparameters, folder, advance
        self._rungs: list[int] = []
        self._trainer: Trainer | None = None
        self._retried(self._running)

    @property
    def rungs(self) -> Sequence[int]:
        """Meta-updates at each rung."""
        return self._rungs

    @property
    def step(self) -> int:
        """Meta-updates done."""
        return self._running().step

    def train_to(self, step: int) -> float:
        """Run meta-updates until `step` are done; return seconds per update.

        Raises:
            Diverged: The loss or its gradient is not finite.
            OutOfMemory: One episode at a time needs more memory than there is.
        """
        last = self._rungs[-1]
        return self._retried(lambda: timed(self._running(), step, lambda done: self._advance(done / last)))

    def evaluate(self) -> Evaluation:
        """Return the figures on the validation episodes.

        Raises:
            OutOfMemory: There is too little memory; smaller micro-batches would not help.
        """
        with recognised("evaluating ran out of memory: lower protocol.queries, or run fewer workers"):
            episodes = self._problem.at_rung(self._rungs.index(self.step))
            return self._problem.evaluate(self._running().learner, episodes)

    def state(self) -> checkpoints.Checkpoint:
        """Return tensors and metadata of a checkpoint."""
        tensors, metadata = self._running().state()
        return tensors, metadata | {"rungs": self._rungs}

    def _retried(self, work: Callable[[], T]) -> T:
        """Return what `work` returns; where memory runs out, retry from the checkpoint with half the micro-batch."""
        while True:
            try:
                with recognised("training ran out of memory"):
                    return work()
            except OutOfMemory as error:
                shortage = str(error)
            self._trainer = None
            most = min(self._hyperparameters.meta_batch_size, len(self._problem.train))
            fit = fitting(self._hyperparameters, self._problem.trial_bytes, self._problem.memory)
            planned = min(self._problem.spec.search.episodes_at_once or most, fit or most, most)
            self.micro_batch_size = halved(self.micro_batch_size or planned, shortage)

    def _running(self) -> Trainer:
        """Return the trainer; where there is none, build it from the newest checkpoint, or at its start."""
        if self._trainer is not None:
            return self._trainer
        stored = self._stored()
        if stored:
            self.reached = RungReport(**stored[1]["reached"])
            self.micro_batch_size = self.micro_batch_size or self.reached.micro_batch_size
        section, seed, episodes = self._problem.spec.pruner, self._problem.spec.search.seed, self._problem.train
        learner = self._problem.learner(self._hyperparameters, self.micro_batch_size)
        self._rungs = stored[1]["rungs"] if stored else rung_updates(section, learner, episodes, seed)
        trainer = Trainer(learner, episodes, self._rungs[-1], seed)
        if stored:
            trainer.restore(*stored)
        self._trainer = trainer
        return trainer

    def _stored(self) -> checkpoints.Checkpoint | None:
        """Return the newest checkpoint; None where there is none.

        Raises:
            InputError: It is of another configuration.
        """
        stored = checkpoints.newest_valid(self._folder)
        if stored is None:
            return None
        found, wanted = stored[1].get("hyperparameters"), self._hyperparameters.to_dict()
        if found != wanted or "rungs" not in stored[1]:
            raise InputError(
                f"the checkpoint {self._folder} is of another trial or version ({show(found)}, this one has "
                f"{show(wanted)}); remove that folder to train the trial from its start, or delete the study"
            )
        return stored
