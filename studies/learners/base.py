"""The one interface of all learners.

A learner meta-trains a model (`meta_step`, the outer loop's gradient) so that, given a support, it adapts to a task
(`inner_loop`). It knows its model only through tasks (`studies.learners.inner_loop.Task`), which `Tasks` makes of
episodes: the recommender's are in `studies/learners/tasks/`, the classifier's in `studies/classification/`.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from studies.config.hyperparameters import Hyperparameters
from studies.learners.inner_loop import Task, Weights, descend
from studies.learners.registry import LEARNERS, AdaptedParameters, LearnerEntry


class Tasks(Protocol):
    """Makes tasks of a model's episodes; the type of model and episode is the implementation's own."""

    def meta_batch(
        self, model: Any, episodes: Sequence[Any], adapts: AdaptedParameters
    ) -> AbstractContextManager[Iterable[Task]]:
        """Open the tasks of a meta-batch, each of one episode or of several side by side.

        Within the block the caller derives each task's loss, one at a time; when it ends, gradients that tasks share
        are passed on to the model.
        """

    def single(self, model: Any, episode: Any, vectors: Tensor, adapts: AdaptedParameters, *, training: bool) -> Task:
        """Return the task of one episode, given the (M, D) vectors of its items from the unadapted tower.

        Args:
            model: The model.
            episode: The episode.
            vectors: The vectors.
            adapts: What adapts.
            training: Keep the graph that the outer loop differentiates.
        """


class Learner(ABC):
    """Meta-trains a model and adapts it to an episode's support.

    Args:
        model: The model to train: a tower and a head. Several learners never share one.
        hyperparameters: The trial's values.
        tasks: Makes tasks of episodes.
        micro_batch_size: Most episodes of a meta-batch whose texts and graphs are held together; all if left out.

    Attributes:
        entry: The learner's entry in the registry.
    """

    entry: ClassVar[LearnerEntry]

    def __init__(
        self,
        model: Any,
        hyperparameters: Hyperparameters,
        tasks: Tasks,
        *,
        micro_batch_size: int | None = None,
    ) -> None:
        self.model = model
        self.hyperparameters = hyperparameters
        self._tasks = tasks
        self._micro_batch_size = micro_batch_size

    def adapt(self, episode: Any, vectors: Tensor, *, training: bool = False) -> Any:
        """Adapt to an episode's support, whatever its query's answers; return what predicts.

        An `AdaptedScene` of the recommender, an `AdaptedClassifier` of the classifier.

        Args:
            episode: The episode.
            vectors: (M, D) vectors of `episode.items` from the unadapted tower.
            training: Keep the graph that the outer loop differentiates; otherwise the result carries none.
        """
        task = self._tasks.single(self.model, episode, vectors, self.entry.adapts, training=training)
        weights = self.inner_loop(task, training=training)
        with torch.set_grad_enabled(training):
            return task.adapted(weights if training else {name: w.detach() for name, w in weights.items()})

    def inner_loop(self, task: Task, *, training: bool) -> Weights:
        """Return the weights adapted to a task's support; none for a learner without an inner loop.

        Nor where the hyperparameters hold no inner steps: tasks of known classes have no support.

        Args:
            task: The task.
            training: Keep the graph of the steps, to the learner's order.
        """
        values = self.hyperparameters
        if not self.entry.takes_gradient_steps or values.inner_steps is None:
            return {}
        assert values.inner_lr is not None
        with torch.enable_grad():
            return descend(
                task.support_loss,
                task.start(),
                self.inner_rates(task, training=training),
                values.inner_lr,
                values.inner_steps,
                second_order=training and self.entry.second_order,
            )

    def inner_rates(self, task: Task, *, training: bool) -> Mapping[str, Tensor | float]:
        """Return the rates of the weights that do not move at `inner_lr`, by name."""
        assert self.hyperparameters.inner_lr is not None
        return {name: self.hyperparameters.inner_lr * rate for name, rate in task.rates().items()}

    def meta_loss(self, task: Task) -> Tensor:
        """Return the loss that the outer loop descends on: the query's, after adapting to the support."""
        return task.query_loss(self.inner_loop(task, training=True))

    def accumulate(self, task: Task, weight: float) -> Tensor:
        """Add `weight` times a task's outer gradient to the model's `.grad`; return its loss, summed over E tasks.

        A scalar on the device, without a graph.
        """
        loss = self.meta_loss(task).sum()
        (weight * loss).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def meta_step(self, episodes: Sequence[Any]) -> float:
        """Add the gradient of the mean loss over a meta-batch to the model's `.grad`; return that loss.

        The memory held is the graph of the episodes that run side by side, whatever the size of the batch.
        """
        weight, size = 1 / len(episodes), self._micro_batch_size or len(episodes)
        losses: list[Tensor] = []
        for first in range(0, len(episodes), size):
            with self._tasks.meta_batch(self.model, episodes[first : first + size], self.entry.adapts) as tasks:
                losses += [self.accumulate(task, weight) for task in tasks]
        # Read once: each read waits until the device has done all that it was given.
        return float(sum(torch.stack(losses).tolist())) * weight


def build(
    model: Any, hyperparameters: Hyperparameters, tasks: Tasks, *, micro_batch_size: int | None = None
) -> Learner:
    """Return the learner that the hyperparameters name; arguments as of `Learner`."""
    kind: type[Learner] = LEARNERS[hyperparameters.learner].load()
    return kind(model, hyperparameters, tasks, micro_batch_size=micro_batch_size)
