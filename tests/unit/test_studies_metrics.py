"""Recall and its company against ir-measures, and the averages and intervals that reports are made of."""

import math
import warnings
from dataclasses import replace
from typing import Any

import ir_measures
import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import RR, P, R, Success, nDCG
from torch import Tensor

from studies.episodes.catalogue_terms import TERMS
from studies.episodes.episode import Episode
from studies.evaluation.intervals import bootstrap, bootstrap_ratio, interval
from studies.evaluation.metrics import (
    METRICS,
    EpisodeMetrics,
    Evaluation,
    SceneMetrics,
    compare,
    episode_metrics,
    query_metrics,
    random_order,
    rank,
    summarise,
    top_k,
)

Ranked = tuple[Tensor, Episode, int]


def make_episode(relevant: Tensor, support: tuple[int, ...] = (0,), **changes: Any) -> Episode:
    """An episode of which only what is scored matters; nobody has a history unless `changes` say so."""
    queries, candidates = relevant.shape
    episode = Episode(
        scene=0,
        opened=0,
        items=torch.arange(100, 100 + candidates),
        candidates=candidates,
        held=torch.arange(candidates),
        support=torch.tensor(support),
        support_history=torch.zeros(len(support), candidates),
        query_history=torch.zeros(queries, candidates),
        relevant=relevant,
        excluded=torch.zeros_like(relevant),
        elsewhere=torch.zeros(candidates, 0),
        elsewhere_total=torch.zeros(0),
        support_past=torch.zeros(len(support), 0, dtype=torch.uint8),
        query_past=torch.zeros(queries, 0, dtype=torch.uint8),
        support_past_total=torch.ones(len(support)),
        query_past_total=torch.ones(queries),
        overlap=torch.zeros(len(support), candidates),
        fields=torch.zeros(len(support), candidates),
        terms=torch.zeros(candidates, len(TERMS)),
        users=torch.arange(queries),
        rows=torch.arange(len(support)),
    )
    return replace(episode, **changes)


@st.composite
def rankings(draw: st.DrawFn, ties: bool = True) -> Ranked:
    """Scores with few distinct values (ties are the rule, unless excluded), an episode that they rank, and K."""
    queries, candidates = draw(st.integers(1, 4)), draw(st.integers(1, 12))

    def matrix(cells: st.SearchStrategy[Any], unique: bool = False) -> Tensor:
        row = st.lists(cells, min_size=candidates, max_size=candidates, unique=unique)
        return torch.tensor(draw(st.lists(row, min_size=queries, max_size=queries)))

    few = ties and draw(st.booleans())
    scores = matrix(st.sampled_from([-1.5, 0.0, 0.5, 2.0]) if few else st.floats(-1e3, 1e3, width=32), unique=not ties)
    relevant = matrix(st.booleans())
    relevant[range(queries), draw(st.lists(st.integers(0, candidates - 1), min_size=queries, max_size=queries))] = True
    support = draw(st.lists(st.integers(0, candidates - 1), min_size=1, max_size=4))
    episode = make_episode(
        relevant,
        tuple(support),
        excluded=matrix(st.booleans()) & ~relevant & draw(st.booleans()),
        query_history=matrix(st.sampled_from([0.0, 0.0, 0.0, 1.0])),
    )
    return scores, episode, draw(st.integers(1, 15))


def order(scores: Tensor, episode: Episode) -> list[list[int]]:
    """The documented order in plain Python, without what is excluded: by falling score, then at random."""
    return [
        sorted(
            (item for item in range(len(row)) if not out[item]),
            key=lambda item, row=row, draw=draw: (-row[item], -draw[item]),
        )
        for row, out, draw in zip(
            scores.tolist(), episode.excluded.tolist(), random_order(episode).tolist(), strict=True
        )
    ]


def measure(ranking: Ranked) -> dict[str, list[float]]:
    scores, episode, k = ranking
    metrics = query_metrics(rank(scores, episode), episode, k)
    return {name: values.tolist() for name, values in metrics.items()}


def ir_measure(measures: dict[str, Any], relevant: Tensor, run: list[list[int]]) -> dict[str, list[float]]:
    """What ir-measures says of each query; NaN where nothing is relevant."""
    # Scores without ties that say the documented order; how ties break is ir-measures' own business.
    scored = {str(q): {f"d{c}": float(-place) for place, c in enumerate(row)} for q, row in enumerate(run)}
    judged = [{f"d{c}": 1 for c in row.nonzero().flatten().tolist()} for row in relevant]
    qrels = {str(q): documents for q, documents in enumerate(judged) if documents}
    found = {name: [math.nan] * len(run) for name in measures}
    for value in ir_measures.iter_calc(set(measures.values()), qrels, scored):
        for name in (name for name, wanted in measures.items() if wanted == value.measure):
            found[name][int(value.query_id)] = value.value
    return found


