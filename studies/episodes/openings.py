"""Draws the openings of a scene: the moments from which it is taken to exist."""

from __future__ import annotations

import numpy as np

from studies.config.protocol_section import RankingProtocol
from studies.episodes.split import DAY, Split, SplitName


def draw_openings(
    protocol: RankingProtocol, split: Split, split_name: SplitName, life: tuple[int, int], rng: np.random.Generator
) -> list[int]:
    """Return the openings of one scene, UTC seconds, ascending: one at random in each of as many equal slices.

    The slices divide the split's period. If scenes are split by when they start, the first opening is the scene's real
    start, and the slices of the others divide its life within the period, up to where a window is left of it (or half
    of that life, if it is shorter than two windows).

    Args:
        protocol: The number of openings and the length of the window.
        split: The period of each split.
        split_name: Split of the scene.
        life: First and last interaction of the scene, UTC seconds.
        rng: Generator of the draw.
    """
    count = protocol.train_openings if split_name == "train" else protocol.openings
    begin, end = split.period[split_name]
    window = round(protocol.window_days * DAY)
    if split.by == "hash":
        return _draw(count, begin, end - window, rng)
    start, end = life[0], min(life[1] + 1, end)
    if end <= start:
        return []  # of equal starts, some fell to the earlier split, whose period ends with them
    return sorted({start, *_draw(count - 1, start, end - min(window, (end - start) // 2), rng)})


def _draw(count: int, begin: int, latest: int, rng: np.random.Generator) -> list[int]:
    slices = np.arange(count) + rng.random(count)
    return [int(time) for time in begin + slices / max(1, count) * (latest - begin)]


def closing_time(protocol: RankingProtocol, split: Split, scene: int, opened: int) -> int:
    """Return the end of the window of an opening, UTC seconds: never later than the period of the scene's split."""
    return min(opened + round(protocol.window_days * DAY), split.period[split.name_of(scene)][1])
