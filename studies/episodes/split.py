"""Splits scenes into meta-train, meta-validation and meta-test, and the timeline with them.

The search, the pruner and the distillation see validation scenes only; test scenes are scored once, at the end. Time is
split too: training episodes end before validation scenes open, and these end before test scenes open, so that nothing
is learned from the future of what is scored. Scenes that last are split by hash, and the log at two times; scenes that
live a few weeks are split by when they start (docs/protocol.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from storage.errors import InputError
from studies.config.protocol_section import RankingProtocol, SplitBy
from studies.data.dataset import BELOW, NOT_SAMPLED, Dataset, Ints
from studies.data.digest_order import order_by_digest

DAY = 86_400  # seconds
SplitName = Literal["train", "validation", "test"]
SPLIT_NAMES: tuple[SplitName, ...] = ("train", "validation", "test")
# Scenes without which a split's mean says little.
MINIMUM_SCENES: dict[SplitName, int] = {"train": 4, "validation": 3, "test": 3}
# The life of a scene: a few early or late interactions do not make a campaign last.
LIFE = (0.05, 0.95)


class SceneLog(Protocol):
    """What splitting by time reads of the data of any task: rows in order of time, each of a scene."""

    @property
    def scenes(self) -> Sequence[str]:
        """Return the names of the scenes."""

    @property
    def scene(self) -> Ints:
        """Return the (rows,) codes of their scenes."""

    @property
    def time(self) -> Ints:
        """Return the (rows,) times, UTC seconds, ascending."""


@dataclass(frozen=True)
class Split:
    """The scenes and the period of each split.

    Attributes:
        by: How scenes were split: by hash, or by when they start.
        scenes: Scene codes of each split, ascending; the splits are disjoint.
        period: (start, end) of each split in UTC seconds; its windows open and close within it.
    """

    by: SplitBy
    scenes: dict[SplitName, Ints]
    period: dict[SplitName, tuple[int, int]]

    @property
    def held_out(self) -> Ints:
        """Return the codes of the scenes that training must not see, not even in a user's history."""
        return np.concatenate([self.scenes["validation"], self.scenes["test"]])

    def name_of(self, scene: int) -> SplitName:
        """Return the split of a scene code."""
        return next(name for name in SPLIT_NAMES if scene in self.scenes[name])


def split_scenes(data: Dataset, protocol: RankingProtocol) -> Split:
    """Return the split by the protocol's fractions, seed and `split_by`.

    Raises:
        InputError: A split has too few scenes, or its period is too short.
    """
    by: SplitBy = choose_split_by(data, protocol.timeline) if protocol.split_by == "auto" else protocol.split_by
    order = order_by_digest(data.scenes, protocol.seed)
    starts, _ = scene_quantiles(data, 0, 1)
    if by == "opening":
        order = order[np.argsort(starts[order], kind="stable")]
    total, scenes = len(order), cut_order(order, protocol.split)
    for name in SPLIT_NAMES:
        if (found := len(scenes[name])) < MINIMUM_SCENES[name]:
            raise InputError(
                f"{total} {'scene leaves' if total == 1 else 'scenes leave'} {found} for meta-{name}, which "
                f"needs at least {MINIMUM_SCENES[name]}; {_more_scenes(data)}"
            )
    period = _periods(data, protocol) if by == "hash" else periods_of_openings(data, scenes, starts)
    return Split(by, scenes, period)


def cut_order(order: Ints, fractions: tuple[float, float, float]) -> dict[SplitName, Ints]:
    """Return the codes of each split, ascending: an order of scenes, or of classes, cut by the fractions."""
    validation, test = (round(fraction * len(order)) for fraction in fractions[1:])
    train = len(order) - validation - test
    parts = np.split(order, [train, train + validation])
    return {name: np.sort(part) for name, part in zip(SPLIT_NAMES, parts, strict=True)}


