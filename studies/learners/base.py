"""The one interface of all learners.

A learner meta-trains a model (`meta_step`, the outer loop's gradient) so that, given a support, it adapts to a task
(`inner_loop`). For the recommender, `adapt` makes of that a scene whose candidates are ranked for any user.
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
from studies.learners.registry import LEARNERS, AdaptedParameters, LearnerEntry
from studies.learners.tasks.meta_batch import scene_tasks, single_task
from studies.model.recommender import Recommender
from studies.model.scene_encoding import AdaptedScene

# Opens the tasks of a meta-batch: (model, episodes, what adapts) → a context that yields them.
Tasks = Callable[[Any, Sequence[Any], AdaptedParameters], AbstractContextManager[Any]]


class Learner(ABC):
    """Meta-trains a recommender and adapts it to a scene.

    Args:
        model: The model to train; several learners never share one.
        hyperparameters: The trial's values.
        tasks: Makes the tasks of a meta-batch; a recommender's if left out.
        vmap_episodes: Most episodes of a recommender side by side; by their size if left out.
        micro_batch_size: Most episodes of a meta-batch whose texts and graphs are held together; all if left out.

    Attributes:
        entry: The learner's entry in the registry.
    """

    entry: ClassVar[LearnerEntry]

    def __init__(
        self,
        model: Recommender,
        hyperparameters: Hyperparameters,
        tasks: Tasks | None = None,
        *,
        vmap_episodes: int | None = None,
        micro_batch_size: int | None = None,
    ) -> None:
        self.model = model
        self.hyperparameters = hyperparameters
        self._micro_batch_size = micro_batch_size
        self._tasks = tasks or partial(
            scene_tasks, support_batch_size=hyperparameters.support_batch_size, vmap_episodes=vmap_episodes
        )

    def adapt(self, episode: Episode, vectors: Tensor, *, training: bool = False) -> AdaptedScene:
        """Adapt to an episode's support, whatever its query's relevance; return the adapted scene.

        Args:
            episode: Gives the support, the support users' histories and the candidates.
            vectors: (M, D) vectors of `episode.items` from the unadapted tower.
            training: Keep the graph that the outer loop differentiates; otherwise the result carries none.
        """
        task = single_task(
            self.model,
            episode,
            vectors,
            self.entry.adapts,
            training=training,
            support_batch_size=self.hyperparameters.support_batch_size,
        )
        weights = self.inner_loop(task, training=training)
        with torch.set_grad_enabled(training):
            return task.adapted_scene(weights if training else {name: w.detach() for name, w in weights.items()})

    def inner_loop(self, task: Task, *, training: bool) -> Weights:
        """Return the weights adapted to a task's support; none for a learner without an inner loop.

        Args:
            task: The task.
            training: Keep the graph of the steps, to the learner's order.
        """
        if not self.entry.takes_gradient_steps:
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
            with self._tasks(self.model, episodes[first : first + size], self.entry.adapts) as tasks:
                losses += [self.accumulate(task, weight) for task in tasks]
        # Read once: each read waits until the device has done all that it was given.
        return float(sum(torch.stack(losses).tolist())) * weight


def build(
    model: Recommender,
    hyperparameters: Hyperparameters,
    *,
    vmap_episodes: int | None = None,
    micro_batch_size: int | None = None,
) -> Learner:
    """Return the learner that the hyperparameters name.

    Args:
        model: The model to train.
        hyperparameters: The trial's values.
        vmap_episodes: Most episodes of a meta-batch side by side; by their size if left out.
        micro_batch_size: Most episodes of a meta-batch held together; all if left out.
    """
    kind: type[Learner] = LEARNERS[hyperparameters.learner].load()
    return kind(model, hyperparameters, vmap_episodes=vmap_episodes, micro_batch_size=micro_batch_size)
