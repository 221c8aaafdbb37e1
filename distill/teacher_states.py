"""The teacher's hidden states between layers, for losses that read states; cached as those of frozen layers are."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor

from studies.model.activation_cache import ActivationCache
from studies.model.encoder import Ragged


class TeacherStates:
    """The states that a student's inner layers are trained to match.

    A student's layer j of n is compared with the teacher's layer j·L/n (the uniform map of Jiao et al. 2020, section
    3.1), but for the last one, whose output the embedding loss compares. Layers that a teacher trained itself have no
    cached states.

    Args:
        cache: The encoder's, built for what `needed` returns.
        depth: Layers of the encoder, L.
        layers: Layers of the student, n.
        trained: Top layers of the encoder that the teacher trained.

    Attributes:
        layers: The student's layers that are compared, from 1.
    """

    def __init__(self, cache: ActivationCache, depth: int, layers: int, trained: int) -> None:
        above = _above(depth, layers, trained)
        self.layers = list(above)
        self._states: list[Ragged] = [cache.hidden(top) for top in above.values()]

    def of(self, items: Tensor) -> list[Tensor]:
        """Return the (M, L, D) states of (M,) items' texts for each of `layers`, padded to the longest."""
        return [states.padded(items, items.device)[0].float() for states in self._states]


def needed(depth: int, layers: Collection[int], trained: int) -> set[int]:
    """Return the numbers of top layers that `ActivationCache.build` takes for students of these numbers of layers."""
    return {top for count in layers for top in _above(depth, count, trained).values()}


def _above(depth: int, layers: int, trained: int) -> dict[int, int]:
    """Return, by the student's layer, how many of the encoder's layers lie above the one it is compared with."""
    above = {layer: depth - round(layer * depth / layers) for layer in range(1, layers)}
    return {layer: top for layer, top in above.items() if top > 0 and top >= trained}
