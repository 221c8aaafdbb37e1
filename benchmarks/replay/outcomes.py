"""What a replayed search reached, and at what cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from replay.clock import Trace
from replay.curves import Curves

SHARES = (0.25, 0.5, 1.0)
TRIALS = 40


@dataclass(frozen=True)
class Outcome:
    """What one search reached.

    Attributes:
        reach: cost at which it was as good as no pruning, over the cost of that; infinite if never.
        regret: of validation recall after each of `SHARES` of the cost: below the best of the table.
        test: recall on the test scenes of what it chose.
        started, finished: configurations.
        lost: of the table's top 5 % that it began, the share that it stopped for good; NaN if it began none.
    """

    reach: float
    regret: tuple[float, ...]
    test: float
    started: int
    finished: int
    lost: float


def budget_of(curves: Curves) -> float:
    """Seconds to train as many average configurations as `trials_of` says and evaluate each at its end."""
    whole = curves.training[:, -1] + curves.evaluation[:, -1]
    return float(whole.mean() * trials_of(curves))


def trials_of(curves: Curves) -> int:
    """How many configurations a search without pruning affords on average."""
    return min(TRIALS, len(curves.test) // 5)


def outcome(curves: Curves, trace: Trace, wanted: float, budget: float) -> Outcome:
    """What a search reached, by its trace."""
    final, best = curves.final, curves.final.max()
    reach = next((each.cost / budget for each in trace.finished if final[each.row] >= wanted), math.inf)
    regret = tuple(
        best - max((final[each.row] for each in trace.finished if each.cost <= share * budget), default=0.0)
        for share in SHARES
    )
    done = [each.row for each in trace.finished]
    chosen = max(done, key=lambda row: final[row], default=None)
    top = set(np.argsort(-final)[: max(1, len(final) // 20)]) & set(trace.started)
    lost = len(top - set(done) - trace.running) / len(top) if top else math.nan
    test = 0.0 if chosen is None else float(curves.test[chosen])
    return Outcome(reach, regret, test, len(trace.started), len(done), lost)


def median(values: Sequence[float]) -> tuple[float, float, float]:
    """The median with its 95 % bootstrap interval; infinite values sort last."""
    array = np.array(values)
    drawn = np.sort(array[np.random.default_rng(0).integers(0, len(array), (2000, len(array)))], axis=1)
    medians = np.sort(drawn[:, len(array) // 2])
    return float(np.sort(array)[len(array) // 2]), float(medians[50]), float(medians[1949])
