"""Metrics of classification against scikit-learn, and the baselines on planted texts."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import sklearn.metrics as sk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression as Regression
from torch import Tensor

from studies.classification.episode import LabelledEpisode
from studies.classification.protocol import ClassificationProtocol
from studies.classification.sampling.sampler import LabelledSampler
from studies.classification.sampling.split import split_classes
from studies.classification.scoring import metrics
from studies.classification.scoring.baselines import (
    FROZEN_CENTROIDS,
    Centroids,
    LogisticRegression,
    Majority,
    NamedCentroids,
    Words,
    build_baselines,
    lookup,
)
from studies.classification.scoring.evaluate import evaluate
from studies.classification.scoring.metrics import METRICS, Predictions, calibration_error, episode_metrics, predict
from studies.evaluation.figures import PooledFigures
from studies.evaluation.intervals import bootstrap
from studies.evaluation.metrics import compare
from tests.labelled import planted_texts
from tests.synthetic import BRANDS, COLOURS, NOUNS, ROOMS, SIZES


def make_episode(truth: list[int], ways: int, classes: list[int] | None = None, name: str = "one") -> LabelledEpisode:
    """An episode of which only the queries' classes matter; each class has one labelled text."""
    return LabelledEpisode(
        name=name,
        classes=torch.tensor(classes or list(range(ways))),
        items=torch.arange(ways + len(truth)),
        support=torch.arange(ways),
        support_labels=torch.arange(ways),
        query=torch.arange(ways, ways + len(truth)),
        query_labels=torch.tensor(truth),
        names=torch.arange(ways),
    )


class Fixed:
    """A system of given logits."""

    def __init__(self, logits: Tensor) -> None:
        self._logits = logits

    def logits(self, episode: LabelledEpisode) -> Tensor:
        """The same for every episode."""
        return self._logits


@st.composite
def answered(draw: st.DrawFn) -> tuple[Tensor, LabelledEpisode]:
    ways, queries = draw(st.integers(2, 4)), draw(st.integers(1, 12))
    truth = draw(st.lists(st.integers(0, ways - 1), min_size=queries, max_size=queries))
    values = st.lists(st.integers(-3, 3), min_size=ways, max_size=ways)
    logits = torch.tensor(draw(st.lists(values, min_size=queries, max_size=queries)), dtype=torch.float32)
    return logits, make_episode(truth, ways)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::sklearn.exceptions.UndefinedMetricWarning")
@settings(max_examples=80, deadline=None)
@given(answered())
def test_metrics_of_an_episode_equal_scikit_learns(case: tuple[Tensor, LabelledEpisode]) -> None:
    """A figure under a known name with a definition of its own cannot be compared with anybody's."""
    logits, episode = case
    truth, predicted = episode.query_labels.numpy(), predict(logits, episode).numpy()
    probabilities, labels = logits.double().softmax(1).numpy(), np.arange(episode.ways)
    found = episode_metrics(logits, episode)
    expected = {
        "recall": sk.balanced_accuracy_score(truth, predicted),
        "accuracy": sk.accuracy_score(truth, predicted),
        "f1": sk.f1_score(truth, predicted, labels=labels, average="macro", zero_division=0),
        "log_loss": sk.log_loss(truth, probabilities, labels=labels),
        "coverage": (probabilities.max(1) >= 0.9).mean(),
    }
    two = episode.ways == 2
    expected["roc_auc"] = sk.roc_auc_score(truth, probabilities[:, 1]) if two and len(set(truth)) == 2 else math.nan
    expected["average_precision"] = (
        sk.average_precision_score(truth, probabilities[:, 1]) if two and truth.any() else math.nan
    )
    for name, value in expected.items():
        assert getattr(found, name) == pytest.approx(value, nan_ok=True), name


def test_ties_are_broken_at_random_and_the_same_in_every_run() -> None:
    """Broken by the order of classes, a system that knows nothing would be right wherever the first class is asked."""
    episode = make_episode([0] * 2000, 4)
    predicted = predict(torch.zeros(2000, 4), episode)
    assert torch.equal(predicted, predict(torch.zeros(2000, 4), episode))
    assert (predicted.bincount(minlength=4) > 400).all()
    halves = predict(torch.tensor([[1.0, 5.0, 5.0, 0.0]]).expand(2000, 4), episode)
    assert set(halves.tolist()) == {1, 2}
    other = replace(episode, items=episode.items + 7)
    assert not torch.equal(predicted, predict(torch.zeros(2000, 4), other))


