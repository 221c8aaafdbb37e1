"""The snapshot of a study, as tables and scripts get it."""

import json
from datetime import datetime, timedelta

import optuna
from optuna.trial import TrialState
from rich.console import Console

from hpo.watch import render, summarise
from studies.spec import parse_spec

SPEC = parse_spec(
    {"name": "s", "data": {"source": "completejourney"}, "search": {"trials": 4}, "pruner": {"rungs": [10, 30, 90]}}
)


def trial(number, state, recalls, cost, **attrs):
    started = datetime(2026, 1, 1)
    return optuna.trial.FrozenTrial(
        number=number,
        trial_id=number,
        state=state,
        value=recalls[-1] if state == TrialState.COMPLETE else None,
        datetime_start=started,
        datetime_complete=started + timedelta(seconds=cost) if state.is_finished() else None,
        params={"learner": "anil"},
        distributions={"learner": optuna.distributions.CategoricalDistribution(["anil"])},
        user_attrs={"cost_seconds": cost, **attrs},
        system_attrs={},
        intermediate_values=dict(zip([10, 30, 90], recalls, strict=False)),
    )


TRIALS = [
    trial(0, TrialState.COMPLETE, [0.1, 0.2, 0.3], 90.0),
    trial(1, TrialState.PRUNED, [0.05], 10.0, reason="recall 0.05 ranks 2 of 2"),
    trial(2, TrialState.RUNNING, [0.2], 10.0),
    trial(3, TrialState.WAITING, [0.4], 10.0),
]


def test_paused_trials_do_not_spend_the_budget_but_failed_ones_do():
    """Counting what waits to go on would end a search early; not counting errors would never end it."""
    shot = summarise(SPEC, TRIALS)
    assert (shot.spent, shot.states["paused"]) == (3, 1)
    assert summarise(SPEC, [*TRIALS, trial(4, TrialState.FAIL, [], 1.0, error="boom")]).spent == 4


def test_a_search_is_finished_only_when_nothing_runs():
    """Distilling while a worker still trains would miss its result."""
    done = [trial(n, TrialState.COMPLETE, [0.1, 0.2, 0.3], 9.0) for n in range(4)]
    assert summarise(SPEC, done).finished
    assert not summarise(SPEC, [*done[:3], TRIALS[2]]).finished


def test_the_best_trial_is_the_best_of_those_that_reached_the_end():
    """An early value that was never confirmed must not be shown as the best."""
    best = summarise(SPEC, TRIALS).best
    assert best is not None
    assert best.number == 0


def test_pruning_is_credited_with_the_rest_of_the_trials_own_cost():
    """The pruned trial spent 10 s on 10 of 90 meta-updates: it would have cost 90 s, so 80 s were saved."""
    shot = summarise(SPEC, TRIALS)
    assert shot.cost_seconds == 120
    assert shot.unpruned_seconds == 200


def test_the_table_is_readable_at_80_columns():
    """Wrapped or cut figures are the first thing a user would see of the project."""
    console = Console(width=80, record=True, color_system=None)
    console.print(render(summarise(SPEC, TRIALS)))
    text = console.export_text()
    for word in ("complete", "pruned", "running", "anil", "0.3000", "@90", "ranks 2 of 2", "best 0.3000 (#0)"):
        assert word in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80


def test_the_snapshot_is_json_and_has_no_nan():
    """NaN is not JSON: a script that reads the status would break on a diverged trial."""
    diverged = trial(5, TrialState.PRUNED, [float("nan")], 1.0)
    text = json.dumps(summarise(SPEC, [*TRIALS, diverged]).to_json(), allow_nan=False)
    assert json.loads(text)["best"]["number"] == 0
