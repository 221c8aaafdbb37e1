"""The simulated clock that the pruners are compared on: its costs by hand, and the recorded curves it plays."""

import dataclasses
from pathlib import Path

import numpy as np
import optuna
import pytest
from replay.clock import Run, replay
from replay.curves import Curves, late_bloomers, recorded
from replay.schedulers import NOTHING, OURS, systems

RECORDED = Path("benchmarks/curves/completejourney.parquet")


@pytest.fixture(autouse=True)
def _quiet():
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def curves(finals, updates=(1, 3, 9)):
    """Configurations whose recall is the same at every rung, at a second an update and ten an evaluation."""
    count, rungs = len(finals), len(updates)
    recalls = np.repeat(np.array(finals)[:, None, None], rungs, axis=1).repeat(2, axis=2)
    training = np.repeat(np.array(updates, float)[None], count, axis=0)
    evaluation = np.full((count, rungs), 10.0)
    return Curves("hand", updates, recalls, training, evaluation, recalls[:, -1], np.array(finals), [], {})


class Script:
    """Hands out fixed runs; goes on at once until told to stop at a rung."""

    name, rungs = "script", (0, 1, 2)

    def __init__(self, runs, stop_at=None):
        self._runs, self._stop_at = list(runs), stop_at

    def next(self):
        """The next of the runs."""
        return self._runs.pop(0) if self._runs else None

    def report(self, run):
        """Goes on but at the one place."""
        return (run.row, run.rung) != self._stop_at

    def finish(self, run):
        """Nothing to learn."""


def test_a_run_pays_for_its_training_and_for_every_evaluation():
    """A comparison that forgot evaluations would favour whoever looks most often."""
    trace = replay(curves([0.5]), Script([Run(0)]), 1, 1e9)
    assert [finish.cost for finish in trace.finished] == [9 + 3 * 10]


def test_a_run_that_is_taken_up_again_pays_only_for_the_rest():
    """Paying twice would make promotion look worse than it is, paying nothing better."""
    trace = replay(curves([0.5]), Script([Run(0), Run(0, 0)], stop_at=(0, 0)), 1, 1e9)
    assert [finish.cost for finish in trace.finished] == [9 + 3 * 10]
    assert trace.started == [0]


def test_workers_share_the_cost_and_the_budget_ends_it():
    """Two workers for half the time are one worker for all of it."""
    trace = replay(curves([0.5, 0.4, 0.3]), Script([Run(0), Run(1), Run(2)]), 2, 2 * 39)
    assert [finish.cost for finish in trace.finished] == [78, 78]
    assert trace.running == {2}


def test_without_a_pruner_only_the_end_is_evaluated():
    """The search to beat does not pay for looks that it has no use for."""
    trace = replay(curves([0.5]), systems()[NOTHING](curves([0.5]), "random", 0), 1, 1e9)
    assert [finish.cost for finish in trace.finished] == [9 + 10]


@pytest.mark.parametrize("workers", [1, 4])
def test_ours_finishes_the_best_and_repeats_itself(workers):
    """The replay must play the production decisions, and the same ones every time."""
    table = dataclasses.replace(late_bloomers(0, 60).shipped(), name="late")
    traces = [replay(table, systems()[OURS](table, "random", 3), workers, 1e9) for _ in range(2)]
    assert traces[0] == traces[1]
    assert len(traces[0].started) == 60
    rows = {finish.row for finish in traces[0].finished}
    assert len(rows) == len(traces[0].finished) < 40
    third = np.argsort(-table.means[:, 0])[:20]
    again = [row for row in third if table.means[row, 1] >= np.sort(table.means[third, 1])[-3]]
    assert rows & set(again), "whoever leads at both rungs ends"


def test_the_recorded_curves_are_whole():
    """Every figure of the comparison rests on this file."""
    table = recorded(RECORDED)
    assert len(table.test) >= 200
    assert len(table.updates) == table.recalls.shape[1] == 4
    finite = table.recalls[np.isfinite(table.recalls)]
    assert ((finite >= 0) & (finite <= 1)).all()
    assert (np.diff(table.training, axis=1) >= 0).all()
    assert (table.evaluation >= 0).all()
    assert {values["learner"] for values in table.parameters} >= {"protonet", "anil", "fomaml", "maml", "finetune"}
