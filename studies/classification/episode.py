"""The episode of classification: a few labelled texts of each class to adapt to, and texts to classify.

Its indices are local: `items` lists each distinct text once, so that each is encoded once, and labels count from 0 in
the order of `classes`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class LabelledEpisode:
    """One draw of N classes (ways) with K labelled texts (shots) of each; of known classes, some may have fewer.

    Shapes: N classes, M distinct texts, S texts of the support (N·K of new classes), Q queries.

    Attributes:
        name: Name of the draw, such as "episode 17": the unit that intervals resample.
        classes: (N,) codes of the classes.
        items: (M,) codes of the distinct texts, names of classes included, ascending.
        support: (S,) position in `items` of each labelled text, class after class.
        support_labels: (S,) its class, in 0..N-1.
        query: (Q,) position in `items` of each text to classify.
        query_labels: (Q,) its class, in 0..N-1.
        names: (N,) position in `items` of the name of each class.
        scene: Code of the scene that all rows are of; -1 where the data have no scenes.
    """

    name: str
    classes: Tensor
    items: Tensor
    support: Tensor
    support_labels: Tensor
    query: Tensor
    query_labels: Tensor
    names: Tensor
    scene: int = -1

    @property
    def ways(self) -> int:
        """Return N, the number of classes."""
        return len(self.classes)

    @property
    def shots(self) -> int:
        """Return K, the number of labelled texts of each class."""
        return len(self.support) // self.ways

    @property
    def encoded(self) -> int:
        """Return how many of the items a model encodes: all of them."""
        return len(self.items)

    @property
    def relevant(self) -> Tensor:
        """Return (Q, N) whether a class is the query's: a query ranks the classes, of which one is right."""
        return functional.one_hot(self.query_labels, self.ways).bool()

    @property
    def excluded(self) -> Tensor:
        """Return (Q, N) false: every class is possible."""
        return torch.zeros_like(self.relevant)

    def to(self, device: torch.device) -> LabelledEpisode:
        """Return the same episode with its tensors on `device`."""
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {n: value.to(device) for n, value in tensors.items() if isinstance(value, Tensor)}
        return replace(self, **moved)
