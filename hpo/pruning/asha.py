"""ASHA, a rule by rank: the best one in eta of a rung continues.

Asynchronous successive halving (Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020,
algorithm 2): a trial that is not among the best 1/eta of its rung is pruned and keeps its checkpoint; it is promoted,
and resumes from there, once it is among them.
"""

from __future__ import annotations

import math
from collections.abc import Collection

from hpo.pruning.rules import Promotion, Verdict
from hpo.pruning.rung_history import RungHistory


class Asha:
    """Continues the best 1/eta, rounded up, of all trials that have reached a rung so far.

    Args:
        eta: One trial in `eta` continues.

    Raises:
        ValueError: `eta` is below 2.
    """

    def __init__(self, eta: int) -> None:
        if eta < 2:
            raise ValueError(f"eta must be at least 2, got {eta}: one trial in eta is promoted from each rung")
        self._eta = eta

    def judge(self, history: RungHistory, trial: int, rung: int, metric: str) -> Verdict:
        """Judge by rank; see `Rule`."""
        reason = f"{_standing(history, trial, rung, metric)}; {self._promoted(history, rung)}"
        return Verdict(history.rank(trial, rung) <= self.quota(history.reached(rung)), reason)

    def promotion(self, history: RungHistory, pruned: Collection[int], metric: str) -> Promotion | None:
        """Return the pruned trial that is among the best of its rung by now; see `Rule`.

        The highest rung comes first: the trial that is nearest to its end.
        """
        for rung in reversed(range(history.rungs - 1)):
            for trial in history.top(rung, self.quota(history.reached(rung))):
                if trial in pruned and history.last_rung(trial) == rung:
                    standing = _standing(history, trial, rung, metric, now=True)
                    return Promotion(trial, rung, f"promoted: {standing}; {self._promoted(history, rung)}")
        return None

    def quota(self, reached: int) -> int:
        """Return how many of the trials that reached a rung continue."""
        return math.ceil(reached / self._eta)

    def _promoted(self, history: RungHistory, rung: int) -> str:
        count = self.quota(history.reached(rung))
        return "the top 1 is promoted" if count == 1 else f"the top {count} are promoted"


def _standing(history: RungHistory, trial: int, rung: int, metric: str, *, now: bool = False) -> str:
    rank = f"{'now ' if now else ''}ranks {history.rank(trial, rung)} of {history.reached(rung)}"
    return f"{metric} {history.recall(trial, rung):.4f} {rank} at rung {rung + 1} of {history.rungs}"
