"""The minima that a scene must reach, and what each of them leaves out.

The defaults follow from the protocol: a scene smaller than that has no episodes worth averaging. For the scenes that
are left out, `group_small_scenes` says which minima they miss and which values would keep them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from studies.config.protocol_section import RankingProtocol
from studies.data.dataset import BELOW, Dataset, Ints
from studies.data.source import InteractionSource


class Minima(NamedTuple):
    """The least interactions, users and items of a scene."""

    min_interactions: int
    min_users: int
    min_items: int


@dataclass(frozen=True)
class SmallScenes:
    """The scenes that miss the same minima, and no others.

    Attributes:
        minima: Names of these minima.
        scenes: Number of the scenes.
        rows: Number of their interactions.
        keeps_half: The nearest values of these minima that keep scenes with at least half of the rows that any value
            can keep; empty where none can.
        keeps_all: The nearest values that keep all that any value can keep; empty where none can.
    """

    minima: tuple[str, ...]
    scenes: int
    rows: int
    keeps_half: Mapping[str, int]
    keeps_all: Mapping[str, int]

    @property
    def short_of(self) -> str:
        """Return what the scenes have too few of, in words."""
        return ", ".join(name.removeprefix("min_") for name in self.minima)

    @property
    def reason(self) -> str:
        """Return the reason under which the rows are counted as dropped."""
        return BELOW + self.short_of

    def advice(self) -> str:
        """Return which values would keep scenes, or why none can."""
        if not self.keeps_all:
            return "too small for an episode under any value"
        half, every = _show(self.keeps_half), _show(self.keeps_all)
        return every if half == every else f"{half} for half of the rows, {every} for all"


def _show(values: Mapping[str, int]) -> str:
    return " and ".join(f"{name} = {value}" for name, value in values.items())


def derive_minima(section: InteractionSource, protocol: RankingProtocol) -> Minima:
    """Return the minima of `[data]`; those that it leaves out follow from the protocol.

    - Interactions: a support and a query for each of the scene's openings.
    - Users: as many as a support and a query can have; one where each user is a scene.
    - Items: twice `k`, so that a list holds at most half of them.
    """
    defaults = Minima(
        min_interactions=protocol.openings * (protocol.shots + 1),
        min_users=1 if section.scene_is_user else protocol.shots + 1,
        min_items=2 * protocol.k,
    )
    given = (section.min_interactions, section.min_users, section.min_items)
    return Minima(*(default if value is None else value for value, default in zip(given, defaults, strict=True)))


def floors(protocol: RankingProtocol) -> Minima:
    """Return the least sensible minima: any support with a later query, and more candidates than a list holds."""
    return Minima(protocol.shots + 1, 1, 1 if protocol.candidates == "all" else protocol.k + 1)


def scene_sizes(data: Dataset, *, every_item: bool = False) -> Ints:
    """Return the (scenes, 3) interactions, users and items of each scene; all items of the shop with `every_item`."""
    log = pl.DataFrame({"scene": data.scene, "user": data.user})
    counted = log.group_by("scene").agg(interactions=pl.len(), users=pl.col("user").n_unique())
    frame = pl.DataFrame({"scene": np.arange(len(data.scenes)), "items": np.diff(data.catalogue_start)})
    frame = frame.join(counted, on="scene", how="left", maintain_order="left").fill_null(0)
    sizes = frame.select(pl.col("interactions", "users", "items").cast(pl.Int64)).to_numpy().copy()
    if every_item:
        sizes[:, 2] = len(data.texts)
    return sizes


def eligible_scenes(sizes: Ints, minima: Minima) -> Ints:
    """Return the codes of the scenes that reach all minima, ascending."""
    return np.flatnonzero((sizes >= np.array(minima)).all(axis=1))


def group_small_scenes(sizes: Ints, minima: Minima, least: Minima) -> list[SmallScenes]:
    """Return the scenes below a minimum, by the minima that they miss; those with most rows first.

    Args:
        sizes: (scenes, 3) interactions, users and items of each scene.
        minima: What a scene must reach.
        least: The least values that may be advised.
    """
    below = sizes < np.array(minima)
    groups = [
        _group(sizes[(below == missed).all(axis=1)], missed, least)
        for missed in np.unique(below, axis=0)
        if missed.any()
    ]
    return sorted(groups, key=lambda group: -group.rows)


def _group(sizes: Ints, missed: npt.NDArray[np.bool_], least: Minima) -> SmallScenes:
    names = tuple(name for name, misses in zip(Minima._fields, missed, strict=True) if misses)
    # The largest first: lowering the minima keeps these before the others.
    possible = sizes[(sizes >= np.array(least)).all(axis=1)]
    possible = possible[np.argsort(-possible[:, 0], kind="stable")]
    rows = np.cumsum(possible[:, 0])
    half = possible[: int(np.searchsorted(rows, rows[-1] / 2)) + 1] if len(possible) else possible

    def nearest(kept: Ints) -> dict[str, int]:
        return dict(zip(names, kept[:, missed].min(axis=0).tolist(), strict=True)) if len(kept) else {}

    return SmallScenes(names, len(sizes), int(sizes[:, 0].sum()), nearest(half), nearest(possible))
