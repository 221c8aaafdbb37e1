"""The figures that are stored with a study, each against the plainest way to compute it."""

import json

import numpy as np
import pytest
import torch

from hpo.results import summary
from hpo.results.summary import Scored
from studies.config.protocol_section import RankingProtocol
from studies.episodes.sampler import EpisodeSampler
from studies.episodes.split import split_scenes
from studies.evaluation.baselines import POPULARITY
from studies.evaluation.figures import SceneFacts
from studies.evaluation.intervals import bootstrap
from studies.evaluation.metrics import Evaluation, SceneMetrics
from studies.evaluation.scene_facts import count_queries, scene_facts
from tests.synthetic import planted_dataset

SCENES = tuple(f"scene {n}" for n in range(10))
PROTOCOL = RankingProtocol(shots=3, k=5, queries=6, split=(0.5, 0.25, 0.25))


def scored(seed: int, kind: str = "baseline", main: int = 9) -> Scored:
    """Random recalls; the first `main` scenes at the protocol's shots, all ten by shots."""
    rng = np.random.default_rng(seed)

    def evaluation(count: int) -> Evaluation:
        return Evaluation({name: SceneMetrics(float(rng.random())) for name in SCENES[:count]})

    return Scored(kind, evaluation(main), {1: evaluation(10), 5: evaluation(10)})


RESULTS = {
    "random": scored(0),
    POPULARITY: scored(1),
    "direct": scored(2, "direct transfer"),
    "teacher": scored(3, "teacher"),
    "student": scored(4, "student"),
}
FACTS = {name: SceneFacts(candidates=10 * n + 7, nearest=1 - n / 20, queries=n) for n, name in enumerate(SCENES)}


def test_figures_are_bootstraps_over_scenes_and_null_where_nothing_was_measured():
    """NaN is no JSON: one of it, and the database refuses hours of work."""
    teacher, popularity = RESULTS["teacher"], RESULTS[POPULARITY]
    found = summary.system_figures(teacher, popularity)
    json.dumps(found.to_json(), allow_nan=False)
    assert found.recall == bootstrap(teacher.main.values())
    assert found.over_reference == bootstrap(teacher.main.values() - popularity.main.values())
    assert found.metrics["cold_user_recall"] is None
    assert found.by_shots[5] == bootstrap(teacher.by_shots[5].values())


def test_the_groups_hold_every_scene_that_any_size_of_the_support_reaches_once():
    """A scene with too few interactions for the main figures may well have some for one shot."""
    groups = summary.transfer(RESULTS, [POPULARITY, "direct", "teacher", "student"], "direct", FACTS)
    assert [group.grouping for group in groups] == ["catalogue size"] * 3 + ["likeness to training scenes"] * 3
    assert [group.scenes for group in groups] == [4, 3, 3] * 2
    assert groups[0].group == "7 to 37 items"
    assert groups[3].group == "cosine 0.55 to 0.70"
    recalls = {name: RESULTS[name].by_shots[5].scenes for name in ("teacher", "direct")}
    smallest = SCENES[:4]
    mine = np.array([recalls["teacher"][name].recall for name in smallest])
    assert groups[0].systems["teacher"][5] == bootstrap(mine)
    gains = mine - np.array([recalls["direct"][name].recall for name in smallest])
    assert groups[0].gains == {"teacher": {1: groups[0].gains["teacher"][1], 5: bootstrap(gains)}}


def test_too_few_scenes_are_not_cut_into_groups():
    """Groups of one or two scenes would be read as findings."""
    few = {name: Scored("baseline", each.main, {1: each.main}) for name, each in RESULTS.items()}
    assert len(summary.transfer(few, ["teacher"], "direct", FACTS)) == 6
    fewer = Evaluation({name: SceneMetrics(0.1) for name in SCENES[:8]})
    assert summary.transfer({n: Scored("baseline", fewer, {1: fewer}) for n in RESULTS}, [], "direct", FACTS) == ()


def test_the_curve_says_which_sizes_are_missing_and_why():
    """A curve that silently ends at ten looks like one that was only asked for ten."""
    found = summary.curve(RESULTS[POPULARITY].by_shots, [1, 5, 20], "too few")
    assert (found.shots, found.scenes) == ((1, 5), 10)
    assert [(gap.shots, gap.reason) for gap in found.left_out] == [(20, "too few")]
    empty = summary.curve({}, [1], "too few")
    assert (empty.shots, empty.scenes) == ((), 0)


@pytest.mark.parametrize("candidates", ["scene", "all"])
def test_facts_and_counts_are_those_of_the_episodes(candidates: str):
    """Counts such as "7,000 queries" are read as the size of the evidence."""
    data = planted_dataset()
    protocol = PROTOCOL.model_copy(update={"candidates": candidates})
    parts = split_scenes(data, protocol)
    episodes = EpisodeSampler(data, parts, protocol).sample("test")
    vectors = torch.nn.functional.normalize(torch.randn(len(data.texts), 8, generator=torch.Generator().manual_seed(0)))
    facts = scene_facts(data, parts, "test", episodes, vectors, every_item=candidates == "all")
    counts = count_queries(episodes)
    assert set(facts) == {data.scenes[code] for code in parts.scenes["test"]}
    assert sum(fact.queries for fact in facts.values()) == sum(len(e.users) for e in episodes)
    for episode in episodes:
        assert facts[data.scenes[episode.scene]].candidates == episode.candidates
    new = cold = 0
    for episode in episodes:
        known = set(episode.support.tolist())
        new += sum(bool(set(np.flatnonzero(row)) - known) for row in episode.relevant.numpy())
        cold += sum(not row.any() for row in episode.query_history.numpy())
    assert counts == {"new_item_queries": new, "cold_user_queries": cold}

    def mean(code: int) -> np.ndarray:
        centre = vectors.numpy()[data.items_of(code)].mean(0)
        return centre / np.linalg.norm(centre)

    for code in parts.scenes["test"].tolist():
        nearest = max(mean(code) @ mean(other) for other in parts.scenes["train"].tolist())
        assert facts[data.scenes[code]].nearest == pytest.approx(nearest, abs=1e-5)
