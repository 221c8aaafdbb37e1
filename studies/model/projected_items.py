"""Items under some weights of a head: all that takes time of a scene, and does not depend on its support.

Serving computes it once for a catalogue, and anew only for the weights that a learner adapts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

# As in `torch.nn.functional.normalize`.
_SHORTEST = 1e-12
# The weights of a head that items depend on.
_READ = ("project.weight", "appeal.0.weight", "appeal.0.bias", "appeal.2.weight", "appeal.2.bias")


@dataclass(frozen=True)
class ProjectedItems:
    """Items under some weights of a head.

    Attributes:
        vectors: (N, D) the items' vectors.
        centre: (D,) their mean.
        head: The head's weights by name.
        lengths: (N, 1) lengths of the projected vectors.
        directions: (N, d) the projected vectors, of length 1.
        texts: (N, 64) what each item's own text adds to the first layer of its appeal.
    """

    vectors: Tensor
    centre: Tensor
    head: Mapping[str, Tensor]
    lengths: Tensor
    directions: Tensor
    texts: Tensor

    @classmethod
    def of(cls, vectors: Tensor, centre: Tensor, head: Mapping[str, Tensor]) -> ProjectedItems:
        """Return the (N, D) vectors of items, whose mean is given, under a head's weights."""
        own, context = head["appeal.0.weight"].chunk(2, dim=1)
        project = head["project.weight"]
        # The appeal's first layer reads [vectors, vectors - centre]. One product of both matrices is faster than two.
        products = vectors @ torch.cat([project, own + context]).T
        lengths, directions = directions_of(products[:, : len(project)])
        return cls(vectors, centre, head, lengths, directions, products[:, len(project) :])

    def under(self, head: Mapping[str, Tensor]) -> ProjectedItems:
        """Return the items under other weights; what only depends on equal ones is kept."""
        moved = {name for name in _READ if head[name] is not self.head[name]}
        if "appeal.0.weight" in moved:
            return self.of(self.vectors, self.centre, head)
        if "project.weight" not in moved:
            return replace(self, head=head) if moved else self
        lengths, directions = directions_of(self.vectors @ head["project.weight"].T)
        return replace(self, head=head, lengths=lengths, directions=directions)

    def followed_by(self, vectors: Tensor) -> ProjectedItems:
        """Return these items and, at the end, those of the (n, D) vectors."""
        more = self.of(vectors, self.centre, self.head)
        together = torch.cat([self.vectors, vectors])
        pairs = ((self.lengths, more.lengths), (self.directions, more.directions), (self.texts, more.texts))
        return ProjectedItems(together, together.mean(0), self.head, *(torch.cat(pair) for pair in pairs))

    def take(self, rows: Tensor) -> ProjectedItems:
        """Return the items at (m,) positions, with a centre of their own."""
        vectors = self.vectors[rows]
        parts = (self.lengths[rows], self.directions[rows], self.texts[rows])
        return ProjectedItems(vectors, vectors.mean(0), self.head, *parts)

    @property
    def appeal_scale(self) -> float:
        """What unit vectors are multiplied by before the appeal reads them, as in `Head`."""
        return math.sqrt(self.vectors.shape[1]) / 4

    @cached_property
    def hidden(self) -> Tensor:
        """(N, 64) what enters the appeal's activation."""
        context = self.head["appeal.0.weight"].chunk(2, dim=1)[1] @ self.centre
        shift = self.head["appeal.0.bias"] - self.appeal_scale * context
        return torch.add(shift, self.texts, alpha=self.appeal_scale)

    @property
    def activated(self) -> Tensor:
        """(N, 64) what leaves it; not kept, since memory costs more than time."""
        return functional.gelu(self.hidden)

    @cached_property
    def appeal(self) -> Tensor:
        """(N, 1) the items' appeal."""
        return functional.linear(self.activated, self.head["appeal.2.weight"], self.head["appeal.2.bias"])


def directions_of(projected: Tensor) -> tuple[Tensor, Tensor]:
    """Return the (n, 1) lengths and (n, d) directions of projected vectors."""
    lengths = torch.linalg.vector_norm(projected, dim=1, keepdim=True).clamp_(min=_SHORTEST)
    return lengths, projected / lengths
