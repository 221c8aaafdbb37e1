"""A rule by probability of improvement: a trial continues while its chance is worth more than a new trial.

The *chance* of a trial is the probability that it ends above the best finished one, by `hpo.pruning.forecast`. It is
compared with a new trial's: what the trials so far would be worth if they began again, each paid for until the first
rung and those with the best chances until the end, as many as give the highest sum of chances for their seconds. That
is the index by which boxes are opened in Weitzman, "Optimal Search for the Best Alternative", Econometrica 1979, with
chances as rewards. So there is no quota to set: where rungs say little of the end, many trials continue, and where they
say much, few.

All trials are held to cost what they cost on average, and to have all of it before them: by their own seconds,
expensive winners are never paid for, and by what is left at a later rung, too many continue (docs/decisions.md).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

from hpo.pruning.forecast import Forecast
from hpo.pruning.rules import Promotion, Verdict
from hpo.pruning.rung_history import RungHistory

# Trials that have reached the first rung before any is judged.
FIRST = 4
# Optuna has no other state than "pruned" for a trial that waits.
_LATER = ", and this one may be promoted later"
# Costs after the first rung are at least so much of those before.
LEAST = 1e-9


class Improvement:
    """Continues a trial whose chance to end above the best finished one is worth its seconds.

    Args:
        resumes: Whether pruned trials can be promoted later. If so, the first trials wait for each other at the first
            rung, and the best of them continues; if not, they all continue.
    """

    def __init__(self, *, resumes: bool) -> None:
        self._resumes = resumes

    def judge(self, history: RungHistory, trial: int, rung: int, metric: str) -> Verdict:
        """Judge by chance; see `Rule`. A trial waits where the seconds of another unfinished one are worth more."""
        standing = _standing(history, trial, rung, metric)
        if history.reached(0) < FIRST:
            known = f"{history.reached(0)} of the {FIRST} trials that a forecast needs have reached the first rung"
            return Verdict(not self._resumes, f"{standing}; {known}{_LATER if self._resumes else ''}")
        chances = Chances(history)
        chance = chances.of(history.recall(trial, rung), rung)
        reason = f"{standing}; {_words(chance, chances)}"
        if chance < chances.needed or not self._resumes:
            return Verdict(chance >= chances.needed, reason)
        first = _likeliest(history, chances, lambda _: True)
        assert first is not None  # the trial itself waits
        if first.trial == trial:
            return Verdict(True, reason)
        return Verdict(False, f"{reason}; trial {first.trial} comes first{_LATER}")

    def promotion(self, history: RungHistory, pruned: Collection[int], metric: str) -> Promotion | None:
        """Return the pruned trial whose seconds are worth most, if they are worth a new trial's; see `Rule`."""
        if history.reached(0) < FIRST:
            return None
        chances = Chances(history)
        found = _likeliest(history, chances, lambda trial: trial in pruned)
        if found is None or found.chance < chances.needed:
            return None
        standing = _standing(history, found.trial, found.rung, metric)
        return Promotion(found.trial, found.rung, f"promoted: {standing}; {_words(found.chance, chances)}")


class _Waiting(NamedTuple):
    """A trial at its last rung, and its chance."""

    trial: int
    rung: int
    chance: float


def _likeliest(history: RungHistory, chances: Chances, waits: Callable[[int], bool]) -> _Waiting | None:
    """Return the waiting trial with the highest chance, which is the best one of its rung; None where none waits."""
    found: list[_Waiting] = []
    for rung in range(history.rungs - 1):
        trial = next(filter(waits, history.waiting(rung)), None)
        if trial is not None:
            found.append(_Waiting(trial, rung, chances.of(history.recall(trial, rung), rung)))
    return max(found, key=lambda each: (each.chance, each.rung), default=None)


class Chances:
    """What trials may hope for, by the results so far.

    Args:
        history: Results of the study; at the first rung there is a finite one.

    Attributes:
        best: What a trial is to end above: the best recall at the last rung, or while there is none the best forecast.
        needed: The chance from which a trial is worth as much as a new one.
    """

    def __init__(self, history: RungHistory) -> None:
        self._forecast = Forecast(history)
        begun, finished = history.finite(0), history.finite(history.rungs - 1)
        mean, deviation = self._forecast.ends(begun, 0)
        self.best = float(finished.max() if len(finished) else mean.max())
        chances = -np.sort(-ndtr((mean - self.best) / deviation))
        # In whole costs from the first rung to the end: diverged trials were paid for until the first rung too.
        trials = history.begun() / _rest(history) + np.arange(1, len(chances) + 1)
        self.needed = float((chances.cumsum() / trials).max())

    def of(self, recall: float, rung: int) -> float:
        """Return the chance of a trial with this recall at a rung to end above the best."""
        mean, deviation = self._forecast.ends(np.array([recall]), rung)
        return float(ndtr((mean - self.best) / deviation)[0])


def _rest(history: RungHistory) -> float:
    """Return what a trial costs from the first rung to the end, over what it costs until the first rung."""
    rest, growth = 0.0, 1.0
    for rung in range(history.rungs - 1):
        growth *= history.cost_growth(rung)
        rest += growth
    return max(rest, LEAST)


def _standing(history: RungHistory, trial: int, rung: int, metric: str) -> str:
    return f"{metric} {history.recall(trial, rung):.4f} at rung {rung + 1} of {history.rungs}"


def _words(chance: float, chances: Chances) -> str:
    return f"a chance of {chance:.1%} to end above {chances.best:.4f}, {chances.needed:.1%} is worth it"
