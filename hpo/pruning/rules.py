"""What every rule of the pruner has in common; the rules are in `asha` and `improvement`.

Pure functions over the rungs' results, without Optuna and the database; `hpo.search.pruner` and `hpo.search.loop`
apply them.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from hpo.pruning.rung_history import RungHistory


@dataclass(frozen=True)
class Decision:
    """Whether to prune a trial at a rung.

    Attributes:
        prune: Whether to prune it.
        reason: Why, in words for the user.
        by_rule: Whether the rule says to prune it: false for a trial that diverged, true for one of the no-prune
            control group that the rule alone would have pruned.
    """

    prune: bool
    reason: str
    by_rule: bool = False


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


class Verdict(NamedTuple):
    """What a rule says of a trial at a rung: whether it continues, and why."""

    continues: bool
    reason: str


class Rule(Protocol):
    """Which trials continue from a rung."""

    def judge(self, history: RungHistory, trial: int, rung: int, metric: str) -> Verdict:
        """Judge a trial whose recall at a rung before the last one is finite and in the history."""

    def promotion(self, history: RungHistory, pruned: Collection[int], metric: str) -> Promotion | None:
        """Return the pruned trial to promote before a new trial begins; None where there is none.

        Args:
            history: Results of the study.
            pruned: Trials that were pruned, have their checkpoint, and have not been resumed.
            metric: Name of the metric, for the reason.
        """


def decide(
    rule: Rule, history: RungHistory, trial: int, rung: int, *, control: bool = False, metric: str = "recall"
) -> Decision:
    """Decide whether to prune a trial whose result at a rung has just been added to the history.

    Args:
        rule: Which trials continue.
        history: Results of the study.
        trial: Number of the trial.
        rung: The rung, from 0; nothing is pruned at the last one.
        control: Whether the trial belongs to the no-prune control group, which shows what pruning loses.
        metric: Name of the metric, for the reason.
    """
    value, place = history.recall(trial, rung), f"rung {rung + 1} of {history.rungs}"
    if not math.isfinite(value):
        return Decision(True, f"{metric} is {value} at {place}: training diverged")
    if rung == history.rungs - 1:
        return Decision(False, "finished")
    continues, reason = rule.judge(history, trial, rung, metric)
    if continues:
        return Decision(False, reason)
    if control:
        return Decision(False, f"{reason}; kept in the no-prune control group", by_rule=True)
    return Decision(True, reason, by_rule=True)


def completion(history: RungHistory, pruned: Collection[int], *, finished: int, wanted: int) -> Promotion | None:
    """Return the pruned trial to finish although the rule stopped it, so that `wanted` finish; None if enough do.

    A small search would otherwise end with fewer finished trials than teachers.

    Args:
        history: Results of the study.
        pruned: As for `Rule.promotion`.
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
