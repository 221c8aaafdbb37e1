"""A meta-batch as tasks: which episodes run side by side, and each distinct text encoded once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from studies.episodes.episode import Episode
from studies.learners.tasks.inputs import gather
from studies.learners.tasks.scene_task import AdaptedParameters, SceneTask, Tokens, encoder_adapts, top_layers
from studies.model.recommender import Recommender
from studies.model.towers import TopLayersTower

# Numbers in the largest tensor of an operation up to which starting it takes about as long as doing it: episodes are
# put side by side until they fill it, and larger ones run one by one (docs/decisions.md).
FILL = 2**16


@contextmanager
def scene_tasks(
    model: Recommender,
    episodes: Sequence[Episode],
    part: AdaptedParameters,
    *,
    support_batch_size: int | None = None,
    at_once: int | None = None,
) -> Iterator[Iterator[SceneTask]]:
    """The tasks of a meta-batch, each distinct text of which is encoded once.

    The caller calls `backward` on each task's loss, one task at a time, so that one graph at a time is held; what the
    vectors gather on the way is passed on to the encoder when the block ends.

    Args:
        model: the recommender.
        episodes: of the meta-batch.
        part: what adapts.
        support_batch_size: interactions of the support per inner step.
        at_once: most episodes side by side; by their size if left out.
    """
    table = _Table(model, episodes)
    adapts = encoder_adapts(model, part)
    tower: Any = model.tower

    def task(group: Sequence[int]) -> SceneTask:
        chosen = [episodes[number] for number in group]
        inputs = gather(chosen, lambda number, positions: tower.locked[chosen[number].items[positions]])
        return SceneTask(
            model,
            inputs,
            partial(table.of, group),
            _tokens(top_layers(model), chosen) if adapts else None,
            part,
            training=True,
            support_batch_size=support_batch_size,
            episodes=len(chosen) if len(chosen) > 1 else None,
        )

    sizes = [_size(episode, model, adapts) for episode in episodes]
    yield map(task, side_by_side(episodes, sizes, at_once))
    table.backward()


def side_by_side(episodes: Sequence[Episode], sizes: Sequence[int], at_once: int | None = None) -> list[list[int]]:
    """Which episodes run side by side: of like size, so that little is padding, and as many as fill the machine.

    Args:
        episodes: of a meta-batch.
        sizes: numbers in the largest tensor that an operation on each makes.
        at_once: most of them; by their sizes if left out.
    """
    order = sorted(range(len(episodes)), key=lambda number: (len(episodes[number].support), sizes[number]))
    groups: list[list[int]] = []
    for number in order:
        last = groups[-1] if groups else []
        alike = bool(last) and len(episodes[last[0]].support) == len(episodes[number].support)
        room = (len(last) + 1) * sizes[number] <= FILL if at_once is None else len(last) < at_once
        if alike and room:
            last.append(number)
        else:
            groups.append([number])
    return groups


def _size(episode: Episode, model: Recommender, adapts: bool) -> int:
    """Numbers in the largest tensor of an operation: hidden states where the encoder adapts, else kernels."""
    if not adapts:
        return len(episode.items) * episode.candidates
    tower = top_layers(model)
    longest = int(tower.lengths(episode.items[: episode.candidates]).max())
    return episode.candidates * longest * tower.width


def _tokens(tower: TopLayersTower, episodes: Sequence[Episode]) -> Tokens:
    if len(episodes) == 1:
        return Tokens(groups=tower.groups(episodes[0].items[: episodes[0].candidates]))
    rows = _filled([episode.items[: episode.candidates] for episode in episodes])
    hidden, mask = tower.texts(rows.flatten())
    return Tokens(padded=(hidden.view(*rows.shape, *hidden.shape[1:]), mask.view(*rows.shape, -1)))


class _Table:
    """The candidates' vectors of a meta-batch, computed when first asked for; each task's graph ends at them."""

    def __init__(self, model: Recommender, episodes: Sequence[Episode]) -> None:
        self._tower = model.tower
        candidates = [episode.items[: episode.candidates] for episode in episodes]
        self._items, positions = torch.unique(torch.cat(candidates), return_inverse=True)
        self._rows = positions.split([episode.candidates for episode in episodes])
        self._leaf: Tensor | None = None

    def of(self, group: Sequence[int]) -> Tensor:
        """(C, D) vectors of one episode's candidates, or (E, C, D) of several, padded."""
        if self._leaf is None:
            self._vectors: Tensor = self._tower(self._items)
            self._leaf = self._vectors.detach().requires_grad_(self._vectors.requires_grad)
        rows = _filled([self._rows[number] for number in group])
        return self._leaf[rows if len(group) > 1 else rows[0]]

    def backward(self) -> None:
        """Passes what the tasks' losses have left at the vectors on to the encoder."""
        if self._leaf is not None and self._leaf.grad is not None:
            self._vectors.backward(self._leaf.grad)  # type: ignore[no-untyped-call]


def _filled(rows: Sequence[Tensor]) -> Tensor:
    """(E, C) row numbers, short rows filled up with their first: valid, and hidden by `Inputs.present`."""
    longest = max(len(row) for row in rows)
    return torch.stack([torch.cat([row, row[:1].expand(longest - len(row))]) for row in rows])
