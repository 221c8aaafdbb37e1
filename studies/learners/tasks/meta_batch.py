"""What tasks of any kind share in a meta-batch: which episodes run side by side, each distinct text encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from studies.learners.tasks.inputs import repeat_first
from studies.model.device import device_settings


def side_by_side(shapes: Sequence[Any], sizes: Sequence[int], vmap_episodes: int | None = None) -> list[list[int]]:
    """Return the groups of episodes that run side by side, by number.

    Episodes of a group are of one shape and of like size, so that little is padding, and as many as fill the device:
    those with more than `DeviceSettings.vmap_elements` run one by one.

    Args:
        shapes: Shape of each episode of a meta-batch, such as its shots; comparable.
        sizes: Elements in the largest tensor that an operation on each makes.
        vmap_episodes: Most episodes of a group; by their sizes if left out.
    """
    order = sorted(range(len(shapes)), key=lambda number: (shapes[number], sizes[number]))
    full, groups = device_settings().vmap_elements, list[list[int]]()
    for number in order:
        last = groups[-1] if groups else []
        alike = bool(last) and shapes[last[0]] == shapes[number]
        fits = (len(last) + 1) * sizes[number] <= full if vmap_episodes is None else len(last) < vmap_episodes
        if alike and fits:
            last.append(number)
        else:
            groups.append([number])
    return groups


class MetaBatchVectors:
    """The vectors of a meta-batch's texts, computed with the first use; each task's graph ends at them.

    Args:
        tower: Encodes the texts, each distinct one once.
        items: (C,) item codes of each episode's texts.
    """

    def __init__(self, tower: nn.Module, items: Sequence[Tensor]) -> None:
        self._tower = tower
        self._items, positions = torch.unique(torch.cat(list(items)), return_inverse=True)
        self._rows = positions.split([len(own) for own in items])
        self._leaf: Tensor | None = None

    def of(self, group: Sequence[int]) -> Tensor:
        """Return the (C, D) vectors of one episode's texts, or (E, C, D) of several, padded."""
        if self._leaf is None:
            self._vectors: Tensor = self._tower(self._items)
            self._leaf = self._vectors.detach().requires_grad_(self._vectors.requires_grad)
        rows = repeat_first([self._rows[number] for number in group])
        return self._leaf[rows if len(group) > 1 else rows[0]]

    def backward(self) -> None:
        """Pass the gradient that the tasks' losses left at the vectors on to the encoder."""
        if self._leaf is not None and self._leaf.grad is not None:
            self._vectors.backward(self._leaf.grad)  # type: ignore[no-untyped-call]
