"""The texts of each class in each scene, by group: what the support and the query of a class are drawn from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from studies.classification.data.dataset import LabelledTexts
from studies.classification.protocol import ClassificationProtocol
from studies.classification.sampling.sides import divisible
from studies.data.dataset import Ints


class Pool(NamedTuple):
    """The texts of one class in one scene.

    Attributes:
        texts: (n,) codes of its texts.
        group: (n,) position in `groups` of each text's group.
        groups: (G,) names of the groups as numbers: a code, or a number of its own for a text without a group.
        sizes: (G,) texts of each group.
    """

    texts: Ints
    group: Ints
    groups: Ints
    sizes: Ints

    def allows(self, protocol: ClassificationProtocol, shots: int) -> bool:
        """Return whether the class is large enough, and can be divided into that many shots and the queries."""
        return (
            len(self.texts) >= max(protocol.min_rows or 0, shots + protocol.queries)
            and len(self.sizes) >= protocol.min_groups
            and divisible(self.sizes, shots, protocol.queries)
        )


# By scene (-1 where the data have none), then by class.
Pools = Mapping[int, Mapping[int, Pool]]


def pools(data: LabelledTexts) -> Pools:
    """Return the pools of all classes in all scenes; codes ascend."""
    rows = np.flatnonzero(data.label >= 0)
    rows = rows[np.lexsort((rows, data.label[rows], data.scene[rows]))]
    scene, label = data.scene[rows], data.label[rows]
    starts = np.flatnonzero(np.diff(scene, prepend=-2) | np.diff(label, prepend=-2))
    found: dict[int, dict[int, Pool]] = {}
    for part in np.split(rows, starts[1:]) if len(rows) else []:
        group = data.group[part]
        group = np.where(group < 0, len(data.groups) + part, group)
        groups, places, sizes = np.unique(group, return_inverse=True, return_counts=True)
        of_scene = found.setdefault(int(data.scene[part[0]]), {})
        of_scene[int(data.label[part[0]])] = Pool(data.text[part], places, groups, sizes)
    return found
