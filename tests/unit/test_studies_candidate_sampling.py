"""Fewer candidates in training episodes: which remain, and that the rest of the episode follows them."""

import numpy as np
import pytest
import torch

from studies.config.protocol_section import RankingProtocol
from studies.episodes.episode import Episode
from studies.episodes.sampler import EpisodeSampler
from studies.episodes.split import split_scenes
from studies.training.candidate_sampling import sample_candidates
from tests.synthetic import planted_dataset

# Every item is a candidate, so that what is known elsewhere has columns too.
PROTOCOL = RankingProtocol(
    shots=3, history=8, queries=6, train_queries=2, split=(0.5, 0.25, 0.25), k=5, candidates="all"
)


@pytest.fixture(scope="module")
def episodes() -> list[Episode]:
    data = planted_dataset()
    return EpisodeSampler(data, split_scenes(data, PROTOCOL), PROTOCOL).sample("train")


def test_everything_taken_stays_and_the_rest_is_drawn_up_to_the_limit(episodes: list[Episode]) -> None:
    """An answer that is not among the candidates would make the loss a division by zero."""
    for number, episode in enumerate(episodes):
        sampled = sample_candidates(episode, 10, np.random.default_rng(number))
        taken = int(
            episode.relevant.any(0)
            .logical_or(torch.zeros(episode.candidates).index_fill(0, episode.support, 1) > 0)
            .sum()
        )
        assert sampled.candidates == min(episode.candidates, max(10, taken))
        assert sampled.relevant.sum() == episode.relevant.sum()
        assert sampled.relevant.any(1).all()


def test_positions_histories_and_texts_follow_their_items(episodes: list[Episode]) -> None:
    """A column that moved without its item would teach that one product is another."""
    for number, episode in enumerate(episodes):
        sampled = sample_candidates(episode, 8, np.random.default_rng(number))
        assert sorted(sampled.items.tolist()) == sorted(episode.items.tolist())
        kept = [episode.items.tolist().index(item) for item in sampled.items[: sampled.candidates].tolist()]
        assert kept == sorted(kept)
        assert max(kept) < episode.candidates
        assert torch.equal(sampled.items[sampled.support], episode.items[episode.support])
        for name in ("relevant", "excluded", "overlap", "fields", "support_past", "query_past"):
            assert torch.equal(getattr(sampled, name), getattr(episode, name)[:, kept]), name
        for name in ("terms", "elsewhere"):
            assert torch.equal(getattr(sampled, name), getattr(episode, name)[kept]), name
        for name in ("elsewhere_total", "support_past_total", "query_past_total"):
            assert torch.equal(getattr(sampled, name), getattr(episode, name)), name
        held = episode.items[episode.held].tolist()
        places = [held.index(item) for item in sampled.items[sampled.held].tolist()]
        assert sorted(places) == list(range(len(held)))
        assert sampled.held.tolist() == sorted(sampled.held.tolist())
        for name in ("support_history", "query_history"):
            assert torch.equal(getattr(sampled, name), getattr(episode, name)[:, places]), name


def test_small_episodes_stay_as_they_are_and_draws_follow_the_generator(episodes: list[Episode]) -> None:
    """A resumed trial must see the very candidates that it would have seen."""
    episode = max(episodes, key=lambda e: e.candidates)
    assert sample_candidates(episode, episode.candidates, np.random.default_rng(0)) is episode
    one, two, other = (sample_candidates(episode, 8, np.random.default_rng(seed)).items.tolist() for seed in (0, 0, 1))
    assert one == two
    assert one != other
