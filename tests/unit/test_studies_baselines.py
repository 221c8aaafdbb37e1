"""The bars that a recall must clear, each against the plainest way to compute it."""

from dataclasses import replace

import bm25s
import numpy as np
import polars as pl
import pytest
import torch

from studies.config.protocol_section import RankingProtocol
from studies.data.coding import build_dataset
from studies.data.dataset import Dataset
from studies.data.source import Tables
from studies.episodes.episode import Episode
from studies.episodes.sampler import EpisodeSampler
from studies.episodes.split import split_scenes
from studies.evaluation.baselines import (
    BM25,
    TEXT_FREE,
    CountsAndWords,
    ItemKNN,
    Popularity,
    Random,
    SupportPopularity,
    TfidfNeighbours,
    ZeroShot,
    build_baselines,
)
from tests.synthetic import planted_dataset

PROTOCOL = RankingProtocol(shots=6, k=5, queries=8, history=8, split=(0.5, 0.25, 0.25))


@pytest.fixture(scope="module")
def data() -> Dataset:
    return planted_dataset()


@pytest.fixture(scope="module")
def episodes(data: Dataset) -> list[Episode]:
    return EpisodeSampler(data, split_scenes(data, PROTOCOL), PROTOCOL).sample("validation")


def test_popularity_counts_the_supports_purchases_and_breaks_ties_at_random(episodes: list[Episode]) -> None:
    """Ties in order of item id would show everyone the same few items, and understate the bar for every learner."""
    repeated = False
    for episode in episodes:
        support = episode.support.tolist()
        expected = [[support.count(c) for c in range(episode.candidates)]] * len(episode.relevant)
        scores = SupportPopularity().scores(episode)
        assert scores.floor().tolist() == expected
        assert torch.equal(scores, SupportPopularity().scores(episode))
        assert len(scores[:, expected[0].index(0)].unique()) > 1, "the same order of ties for every user"
        repeated |= len(set(support)) < len(support)
    assert repeated, "no support takes an item twice: the test would not tell counts from marks"


def test_text_neighbours_add_up_the_overlap_with_the_support(episodes: list[Episode]) -> None:
    """A support item taken twice counts twice, alone and beside the counts."""
    for episode in episodes:
        similar = episode.overlap.numpy().sum(0)
        scores = TfidfNeighbours().scores(episode)
        assert scores.shape == episode.relevant.shape
        assert all(row.numpy() == pytest.approx(similar) for row in scores)
        counts = np.bincount(episode.support.numpy(), minlength=episode.candidates)
        assert CountsAndWords().scores(episode)[0].numpy() == pytest.approx(similar + counts)


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


@pytest.fixture(scope="module")
def stores() -> Dataset:
    """Twelve stores that sell the same items, some more than others."""
    rng = np.random.default_rng(0)
    count = 6000
    log = pl.DataFrame(
        {
            "user": rng.integers(0, 40, count),
            "product": np.minimum(rng.geometric(0.1, count), 30),
            "time": rng.integers(0, 365 * 86_400, count),
            "scene": [f"store {n}" for n in rng.integers(0, 12, count)],
        }
    )
    items = pl.DataFrame({"product": range(1, 31), "text": [f"thing {n}" for n in range(1, 31)]})
    return build_dataset(Tables(log, items, count))


def test_popularity_anywhere_counts_other_scenes_too_and_is_the_supports_own_where_nothing_is_shared(
    stores: Dataset, episodes: list[Episode]
) -> None:
    """In a new store the bar is what sells in all stores, not what five customers took."""
    for episode in EpisodeSampler(stores, split_scenes(stores, PROTOCOL), PROTOCOL).sample("test"):
        scores = Popularity().scores(episode)
        more = scores - SupportPopularity().scores(episode)
        torch.testing.assert_close(more, episode.elsewhere.expand_as(scores), rtol=1e-4, atol=1e-3)
        assert episode.elsewhere.sum() > 100
    for episode in episodes:
        assert torch.equal(Popularity().scores(episode), SupportPopularity().scores(episode))


def test_bm25_ranks_as_bm25s_does(data: Dataset, episodes: list[Episode]) -> None:
    """A BM25 of our own invention would be a straw man under a famous name."""
    tokens = [text.split() for text in data.texts]
    peer = bm25s.BM25(method="lucene", k1=1.2, b=0.75, dtype="float64")
    peer.index(tokens, show_progress=False)
    system = BM25(data.texts)
    for episode in episodes:
        codes = episode.items.tolist()
        query = [token for position in episode.support.tolist() for token in tokens[codes[position]]]
        expected = sum(peer.get_scores([token]) for token in query)[codes[: episode.candidates]]
        scores = system.scores(episode)
        assert scores.shape == episode.relevant.shape
        # Lucene leaves out the factor (k1 + 1), which changes no ranking.
        assert all(row.numpy() / 2.2 == pytest.approx(expected, rel=1e-5) for row in scores)


def test_item_knn_equals_the_cosines_of_user_sets(stores: Dataset) -> None:
    """Neighbours counted from the episode's own future would make ids look as good as clairvoyance."""
    parts = split_scenes(stores, PROTOCOL)
    begin = parts.period["test"][0]
    known = np.isin(stores.scene, parts.scenes["train"]) & (stores.time < begin)
    system = ItemKNN(stores, known)
    baskets: dict[int, set[int]] = {}
    for user, item in zip(stores.user[known].tolist(), stores.item[known].tolist(), strict=True):
        baskets.setdefault(user, set()).add(item)
    for episode in EpisodeSampler(stores, parts, PROTOCOL).sample("test")[:3]:
        codes = episode.items.tolist()
        sets = list(baskets.values())
        for position, had in zip(episode.support.tolist(), episode.support_history.tolist(), strict=True):
            sets.append({codes[i] for i, count in enumerate(had) if count} | {codes[position]})
        takers = {code: {n for n, basket in enumerate(sets) if code in basket} for code in codes}
        scores = system.scores(episode)
        assert scores.shape == episode.relevant.shape
        for row, history in zip(scores.tolist(), episode.query_history.tolist(), strict=True):
            had = [code for code, count in zip(codes, history, strict=True) if count]
            expected = [
                sum(len(takers[a] & takers[b]) / max(1, len(takers[a]) * len(takers[b])) ** 0.5 for a in had)
                for b in codes[: episode.candidates]
            ]
            assert row == pytest.approx(expected, abs=1e-5)


def test_every_baseline_ranks_every_query_without_its_answers(data: Dataset, episodes: list[Episode]) -> None:
    """A baseline that peeks at what is relevant would set a bar that no honest system clears."""
    vectors = torch.randn(len(data.texts), 4, generator=torch.Generator().manual_seed(0))
    parts = split_scenes(data, PROTOCOL)
    systems = build_baselines(data, parts.scenes["train"], parts.period["validation"][0], vectors)
    # No scenes share items, and no products a text: these would be the same as another.
    assert set(TEXT_FREE) - set(systems) == {"popularity anywhere", "products per item", "popularity + products"}
    for episode in episodes[:3]:
        blind = replace(episode, relevant=torch.zeros_like(episode.relevant))
        for system in systems.values():
            scores = system.scores(episode)
            assert scores.shape == episode.relevant.shape
            assert scores.isfinite().all()
            assert torch.equal(scores, system.scores(blind))