def test_calibration_error_is_that_of_fifteen_bins_and_zero_for_a_calibrated_system() -> None:
    """A confidence of .9 must mean right nine times of ten, or no threshold can be set."""
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.2, 1, 4000)
    right = rng.random(4000) < confidence
    assert calibration_error(confidence, right) < 0.02
    assert calibration_error(np.full(10, 1.0), np.arange(10) < 4) == pytest.approx(0.6)
    fraction, mean = calibration_curve(right, confidence, n_bins=15)
    weights = np.histogram(confidence, np.linspace(0, 1, 16))[0]
    expected = (np.abs(fraction - mean) * weights[weights > 0]).sum() / weights.sum()
    assert calibration_error(confidence, right) == pytest.approx(expected)


def test_pooled_figures_are_those_of_all_queries_by_the_classes_own_codes() -> None:
    """Class 0 of one episode is not class 0 of the next."""
    predictions = Predictions([f"class {code}" for code in range(10)])
    first = make_episode([0, 0, 1], 2, classes=[7, 3])
    second = make_episode([0, 1], 2, classes=[3, 9])
    predictions.add(first, torch.tensor([[9.0, 0], [0, 2], [0, 3]]))
    predictions.add(second, torch.tensor([[1.0, 0], [4, 0]]))
    assert predictions.confusion == {(7, 7): 1, (7, 3): 1, (3, 3): 2, (9, 3): 1}
    assert predictions.class_recalls() == {3: 1.0, 7: 0.5, 9: 0.0}
    assert predictions.most_confused(1) == [(7, 3, 1)]
    truth, given_ = [7, 7, 3, 3, 9], [7, 3, 3, 3, 3]
    assert np.array(list(predictions.class_recalls().values())) == pytest.approx(
        sk.recall_score(truth, given_, labels=[3, 7, 9], average=None)
    )
    # By confidence: right, wrong, right, wrong, right.
    assert [predictions.coverage(accuracy) for accuracy in (1.0, 0.6, 0.0)] == [0.2, 1.0, 1.0]
    assert predictions.coverage(0.65) == pytest.approx(0.6)
    named = predictions.figures()
    assert {name: (each.queries, each.recall) for name, each in named.classes.items()} == {
        "class 3": (2, 1.0), "class 7": (2, 0.5), "class 9": (1, 0.0),
    }  # fmt: skip
    assert (named.confusions[0].label, named.confusions[0].predicted, named.confusions[0].queries) == (
        "class 7", "class 3", 1,
    )  # fmt: skip
    assert named.coverage == {0.9: 0.2, 0.95: 0.2}
    assert PooledFigures.model_validate_json(named.model_dump_json()) == named


def test_an_evaluation_names_its_episodes_and_pairs_with_another() -> None:
    """Intervals resample episodes, and two systems are compared on the same ones."""
    episodes = [make_episode([0, 1], 2, name=f"episode {n}") for n in range(3)]
    right, half = (evaluate(Fixed(torch.tensor(x)), episodes) for x in ([[1.0, 0], [0, 1]], [[1.0, 0], [1, 0]]))
    assert list(right.scenes) == ["episode 0", "episode 1", "episode 2"]
    assert (right.mean(), half.mean(), half.mean("accuracy")) == (1, 0.5, 0.5)
    assert compare(right, half).mean == 0.5
    assert set(vars(right.scenes["episode 0"])) == set(METRICS)
    assert math.isnan(right.scenes["episode 0"].confident_accuracy)  # type: ignore[attr-defined]
    with pytest.raises(FloatingPointError, match="a logit of episode 0 is not finite"):
        evaluate(Fixed(torch.tensor([[math.nan, 0], [0, 1]])), episodes)


WORDS = (*COLOURS, *BRANDS, *SIZES, *ROOMS, *NOUNS)


def bag_of_words(texts: tuple[str, ...], used: tuple[str, ...] = WORDS) -> Tensor:
    return torch.tensor([[float(word in text.split()) for word in used] for text in texts])


@pytest.fixture(scope="module")
def planted() -> tuple[Any, list[LabelledEpisode]]:
    data = planted_texts()
    protocol = ClassificationProtocol(ways=5, shots=5, queries=4, episodes=20)
    return data, LabelledSampler(data, split_classes(data, protocol), protocol).sample("test")


