"""ASHA promotion rules: which trials are pruned at a rung, and which pruned trials are promoted later.

Asynchronous successive halving (Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020,
algorithm 2): a trial that is not among the best 1/eta of its rung is pruned and keeps its checkpoint; it is promoted,
and resumes from there, once it is among them. These are pure functions over the rungs' results, without Optuna and
the database; `hpo.search.pruner` and `hpo.search.loop` apply them.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Decision:
    """Whether to prune a trial at a rung.

    Attributes:
        prune: Whether to prune it.
        reason: Why, in words for the user.
        below_quota: Whether its rank is too low for promotion: false for a trial that diverged, true for one of the
            no-prune control group that its rank alone would have pruned.
    """

    prune: bool
    reason: str
    below_quota: bool = False


@dataclass(frozen=True)
class Promotion:
    """A pruned trial to resume from its checkpoint.

    Attributes:
        trial: Its number.
        rung: The last rung that it has reached.
        reason: Why, in words for the user.
    """

    trial: int
    rung: int
    reason: str


class RungHistory:
    """The recall of every trial at every rung; a later result of a trial at a rung replaces the earlier one.

    Args:
        rungs: Number of rungs.
    """

    def __init__(self, rungs: int) -> None:
        self.rungs = rungs
        self._recalls: list[dict[int, float]] = [{} for _ in range(rungs)]
        # (-recall, trial) of the finite ones, ascending: the best first, equal recalls by trial number, so that the
        # order in which results arrive plays no part.
        self._order: list[list[tuple[float, int]]] = [[] for _ in range(rungs)]
        self._last: dict[int, int] = {}

    def add(self, trial: int, rung: int, recall: float) -> None:
        """Add a result, or replace the trial's earlier one at the rung. A recall that is not finite gets no rank."""
        order = self._order[rung]
        before = self._recalls[rung].get(trial, math.nan)
        if math.isfinite(before):
            del order[bisect.bisect_left(order, (-before, trial))]
        if math.isfinite(recall):
            bisect.insort(order, (-recall, trial))
        self._recalls[rung][trial] = recall
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


def quota(reached: int, eta: int) -> int:
    """Return how many of the trials that reached a rung are promoted."""
    return math.ceil(reached / eta)


def decide(
    history: RungHistory, trial: int, rung: int, *, eta: int, control: bool = False, metric: str = "recall"
) -> Decision:
    """Decide whether to prune a trial whose result at a rung has just been added to the history.

    It is promoted if it is among the best 1/eta, rounded up, of all trials that have reached the rung so far.

    Args:
        history: Results of the study.
        trial: Number of the trial.
        rung: The rung, from 0; nothing is pruned at the last one.
        eta: One trial in `eta` is promoted.
        control: Whether the trial belongs to the no-prune control group, which shows what pruning loses.
        metric: Name of the metric, for the reason.
    """
    value, place = history.recall(trial, rung), f"rung {rung + 1} of {history.rungs}"
    if not math.isfinite(value):
        return Decision(True, f"{metric} is {value} at {place}: training diverged")
    if rung == history.rungs - 1:
        return Decision(False, "finished")
    reason = f"{_standing(history, trial, rung, metric)}; {_promoted(history, rung, eta)}"
    if history.rank(trial, rung) <= quota(history.reached(rung), eta):
        return Decision(False, reason)
    if control:
        return Decision(False, f"{reason}; kept in the no-prune control group", below_quota=True)
    return Decision(True, reason, below_quota=True)


def promotion(history: RungHistory, pruned: Collection[int], *, eta: int, metric: str = "recall") -> Promotion | None:
    """Return the pruned trial to promote, if one is among the best 1/eta of its rung by now.

    The highest rung comes first: the trial that is nearest to its end.

    Args:
        history: Results of the study.
        pruned: Trials that were pruned for their rank, have their checkpoint, and have not been resumed.
        eta: One trial in `eta` is promoted.
        metric: Name of the metric, for the reason.
    """
    for rung in reversed(range(history.rungs - 1)):
        for trial in history.top(rung, quota(history.reached(rung), eta)):
            if trial in pruned and history.last_rung(trial) == rung:
                standing = _standing(history, trial, rung, metric, now=True)
                return Promotion(trial, rung, f"promoted: {standing}; {_promoted(history, rung, eta)}")
    return None


def completion(history: RungHistory, pruned: Collection[int], *, finished: int, wanted: int) -> Promotion | None:
    """Return the pruned trial to finish in spite of its rank, so that `wanted` trials finish; None if enough do.

    A small search would otherwise end with fewer finished trials than teachers.

    Args:
        history: Results of the study.
        pruned: As for `promotion`.
        finished: Number of trials that have finished or are running.
        wanted: Number of trials that should finish.
    """
    if finished >= wanted:
        return None
    for rung in reversed(range(history.rungs - 1)):
        for trial in history.top(rung, history.reached(rung)):
            if trial in pruned and history.last_rung(trial) == rung:
                reason = f"promoted: the best unfinished trial; {wanted} finished trials are wanted"
                return Promotion(trial, rung, reason)
    return None


def _standing(history: RungHistory, trial: int, rung: int, metric: str, *, now: bool = False) -> str:
    rank = f"{'now ' if now else ''}ranks {history.rank(trial, rung)} of {history.reached(rung)}"
    return f"{metric} {history.recall(trial, rung):.4f} {rank} at rung {rung + 1} of {history.rungs}"


def _promoted(history: RungHistory, rung: int, eta: int) -> str:
    count = quota(history.reached(rung), eta)
    return "the top 1 is promoted" if count == 1 else f"the top {count} are promoted"
