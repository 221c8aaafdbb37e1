"""A shop whose best possible recall is known: the pipeline must come as close as its interval can tell."""

from pathlib import Path

import numpy as np

from studies.config.hyperparameters import Hyperparameters
from studies.evaluation.baselines import SupportPopularity
from studies.evaluation.evaluate import evaluate
from studies.evaluation.intervals import bootstrap
from studies.evaluation.metrics import compare
from studies.training.objective import load_teacher, run_trial
from studies.training.prepare import prepare
from tests.synthetic import Oracle, planted_shop, tiny_encoder, tiny_spec


def test_the_pipeline_reaches_the_best_possible_recall_of_a_planted_shop(tmp_path: Path) -> None:
    """A wrong pairing of users, texts or scenes between data and recall costs accuracy that only this shows."""
    data, oracle = planted_shop(scenes=64, users=80, per_user=640)
    spec = tiny_spec(
        tiny_encoder(tmp_path / "encoder"),
        protocol={"shots": 5, "history": 32, "queries": 16, "train_queries": 16},
        pruner={"rungs": [600]},
    )
    problem = prepare(spec, tmp_path / "cache", data=data)
    values = Hyperparameters(
        learner="protonet", outer_lr=5e-3, meta_batch_size=4, weight_decay=0.01, trainable_layers=0
    )
    run_trial(problem, values, tmp_path / "trial", lambda reached: None)
    k = spec.protocol.k
    reached = problem.evaluate(load_teacher(problem, tmp_path / "trial"), problem.test)
    # Items of one colour and brand are equally good: the best recall is the mean over the orders that they may have.
    rng = np.random.default_rng(0)
    orders = [Oracle(oracle.odds * (1 + 1e-3 * rng.random(oracle.odds.shape))) for _ in range(10)]
    best = [evaluate(order, problem.test, data.scenes, k) for order in orders]
    popular = evaluate(SupportPopularity(), problem.test, data.scenes, k)
    interval = bootstrap(reached.values())
    assert interval.low <= np.mean([each.mean() for each in best]) <= interval.high
    assert compare(best[0], popular).low > 0.3, "the shop is too easy for the test to mean anything"
