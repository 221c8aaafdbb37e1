"""What is known of items before a scene opens: how often they were taken in other scenes, and how long ago.

Whole days count: everything before the day of an opening is known, nothing of that day. A shop that counts every night
serves with the same numbers (`distill/export/tasks/popularity.py`).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from studies.config.protocol_section import RankingProtocol
from studies.data.dataset import Dataset, Ints
from studies.episodes.split import DAY, Split

# Days after which an interaction counts half, one count for each: all time, four weeks, one week. Their logarithms are
# weighed in the score, so the weights choose how fast what sells is forgotten.
HALF_LIVES = (math.inf, 28.0, 7.0)
# A user's own past takings of an item are kept in a byte.
MOST_TAKEN = 255

Floats = npt.NDArray[np.float32]


def shares_items(data: Dataset, protocol: RankingProtocol) -> bool:
    """Return whether a candidate of one scene can have been taken in another."""
    return protocol.candidates == "all" or data.scenes_share_items


def decay(ages: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the (n, B) weights, one for each of `HALF_LIVES`, of interactions (n,) days ago; 0 where not before."""
    weights = np.exp2(-np.maximum(ages, 0)[:, None] / np.array(HALF_LIVES))
    return np.where(ages[:, None] > 0, weights, 0.0)


class PopularityElsewhere:
    """Counts of each item in the scenes that are not held out, by day.

    Args:
        data: The shop.
        split: Split of its scenes; what was taken in scenes of validation and test is never counted.
    """

    def __init__(self, data: Dataset, split: Split) -> None:
        self._first = int(data.time[0]) // DAY
        self._days = int(data.time[-1]) // DAY - self._first + 1
        self._items = len(data.texts)
        held_out = np.isin(np.arange(len(data.scenes)), split.held_out)
        counted = ~held_out[data.scene]
        day = data.time // DAY - self._first
        self._all = self._table(data.item[counted], day[counted])
        # Each training scene's own interactions are taken off again: an episode is of a scene that was not there yet.
        order = np.flatnonzero(counted)[np.argsort(data.scene[counted], kind="stable")]
        starts = np.searchsorted(data.scene[order], np.arange(len(data.scenes) + 1))
        own = [order[starts[scene] : starts[scene + 1]] for scene in range(len(data.scenes))]
        self._own = {scene: self._table(data.item[rows], day[rows]) for scene, rows in enumerate(own) if len(rows)}

    def before(self, scene: int, opened: int, candidates: Ints) -> Floats:
        """Return (C, B) counts of each candidate in the other scenes before the day of an opening.

        Args:
            scene: Scene code of the episode.
            opened: Time of its opening, UTC seconds.
            candidates: (C,) item codes.
        """
        weights = decay(opened // DAY - self._first - np.arange(self._days, dtype=np.float64))
        counts = self._all @ weights
        if scene in self._own:
            counts -= self._own[scene] @ weights
        # The difference of two sums is not exactly zero where it should be.
        counts = np.where(counts < 1e-9, 0.0, counts)
        found: Floats = counts[candidates].astype(np.float32)
        return found

    def _table(self, items: Ints, days: Ints) -> sp.csr_matrix:
        """Return the (items, days) counts of some interactions."""
        ones = np.ones(len(items))
        return sp.csr_matrix((ones, (items, days)), shape=(self._items, self._days))
