"""The results of a search's trials at its rungs, which the rules decide by."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

# A trial's last rung where it has reached none.
NOWHERE = -1


class RungHistory:
    """The recall of every trial at every rung; a later result of a trial at a rung replaces the earlier one.

    Arrays have a row for each rung and a column for each trial by number, so that thousands of trials are read at once.

    Args:
        steps: Increasing steps at the rungs.
    """

    def __init__(self, steps: Sequence[int]) -> None:
        self.steps = tuple(steps)
        self._has = np.zeros((self.rungs, 0), bool)
        self._recalls = np.zeros((self.rungs, 0))
        self._seconds = np.zeros((self.rungs, 0))
        self._last = np.zeros(0, np.int64)
        # (-recall, trial) of the finite ones, ascending: the best first, equal recalls by trial number, so that the
        # order in which results arrive plays no part.
        self._order: list[list[tuple[float, int]]] = [[] for _ in steps]

    @property
    def rungs(self) -> int:
        """Number of rungs."""
        return len(self.steps)

    def add(self, trial: int, rung: int, recall: float, seconds: float | None = None) -> None:
        """Add a result, or replace the trial's earlier one at the rung. A recall that is not finite gets no rank.

        Args:
            trial: Number of the trial.
            rung: The rung, from 0.
            recall: Its recall there.
            seconds: Its cost so far, of training and evaluation. Without it, the rung's step stands for it.
        """
        self._make_room(trial)
        order = self._order[rung]
        if self._has[rung, trial] and math.isfinite(before := float(self._recalls[rung, trial])):
            del order[bisect.bisect_left(order, (-before, trial))]
        if math.isfinite(recall):
            bisect.insort(order, (-recall, trial))
        self._has[rung, trial], self._recalls[rung, trial] = True, recall
        self._seconds[rung, trial] = self.steps[rung] if seconds is None else seconds
        self._last[trial] = max(rung, self._last[trial])

    def _make_room(self, trial: int) -> None:
        if (missing := trial + 1 - len(self._last)) > 0:
            more = max(missing, len(self._last))  # twice as many, so that growing costs little
            wide = ((0, 0), (0, more))
            self._has, self._recalls = np.pad(self._has, wide), np.pad(self._recalls, wide)
            self._seconds = np.pad(self._seconds, wide)
            self._last = np.pad(self._last, (0, more), constant_values=NOWHERE)

    def has(self, trial: int, rung: int) -> bool:
        """Tell whether the trial has a result at the rung."""
        return trial < len(self._last) and bool(self._has[rung, trial])

    def recall(self, trial: int, rung: int) -> float:
        """Return the trial's recall at a rung that it has reached."""
        return float(self._recalls[rung, trial])

    def reached(self, rung: int) -> int:
        """Return how many trials have a finite recall at the rung."""
        return len(self._order[rung])

    def begun(self) -> int:
        """Return how many trials have reached the first rung, those that diverged there too."""
        return int(self._has[0].sum())

    def rank(self, trial: int, rung: int) -> int:
        """Return the trial's rank among all that reached the rung; 1 is best."""
        return bisect.bisect_left(self._order[rung], (-self.recall(trial, rung), trial)) + 1

    def top(self, rung: int, count: int) -> list[int]:
        """Return the best `count` trials at the rung, best first."""
        return [trial for _, trial in self._order[rung][:count]]

    def last_rung(self, trial: int) -> int | None:
        """Return the highest rung that the trial has reached; None where it has reached none."""
        return None if trial >= len(self._last) or self._last[trial] == NOWHERE else int(self._last[trial])

    def waiting(self, rung: int) -> list[int]:
        """Return the trials that have come to this rung and no farther, those that diverged left out, best first."""
        here = np.flatnonzero((self._last == rung) & np.isfinite(self._recalls[rung]))
        best_first: list[int] = here[np.argsort(-self._recalls[rung, here], kind="stable")].tolist()
        return best_first

    def finite(self, rung: int) -> Floats:
        """Return the finite recalls at the rung, by trial number."""
        recalls: Floats = self._recalls[rung][self._has[rung]]
        return recalls[np.isfinite(recalls)]

    def pairs(self, rung: int) -> tuple[Floats, Floats]:
        """Return the recalls at the rung and at the next one of the trials that have both, by trial number."""
        both = self._has[rung] & self._has[rung + 1]
        before, after = self._recalls[rung, both], self._recalls[rung + 1, both]
        fine = np.isfinite(before) & np.isfinite(after)
        return before[fine], after[fine]

    def cost_growth(self, rung: int) -> float:
        """Return what trials cost from the rung to the next one, over what they cost from the rung before to this one.

        Of the trials that have gone on; where none has, in proportion to the steps.
        """
        both = self._has[rung] & self._has[rung + 1]
        here, after = self._seconds[rung, both], self._seconds[rung + 1, both]
        before = self._seconds[rung - 1, both] if rung else np.zeros(len(here))
        if (spent := float((here - before).sum())) <= 0:
            steps = (0, *self.steps)
            return (steps[rung + 2] - steps[rung + 1]) / (steps[rung + 1] - steps[rung])
        return float((after - here).sum()) / spent
