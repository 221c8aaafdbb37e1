"""Pruning by cost instead of rank: a stopped configuration goes on while its seconds promise more than a new one's.

The promise of a configuration is its expected improvement at the last rung, over the best finished one, for each second
that is left until there at its own pace. What to expect is a chain of regressions from each rung to the next one,
fitted to the configurations that went on; a prior stands for those that have not yet: no gain, and half of the spread
between configurations as uncertainty.

The price of a second is what a new configuration would promise, if it were like one of those so far: each is paid for
to the first rung, and those that are worth it to the last one. The best choice of these has the highest improvement
over its seconds. Neither promise nor price has a quota to tune.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import optuna

from replay.clock import Run
from replay.curves import Curves, Floats
from replay.freeze_thaw import expected_improvement
from replay.proposals import Proposals

Ints = npt.NDArray[np.int64]

# Configurations that are measured before the first one goes on.
FIRST = 4
# What the prior weighs, in configurations.
PRIOR = 2.0


class ByGain:
    """A search that spends each second where it promises most.

    Args:
        name: what to call it.
        curves: the configurations.
        sampler: "random" or "tpe".
        seed: of the proposals.
        rungs: gives the positions of the rungs that are evaluated; all by default.
        by_cost: whether configurations differ in their seconds; else all are held to cost the mean of those so far.
    """

    def __init__(
        self,
        name: str,
        curves: Curves,
        sampler: str,
        seed: int,
        *,
        rungs: Callable[[Curves], Sequence[int]] | None = None,
        by_cost: bool = True,
    ) -> None:
        self.name, self.rungs = name, tuple(rungs(curves) if rungs else range(len(curves.updates)))
        self._curves, self._by_cost = curves, by_cost
        self._proposals = Proposals(curves, sampler, seed, optuna.pruners.NopPruner())
        # Which of self.rungs each configuration has reached, in order of their first result.
        self._reached: dict[int, int] = {}
        self._paused: set[int] = set()

    def next(self) -> Run | None:
        """The stopped configuration of the highest promise if that is its price, else a new one, while there is any."""
        best, worth = self._best()
        if worth or not (new := self._proposals.ask()):
            return None if best is None else self._resume(best)
        return new

    def _resume(self, row: int) -> Run:
        self._paused.remove(row)
        self._proposals.take_up(row, self._reached[row], "promoted")
        return Run(row, self.rungs[self._reached[row]])

    def report(self, run: Run) -> bool:
        """Notes the result; a run goes on at once if it is what a free worker would take up."""
        rung, value = self.rungs.index(run.rung), float(self._curves.means[run.row, run.rung])
        self._proposals.trials[run.row].report(value, self._curves.updates[run.rung])
        self._reached[run.row] = rung
        if math.isfinite(value):
            if rung == len(self.rungs) - 1:
                return True
            self._paused.add(run.row)
            if self._best() == (run.row, True):
                self._paused.remove(run.row)
                return True
        self._proposals.stop(run.row)
        return False

    def finish(self, run: Run) -> None:
        """Tells the sampler."""
        self._proposals.finish(run.row)

    def _best(self) -> tuple[int | None, bool]:
        """The stopped configuration of the highest promise, and whether that is as high as the price."""
        if not self._paused:
            return None, False
        begun = np.array(list(self._reached))
        rungs = np.array([self._reached[row] for row in begun])
        known = np.array([self._curves.means[row, self.rungs[: rung + 1]][-1] for row, rung in self._reached.items()])
        ended = known[(rungs == len(self.rungs) - 1) & np.isfinite(known)]
        incumbent = float(ended.max() if len(ended) else np.nanmin(known))

        def promises(rows: Ints, rungs: Ints) -> tuple[Floats, Floats]:
            return expected_improvement(*self._ends(rows, rungs), incumbent), self._seconds(rows, rungs)

        paused = np.array(sorted(self._paused))
        gain, seconds = promises(paused, np.array([self._reached[row] for row in paused]))
        best = int((gain / seconds).argmax())
        if len(begun) < FIRST:
            return int(paused[best]), False
        fine = begun[np.isfinite(self._curves.means[begun, self.rungs[0]])]
        again, to_the_end = promises(fine, np.zeros(len(fine), int))
        to_the_first = self._curves.training[begun, self.rungs[0]] + self._curves.evaluation[begun, self.rungs[0]]
        order = np.argsort(-again / to_the_end)
        price = (again[order].cumsum() / (to_the_first.sum() + to_the_end[order].cumsum())).max()
        return int(paused[best]), bool(gain[best] / seconds[best] >= price)

    def _seconds(self, rows: Ints, rungs: Ints) -> Floats:
        """From these rungs to the last one, at the pace and the evaluations of each configuration so far."""
        curves, at, updates = self._curves, np.array(self.rungs)[rungs], np.array(self._curves.updates)
        pace = curves.training[rows, at] / updates[at]
        left = pace * (updates[-1] - updates[at]) + curves.evaluation[rows, at] * (len(self.rungs) - 1 - rungs)
        return (left if self._by_cost else np.full(len(left), left.mean())).clip(1e-9)

    def _ends(self, rows: Ints, rungs: Ints) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the recall at the last rung, as seen from these rungs."""
        means, at = self._curves.means, self.rungs
        mean, variance = means[rows, np.array(at)[rungs]], np.zeros(len(rows))
        begun = np.array(list(self._reached))
        spread = max(float(np.nanvar(means[begun, at[0]])), 1e-9)
        for rung in range(len(at) - 1):
            there = np.array([row for row, last in self._reached.items() if last > rung], int)
            before, after = means[there, at[rung]], means[there, at[rung + 1]]
            fine = np.isfinite(after)
            step, centred = (after - before)[fine], before[fine]
            centre = centred.mean() if len(step) else 0.0
            centred = centred - centre
            shift = step.sum() / (len(step) + PRIOR)
            weight = (centred**2).sum() + spread
            slope = (centred * (step - shift)).sum() / weight
            error = ((step - shift - slope * centred) ** 2).sum() + PRIOR * spread / 4
            error /= len(step) + PRIOR
            before = rungs <= rung
            away = (mean - centre) * bool(len(step))
            moved = variance * (1 + slope) ** 2 + error * (1 + away**2 / weight)
            variance = np.where(before, moved, variance)
            mean = np.where(before, mean + shift + slope * away, mean)
        return mean, np.sqrt(variance).clip(1e-9)
