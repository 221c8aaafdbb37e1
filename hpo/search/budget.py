"""The budget of a search: trials, cost, a target recall, or no progress; the search ends at the first that is spent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from hpo.search.trial_chains import chains, cost, resumes, spends_budget


@dataclass(frozen=True)
class Budget:
    """The limits of a search.

    Attributes:
        trials: Number of trials, a chain of them counted once.
        cost_seconds: Of training and evaluation of all trials together; no limit if left out.
        target: Recall at the last rung that is good enough; none if left out.
        patience: Trials begun after the best one that may end without improving on it; no limit if left out.
    """

    trials: int
    cost_seconds: float | None = None
    target: float | None = None
    patience: int | None = None

    @property
    def may_be_exhausted(self) -> bool:
        """Whether there is any limit besides the number of trials."""
        return any(limit is not None for limit in (self.cost_seconds, self.target, self.patience))

    def spent(self, trials: Sequence[FrozenTrial]) -> str | None:
        """Return why no new trial may start; None where one may.

        A waiting continuation or extension may start in any case: it spends cost, but is not a new trial.
        """
        if (reason := self.exhausted(trials)) is not None:
            return reason
        if not any(map(resumes, trials)) and sum(map(spends_budget, chains(trials).values())) >= self.trials:
            return f"{self.trials} trials"
        return None

    def exhausted(self, trials: Sequence[FrozenTrial]) -> str | None:
        """Return why no trial may run on, not even one that would be promoted; None where one may."""
        if self.cost_seconds is not None and sum(map(cost, chains(trials).values())) >= self.cost_seconds:
            return f"{self.cost_seconds / 60:g} minutes of cost"
        if self.target is None and self.patience is None:
            return None  # a study of several objectives has no best trial
        if (best := _best(trials)) is None:
            return None
        if self.target is not None and best.value is not None and best.value >= self.target:
            return f"recall {best.value:.4f} reaches the target of {self.target:g}"
        if self.patience is not None and _ended_after(best, trials) >= self.patience:
            return f"{self.patience} trials without progress"
        return None

    def without_progress(self, trials: Sequence[FrozenTrial]) -> int:
        """Return how many trials have ended since the best one began; 0 without `patience` or a finished trial."""
        best = None if self.patience is None else _best(trials)
        return 0 if best is None else _ended_after(best, trials)


def _best(trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    finished = [trial for trial in trials if trial.state == TrialState.COMPLETE and trial.value is not None]
    return max(finished, key=lambda trial: (trial.value or 0.0, -trial.number), default=None)


def _ended_after(best: FrozenTrial, trials: Sequence[FrozenTrial]) -> int:
    """Return how many trials that began after the best one have ended; by number, since workers' clocks differ.

    A trial and its continuations count once, and not while one of them waits or runs.
    """
    found = chains(trials).items()
    return sum(first > best.number and chain[-1].state.is_finished() for first, chain in found)
