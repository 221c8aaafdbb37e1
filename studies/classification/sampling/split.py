"""Splits classes into training, validation and test: no class of one is in another.

The search, the pruner and the distillation see validation classes only; test classes are scored once, at the end.
"""

from __future__ import annotations

from dataclasses import dataclass

from storage.errors import InputError
from studies.classification.data.dataset import LabelledTexts
from studies.classification.protocol import ClassificationProtocol
from studies.data.dataset import Ints
from studies.episodes.split import SPLIT_NAMES, SplitName, split_by_digest


@dataclass(frozen=True)
class ClassSplit:
    """The classes of each split.

    Attributes:
        classes: Codes of the classes of each split, ascending; the splits are disjoint.
    """

    classes: dict[SplitName, Ints]


def split_classes(data: LabelledTexts, protocol: ClassificationProtocol) -> ClassSplit:
    """Return the split by the protocol's fractions and seed.

    Args:
        data: The data of a study: every class is eligible.
        protocol: The fractions, the seed, and the classes of an episode.

    Raises:
        InputError: A split has fewer classes than an episode.
    """
    classes = split_by_digest(data.labels, protocol.split, protocol.seed)
    name = min(SPLIT_NAMES, key=lambda name: len(classes[name]))
    if (found := len(classes[name])) < protocol.ways:
        total = len(data.labels)
        lower = f"lower protocol.ways to {found}" if found > 1 else "lower protocol.min_rows, shots and queries"
        raise InputError(
            f"{total} {'class leaves' if total == 1 else 'classes leave'} {found} for {name}, but an episode has "
            f"protocol.ways = {protocol.ways}; {lower}, change protocol.split (now {list(protocol.split)}), or give "
            "data with more classes"
        )
    return ClassSplit(classes)
