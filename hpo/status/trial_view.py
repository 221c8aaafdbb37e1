"""One trial as tables, logs and scripts show it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial

from hpo.search.trial_chains import CONTROL_GROUP, COST, ERROR, REASON, chain_of, cost
from storage.database.leases import Lease
from studies.evaluation.figures import Settings

ENDED = ("complete", "pruned", "fail")


@dataclass(frozen=True)
class TrialView:
    """One trial as the table shows it.

    Attributes:
        number: Optuna's.
        state: Optuna's, in lower case; "paused" of a trial that waits after it has begun.
        learner: Its learner; "" until suggested.
        recalls: Validation recall at each rung; None where not reached (or not finite).
        cost_seconds: Measured training and evaluation time.
        wall_seconds: How long workers have had it, with all that its cost leaves out, such as encoding texts.
        reason: The pruner's, or the error.
        params: The configuration.
        chain: Number of the first trial of its chain, under which its rung results are recorded.
        control_group: Whether it ran on, as part of the no-prune control group, where the rule would have stopped it.
        progress: Of a running trial, how much of its training is done, from 0 to 1, as of its worker's last heartbeat;
            None while unknown.
        silent_seconds: Of a running trial, since its worker's last heartbeat.
    """

    number: int
    state: str
    learner: str
    recalls: tuple[float | None, ...]
    cost_seconds: float
    wall_seconds: float
    reason: str
    params: Settings
    chain: int
    control_group: bool
    progress: float | None = None
    silent_seconds: float | None = None

    @property
    def recall(self) -> float | None:
        """Return the recall at the last rung that it has reached."""
        return next((recall for recall in reversed(self.recalls) if recall is not None), None)


def view_of(chain: Sequence[FrozenTrial], rungs: Sequence[int], leases: Mapping[int, Lease]) -> TrialView:
    """Return a chain of trials as the table shows it.

    Args:
        chain: A trial and its continuations.
        rungs: Resource at each rung.
        leases: Of running trials, by number.
    """
    trial = chain[-1]
    values = [trial.intermediate_values.get(step) for step in rungs]
    lease = leases.get(trial.number) if trial.state.name == "RUNNING" else None
    return TrialView(
        number=trial.number,
        state="paused" if trial.state.name == "WAITING" and trial.params else trial.state.name.lower(),
        learner=str(trial.params.get("learner", "")),
        recalls=tuple(v if v is not None and math.isfinite(v) else None for v in values),
        cost_seconds=float(trial.user_attrs.get(COST, 0.0)),
        wall_seconds=_wall(chain, lease),
        reason=str(trial.user_attrs.get(ERROR) or trial.user_attrs.get(REASON, "")),
        params=dict(trial.params),
        chain=chain_of(trial),
        control_group=CONTROL_GROUP in trial.user_attrs,
        progress=None if lease is None else lease.progress,
        silent_seconds=None if lease is None else lease.seconds_since_renewal,
    )


def _wall(chain: Sequence[FrozenTrial], lease: Lease | None) -> float:
    """Return how long workers have had a chain; at least its cost, which tells of the runs before an interruption."""
    durations = [trial.duration for trial in chain]
    ended = sum(duration.total_seconds() for duration in durations if duration is not None)
    return max(cost(chain), ended + (0.0 if lease is None else lease.seconds_held))


def unpruned_seconds(view: TrialView, rungs: Sequence[int]) -> float:
    """Return the cost of a trial; of a pruned one, what it would have been without pruning, at its own rate."""
    reached = max((step for step, value in zip(rungs, view.recalls, strict=True) if value is not None), default=None)
    if view.state != "pruned" or reached is None:
        return view.cost_seconds
    return view.cost_seconds * rungs[-1] / reached
