"""The one interface of all learners.

A learner meta-trains a model (`meta_step`, the outer loop's gradient) so that, given a support, it adapts to a task
(`inner_loop`). For the recommender, `adapt` makes of that a scene that ranks its candidates for anyone.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from studies.config.hyperparameters import Hyperparameters
from studies.episodes.episode import Episode
from studies.learners.inner_loop import Task, Weights, descend
from studies.learners.tasks.meta_batch import scene_tasks
from studies.learners.tasks.scene_task import AdaptedParameters, SceneTask
from studies.model.recommender import AdaptedScene, Recommender

# Opens the tasks of a meta-batch: (model, episodes, part) → a context that yields them.
Tasks = Callable[[Any, Sequence[Any], AdaptedParameters], AbstractContextManager[Any]]


class Learner(ABC):
    """A way to meta-train a recommender and to adapt it to a scene.

    Args:
        model: what is trained; several learners never share one.
        hyperparameters: the trial's values.
        tasks: makes tasks of a meta-batch; a recommender's if left out.
        at_once: most episodes of a recommender side by side; by their size if left out.
        together: most episodes of a meta-batch whose texts and graphs are held together; all if left out.
    """

    part: ClassVar[AdaptedParameters]
    second_order: ClassVar[bool] = False

    def __init__(
        self,
        model: Recommender,
        hyperparameters: Hyperparameters,
        tasks: Tasks | None = None,
        *,
        at_once: int | None = None,
        together: int | None = None,
    ) -> None:
        self.model = model
        self.hyperparameters = hyperparameters
        self._together = together
        self._tasks = tasks or partial(
            scene_tasks, support_batch_size=hyperparameters.support_batch_size, at_once=at_once
        )

    def adapt(self, episode: Episode, vectors: Tensor, *, training: bool = False) -> AdaptedScene:
        """Adapts to the episode's support; never looks at its query's relevance.

        Args:
            episode: supplies support, support users' histories and candidates.
            vectors: (M, D) vectors of `episode.items` from the unadapted tower.
            training: keep the graph that the outer loop differentiates; otherwise the result carries none.
        """
        task = SceneTask.of(
            self.model,
            episode,
            vectors,
            self.part,
            training=training,
            support_batch_size=self.hyperparameters.support_batch_size,
        )
        weights = self.inner_loop(task, training=training)
        with torch.set_grad_enabled(training):
            return task.scene(weights if training else {name: w.detach() for name, w in weights.items()})

    def inner_loop(self, task: Task, *, training: bool) -> Weights:
        """The weights adapted to a task's support; none for a learner without an inner loop.

        Args:
            task: the task.
            training: keep the graph of the steps, to the learner's order.
        """
        if self.part == "nothing":
            return {}
        values = self.hyperparameters
        assert values.inner_lr is not None
        assert values.inner_steps is not None
        with torch.enable_grad():
            return descend(
                task.support_loss,
                task.start(),
                self.inner_rates(task, training=training),
                values.inner_lr,
                values.inner_steps,
                second_order=training and self.second_order,
            )

    def inner_rates(self, task: Task, *, training: bool) -> Mapping[str, Tensor | float]:
        """The rates of the weights that do not move at `inner_lr`, by name."""
        assert self.hyperparameters.inner_lr is not None
        return {name: self.hyperparameters.inner_lr * rate for name, rate in task.rates().items()}

    def meta_loss(self, task: Task) -> Tensor:
        """What the outer loop descends on for one task: the query's loss after adapting to the support."""
        return task.query_loss(self.inner_loop(task, training=True))

    def accumulate(self, task: Task, share: float) -> float:
        """Adds a task's share of the outer gradient to the model's `.grad`; returns its loss, summed over E tasks."""
        loss = self.meta_loss(task).sum()
        (share * loss).backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def meta_step(self, episodes: Sequence[Any]) -> float:
        """Adds the gradient of the mean loss over a meta-batch to the model's `.grad`; returns that loss.

        The memory held is the graph of what runs side by side, whatever the size of the batch.
        """
        share, size, loss = 1 / len(episodes), self._together or len(episodes), 0.0
        for first in range(0, len(episodes), size):
            with self._tasks(self.model, episodes[first : first + size], self.part) as tasks:
                loss += sum(self.accumulate(task, share) for task in tasks)
        return loss * share
