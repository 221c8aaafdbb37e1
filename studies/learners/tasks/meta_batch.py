"""Episodes become tasks: which of a meta-batch run side by side, each distinct text encoded once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from studies.episodes.episode import Episode
from studies.learners.registry import AdaptedParameters
from studies.learners.tasks.adapted_encoder import AdaptedEncoderTask, encoder_adapts, token_states, top_layers_tower
from studies.learners.tasks.frozen_encoder import FrozenEncoderTask
from studies.learners.tasks.inputs import gather, repeat_first
from studies.learners.tasks.scene_task import SceneTask
from studies.model.device import device_settings
from studies.model.recommender import Recommender


def single_task(
    model: Recommender,
    episode: Episode,
    vectors: Tensor,
    adapts: AdaptedParameters,
    *,
    training: bool,
    support_batch_size: int | None = None,
) -> SceneTask:
    """Return the task of one episode whose items' vectors are known.

    Args:
        model: The recommender.
        episode: The episode.
        vectors: (M, D) vectors of `episode.items` from the unadapted tower.
        adapts: What adapts.
        training: Keep the graph that the outer loop differentiates.
        support_batch_size: Interactions of the support per inner step; all of them if left out.
    """
    return _task(
        model,
        [episode],
        lambda _, positions: vectors[positions],
        lambda: vectors[: episode.candidates],
        adapts,
        training=training,
        support_batch_size=support_batch_size,
    )


@contextmanager
def scene_tasks(
    model: Recommender,
    episodes: Sequence[Episode],
    adapts: AdaptedParameters,
    *,
    support_batch_size: int | None = None,
    vmap_episodes: int | None = None,
) -> Iterator[Iterator[SceneTask]]:
    """Yield the tasks of a meta-batch, each distinct text of which is encoded once.

    The caller calls `backward` on each task's loss, one task at a time, so that one graph at a time is held; the
    gradient that the candidates' vectors collect is passed on to the encoder when the block ends.

    Args:
        model: The recommender.
        episodes: Those of the meta-batch.
        adapts: What adapts.
        support_batch_size: Interactions of the support per inner step.
        vmap_episodes: Most episodes side by side; by their size if left out.
    """
    table = _CandidateVectors(model, episodes)
    tower: Any = model.tower

    def task(group: Sequence[int]) -> SceneTask:
        chosen = [episodes[number] for number in group]
        return _task(
            model,
            chosen,
            lambda number, positions: tower.locked[chosen[number].items[positions]],
            partial(table.of, group),
            adapts,
            training=True,
            support_batch_size=support_batch_size,
        )

    sizes = [_elements(episode, model, adapts) for episode in episodes]
    yield map(task, side_by_side(episodes, sizes, vmap_episodes))
    table.backward()


def side_by_side(
    episodes: Sequence[Episode], sizes: Sequence[int], vmap_episodes: int | None = None
) -> list[list[int]]:
    """Return the groups of episodes that run side by side, by number.

    Episodes of a group are of like size, so that little is padding, and as many as fill the device: those with more
    than `DeviceSettings.vmap_elements` run one by one.

    Args:
        episodes: Those of a meta-batch.
        sizes: Elements in the largest tensor that an operation on each makes.
        vmap_episodes: Most of them; by their sizes if left out.
    """
    order = sorted(range(len(episodes)), key=lambda number: (len(episodes[number].support), sizes[number]))
    full, groups = device_settings().vmap_elements, list[list[int]]()
    for number in order:
        last = groups[-1] if groups else []
        alike = bool(last) and len(episodes[last[0]].support) == len(episodes[number].support)
        fits = (len(last) + 1) * sizes[number] <= full if vmap_episodes is None else len(last) < vmap_episodes
        if alike and fits:
            last.append(number)
        else:
            groups.append([number])
    return groups


def _task(
    model: Recommender,
    episodes: Sequence[Episode],
    others: Callable[[int, Tensor], Tensor],
    unadapted: Callable[[], Tensor],
    adapts: AdaptedParameters,
    *,
    training: bool,
    support_batch_size: int | None,
) -> SceneTask:
    """Return the task of one episode, or of several side by side; arguments as of `gather` and `SceneTask`."""
    kind: Callable[..., SceneTask] = FrozenEncoderTask
    if encoder_adapts(model, adapts):
        kind = partial(AdaptedEncoderTask, tokens=token_states(top_layers_tower(model), episodes))
    return kind(
        model=model,
        inputs=gather(episodes, others),
        unadapted=unadapted,
        adapts=adapts,
        training=training,
        support_batch_size=support_batch_size,
        episodes=len(episodes) if len(episodes) > 1 else None,
    )


def _elements(episode: Episode, model: Recommender, adapts: AdaptedParameters) -> int:
    """Return the elements in an operation's largest tensor: hidden states where the encoder adapts, else kernels."""
    if not encoder_adapts(model, adapts):
        return len(episode.items) * episode.candidates
    tower = top_layers_tower(model)
    longest = int(tower.lengths(episode.items[: episode.candidates]).max())
    return episode.candidates * longest * tower.width


class _CandidateVectors:
    """The candidates' vectors of a meta-batch, computed with the first use; each task's graph ends at them."""

    def __init__(self, model: Recommender, episodes: Sequence[Episode]) -> None:
        self._tower = model.tower
        candidates = [episode.items[: episode.candidates] for episode in episodes]
        self._items, positions = torch.unique(torch.cat(candidates), return_inverse=True)
        self._rows = positions.split([episode.candidates for episode in episodes])
        self._leaf: Tensor | None = None

    def of(self, group: Sequence[int]) -> Tensor:
        """Return the (C, D) vectors of one episode's candidates, or (E, C, D) of several, padded."""
        if self._leaf is None:
            self._vectors: Tensor = self._tower(self._items)
            self._leaf = self._vectors.detach().requires_grad_(self._vectors.requires_grad)
        rows = repeat_first([self._rows[number] for number in group])
        return self._leaf[rows if len(group) > 1 else rows[0]]

    def backward(self) -> None:
        """Pass the gradient that the tasks' losses left at the vectors on to the encoder."""
        if self._leaf is not None and self._leaf.grad is not None:
            self._vectors.backward(self._leaf.grad)  # type: ignore[no-untyped-call]