def test_every_baseline_finds_what_it_can_know(planted: tuple[Any, list[LabelledEpisode]]) -> None:
    """A broken baseline makes every learner look good."""
    data, episodes = planted
    systems = build_baselines(data, bag_of_words(data.texts))
    recalls = {name: bootstrap(evaluate(system, episodes).values()) for name, system in systems.items()}
    for name in ("random", "majority"):
        assert recalls[name].low - 0.02 < 0.2 < recalls[name].high + 0.02, name
    for name in ("TF-IDF centroids", "TF-IDF logistic regression", FROZEN_CENTROIDS, "zero-shot class names"):
        assert recalls[name].low > 0.7, (name, recalls[name])
    assert recalls["zero-shot class names"].mean == 1.0, "the names are the only words that tell"
    assert recalls["frozen encoder centroids + class names"].low >= recalls[FROZEN_CENTROIDS].mean
    regression = "frozen encoder logistic regression"
    assert recalls[f"{regression} + class names"].low >= recalls[regression].mean
    again = build_baselines(data, bag_of_words(data.texts))
    assert all(
        (evaluate(again[name], episodes).values() == evaluate(systems[name], episodes).values()).all() for name in again
    )


def test_a_name_is_one_more_text_of_its_class(planted: tuple[Any, list[LabelledEpisode]]) -> None:
    """The baseline that knows what a learner knows: the honest comparison of one that reads names."""
    data, episodes = planted
    vectors = torch.nn.functional.normalize(bag_of_words(data.texts))
    for episode in episodes[:3]:
        found = NamedCentroids(vectors).logits(episode)
        places = torch.cat([episode.support, episode.names])
        labels = torch.cat([episode.support_labels, torch.arange(5)])
        longer = replace(episode, support=places, support_labels=labels)
        torch.testing.assert_close(found, Centroids(lookup(vectors)).logits(longer))
        regression = LogisticRegression(lookup(vectors), reads_names=True)
        torch.testing.assert_close(regression.logits(episode), LogisticRegression(lookup(vectors)).logits(longer))
        assert [data.texts[text] for text in episode.items[episode.names].tolist()] == [
            data.labels[code] for code in episode.classes.tolist()
        ]


@pytest.mark.parametrize("name", ["centroids", "centroids and names", "logistic regression", "majority"])
def test_baselines_read_neither_answers_nor_the_order_of_the_support(
    planted: tuple[Any, list[LabelledEpisode]], name: str
) -> None:
    """Only the labels of the support may change a prediction."""
    data, episodes = planted
    features = lookup(torch.nn.functional.normalize(bag_of_words(data.texts)))
    made: dict[str, Callable[[], Any]] = {
        "centroids": lambda: Centroids(features),
        "centroids and names": lambda: NamedCentroids(torch.as_tensor(features(np.arange(len(data.texts))))),
        "logistic regression": lambda: LogisticRegression(features),
        "majority": Majority,
    }
    system, episode = made[name](), episodes[0]
    logits = system.logits(episode)
    assert logits.shape == (20, 5)
    assert torch.equal(system.logits(replace(episode, query_labels=episode.query_labels.flip(0))), logits)
    order = torch.randperm(25, generator=torch.Generator().manual_seed(0))
    shuffled = replace(episode, support=episode.support[order], support_labels=episode.support_labels[order])
    assert torch.allclose(system.logits(shuffled), logits, atol=1e-3)
    if name != "majority":
        relabelled = replace(episode, support_labels=episode.support_labels.flip(0))
        assert not torch.allclose(system.logits(relabelled), logits, atol=1e-3)


@pytest.mark.parametrize("sparse", [False, True])
def test_the_logistic_regression_is_scikit_learns(planted: tuple[Any, list[LabelledEpisode]], sparse: bool) -> None:
    """It is computed in the directions of the support alone, which must not show."""
    data, episodes = planted
    table = Words(data).of if sparse else lookup(bag_of_words(data.texts))
    for episode in episodes[:3]:
        support, query = (table(episode.items[places].numpy()) for places in (episode.support, episode.query))
        model = Regression(max_iter=1000).fit(support, episode.support_labels)
        expected = torch.as_tensor(model.predict_log_proba(query), dtype=torch.float32)
        assert torch.allclose(LogisticRegression(table).logits(episode), expected, atol=5e-3)


def test_a_majority_follows_the_frequencies_of_the_support() -> None:
    """Three labelled texts of one class and one of another are a prior of three to one."""
    episode = make_episode([0, 1], 2)
    episode = replace(episode, support=torch.tensor([0, 1, 1, 1]), support_labels=torch.tensor([0, 1, 1, 1]))
    assert Majority().logits(episode).softmax(1)[0].tolist() == pytest.approx([0.25, 0.75])


def test_the_area_under_the_curve_counts_a_tie_as_half() -> None:
    """The probability that a positive scores above a negative, by its definition over all pairs."""
    positive, score = np.array([True, False, True, False]), np.array([1.0, 1.0, 3.0, 2.0])
    assert metrics.roc_auc(positive, score) == (0.5 + 0 + 1 + 1) / 4
    assert math.isnan(metrics.roc_auc(np.array([True]), np.array([1.0])))
    assert math.isnan(metrics.average_precision(np.array([False]), np.array([1.0])))
