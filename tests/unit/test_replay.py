"""The simulated clock that the pruners are compared on: its costs by hand, and the recorded curves it plays."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from replay.clock import Run, replay
from replay.curves import TEXTS, Curves, late_bloomers, recorded
from replay.freeze_thaw import FreezeThaw
from replay.outcomes import budget_of, trials_of
from replay.proposals import search_of
from replay.schedulers import NOTHING, OURS, ablations, systems

from hpo.search.space import suggest

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


def test_workers_take_turns_by_their_clocks():
    """The short runs of one worker must not wait for the long run of another."""
    table = curves([0.5, 0.4, 0.3])
    table.training[0] *= 10  # 90 + 30 seconds; the others 9 + 30 each
    trace = replay(table, Script([Run(0), Run(1), Run(2)]), 2, 1e9)
    assert [(finish.row, finish.cost) for finish in trace.finished] == [(1, 2 * 39), (2, 2 * 78), (0, 2 * 120)]


def test_fewer_scenes_cost_less_where_they_are_evaluated():
    """The ablation would be a gift if it changed later rungs, and no saving if it changed no cost."""
    recalls = np.arange(12.0).reshape(1, 2, 6) / 12
    table = dataclasses.replace(curves([0.5], (1, 3)), recalls=recalls, parameters=[{"trainable_layers": 0}])
    fewer = table.on_fewer_scenes(3)
    assert fewer.means[0, 0] == pytest.approx(np.mean([0, 3]) / 12)
    assert fewer.means[0, 1] == table.means[0, 1]
    assert fewer.evaluation == pytest.approx(np.array([[10 / 3, 10.0]]))
    spec = {"task": "classification"}
    read = dataclasses.replace(table, spec=spec, parameters=[{"trainable_layers": 1}]).on_fewer_scenes(3)
    # Episodes share texts, which the encoder reads once.
    assert read.evaluation == pytest.approx(np.array([[10 * TEXTS[3], 10.0]]))


def test_a_small_table_gives_a_small_search():
    """With the budget of a large table every search would try every configuration, and all would tie."""
    assert trials_of(curves([0.5] * 60)) == 12
    assert budget_of(curves([0.5] * 60)) == 12 * (9 + 10)
    assert trials_of(curves([0.5] * 300)) == 40


def test_a_rung_ratio_is_that_of_every_pair():
    """Successive halving at other rungs than the recorded ones would wait for results that never come."""
    assert curves([0.5], (3, 6, 12, 24, 48)).ratio == 2
    with pytest.raises(ValueError, match="each needs to be as many times"):
        _ = curves([0.5], (3, 6, 18)).ratio


def labelled(count=40) -> Curves:
    """Configurations of classification's space, which learn at paces and costs of their own, at doubling rungs."""
    spec: dict[str, Any] = {"name": "hand", "task": "classification", "data": {"source": "completejourney"}}
    blank = curves([0.5] * count, (3, 6, 12, 24, 48))
    rng, study = np.random.default_rng(0), optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    search = search_of(dataclasses.replace(blank, spec=spec))
    parameters = [suggest(study.ask(), search).to_dict() for _ in range(count)]
    ends, paces = rng.random(count), rng.uniform(1, 20, count)
    means = ends[:, None] * (1 - 0.5 * np.exp(-np.array(blank.updates) / paces[:, None]))
    return dataclasses.replace(
        blank,
        spec=spec,
        parameters=parameters,
        recalls=(means[:, :, None] + rng.normal(0, 0.02, (count, 5, 4))).clip(0, 1),
        training=blank.training * np.exp(rng.normal(0, 1, count))[:, None],
    )


def others(table: Curves, known: dict[int, int]) -> Curves:
    """The table with other recalls and costs wherever a search has not been: beyond `known` rungs of each row."""
    recalls, training, evaluation = table.recalls.copy(), table.training.copy(), table.evaluation.copy()
    steps = np.diff(training, axis=1, prepend=0)
    for row in range(len(recalls)):
        last = known.get(row, -1)
        recalls[row, last + 1 :] = 1 - recalls[row, last + 1 :]
        # What is in training has its price already: the clock is known to reach the next rung.
        steps[row, last + 2 :] *= 3
        evaluation[row, last + 2 :] *= 3
    return dataclasses.replace(table, recalls=recalls, training=steps.cumsum(1), evaluation=evaluation)


MADE = systems() | ablations() | {"thaw": lambda table, _, seed: FreezeThaw("thaw", table, seed)}


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("name", MADE)
def test_no_system_sees_the_future(name, workers):
    """A decision that rests on a result or a cost that has not come yet would win every comparison."""
    table, known = labelled(), {}
    scheduler = MADE[name](table, "random", 1)
    heard = scheduler.report

    def report(run):
        known[run.row] = run.rung
        return heard(run)

    scheduler.report = report
    budget = budget_of(table)
    trace = replay(table, scheduler, workers, budget)
    assert trace.finished
    assert len(known) > len(trace.finished) or name == NOTHING
    changed = others(table, known)
    assert not np.array_equal(changed.recalls, table.recalls)
    assert replay(changed, MADE[name](changed, "random", 1), workers, budget) == trace


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
