"""Episodes of scenes become tasks of the recommender: `studies.learners.base.Tasks` for ranking."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from studies.config.hyperparameters import Hyperparameters
from studies.episodes.episode import Episode
from studies.learners.base import Learner, build
from studies.learners.registry import AdaptedParameters
from studies.learners.tasks.adapted_encoder import AdaptedEncoderTask
from studies.learners.tasks.frozen_encoder import FrozenEncoderTask
from studies.learners.tasks.inputs import gather
from studies.learners.tasks.meta_batch import MetaBatchVectors, side_by_side
from studies.learners.tasks.scene_task import SceneTask
from studies.learners.tasks.served_task import ServedScene, ServedTask
from studies.learners.tasks.token_states import encoder_adapts, largest_state, token_states, top_layers_tower
from studies.model.recommender import Recommender


@dataclass(frozen=True)
class SceneTasks:
    """Makes tasks of scenes' episodes.

    Attributes:
        support_batch_size: Interactions of the support per inner step; all of them if left out.
        vmap_episodes: Most episodes side by side; by their size if left out.
    """

    support_batch_size: int | None = None
    vmap_episodes: int | None = None

    def single(
        self,
        model: Recommender,
        episode: Episode | ServedScene,
        vectors: Tensor,
        adapts: AdaptedParameters,
        *,
        training: bool,
    ) -> SceneTask:
        """Return the task of one episode, or scene in service, whose items' vectors are known; see `Tasks.single`."""
        if isinstance(episode, ServedScene):
            return ServedTask(
                model=model,
                inputs=episode.inputs,
                unadapted=lambda: vectors,
                adapts=adapts,
                training=training,
                support_batch_size=self.support_batch_size,
                episodes=None,
                items=episode.items,
            )
        return self._task(
            model,
            [episode],
            lambda _, positions: vectors[positions],
            lambda: vectors[: episode.candidates],
            adapts,
            training=training,
        )

    @contextmanager
    def meta_batch(
        self, model: Recommender, episodes: Sequence[Episode], adapts: AdaptedParameters
    ) -> Iterator[Iterator[SceneTask]]:
        """Yield the tasks of a meta-batch, each distinct candidate of which is encoded once.

        The caller calls `backward` on each task's loss, one task at a time, so that one graph at a time is held; the
        gradient that the candidates' vectors collect is passed on to the encoder when the block ends.

        Args:
            model: The recommender.
            episodes: Those of the meta-batch.
            adapts: What adapts.
        """
        vectors = MetaBatchVectors(model.tower, [episode.items[: episode.candidates] for episode in episodes])
        tower: Any = model.tower

        def task(group: Sequence[int]) -> SceneTask:
            chosen = [episodes[number] for number in group]
            return self._task(
                model,
                chosen,
                lambda number, positions: tower.locked[chosen[number].items[positions]],
                partial(vectors.of, group),
                adapts,
                training=True,
            )

        shots = [len(episode.support) for episode in episodes]
        sizes = [_elements(episode, model, adapts) for episode in episodes]
        yield map(task, side_by_side(shots, sizes, self.vmap_episodes))
        vectors.backward()

    def _task(
        self,
        model: Recommender,
        episodes: Sequence[Episode],
        others: Callable[[int, Tensor], Tensor],
        unadapted: Callable[[], Tensor],
        adapts: AdaptedParameters,
        *,
        training: bool,
    ) -> SceneTask:
        """Return the task of one episode, or of several side by side; arguments as of `gather` and `SceneTask`."""
        kind: Callable[..., SceneTask] = FrozenEncoderTask
        if encoder_adapts(model, adapts):
            candidates = [episode.items[: episode.candidates] for episode in episodes]
            kind = partial(AdaptedEncoderTask, tokens=token_states(top_layers_tower(model), candidates))
        return kind(
            model=model,
            inputs=gather(episodes, others),
            unadapted=unadapted,
            adapts=adapts,
            training=training,
            support_batch_size=self.support_batch_size,
            episodes=len(episodes) if len(episodes) > 1 else None,
        )


def scene_learner(
    model: Recommender,
    hyperparameters: Hyperparameters,
    *,
    vmap_episodes: int | None = None,
    micro_batch_size: int | None = None,
) -> Learner:
    """Return the learner of a recommender that the hyperparameters name.

    Args:
        model: The model to train.
        hyperparameters: The trial's values.
        vmap_episodes: Most episodes of a meta-batch side by side; by their size if left out.
        micro_batch_size: Most episodes of a meta-batch held together; all if left out.
    """
    tasks = SceneTasks(hyperparameters.support_batch_size, vmap_episodes)
    return build(model, hyperparameters, tasks, micro_batch_size=micro_batch_size)


def _elements(episode: Episode, model: Recommender, adapts: AdaptedParameters) -> int:
    """Return the elements in an operation's largest tensor: hidden states where the encoder adapts, else kernels."""
    if not encoder_adapts(model, adapts):
        return max(len(episode.held), len(episode.users)) * episode.candidates
    return largest_state(model, episode.items[: episode.candidates])
