"""Stops trials whose validation recall is hopeless: successive halving at rungs, decided as results arrive.

The decision is a pure function; `RecallPruner` is a thin adapter that any Optuna script can use. It compares at rungs
only, never between them: at a rung the trial's own value stands against the others' values at that rung, not against
their best so far. Source: asynchronous successive halving (Li et al., "A System for Massively Parallel Hyperparameter
Tuning", MLSys 2020, algorithm 2), without its promotion queue.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial, TrialState


@dataclass(frozen=True)
class Decision:
    """Whether to stop a trial, and why, in words."""

    prune: bool
    reason: str


def decide(value: float, others: Sequence[float], *, rung: int, eta: int, exempt: bool = False) -> Decision:
    """Decides on a trial that has just reached a rung.

    The trial goes on if it is among the best 1/eta (rounded up) of all that have reached the rung so far. Fewer than
    eta + 1 results are too few to judge by: then everyone goes on.

    Args:
        value: the trial's recall at the rung.
        others: the other trials' recalls at the same rung, in any order.
        rung: number of the rung, for the words.
        eta: one in `eta` goes on.
        exempt: the trial belongs to the bracket that is never pruned on rank, which shows what pruning would lose.
    """
    if not math.isfinite(value):
        return Decision(True, f"recall is {value} at rung {rung}: training diverged")
    seen = [other for other in others if math.isfinite(other)]
    reached = len(seen) + 1
    rank = 1 + sum(other > value for other in seen)
    go_on = math.ceil(reached / eta)
    standing = f"recall {value:.4f} ranks {rank} of {reached} at rung {rung}"
    if reached <= eta:
        return Decision(False, f"{standing}; too few to judge")
    if rank <= go_on:
        return Decision(False, f"{standing}; the top {go_on} go on")
    if exempt:
        return Decision(False, f"{standing}; only the top {go_on} go on, but it is kept to measure false prunes")
    return Decision(True, f"{standing}; only the top {go_on} go on")


class RecallPruner(optuna.pruners.BasePruner):
    """Prunes at rungs by rank among the trials that have reached the same rung.

    Example:
        >>> import optuna
        >>> pruner = RecallPruner(rungs=[10, 30, 90])
        >>> study = optuna.create_study(direction="maximize", pruner=pruner)
        >>> def objective(trial):
        ...     x = trial.suggest_float("x", 0, 1)
        ...     for step in (10, 30, 90):
        ...         trial.report(x, step)
        ...         if trial.should_prune():
        ...             raise optuna.TrialPruned
        ...     return x
        >>> optuna.logging.set_verbosity(optuna.logging.ERROR)
        >>> study.optimize(objective, n_trials=12)

    Args:
        rungs: increasing steps at which trials are compared; at the last one nothing is pruned, as nothing is left
            to save.
        eta: one in `eta` trials goes on from each rung.
        keep: fraction of trials that are never pruned on rank.
        seed: chooses the kept ones, by trial number.

    Raises:
        ValueError: eta below 2, no rungs or rungs that do not increase, keep outside [0, 1].
    """

    def __init__(self, rungs: Sequence[int], eta: int = 3, keep: float = 0.0, seed: int = 0) -> None:
        if eta < 2:
            raise ValueError(f"eta must be at least 2, got {eta}")
        if not rungs or list(rungs) != sorted(set(rungs)):
            raise ValueError(f"rungs must be increasing steps, at least one, got {list(rungs)}")
        if not 0 <= keep <= 1:
            raise ValueError(f"keep must be between 0 and 1, got {keep}")
        self._rungs, self._eta, self._keep, self._seed = list(rungs), eta, keep, seed

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether to stop the trial now: Optuna's interface.

        Raises:
            ValueError: the study does not maximise one objective.
        """
        return self.decision(study, trial).prune

    def decision(self, study: optuna.Study, trial: FrozenTrial) -> Decision:
        """The decision with its reason."""
        if len(study.directions) != 1 or study.direction != optuna.study.StudyDirection.MAXIMIZE:
            raise ValueError("RecallPruner needs a study that maximises one objective")
        step = trial.last_step
        if step is None or step not in self._rungs:
            return Decision(False, "not at a rung")
        value, rung = trial.intermediate_values[step], self._rungs.index(step)
        if step == self._rungs[-1] and math.isfinite(value):
            return Decision(False, "finished")
        # A failed trial's values live on in its retry, if it has one.
        others = [
            other.intermediate_values[step]
            for other in study.get_trials(deepcopy=False)
            if other.number != trial.number and other.state != TrialState.FAIL and step in other.intermediate_values
        ]
        return decide(value, others, rung=rung, eta=self._eta, exempt=self.exempt(trial.number))

    def exempt(self, number: int) -> bool:
        """Whether the trial belongs to the bracket that is never pruned on rank."""
        digest = hashlib.blake2b(f"{self._seed}\\x1f{number}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") < self._keep * 2**64
