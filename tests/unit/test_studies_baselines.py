"""The bars that a recall must clear, each against the plainest way to compute it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics.pairwise import cosine_similarity

from studies.baselines import Random, SupportPopularity, TfidfNeighbours, ZeroShot
from studies.data.dataset import Dataset
from studies.episodes import Episode, EpisodeSampler
from studies.scenes import split
from studies.spec import ProtocolSection
from tests.synthetic import planted_dataset

PROTOCOL = ProtocolSection(shots=6, k=5, queries=8, history=8, split=(0.5, 0.25, 0.25))


@pytest.fixture(scope="module")
def data() -> Dataset:
    return planted_dataset()


@pytest.fixture(scope="module")
def episodes(data: Dataset) -> list[Episode]:
    return EpisodeSampler(data, split(data, PROTOCOL), PROTOCOL).sample("validation")


def test_popularity_counts_the_supports_purchases(episodes: list[Episode]) -> None:
    """The strongest baseline without text: understated, it would flatter every learner."""
    repeated = False
    for episode in episodes:
        support = episode.support.tolist()
        expected = [[support.count(c) for c in range(episode.candidates)]] * len(episode.relevant)
        assert SupportPopularity().scores(episode).tolist() == expected
        repeated |= len(set(support)) < len(support)
    assert repeated, "no support takes an item twice: the test would not tell counts from marks"


def test_tfidf_neighbours_equal_scikit_learns_cosines(data: Dataset, episodes: list[Episode]) -> None:
    """Weights of the wrong texts, or of a support item twice or never, would weaken the text baseline."""
    system = TfidfNeighbours(data.texts)
    matrix = TfidfVectorizer(token_pattern=r"\S+").fit_transform(data.texts)
    for episode in episodes:
        codes = [int(code) for code in episode.items]
        cosine = cosine_similarity(matrix[codes[: episode.candidates]])
        expected = sum(cosine[:, s] for s in episode.support.tolist())
        scores = system.scores(episode)
        assert scores.shape == episode.relevant.shape
        assert all(row.numpy() == pytest.approx(expected, abs=1e-5) for row in scores)


def test_zero_shot_is_the_cosine_with_the_users_mean_history(data: Dataset, episodes: list[Episode]) -> None:
    """Local positions taken for item codes would compare users with other scenes' texts."""
    vectors = np.random.default_rng(0).normal(size=(len(data.texts), 7))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    system = ZeroShot(torch.tensor(vectors, dtype=torch.float32))
    for episode in episodes:
        codes = episode.items.numpy()
        scores = system.scores(episode).numpy()
        for row, history in zip(scores, episode.query_history.numpy(), strict=True):
            bag = [vectors[code] for code, count in zip(codes, history, strict=True) for _ in range(int(count))]
            mean = np.mean(bag, axis=0) if bag else np.zeros(7)
            cosines = vectors[codes[: episode.candidates]] @ mean
            # Up to the length of the mean, which ranks a user's candidates alike.
            assert row == pytest.approx(cosines * max(1, len(bag)), abs=1e-4)


def test_zero_shot_knows_nothing_of_a_user_without_history(episodes: list[Episode]) -> None:
    """A division by the empty history's length would be NaN, and the whole report with it."""
    blank = replace(episodes[0], query_history=torch.zeros_like(episodes[0].query_history))
    vectors = torch.ones(int(max(e.items.max() for e in episodes)) + 1, 3)
    assert not ZeroShot(vectors).scores(blank).any()


def test_random_is_reproducible_and_differs_between_openings_scenes_and_users(episodes: list[Episode]) -> None:
    """One random order for all would be a lottery ticket in place of a floor."""
    first = episodes[0]
    scores = Random().scores(first)
    assert torch.equal(scores, Random().scores(first))
    assert scores.shape == first.relevant.shape
    assert not torch.equal(scores, Random().scores(replace(first, opened=first.opened + 1)))
    assert not torch.equal(scores, Random().scores(replace(first, scene=first.scene + 1)))
    assert not torch.equal(scores[0], scores[1])