def choose_split_by(data: SceneLog, timeline: tuple[float, float]) -> SplitBy:
    """Return "opening" where more than half of the scenes are too short-lived for a split by hash.

    Such a scene's life, from the 5 % to the 95 % quantile of its interactions' times, misses at least one of the three
    periods that a split by hash cuts the log into: whether it has an episode would depend on the period it falls to.

    Args:
        data: The log.
        timeline: Where a split by hash cuts it, as fractions of its time.
    """
    begin, end = scene_quantiles(data, *LIFE)
    alive = np.bincount(data.scene, minlength=len(data.scenes)) > 0
    cuts = cut_times(data, timeline)
    misses = [(end < cuts[i]) | (begin >= cuts[i + 1]) for i in range(len(SPLIT_NAMES))]
    short = np.logical_or.reduce(misses) & alive
    return "opening" if short.sum() > alive.sum() / 2 else "hash"


def scene_quantiles(data: SceneLog, low: float, high: float) -> tuple[Ints, Ints]:
    """Return two quantiles of the times of each scene's interactions, UTC seconds; the log's end where it has none."""
    times = np.append(data.time[np.argsort(data.scene, kind="stable")], data.time[-1])
    counts = np.bincount(data.scene, minlength=len(data.scenes))
    first = np.cumsum(counts) - counts
    places = [first + np.round(quantile * np.maximum(counts - 1, 0)).astype(np.int64) for quantile in (low, high)]
    begin, end = (np.where(counts > 0, times[place], data.time[-1]) for place in places)
    return begin, end


def _more_scenes(data: Dataset) -> str:
    """Return what gives the splits more scenes: only what can."""
    remedies = []
    if any(reason.startswith(BELOW) for reason in data.dropped):
        remedies.append("lower the minima in [data]: hpo data check says which values keep more scenes")
    if NOT_SAMPLED in data.dropped:
        remedies.append("raise data.max_scenes")
    if len(data.scenes) >= sum(MINIMUM_SCENES.values()):
        remedies.append("change protocol.split")
    return ", or ".join(remedies) or 'name a column with more values in data.scene, such as "category"'


def cut_times(data: SceneLog, timeline: tuple[float, float]) -> list[int]:
    """Return where the periods of a log begin, cut at fractions of its time, and where the last one ends."""
    start, end = int(data.time[0]), int(data.time[-1]) + 1
    return [start, *(start + round(fraction * (end - start)) for fraction in timeline), end]


def _periods(data: Dataset, protocol: RankingProtocol) -> dict[SplitName, tuple[int, int]]:
    cuts = cut_times(data, protocol.timeline)
    periods = {name: (cuts[i], cuts[i + 1]) for i, name in enumerate(SPLIT_NAMES)}
    for name, (begin, close) in periods.items():
        days = (close - begin) / DAY
        if days <= protocol.window_days:
            span = (cuts[-1] - cuts[0]) / DAY
            doubt = f"the whole log is {span:.2g} days long: check that data.time is a time, or "
            raise InputError(
                f"the {name} period is {days:.1f} days long, which does not hold one window of "
                f"{protocol.window_days} days; {doubt if span < protocol.window_days else ''}shorten "
                "protocol.window_days or change protocol.timeline"
            )
    return periods


def periods_of_openings(
    data: SceneLog, scenes: dict[SplitName, Ints], starts: Ints
) -> dict[SplitName, tuple[int, int]]:
    """Return periods that begin with the first start among a split's scenes and end where the next one begins.

    Args:
        data: The log.
        scenes: Codes of each split's scenes.
        starts: (scenes,) when each scene starts.

    Raises:
        InputError: A period is empty.
    """
    begins = [int(data.time[0]), *(int(starts[scenes[name]].min()) for name in SPLIT_NAMES[1:])]
    periods = {name: (begins[i], [*begins[1:], int(data.time[-1]) + 1][i]) for i, name in enumerate(SPLIT_NAMES)}
    for name, (begin, close) in periods.items():
        if begin == close:
            raise InputError(
                f"the {name} period is empty: too many scenes start at the same time for a split by when they start; "
                'set protocol.split_by = "hash", or change protocol.split'
            )
    return periods