@settings(max_examples=150, deadline=None)
@given(rankings())
def test_the_figures_equal_ir_measures(ranking: Ranked) -> None:
    """A recall that only we compute this way cannot be compared with anyone's."""
    scores, episode, k = ranking
    ours, run = measure(ranking), order(scores, episode)
    names = {
        "recall": R @ k,
        "ndcg": nDCG @ k,
        "hit_rate": Success @ k,
        "precision": P @ k,
        "accuracy": P @ 1,
        "mrr": RR,
    }
    expected = ir_measure(names, episode.relevant, run)
    new = episode.relevant.clone()
    new[:, episode.support] = False
    expected |= ir_measure({"new_item_recall": R @ k}, new, run)
    cold = (episode.query_history == 0).all(1).tolist()
    expected["cold_user_recall"] = [r if c else math.nan for r, c in zip(expected["recall"], cold, strict=True)]
    for name, values in expected.items():
        assert ours[name] == pytest.approx(values, abs=1e-9, nan_ok=True), name
    assert [*ours, "coverage", "popularity"] == list(METRICS)


@settings(deadline=None)
@given(rankings())
def test_a_ranking_is_by_score_and_then_at_random_with_what_is_excluded_last(ranking: Ranked) -> None:
    """Negative scores, zeros of both signs and infinities of what is excluded are where an order of bits goes wrong."""
    scores, episode, _ = ranking
    found = rank(scores, episode).tolist()
    assert [sorted(row) for row in found] == [list(range(scores.shape[1]))] * len(scores)
    expected = order(scores, episode)
    assert [row[: len(kept)] for row, kept in zip(found, expected, strict=True)] == expected


def test_a_system_that_scores_all_alike_is_a_random_ranking() -> None:
    """In order of item id, which is the alphabet's, every user would get the same ten items of nine hundred."""
    episode = make_episode(torch.ones(40, 50, dtype=torch.bool), scene=3, opened=1_700_000_000)
    ranked = rank(torch.zeros(40, 50), episode)
    assert torch.equal(ranked, rank(random_order(episode), episode))
    assert torch.equal(ranked, rank(torch.ones(40, 50), episode)), "another order in the next run"
    assert len({tuple(row) for row in ranked.tolist()}) == 40, "two users with the same order of ties"
    assert len(ranked[:, :10].unique()) == 50, "candidates that nobody is shown"
    for other in (replace(episode, scene=4), replace(episode, opened=1_700_000_001)):
        assert not torch.equal(ranked, rank(torch.zeros(40, 50), other))


def test_ties_leave_what_does_not_tie_in_its_place() -> None:
    """Random numbers added to scores would swap neighbours."""
    generator = torch.Generator().manual_seed(0)
    counts = torch.randint(0, 3, (8, 30), generator=generator).float()
    episode = make_episode(torch.ones(8, 30, dtype=torch.bool))
    assert torch.equal(rank(counts, episode), top_k(counts + random_order(episode) / 2, 30))
    close = torch.tensor([1.0]).nextafter(torch.tensor([2.0])).item()
    assert (
        rank(torch.tensor([[1.0, close, -close, -1.0]]).expand(8, 4), make_episode(counts[:, :4] > 9))[:, :4].tolist()
        == [[1, 0, 3, 2]] * 8
    )


def test_served_ties_are_in_the_candidates_order() -> None:
    """The same request must have the same answer, whatever else is asked."""
    assert top_k(torch.zeros(2, 50), 3).tolist() == [[0, 1, 2], [0, 1, 2]]


@settings(deadline=None)
@given(rankings(ties=False))
def test_what_is_excluded_counts_as_if_it_did_not_exist(ranking: Ranked) -> None:
    """Merely scored low, what a user has already would still fill the list of a short catalogue."""
    scores, episode, k = ranking
    figures, ours = episode_metrics(rank(scores, episode), episode, k), measure(ranking)
    shown = set()
    for query, out in enumerate(episode.excluded):
        kept = (~out).nonzero().flatten()
        alone = make_episode(
            episode.relevant[[query]][:, kept],
            tuple((kept == place).nonzero().item() for place in episode.support.tolist() if place in kept.tolist()),
            query_history=episode.query_history[[query]],
        )
        alone = replace(alone, support=alone.support.long())
        removed = measure((scores[[query]][:, kept], alone, k))
        assert {name: values[query] for name, values in ours.items()} == pytest.approx(
            {name: values[0] for name, values in removed.items()}, abs=1e-12, nan_ok=True
        )
        shown |= set(episode.items[kept[top_k(scores[[query]][:, kept], k)[0]]].tolist())
    assert figures.recommended.tolist() == sorted(shown)


