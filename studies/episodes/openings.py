"""Draws the openings of a scene: the moments from which it is taken to exist."""

from __future__ import annotations

import numpy as np

from studies.config.protocol_section import RankingProtocol
from studies.episodes.split import DAY, Split, SplitName


def draw_openings(
    protocol: RankingProtocol, split: Split, split_name: SplitName, rng: np.random.Generator
) -> list[int]:
    """Return the openings of one scene, UTC seconds, ascending: one at random in each of as many equal slices.

    Args:
        protocol: The number of openings and the length of the window.
        split: The period of each split.
        split_name: Split of the scene; each window lies within its period.
        rng: Generator of the draw.
    """
    count = protocol.train_openings if split_name == "train" else protocol.openings
    begin, end = split.period[split_name]
    latest = end - round(protocol.window_days * DAY)
    return [int(time) for time in begin + (np.arange(count) + rng.random(count)) / count * (latest - begin)]


def closing_time(protocol: RankingProtocol, opened: int) -> int:
    """Return the end of the window of an opening, UTC seconds."""
    return opened + round(protocol.window_days * DAY)
