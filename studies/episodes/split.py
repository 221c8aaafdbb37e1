"""Splits scenes into meta-train, meta-validation and meta-test, and the timeline with them.

The search, the pruner and the distillation see validation scenes only; test scenes are scored once, at the end. Time is
split too: training episodes end before validation scenes open, and these end before test scenes open, so that nothing
is learned from the future of what is scored (docs/protocol.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from storage.errors import InputError
from studies.config.protocol_section import ProtocolSection
from studies.data.dataset import Dataset, Ints
from studies.data.digest_order import order_by_digest

DAY = 86_400  # seconds
SplitName = Literal["train", "validation", "test"]
SPLIT_NAMES: tuple[SplitName, ...] = ("train", "validation", "test")
# Scenes without which a split's mean says little.
MINIMUM_SCENES: dict[SplitName, int] = {"train": 4, "validation": 3, "test": 3}


@dataclass(frozen=True)
class Split:
    """The scenes and the period of each split.

    Attributes:
        scenes: Scene codes of each split, ascending; the splits are disjoint.
        period: (start, end) of each split in UTC seconds; its windows open and close within it.
    """

    scenes: dict[SplitName, Ints]
    period: dict[SplitName, tuple[int, int]]

    @property
    def held_out(self) -> Ints:
        """Return the codes of the scenes that training must not see, not even in a user's history."""
        return np.concatenate([self.scenes["validation"], self.scenes["test"]])


def split_scenes(data: Dataset, protocol: ProtocolSection) -> Split:
    """Return the split by the protocol's fractions and seed.

    Raises:
        InputError: A split has too few scenes, or its period is shorter than one window.
    """
    total, scenes = len(data.scenes), split_by_digest(data.scenes, protocol.split, protocol.seed)
    for name in SPLIT_NAMES:
        if (found := len(scenes[name])) < MINIMUM_SCENES[name]:
            raise InputError(
                f"{total} {'scene leaves' if total == 1 else 'scenes leave'} {found} for meta-{name}, which "
                f"needs at least {MINIMUM_SCENES[name]}; lower the minima in [data], raise max_scenes, or change "
                "protocol.split"
            )
    return Split(scenes=scenes, period=_periods(data, protocol))


def split_by_digest(names: tuple[str, ...], fractions: tuple[float, float, float], seed: int) -> dict[SplitName, Ints]:
    """Return the positions of the names in each split, ascending; they depend on the names and the seed alone.

    Args:
        names: What is split: scenes, or classes.
        fractions: Of training, validation and test.
        seed: Of the order in which they are distributed.
    """
    validation, test = (round(fraction * len(names)) for fraction in fractions[1:])
    train = len(names) - validation - test
    parts = np.split(order_by_digest(names, seed), [train, train + validation])
    return {name: np.sort(part) for name, part in zip(SPLIT_NAMES, parts, strict=True)}


def _periods(data: Dataset, protocol: ProtocolSection) -> dict[SplitName, tuple[int, int]]:
    start, end = int(data.time[0]), int(data.time[-1]) + 1
    cuts = [start, *(start + round(fraction * (end - start)) for fraction in protocol.timeline), end]
    periods = {name: (cuts[i], cuts[i + 1]) for i, name in enumerate(SPLIT_NAMES)}
    for name, (begin, close) in periods.items():
        days = (close - begin) / DAY
        if days <= protocol.window_days:
            raise InputError(
                f"the {name} period is {days:.1f} days long, which does not hold one window of "
                f"{protocol.window_days} days; shorten protocol.window_days or change protocol.timeline"
            )
    return periods
