"""Who goes on from a rung, who waits there, and who is taken up again: pure functions over what the rungs measured.

Asynchronous successive halving (Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020,
algorithm 2) with promotion: a trial that is not among the best 1/eta of its rung stops, keeps its checkpoint, and is
taken up again once it is. Nothing here knows Optuna or the database; `hpo.search.pruner` and `hpo.search.loop` do.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Decision:
    """Whether to stop a trial at a rung, and why, in words.

    Attributes:
        prune: it stops here.
        reason: for people.
        below_quota: its rank alone would have stopped it: false for one that diverged, true for one that is kept to
            measure false prunes.
    """

    prune: bool
    reason: str
    below_quota: bool = False


@dataclass(frozen=True)
class Promotion:
    """A stopped trial to take up again from its checkpoint at a rung, and why, in words."""

    trial: int
    rung: int
    reason: str


class RungHistory:
    """What every trial measured at every rung; the latest result of a trial at a rung is the one that counts.

    Args:
        rungs: how many there are.
    """

    def __init__(self, rungs: int) -> None:
        self.rungs = rungs
        self._recalls: list[dict[int, float]] = [{} for _ in range(rungs)]
        # (-recall, trial) of the finite ones, ascending: the best first, equal recalls by trial number, so that the
        # order in which results arrive plays no part.
        self._order: list[list[tuple[float, int]]] = [[] for _ in range(rungs)]
        self._last: dict[int, int] = {}

    def add(self, trial: int, rung: int, recall: float) -> None:
        """Adds a result, or replaces the trial's earlier one at the rung. A recall that is not finite ranks nowhere."""
        order = self._order[rung]
        before = self._recalls[rung].get(trial, math.nan)
        if math.isfinite(before):
            del order[bisect.bisect_left(order, (-before, trial))]
        if math.isfinite(recall):
            bisect.insort(order, (-recall, trial))
        self._recalls[rung][trial] = recall
        self._last[trial] = max(rung, self._last.get(trial, 0))

    def has(self, trial: int, rung: int) -> bool:
        """Whether the trial has a result at the rung."""
        return trial in self._recalls[rung]

    def recall(self, trial: int, rung: int) -> float:
        """The trial's recall at a rung that it has reached."""
        return self._recalls[rung][trial]

    def reached(self, rung: int) -> int:
        """How many trials have a finite recall at the rung."""
        return len(self._order[rung])

    def rank(self, trial: int, rung: int) -> int:
        """The trial's rank among all that reached the rung, 1 is best."""
        return bisect.bisect_left(self._order[rung], (-self._recalls[rung][trial], trial)) + 1

    def top(self, rung: int, count: int) -> list[int]:
        """The best `count` trials at the rung, best first."""
        return [trial for _, trial in self._order[rung][:count]]

    def last_rung(self, trial: int) -> int | None:
        """The highest rung that the trial has reached; None where it has reached none."""
        return self._last.get(trial)


def quota(reached: int, eta: int) -> int:
    """How many of the trials that reached a rung go on."""
    return math.ceil(reached / eta)


def decide(
    history: RungHistory, trial: int, rung: int, *, eta: int, control: bool = False, metric: str = "recall"
) -> Decision:
    """Decides on a trial whose result at a rung has just been added to the history.

    It goes on if it is among the best 1/eta, rounded up, of all that have reached the rung so far.

    Args:
        history: of the study.
        trial: the one to decide on.
        rung: where it is, from 0; at the last one nothing is left to save.
        eta: one in `eta` goes on.
        control: the trial belongs to the bracket that is never stopped for its rank, which shows what pruning loses.
        metric: what to call the figure.
    """
    value, place = history.recall(trial, rung), f"rung {rung + 1} of {history.rungs}"
    if not math.isfinite(value):
        return Decision(True, f"{metric} is {value} at {place}: training diverged")
    if rung == history.rungs - 1:
        return Decision(False, "finished")
    standing, going = _standing(history, trial, rung, eta, metric)
    if history.rank(trial, rung) <= quota(history.reached(rung), eta):
        return Decision(False, f"{standing}; {going}")
    if control:
        return Decision(False, f"{standing}; only {going}, but it is kept to measure false prunes", below_quota=True)
    return Decision(True, f"{standing}; only {going}", below_quota=True)


def promotion(history: RungHistory, paused: Collection[int], *, eta: int, metric: str = "recall") -> Promotion | None:
    """The stopped trial to take up again, if one is among the best 1/eta of its rung by now.

    The highest rung comes first: what is nearest to its end.

    Args:
        history: of the study.
        paused: trials that were stopped for their rank, have their checkpoint, and have not been taken up again.
        eta: one in `eta` goes on.
        metric: what to call the figure.
    """
    for rung in reversed(range(history.rungs - 1)):
        for trial in history.top(rung, quota(history.reached(rung), eta)):
            if trial in paused and history.last_rung(trial) == rung:
                standing, going = _standing(history, trial, rung, eta, metric)
                return Promotion(trial, rung, f"taken up again: {standing} now; {going}")
    return None


def completion(history: RungHistory, paused: Collection[int], *, finished: int, wanted: int) -> Promotion | None:
    """The stopped trial to finish although its rank does not ask for it, so that there are `wanted` finished ones.

    A small search would otherwise end with fewer finished trials than teachers.

    Args:
        history: of the study.
        paused: as for `promotion`.
        finished: trials that have finished or are running.
        wanted: how many shall.
    """
    if finished >= wanted:
        return None
    for rung in reversed(range(history.rungs - 1)):
        for trial in history.top(rung, history.reached(rung)):
            if trial in paused and history.last_rung(trial) == rung:
                words = f"taken up again: the best that has not finished, and {wanted} finished trials are wanted"
                return Promotion(trial, rung, words)
    return None


def _standing(history: RungHistory, trial: int, rung: int, eta: int, metric: str) -> tuple[str, str]:
    reached, rank = history.reached(rung), history.rank(trial, rung)
    going = quota(reached, eta)
    where = f"ranks {rank} of {reached} at rung {rung + 1} of {history.rungs}"
    words = "the top one goes on" if going == 1 else f"the top {going} go on"
    return f"{metric} {history.recall(trial, rung):.4f} {where}", words
