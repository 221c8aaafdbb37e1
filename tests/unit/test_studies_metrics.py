"""Recall and its company against ir-measures, and the averages and intervals that reports are made of."""

from typing import Any

import ir_measures
import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import R, Success, nDCG
from torch import Tensor

from studies.metrics import METRICS, bootstrap, query_metrics, summarise, top_k


@st.composite
def rankings(draw: st.DrawFn) -> tuple[Tensor, Tensor, int]:
    """Scores with few distinct values (ties are the rule), relevance with at least one per query, and K."""
    queries, candidates = draw(st.integers(1, 4)), draw(st.integers(1, 12))
    values = st.sampled_from([-1.5, 0.0, 0.5, 2.0]) if draw(st.booleans()) else st.floats(-1e3, 1e3, width=32)
    row = st.lists(values, min_size=candidates, max_size=candidates)
    wanted = st.lists(st.booleans(), min_size=candidates, max_size=candidates).filter(any)
    scores = draw(st.lists(row, min_size=queries, max_size=queries))
    relevant = draw(st.lists(wanted, min_size=queries, max_size=queries))
    return torch.tensor(scores), torch.tensor(relevant), draw(st.integers(1, 15))


def order(scores: list[float]) -> list[int]:
    """The documented order in plain Python: by falling score, then by item id."""
    return sorted(range(len(scores)), key=lambda item: (-scores[item], item))


@settings(max_examples=150, deadline=None)
@given(rankings())
def test_recall_ndcg_and_hit_rate_equal_ir_measures(ranking: tuple[Tensor, Tensor, int]) -> None:
    """A recall that only we compute this way cannot be compared with anyone's."""
    scores, relevant, k = ranking
    ours = query_metrics(scores, relevant, k)
    qrels = {str(q): {f"d{c}": int(relevant[q, c]) for c in range(relevant.shape[1])} for q in range(len(relevant))}
    # Scores without ties that say the documented order; how ties break is ir-measures' own business.
    run = {
        str(q): {f"d{c}": float(-rank) for rank, c in enumerate(order(scores[q].tolist()))} for q in range(len(scores))
    }
    names = {"recall": R @ k, "ndcg": nDCG @ k, "hit_rate": Success @ k}
    theirs: dict[Any, dict[str, float]] = {measure: {} for measure in names.values()}
    for value in ir_measures.iter_calc(list(names.values()), qrels, run):
        theirs[value.measure][value.query_id] = value.value
    for name, measure in names.items():
        expected = [theirs[measure][str(q)] for q in range(len(scores))]
        assert ours[name].tolist() == pytest.approx(expected, abs=1e-9)
    assert set(ours) == set(METRICS)


@settings(deadline=None)
@given(rankings())
def test_ties_break_by_item_id(ranking: tuple[Tensor, Tensor, int]) -> None:
    """An unstable sort would give another recall on another machine for a model that scores everything alike."""
    scores, _, k = ranking
    assert top_k(scores, k).tolist() == [order(row)[:k] for row in scores.tolist()]


def test_a_constant_score_recommends_the_first_items() -> None:
    """The degenerate model must not be luckier than its order."""
    assert top_k(torch.zeros(2, 50), 3).tolist() == [[0, 1, 2], [0, 1, 2]]


def test_recall_counts_all_relevant_items_and_is_not_the_hit_rate() -> None:
    """One of four relevant items found is a quarter, however short the list: the word is easily taken for hits."""
    relevant = torch.tensor([[True, True, True, True, False, False]])
    metrics = query_metrics(torch.tensor([[9.0, 1, 2, 3, 8, 7]]), relevant, 2)
    assert metrics["recall"].tolist() == [0.25]
    assert metrics["hit_rate"].tolist() == [1.0]
    assert query_metrics(-relevant.float(), relevant, 2)["hit_rate"].tolist() == [0.0]
    assert query_metrics(relevant.float(), relevant, 2)["recall"].tolist() == [0.5]
    assert query_metrics(relevant.float(), relevant, 2)["ndcg"].tolist() == [1.0]


def figures(recall: float) -> dict[str, float]:
    return {"recall": recall, "ndcg": recall / 2, "hit_rate": recall / 4}