@settings(deadline=None)
@given(rankings(ties=False), st.randoms())
def test_the_order_in_which_things_are_listed_does_not_matter(ranking: Ranked, random: Any) -> None:
    """A figure that knows where in the matrix a query or, ties apart, a candidate stands has an index too many."""
    scores, episode, k = ranking
    rows, columns = list(range(scores.shape[0])), list(range(scores.shape[1]))
    random.shuffle(rows)
    random.shuffle(columns)
    shuffled = replace(
        episode,
        items=episode.items[columns],
        support=torch.tensor([columns.index(place) for place in episode.support.tolist()]),
        relevant=episode.relevant[rows][:, columns],
        excluded=episode.excluded[rows][:, columns],
        query_history=episode.query_history[rows],
    )
    other = scores[rows][:, columns]
    ours, theirs = measure(ranking), measure((other, shuffled, k))
    for name, values in ours.items():
        assert theirs[name] == pytest.approx([values[row] for row in rows], abs=1e-12, nan_ok=True)
    before = episode_metrics(rank(scores, episode), episode, k)
    after = episode_metrics(rank(other, shuffled), shuffled, k)
    assert after.means == pytest.approx(before.means, abs=1e-12, nan_ok=True)
    assert set(after.recommended.tolist()) == set(before.recommended.tolist())


def test_recall_counts_all_relevant_items_and_is_not_the_hit_rate() -> None:
    """One of four relevant items found is a quarter, however short the list: the word is easily taken for hits."""
    relevant = torch.tensor([[True, True, True, True, False, False]])
    episode = make_episode(relevant)
    metrics = measure((torch.tensor([[9.0, 1, 2, 3, 8, 7]]), episode, 2))
    assert metrics["recall"] == [0.25]
    assert metrics["hit_rate"] == [1.0]
    assert measure((-relevant.float(), episode, 2))["hit_rate"] == [0.0]
    best = measure((relevant.float(), episode, 2))
    assert (best["recall"], best["ndcg"]) == ([0.5], [1.0])


def test_popularity_is_relative_to_the_average_candidate() -> None:
    """Absolute, the figure of a busy scene and of a quiet one could not be averaged."""
    # Taken by 3, 1, 0 and 0 of the users: 1 on average.
    relevant = torch.tensor([[True, False, False, False], [True, False, False, False], [True, True, False, False]])
    episode = make_episode(relevant)
    favourites = episode_metrics(rank(relevant.sum(0).float().expand(3, 4), episode), episode, 1)
    everything = episode_metrics(rank(torch.zeros(3, 4), episode), episode, 9)
    assert favourites.means["popularity"] == 3.0
    assert everything.means["popularity"] == 1.0
    # Of twice as many users with the same taste, the same figure.
    twice = make_episode(relevant.repeat(2, 1))
    favourites = episode_metrics(rank(twice.relevant.sum(0).float().expand(6, 4), twice), twice, 1)
    assert favourites.means["popularity"] == 3.0
    # The second user is shown the items 1 and 2 instead of 0 and 1: (3 + 1) + (1 + 0) + (3 + 1) takers in six places.
    out = torch.zeros_like(relevant)
    out[1, 0] = True
    unjudged = replace(episode, excluded=out)
    assert episode_metrics(rank(torch.tensor([[4.0, 3, 2, 1]] * 3), unjudged), unjudged, 2).means[
        "popularity"
    ] == pytest.approx(9 / 6)


def figures(recall: float, shown: set[int] = frozenset(), candidates: int = 4, **means: float) -> EpisodeMetrics:
    means = {"recall": recall, "ndcg": recall / 2, "hit_rate": recall / 4} | means
    return EpisodeMetrics(means, torch.tensor(sorted(shown), dtype=torch.int64), torch.arange(candidates))


def test_episodes_are_averaged_within_scenes_before_scenes_are() -> None:
    """Averaging episodes directly would let the scenes that open most often speak for all."""
    evaluation = summarise([("b", figures(1.0)), ("a", figures(0.0)), ("a", figures(0.5)), ("a", figures(0.4))])
    assert evaluation.values("recall").tolist() == pytest.approx([0.3, 1.0])
    assert evaluation.mean("recall") == pytest.approx(0.65)
    assert evaluation.mean("ndcg") == pytest.approx(0.325)
    assert evaluation.mean("hit_rate") == pytest.approx(0.1625)


@pytest.mark.filterwarnings("error")
def test_what_no_query_can_say_is_left_out_of_every_average() -> None:
    """Counted as zero, a scene without new users would look like a failure on them; as NaN, it would spread."""
    none = math.nan
    cold = [("a", none), ("a", 0.5), ("b", none), ("b", none), ("c", 0.1)]
    evaluation = summarise([(name, figures(0, cold_user_recall=value)) for name, value in cold])
    assert evaluation.values("cold_user_recall").tolist() == pytest.approx([0.5, none, 0.1], nan_ok=True)
    assert evaluation.mean("cold_user_recall") == pytest.approx(0.3)
    assert math.isnan(summarise([("b", figures(0, cold_user_recall=none))]).mean("cold_user_recall"))


