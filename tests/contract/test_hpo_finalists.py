"""Re-evaluating finalists, on a planted shop, a real search and a real PostgreSQL."""

from functools import partial

import numpy as np
import pytest

from hpo.registry import register
from hpo.search.finalists import FinalistEvaluator, _pooled
from hpo.search.loop import Search, ranked
from studies.evaluation.baselines import SupportPopularity
from studies.evaluation.evaluate import evaluate
from studies.evaluation.metrics import Evaluation, SceneMetrics
from studies.training.objective import run_trial
from studies.training.prepare import prepare
from tests.synthetic import planted_dataset, tiny_encoder, tiny_spec


@pytest.fixture
def searched(database, tmp_path):
    """Return a finished search of four trials: its spec, problem and finished trials, best first."""
    spec = tiny_spec(
        tiny_encoder(tmp_path / "encoder"),
        search={"trials": 4, "space": {"learner": ["protonet", "anil"], "trainable_layers": 0, "inner_steps": 1}},
        finalists={"count": 3, "draws": 2},
    )
    data = planted_dataset()
    problem = prepare(spec, tmp_path / "cache", data=data)
    register(database, spec, data.fingerprint)
    scenes = {problem.data.scenes[episode.scene] for episode in problem.validation}
    search = Search(database, spec, scenes, partial(run_trial, problem))
    while search.run_next() is not None:
        pass
    return spec, problem, ranked(search.study)[:3]


@pytest.mark.slow
def test_finalists_are_ranked_by_all_draws_and_measured_once(database, searched):
    """Winners by a lucky draw disappoint; measured twice, a rerun would take twice as long."""
    spec, problem, best = searched
    assert len(best) == 3, "as many trials finished as there are finalists"
    calls = []
    found = FinalistEvaluator(database, spec, problem)(best, lambda done, of: calls.append((done, of)))
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert [each.recall for each in found.ranked] == sorted((each.recall for each in found.ranked), reverse=True)
    for each in found.ranked:
        assert each.searched == pytest.approx(next(t.value for t in best if t.number == each.trial))
        assert each.recall == pytest.approx((each.searched + 2 * each.redrawn) / 3), "each of the three draws alike"
    first = next(each for each in found.ranked if each.trial == best[0].number)
    system, names, k = SupportPopularity(), problem.data.scenes, spec.protocol.k
    drawn = (problem.validation, problem.redrawn("validation", 2))
    base, base_redrawn = (evaluate(system, episodes, names, k).mean() for episodes in drawn)
    assert found.optimism == pytest.approx((first.searched - base) - (first.redrawn - base_redrawn))
    # A second time from the records alone: the checkpoints are not needed.
    problem.evaluate = None
    assert FinalistEvaluator(database, spec, problem)(best, lambda *_: None) == found


@pytest.mark.slow
def test_other_draws_are_other_supports_of_the_same_scenes(searched):
    """The same episodes again would confirm any luck; other scenes would measure something else."""
    _, problem, _ = searched
    redrawn = problem.redrawn("validation", 2)
    assert {e.scene for e in redrawn} <= set(problem.split.scenes["validation"])
    first = {(e.scene, e.opened) for e in problem.validation}
    assert len({(e.scene, e.opened) for e in redrawn} - first) > len(first)
    again = problem.redrawn("validation", 2)
    assert [(e.scene, e.opened) for e in again] == [(e.scene, e.opened) for e in redrawn]


def test_a_scene_without_an_episode_in_one_part_counts_with_the_other():
    """Left out or counted as zero, it would shift one finalist's mean and not the others'."""
    pooled = _pooled({"tea": 0.5, "cheese": 0.2}, {"tea": 0.8, "milk": 0.4}, draws=2)
    assert pooled == {"tea": pytest.approx(0.7), "cheese": pytest.approx(0.2), "milk": pytest.approx(0.4)}


def test_order_of_scenes_does_not_change_a_recall():
    """A mean that depended on the order of scenes would break ties, and searches, differently by process."""
    values = np.random.default_rng(0).random(50)
    scenes = {f"scene {number}": SceneMetrics(float(value)) for number, value in enumerate(values)}
    shuffled = dict(sorted(scenes.items(), key=lambda item: item[1].recall))
    assert Evaluation(scenes).mean() == Evaluation(shuffled).mean()
