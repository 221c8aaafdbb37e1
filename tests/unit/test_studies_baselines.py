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
    item_knn,
)
from studies.evaluation.evaluate import evaluate
from studies.evaluation.metrics import compare
from studies.evaluation.mixtures import MIXTURES, Mix, Mixture, choose_mix, mixes
from tests.synthetic import planted_dataset
from tests.unit.test_studies_metrics import make_episode

PROTOCOL = RankingProtocol(shots=6, k=5, queries=8, history=8, split=(0.5, 0.25, 0.25))


@pytest.fixture(scope="module")
def data() -> Dataset:
    return planted_dataset()


@pytest.fixture(scope="module")
def episodes(data: Dataset) -> list[Episode]:
    return EpisodeSampler(data, split_scenes(data, PROTOCOL), PROTOCOL).sample("validation")


def test_popularity_counts_the_supports_purchases(episodes: list[Episode]) -> None:
    """Marks in place of counts would understate the bar for every learner."""
    repeated = False
    for episode in episodes:
        support = episode.support.tolist()
        expected = [[support.count(c) for c in range(episode.candidates)]] * len(episode.relevant)
        assert SupportPopularity().scores(episode).tolist() == expected
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
            bag = [
                vectors[code]
                for code, count in zip(codes[episode.held], history, strict=True)
                for _ in range(int(count))
            ]
            bag = bag or [vectors[code] for code in codes[episode.support.numpy()]]
            mean = np.mean(bag, axis=0)
            cosines = vectors[codes[: episode.candidates]] @ mean
            # Up to the length of the mean, which ranks a user's candidates alike.
            assert row == pytest.approx(cosines * len(bag), abs=1e-4)


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


def test_popularity_anywhere_counts_other_scenes_too(stores: Dataset, episodes: list[Episode]) -> None:
    """In a new store the bar is what sells in all stores, not what five customers took."""
    for episode in EpisodeSampler(stores, split_scenes(stores, PROTOCOL), PROTOCOL).sample("test"):
        scores = Popularity().scores(episode)
        more = scores - SupportPopularity().scores(episode)
        torch.testing.assert_close(more, episode.elsewhere[:, 0].expand_as(scores), rtol=1e-4, atol=1e-3)
        assert episode.elsewhere.sum() > 100
    assert all(episode.elsewhere.shape[1] == 0 for episode in episodes)


def test_a_mixture_is_the_one_that_is_best_on_validation(stores: Dataset) -> None:
    """A rival with a weight and a memory from nowhere is a rival that is easily beaten."""
    parts = split_scenes(stores, PROTOCOL)
    episodes = EpisodeSampler(stores, parts, PROTOCOL).sample("validation")
    knn = item_knn(stores, parts.scenes["train"], parts.period["validation"][0])
    for name in MIXTURES:
        recalls = {mix: evaluate(Mixture(name, knn, mix), episodes, stores.scenes, 5).mean() for mix in mixes(name)}
        assert len({round(recall, 9) for recall in recalls.values()}) > 3
        assert recalls[choose_mix(name, knn, episodes, stores.scenes, 5)] == max(recalls.values())
        for part in Mixture(name, knn, Mix(0.1)).parts(episodes[0]):
            torch.testing.assert_close(part.sum(1), (part.sum(1) > 0).float())
    # Of one weight: counts of other stores, and of the user's own past.
    one = episodes[0]
    own, anywhere = one.query_past.double().numpy(), one.elsewhere[:, 1].double().numpy()
    expected = anywhere / anywhere.sum() + 0.3 * own / np.maximum(own.sum(1, keepdims=True), 1e-9)
    mixture = Mixture("popularity anywhere + own past", knn, Mix(0.3, 1))
    assert mixture.scores(one).numpy() == pytest.approx(expected, rel=1e-4)


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


def test_bm25_reads_words_without_spaces_between_them(data: Dataset, episodes: list[Episode]) -> None:
    """Each Chinese title would be a word of its own, and BM25 score what the support took and nothing else."""
    letter = {word: chr(0x4E00 + code) for code, word in enumerate({w for text in data.texts for w in text.split()})}
    chinese = BM25(["".join(letter[word] for word in text.split()) for text in data.texts])
    for episode in episodes[:2]:
        assert chinese.scores(episode).numpy() == pytest.approx(BM25(data.texts).scores(episode).numpy(), rel=1e-5)


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
        codes, held = episode.items.tolist(), episode.items[episode.held].tolist()
        sets = list(baskets.values())
        for position, had in zip(episode.support.tolist(), episode.support_history.tolist(), strict=True):
            sets.append({held[i] for i, count in enumerate(had) if count} | {codes[position]})
        takers = {code: {n for n, basket in enumerate(sets) if code in basket} for code in codes}
        scores = system.scores(episode)
        assert scores.shape == episode.relevant.shape
        for row, history in zip(scores.tolist(), episode.query_history.tolist(), strict=True):
            had = [code for code, count in zip(held, history, strict=True) if count]
            expected = [
                sum(len(takers[a] & takers[b]) / max(1, len(takers[a]) * len(takers[b])) ** 0.5 for a in had)
                for b in codes[: episode.candidates]
            ]
            assert row == pytest.approx(expected, abs=1e-5)