def test_episodes_are_averaged_within_scenes_before_scenes_are() -> None:
    """Averaging episodes directly would let the scenes that open most often speak for all."""
    evaluation = summarise(
        [
            ("b", figures(1.0), {0}, 4),
            ("a", figures(0.0), {0, 1}, 10),
            ("a", figures(0.5), {1, 2}, 10),
            ("a", figures(0.4), {2}, 10),
        ]
    )
    assert evaluation.values("recall").tolist() == pytest.approx([0.3, 1.0])
    assert evaluation.mean("recall") == pytest.approx(0.65)
    assert evaluation.mean("ndcg") == pytest.approx(0.325)
    assert evaluation.mean("hit_rate") == pytest.approx(0.1625)


def test_values_are_in_order_of_scene_names_whatever_order_they_came_in() -> None:
    """Paired differences subtract position by position: another order would pair unrelated scenes."""
    episodes = [("a", figures(0.1), {0}, 4), ("c", figures(0.3), {0}, 4), ("b", figures(0.2), {0}, 4)]
    assert summarise(episodes).values().tolist() == summarise(episodes[::-1]).values().tolist() == [0.1, 0.2, 0.3]


def test_coverage_is_the_share_of_candidates_recommended_to_anyone() -> None:
    """Counted per episode, a system that shows everyone the same few items would look diverse."""
    evaluation = summarise([("a", figures(0), {0, 1}, 10), ("a", figures(0), {1, 2}, 10), ("b", figures(0), {3}, 2)])
    assert evaluation.values("coverage").tolist() == [0.3, 0.5]


values = st.lists(st.floats(-1, 1), min_size=1, max_size=30).map(np.array)


@settings(deadline=None)
@given(values)
def test_an_interval_is_reproducible_and_holds_the_mean(figures: np.ndarray) -> None:
    """An interval that moves between runs, or misses its own mean, is no interval."""
    interval = bootstrap(figures, draws=500)
    assert interval == bootstrap(figures.copy(), draws=500)
    assert interval.mean == pytest.approx(figures.mean(), abs=1e-12)
    assert interval.low - 1e-12 <= interval.mean <= interval.high + 1e-12
    assert figures.min() - 1e-12 <= interval.low <= interval.high <= figures.max() + 1e-12


def test_an_interval_equals_scipys() -> None:
    """Percentiles of sums, of episodes, or one-sided tails would give intervals of a plausible width."""
    figures = np.random.default_rng(1).beta(2, 5, 25)
    for confidence in (0.9, 0.95):
        ours = bootstrap(figures, confidence=confidence, draws=40_000)
        theirs = scipy.stats.bootstrap(
            (figures,),
            np.mean,
            n_resamples=40_000,
            confidence_level=confidence,
            method="percentile",
            rng=np.random.default_rng(2),
        ).confidence_interval
        # Two sets of resamples: a quantile of 40,000 draws is known to about a hundredth of the interval's width.
        assert [ours.low, ours.high] == pytest.approx([theirs.low, theirs.high], abs=0.02 * (theirs.high - theirs.low))
        assert ours.low < ours.mean < ours.high


def test_a_system_does_not_differ_from_itself() -> None:
    """The pairing must cancel exactly, or every comparison carries noise of its own."""
    recalls = {"a": 0.1, "b": 0.7, "c": 1 / 3, "d": 0.2}
    evaluation = summarise([(name, figures(recall), {0}, 4) for name, recall in recalls.items()])
    difference = bootstrap(evaluation.values() - evaluation.values())
    assert (difference.mean, difference.low, difference.high) == (0.0, 0.0, 0.0)
    assert not difference.excludes_zero


@pytest.mark.parametrize(("shift", "excludes"), [(0.5, True), (-0.5, True), (0.0, False)])
def test_a_difference_counts_only_when_its_interval_excludes_zero(shift: float, excludes: bool) -> None:
    """The sign must not matter: worse than the baseline is as much a finding as better."""
    noise = np.linspace(-0.1, 0.1, 21)
    assert bootstrap(noise + shift).excludes_zero == excludes
