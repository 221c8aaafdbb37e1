"""Splits scenes into meta-train, meta-validation and meta-test, and the timeline with them.

The search, the pruner and the distillation see validation scenes only; test scenes are scored once, at the end.
Time is split too: training episodes end before validation scenes open, and those before test scenes open, so that
nothing learned comes from the future of what is scored (docs/protocol.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from storage.errors import InputError
from studies.config.protocol_section import ProtocolSection
from studies.data.dataset import Dataset, Ints
from studies.data.sources import by_digest

SplitName = Literal["train", "validation", "test"]
SPLIT_NAMES: tuple[SplitName, ...] = ("train", "validation", "test")
MINIMUM_SCENES: dict[SplitName, int] = {"train": 4, "validation": 3, "test": 3}


@dataclass(frozen=True)
class Split:
    """Which scenes belong to which part, and the period each part's episodes lie in.

    Attributes:
        scenes: part → scene codes, disjoint.
        period: part → (start, end) in UTC seconds; a part's windows open and close within it.
    """

    scenes: dict[SplitName, Ints]
    period: dict[SplitName, tuple[int, int]]

    @property
    def held_out(self) -> Ints:
        """Scenes whose items no training episode may touch, not even in a user's history."""
        return np.concatenate([self.scenes["validation"], self.scenes["test"]])


def split(data: Dataset, protocol: ProtocolSection) -> Split:
    """Splits by the protocol's fractions and seed.

    Raises:
        InputError: too few scenes for a part, or a period shorter than one window.
    """
    order = by_digest(data.scenes, protocol.seed)
    total = len(order)
    held = {part: round(fraction * total) for part, fraction in zip(SPLIT_NAMES, protocol.split, strict=True)}
    held["train"] = total - held["validation"] - held["test"]
    for part in SPLIT_NAMES:
        if held[part] < MINIMUM_SCENES[part]:
            raise InputError(
                f"{total} {'scene leaves' if total == 1 else 'scenes leave'} {held[part]} for meta-{part}, which needs "
                f"at least {MINIMUM_SCENES[part]}; lower the minima in [data], raise max_scenes, or change "
                "protocol.split"
            )
    ends = np.cumsum([held[part] for part in SPLIT_NAMES])
    scenes = dict(zip(SPLIT_NAMES, np.split(order, ends[:-1]), strict=True))
    return Split(scenes={part: np.sort(codes) for part, codes in scenes.items()}, period=_periods(data, protocol))


def _periods(data: Dataset, protocol: ProtocolSection) -> dict[SplitName, tuple[int, int]]:
    start, end = int(data.time[0]), int(data.time[-1]) + 1
    cuts = [start, *(start + round(fraction * (end - start)) for fraction in protocol.timeline), end]
    periods = {part: (cuts[i], cuts[i + 1]) for i, part in enumerate(SPLIT_NAMES)}
    for part, (opens, closes) in periods.items():
        days = (closes - opens) / 86_400
        if days <= protocol.window_days:
            raise InputError(
                f"the {part} period is {days:.1f} days long, which does not hold one window of "
                f"{protocol.window_days} days; shorten protocol.window_days or change protocol.timeline"
            )
    return periods