def small_shop() -> tuple[Dataset, Episode]:
    """Three customers of other stores, and an episode whose support takes item 0 twice.

    The queries: a user without a history, one who had item 2, and one who had item 4, which nobody else ever took.
    """
    baskets = {"ann": [0, 1], "bob": [0, 1], "cleo": [2, 3], "dora": [4]}
    log = pl.DataFrame(
        [(user, item, 0, "old") for user, items in baskets.items() for item in items],
        schema=["user", "product", "time", "scene"],
        orient="row",
    )
    items = pl.DataFrame({"product": range(5), "text": [f"thing {n}" for n in range(5)]})
    relevant = torch.zeros(3, 4, dtype=torch.bool)
    had = torch.tensor([[0.0, 0], [1, 0], [0, 1]])
    known = {"held": torch.tensor([2, 4]), "support_history": torch.zeros(2, 2), "query_history": had}
    episode = make_episode(relevant, support=(0, 0), items=torch.arange(5), **known)
    return build_dataset(Tables(log, items, len(log))), episode


def test_a_user_without_history_gets_what_the_support_says() -> None:
    """Scores of zero for all candidates would rank by the alphabet."""
    data, episode = small_shop()
    # Item 0 has ann, bob and the two users of the support; item 1 has ann and bob.
    by_support = [1.0, 2 / 8**0.5, 0.0, 0.0]
    scores = ItemKNN(data, np.array(data.user_ids)[data.user] != "dora").scores(episode)
    assert scores.tolist() == [pytest.approx(by_support), [0.0, 0.0, 1.0, 1.0], pytest.approx(by_support)]
    vectors = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0], [0.8, 0.6]])
    scores = ZeroShot(vectors).scores(episode)
    expected = [[2.0, 1.2, 0.0, -2.0], [0.0, 0.8, 1.0, 0.0], [0.8, 0.96, 0.6, -0.8]]
    assert scores.tolist() == [pytest.approx(row, abs=1e-6) for row in expected]


def test_item_knn_beats_chance_where_nobody_has_a_history() -> None:
    """Ranked by the alphabet, one-time customers were served worse than by chance."""
    rng = np.random.default_rng(0)
    kinds, customers = 8, 4000
    store = rng.integers(0, 12, customers)
    # Most customers want the kind of thing that their store is known for, one of the last in the alphabet.
    kind = np.where(rng.random(customers) < 0.3, rng.integers(0, kinds, customers), 4 + store % 4)
    taken = np.stack([kind + kinds * rng.permutation(5)[:3] for kind in kind])
    log = pl.DataFrame(
        {
            "user": np.arange(customers).repeat(3),
            "product": taken.ravel(),
            "time": rng.integers(0, 365 * 86_400, customers).repeat(3),
            "scene": [f"store {n}" for n in store.repeat(3)],
        }
    )
    items = pl.DataFrame({"product": range(40), "text": [f"kind {n % 8} thing {n // 8}" for n in range(40)]})
    data = build_dataset(Tables(log, items, len(log)))
    parts = split_scenes(data, PROTOCOL)
    known = np.isin(data.scene, parts.scenes["train"]) & (data.time < parts.period["test"][0])
    episodes = EpisodeSampler(data, parts, PROTOCOL).sample("test")
    assert not any(episode.query_history.any() for episode in episodes)
    neighbours, chance = (evaluate(s, episodes, data.scenes, 5) for s in (ItemKNN(data, known), Random()))
    assert compare(neighbours, chance, "cold_user_recall").low > 0.1


def test_every_baseline_ranks_every_query_without_its_answers(data: Dataset, episodes: list[Episode]) -> None:
    """A baseline that peeks at what is relevant would set a bar that no honest system clears."""
    vectors = torch.randn(len(data.texts), 4, generator=torch.Generator().manual_seed(0))
    parts = split_scenes(data, PROTOCOL)
    systems = build_baselines(data, parts.scenes["train"], parts.period["validation"][0], vectors)
    # No scenes share items, and no products a text: these would be the same as another.
    absent = {"popularity anywhere", "products per item", "popularity + products", *MIXTURES}
    assert set(TEXT_FREE) - set(systems) == absent
    for episode in episodes[:3]:
        blind = replace(episode, relevant=torch.zeros_like(episode.relevant))
        for system in systems.values():
            scores = system.scores(episode)
            assert scores.shape == episode.relevant.shape
            assert scores.isfinite().all()
            assert torch.equal(scores, system.scores(blind))
