"""Syne Tune's promotion-type ASHA, driven through its scheduler's own interface as its `Tuner` drives it.

The release is the last one that can promote: 0.15 took `type="promotion"` out, and what it and 0.16 call ASHA only
stops trials. Of its requirements these imports need pandas, which the demo extra brings, and the two packages below;
that it asks for numpy before 1.27 is not heeded.
"""

from __future__ import annotations

import logging
import math
from datetime import UTC, datetime
from typing import Any

import numpy as np
from peers.environment import make_importable

from replay.clock import Run
from replay.curves import Curves

PACKAGES = {"syne-tune": ["syne-tune==0.14.2", "dill", "sortedcontainers"]}

# Trials carry the time of their creation; a scheduler does not look at it, and the clock here is simulated.
_CREATED = datetime(1970, 1, 1, tzinfo=UTC)

# It warns every time that no configuration is left to start; that is how a replay ends.
logging.getLogger("syne_tune.optimizer.schedulers.searchers.legacy_random_grid_searcher").setLevel(logging.ERROR)


def available() -> bool:
    """Installs the library where it is missing, beside the running environment; whether it is there."""
    return bool(make_importable(PACKAGES, "schedulers"))


class SynePromotion:
    """A random search under Syne Tune's asynchronous successive halving with promotion; `available` comes first.

    Every trial pauses at every rung. Whenever a worker is free, the library takes up a paused trial that lies above its
    rung's quantile, or else starts the next configuration.

    Args:
        name: what to call it.
        curves: the configurations.
        seed: of their order, which is that of the other random searches.

    Raises:
        ValueError: the rungs are no geometric series: the library would choose others.
    """

    def __init__(self, name: str, curves: Curves, seed: int) -> None:
        from syne_tune.config_space import randint
        from syne_tune.optimizer.legacy_baselines import ASHA

        count = len(curves.test)
        order = np.random.default_rng(seed).permutation(count)
        self.name, self.rungs = name, tuple(range(len(curves.updates)))
        self._curves = curves
        self._scheduler: Any = ASHA(
            config_space={"row": randint(0, count - 1), "max_updates": curves.updates[-1]},
            metric="recall",
            mode="max",
            resource_attr="updates",
            max_resource_attr="max_updates",
            type="promotion",
            grace_period=curves.updates[0],
            reduction_factor=curves.ratio,
            # The library's own way to fix an order; its searcher has nothing to draw that has not come already.
            points_to_evaluate=[{"row": int(row)} for row in order],
            random_seed=seed,
        )
        if (*self._scheduler.rung_levels, self._scheduler.max_resource_level) != tuple(curves.updates):
            raise ValueError(f"rungs at {curves.updates}: {name} would judge at {self._scheduler.rung_levels}")
        self._trials: list[Any] = []
        self._numbers: dict[int, int] = {}
        self._reached: dict[int, int] = {}

    def next(self) -> Run | None:
        """What the library suggests: a paused configuration to go on with, or a new one; None when it has neither."""
        from syne_tune.backend.trial_status import Trial

        # Its own search for a promotion comes before the searcher, so an exhausted search still has to be asked.
        suggestion = self._scheduler.suggest(len(self._trials))
        if suggestion is None:
            return None
        if not suggestion.spawn_new_trial_id:
            trial = self._trials[suggestion.checkpoint_trial_id]
            trial.config = suggestion.config
            row = int(trial.config["row"])
            return Run(row, self._reached[row])
        trial = Trial(len(self._trials), suggestion.config, _CREATED)
        self._trials.append(trial)
        self._scheduler.on_trial_add(trial)
        row = int(trial.config["row"])
        self._numbers[row] = trial.trial_id
        return Run(row)

    def report(self, run: Run) -> bool:
        """Reports the rung; the library lets a trial end at the last one and pauses it at any other."""
        from syne_tune.optimizer.scheduler import SchedulerDecision

        trial = self._trials[self._numbers[run.row]]
        result = self._result(run)
        if not math.isfinite(result["recall"]):
            # A sorted rung cannot hold NaN: training that diverges is a trial that fails.
            self._scheduler.on_trial_error(trial)
            return False
        self._reached[run.row] = run.rung
        decision = self._scheduler.on_trial_result(trial, result)
        if decision == SchedulerDecision.PAUSE:
            self._scheduler.on_trial_remove(trial)
        # At the last rung it says STOP, which means that there is nothing left to train.
        return bool(decision == SchedulerDecision.CONTINUE or run.rung == self.rungs[-1])

    def finish(self, run: Run) -> None:
        """Tells the library that the trial is complete."""
        self._scheduler.on_trial_complete(self._trials[self._numbers[run.row]], self._result(run))

    def _result(self, run: Run) -> dict[str, float | int]:
        """What a trial reports at a rung."""
        return {"recall": float(self._curves.means[run.row, run.rung]), "updates": self._curves.updates[run.rung]}