def test_values_are_in_order_of_scene_names_whatever_order_they_came_in() -> None:
    """Paired differences subtract position by position: another order would pair unrelated scenes."""
    episodes = [("a", figures(0.1)), ("c", figures(0.3)), ("b", figures(0.2))]
    assert list(summarise(episodes).scenes) == ["a", "b", "c"]
    assert summarise(episodes).values().tolist() == summarise(episodes[::-1]).values().tolist() == [0.1, 0.2, 0.3]


def test_coverage_is_the_share_of_candidates_recommended_to_anyone() -> None:
    """Counted per episode, a system that shows everyone the same few items would look diverse."""
    evaluation = summarise([("a", figures(0, {0, 1}, 10)), ("a", figures(0, {1, 2}, 10)), ("b", figures(0, {1}, 2))])
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


def test_scenes_without_the_figure_are_left_out_of_its_interval() -> None:
    """One scene without a cold user would make the interval of all others NaN."""
    figures = np.array([0.1, math.nan, 0.4, 0.2, math.nan])
    assert bootstrap(figures, draws=500) == bootstrap(figures[[0, 2, 3]], draws=500)
    assert interval(figures) == bootstrap(figures)
    nobody = np.array([math.nan, math.nan])
    assert interval(nobody) is None
    assert interval(nobody[:0]) is None
    with pytest.raises(ValueError, match="no scene"):
        bootstrap(nobody)


def evaluation(**recalls: float) -> Evaluation:
    return Evaluation({name: SceneMetrics(recall, ndcg=recall / 2) for name, recall in recalls.items()})


def test_a_system_does_not_differ_from_itself() -> None:
    """The pairing must cancel exactly, or every comparison carries noise of its own."""
    system = evaluation(a=0.1, b=0.7, c=1 / 3, d=0.2)
    difference = compare(system, system)
    assert (difference.mean, difference.low, difference.high) == (0.0, 0.0, 0.0)
    assert not difference.excludes_zero


def test_systems_are_compared_scene_by_scene() -> None:
    """Paired by position or by chance, the difference would drown in how scenes differ."""
    a, b = evaluation(a=0.9, b=0.2, c=0.5), evaluation(c=0.4, b=0.1, a=0.8)
    difference = compare(a, b)
    assert [difference.mean, difference.low, difference.high] == pytest.approx([0.1, 0.1, 0.1])
    assert compare(a, b, "ndcg").mean == pytest.approx(0.05)
    assert compare(b, a).mean == -difference.mean
    # A scene that only one system has the figure for has no difference.
    assert compare(a, evaluation(a=math.nan, b=0.1, c=0.2)) == bootstrap(np.array([0.1, 0.5 - 0.2]))
    with pytest.raises(ValueError, match="different scenes, 'd'"):
        compare(a, evaluation(a=0.9, b=0.2, c=0.5, d=0.1))
    # Of several, the first by name: the same words every time.
    with pytest.raises(ValueError, match="different scenes, 'a'"):
        compare(a, evaluation(**{f"x{number}": 0.1 for number in range(9)}))


@pytest.mark.parametrize(("shift", "excludes"), [(0.5, True), (-0.5, True), (0.0, False)])
def test_a_difference_counts_only_when_its_interval_excludes_zero(shift: float, excludes: bool) -> None:
    """The sign must not matter: worse than the baseline is as much a finding as better."""
    noise = np.linspace(-0.1, 0.1, 21)
    assert bootstrap(noise + shift).excludes_zero == excludes


def test_a_ratio_is_bounded_although_a_few_resamples_have_none() -> None:
    """With few scenes some resamples hold only those with nothing below: 0 / 0 would make the whole interval NaN."""
    kept, best = np.array([0.0, 0.4, 0.5, 0.6, 0.5]), np.array([0.0, 0.5, 0.5, 0.5, 0.5])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = bootstrap_ratio(kept, best)
        assert bootstrap_ratio(kept[:3], best[:3]) is None
    assert found is not None
    assert found.mean == pytest.approx(1.0)
    assert 0.8 <= found.low < 1 < found.high <= 1.2
    whole = bootstrap_ratio(kept[1:], best[1:])
    chosen = np.random.default_rng(0).integers(0, 4, (10_000, 4))
    expected = np.quantile(kept[1:][chosen].mean(1) / best[1:][chosen].mean(1), [0.025, 0.975])
    assert whole is not None
    assert [whole.low, whole.high] == list(expected)
