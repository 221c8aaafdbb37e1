"""The results of a search's trials at its rungs, which the rules decide by."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence


class RungHistory:
    """The recall of every trial at every rung; a later result of a trial at a rung replaces the earlier one.

    Args:
        steps: Increasing steps at the rungs.
    """

    def __init__(self, steps: Sequence[int]) -> None:
        self.steps = tuple(steps)
        self._recalls: list[dict[int, float]] = [{} for _ in steps]
        self._seconds: list[dict[int, float]] = [{} for _ in steps]
        # (-recall, trial) of the finite ones, ascending: the best first, equal recalls by trial number, so that the
        # order in which results arrive plays no part.
        self._order: list[list[tuple[float, int]]] = [[] for _ in steps]
        self._last: dict[int, int] = {}

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
        order = self._order[rung]
        before = self._recalls[rung].get(trial, math.nan)
        if math.isfinite(before):
            del order[bisect.bisect_left(order, (-before, trial))]
        if math.isfinite(recall):
            bisect.insort(order, (-recall, trial))
        self._recalls[rung][trial] = recall
        self._seconds[rung][trial] = self.steps[rung] if seconds is None else seconds
        self._last[trial] = max(rung, self._last.get(trial, 0))

    def has(self, trial: int, rung: int) -> bool:
        """Tell whether the trial has a result at the rung."""
        return trial in self._recalls[rung]

    def recall(self, trial: int, rung: int) -> float:
        """Return the trial's recall at a rung that it has reached."""
        return self._recalls[rung][trial]

    def reached(self, rung: int) -> int:
        """Return how many trials have a finite recall at the rung."""
        return len(self._order[rung])

    def rank(self, trial: int, rung: int) -> int:
        """Return the trial's rank among all that reached the rung; 1 is best."""
        return bisect.bisect_left(self._order[rung], (-self._recalls[rung][trial], trial)) + 1

    def top(self, rung: int, count: int) -> list[int]:
        """Return the best `count` trials at the rung, best first."""
        return [trial for _, trial in self._order[rung][:count]]

    def last_rung(self, trial: int) -> int | None:
        """Return the highest rung that the trial has reached; None where it has reached none."""
        return self._last.get(trial)

    def finite(self, rung: int) -> list[float]:
        """Return the finite recalls at the rung, the highest first."""
        return [-recall for recall, _ in self._order[rung]]

    def pairs(self, rung: int) -> list[tuple[float, float]]:
        """Return the recalls at the rung and at the next one of the trials that have both, the best there first."""
        before = self._recalls[rung]
        found = ((before.get(trial, math.nan), -recall) for recall, trial in self._order[rung + 1])
        return [pair for pair in found if math.isfinite(pair[0])]

    def begun(self) -> int:
        """Return how many trials have reached the first rung, those that diverged there too."""
        return len(self._recalls[0])

    def cost_growth(self, rung: int) -> float:
        """Return what trials cost from the rung to the next one, over what they cost from the rung before to this one.

        Of the trials that have gone on; where none has, in proportion to the steps.
        """
        before, here, after = (
            ({} if rung == 0 else self._seconds[rung - 1]),
            self._seconds[rung],
            self._seconds[rung + 1],
        )
        both = [trial for trial in after if trial in here]
        spent = sum(here[trial] - before.get(trial, 0.0) for trial in both)
        if spent <= 0:
            steps = (0, *self.steps)
            return (steps[rung + 2] - steps[rung + 1]) / (steps[rung + 1] - steps[rung])
        return sum(after[trial] - here[trial] for trial in both) / spent
