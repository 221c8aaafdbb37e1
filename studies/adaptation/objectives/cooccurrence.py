"""Texts that the same user took near each other are nearest among the texts of a batch.

Item2vec (Barkan & Koenigstein 2016) learns such pairs for items; here their texts do, so that items without history
have a place too. In-batch negatives: Henderson et al., "Efficient Natural Language Response Suggestion" (2017), eq. 6.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from storage.errors import InputError
from studies.adaptation.corpus import Corpus, Log
from studies.adaptation.objectives.base import Objective, Training
from studies.adaptation.objectives.in_batch import in_batch_loss
from studies.adaptation.section import AdaptSection, RankingAdapt
from studies.data.dataset import Ints

_DAY = 86_400  # seconds


class Pairs:
    """The pairs of interactions with different items that a user made within a span of time.

    Args:
        log: The interactions.
        within: Most seconds between the two of a pair.

    Attributes:
        paired: The interactions that are in a pair.
    """

    def __init__(self, log: Log, within: float) -> None:
        self._log, count = log, len(log.item)
        time = log.time - (log.time.min() if count else 0)
        # One ascending key for user and time: a window never reaches another user.
        key = log.user * (int(time.max(initial=0)) + int(within) + 1) + time
        self._first = np.searchsorted(key, key - int(within))
        self._end = np.searchsorted(key, key + int(within), side="right")
        # The nearest interactions with another item, before and after a run of the same one.
        starts = np.flatnonzero(np.r_[True, np.diff(log.item) != 0][:count])
        run = np.searchsorted(starts, np.arange(count), side="right") - 1
        self._before, self._after = starts[run] - 1, np.r_[starts[1:], count][run] if count else starts
        self.paired = np.flatnonzero((self._before >= self._first) | (self._after < self._end))

    def partners(self, rows: Ints, rng: np.random.Generator) -> Ints:
        """Return for each of some paired interactions one that it is in a pair with."""
        drawn = rng.integers(self._first[rows], self._end[rows])
        nearest = np.where(self._after[rows] < self._end[rows], self._after[rows], self._before[rows])
        item = self._log.item
        return np.where(item[drawn] == item[rows], nearest, drawn)

    def together(self, row: int, items: Ints) -> npt.NDArray[np.bool_]:
        """Return which of some items the user of an interaction took within the span of it, its own among them."""
        return np.isin(items, self._log.item[self._first[row] : self._end[row]])


class TakenTogether(Objective):
    """Each pair's text is told apart from those of the batch's other pairs, of which a part is of the same scene."""

    def __init__(self, training: Training) -> None:
        super().__init__(training)
        section = cast("RankingAdapt", training.section)
        assert training.corpus.log is not None, "checked before any work"
        self._log, self._same_scene = training.corpus.log, section.same_scene
        self._pairs = Pairs(self._log, section.within_days * _DAY)

    @classmethod
    def check(cls, corpus: Corpus, section: AdaptSection) -> None:
        """Check that there are pairs.

        Raises:
            InputError: There are none.
        """
        days = cast("RankingAdapt", section).within_days
        if corpus.log is None or not len(Pairs(corpus.log, days * _DAY).paired):
            raise InputError(
                f'teacher.adapt: "cooccurrence" finds no user who took two items within {days:g} days in a training '
                "scene and period; raise within_days, or leave the objective out"
            )

    def loss(self, rng: np.random.Generator) -> Tensor:
        """Return the loss of a batch of pairs."""
        corpus, adapting = self.training.corpus, self.training.adapting
        rows = self.draw(rng)
        partners = self._pairs.partners(rows, rng)
        items = self._log.item[rows]
        ignored = np.stack([self._pairs.together(row, items) for row in partners.tolist()])
        np.fill_diagonal(ignored, False)
        # An item that is there twice is no negative of its own partner.
        ignored |= (items[:, None] == items) & ~np.eye(len(items), dtype=bool)
        both = torch.from_numpy(corpus.positions(np.r_[self._log.item[partners], items]))
        anchors, others = adapting.vectors(both).chunk(2)
        where = torch.from_numpy(ignored).to(anchors.device)
        return in_batch_loss(anchors, others, self.training.section.temperature, where)

    def draw(self, rng: np.random.Generator) -> Ints:
        """Return the interactions of a batch: a part from one scene, the others from all."""
        paired, scene = self._pairs.paired, self._log.scene
        size = min(self.training.section.batch_size, len(paired))
        own = paired[scene[paired] == scene[rng.choice(paired)]]
        alike = rng.choice(own, min(round(self._same_scene * size), len(own)), replace=False)
        others = rng.choice(paired, size, replace=False)
        drawn: Ints = np.r_[alike, others[~np.isin(others, alike)][: size - len(alike)]]
        return drawn
