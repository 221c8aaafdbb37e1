"""Metrics of classification: per episode, where an average over episodes is meant, and pooled over all queries.

The definitions are scikit-learn's. A metric that an episode does not have, such as the ROC-AUC of three classes, is
NaN, and averages leave NaN out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from studies.classification.episode import LabelledEpisode
from studies.data.dataset import Ints
from studies.evaluation.figures import ClassFigures, Confusion, PooledFigures
from studies.evaluation.intervals import Floats

Bools = npt.NDArray[np.bool_]
# The probability from which on a prediction counts as confident.
CONFIDENT = 0.9
_BINS = 15
# The accuracies that coverage is reported at, and how many confusions are.
_ACCURACIES = (0.9, 0.95)
_CONFUSIONS = 20


@dataclass(frozen=True)
class EpisodeMetrics:
    """The metrics of one system on one episode.

    Attributes:
        recall: Recall of a class, averaged over the classes (balanced accuracy).
        accuracy: Queries whose class is predicted, over all queries.
        f1: F1 of a class, averaged over the classes (macro-F1); 0 for a class that is never predicted.
        log_loss: Mean negative log probability of the right class.
        coverage: Queries with a predicted probability of at least 0.9, over all queries.
        confident_accuracy: Accuracy on these queries.
        roc_auc: Area under the ROC curve of the second of two classes.
        average_precision: Average precision of the second of two classes.
    """

    recall: float
    accuracy: float = math.nan
    f1: float = math.nan
    log_loss: float = math.nan
    coverage: float = math.nan
    confident_accuracy: float = math.nan
    roc_auc: float = math.nan
    average_precision: float = math.nan


METRICS = tuple(field.name for field in fields(EpisodeMetrics))


def average(episodes: Sequence[EpisodeMetrics]) -> EpisodeMetrics:
    """Return the mean of each metric over the episodes that have it; NaN where none has."""
    if len(episodes) == 1:
        return episodes[0]
    values = {name: np.array([getattr(each, name) for each in episodes]) for name in METRICS}
    known = {name: found[~np.isnan(found)] for name, found in values.items()}
    return EpisodeMetrics(**{name: float(found.mean()) if len(found) else math.nan for name, found in known.items()})


def predict(logits: Tensor, episode: LabelledEpisode) -> Tensor:
    """Return the (Q,) classes with the highest logits, in 0..N-1.

    Ties are broken at random, the same in every run: broken by the order of the classes, a system that knows nothing
    would always name the first.

    Args:
        logits: (Q, N) finite logits.
        episode: The classified episode.
    """
    best = logits == logits.amax(1, keepdim=True)
    if bool((best.sum(1) > 1).any()):
        return random_numbers(episode, logits.shape).to(logits.device).masked_fill(~best, -1).argmax(1)
    return best.int().argmax(1)


def random_numbers(episode: LabelledEpisode, shape: tuple[int, ...]) -> Tensor:
    """Return uniform numbers in [0, 1), seeded by the texts of the episode."""
    items = episode.items.cpu()
    seed = int((items * (torch.arange(len(items)) + 1)).sum()) % 2**31
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def episode_metrics(logits: Tensor, episode: LabelledEpisode) -> EpisodeMetrics:
    """Return the metrics of one episode.

    Args:
        logits: (Q, N) finite logits; their softmax are the probabilities.
        episode: The classified episode.
    """
    predicted = predict(logits, episode).cpu().numpy()
    truth = episode.query_labels.cpu().numpy()
    log_probabilities = logits.double().log_softmax(1).cpu().numpy()
    confident = np.exp(log_probabilities.max(1)) >= CONFIDENT
    right, two = predicted == truth, logits.shape[1] == 2
    score = log_probabilities[:, 1] - log_probabilities[:, 0]
    return EpisodeMetrics(
        recall=macro_recall(truth, predicted),
        accuracy=float(right.mean()),
        f1=macro_f1(truth, predicted, logits.shape[1]),
        log_loss=float(-log_probabilities[np.arange(len(truth)), truth].mean()),
        coverage=float(confident.mean()),
        confident_accuracy=float(right[confident].mean()) if confident.any() else math.nan,
        roc_auc=roc_auc(truth == 1, score) if two else math.nan,
        average_precision=average_precision(truth == 1, score) if two else math.nan,
    )


def macro_recall(truth: Ints, predicted: Ints) -> float:
    """Return the recall averaged over the classes that have a query (balanced accuracy)."""
    queries = np.bincount(truth)
    found = np.bincount(truth[truth == predicted], minlength=len(queries))
    return float((found[queries > 0] / queries[queries > 0]).mean())


def macro_f1(truth: Ints, predicted: Ints, classes: int) -> float:
    """Return the F1 averaged over all classes: 2·TP / (2·TP + FP + FN), 0 for one neither asked nor predicted."""
    found = np.bincount(truth[truth == predicted], minlength=classes)
    both = np.bincount(truth, minlength=classes) + np.bincount(predicted, minlength=classes)
    return float((2 * found / np.maximum(both, 1)).mean())


def roc_auc(positive: Bools, score: Floats) -> float:
    """Return the probability that a positive scores higher than a negative, ties counted as half; NaN without both."""
    order = np.sort(score[~positive])
    positives, negatives = int(positive.sum()), len(order)
    if not positives or not negatives:
        return math.nan
    below = np.searchsorted(order, score[positive], "left") + np.searchsorted(order, score[positive], "right")
    return float(below.sum() / 2 / (positives * negatives))


def average_precision(positive: Bools, score: Floats) -> float:
    """Return the precisions at each score, weighted by the recall that it adds; NaN without a positive."""
    if not positive.any():
        return math.nan
    order = np.argsort(-score, kind="stable")
    last = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))  # equal scores are one threshold
    found = positive[order].cumsum()[last]
    return float((np.diff(found, prepend=0) / positive.sum() * found / (last + 1)).sum())


def calibration_error(confidence: Floats, right: Bools, bins: int = _BINS) -> float:
    """Return the expected calibration error (Guo et al. 2017, eq. 3) over bins of equal width.

    Args:
        confidence: (n,) probabilities of the predicted classes.
        right: (n,) whether the prediction is right.
        bins: Number of bins.
    """
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    gaps = np.bincount(place, right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


class Predictions:
    """What a system predicts for the queries of many episodes: figures that one episode has too few queries for.

    Args:
        labels: The names of the classes, by their codes.
    """

    def __init__(self, labels: Sequence[str] = ()) -> None:
        self._labels = labels
        self._confidence: list[Floats] = []
        self._right: list[Bools] = []
        self.confusion: Counter[tuple[int, int]] = Counter()
        """Number of queries by the codes of their class and of the predicted one."""

    def add(self, episode: LabelledEpisode, logits: Tensor) -> None:
        """Add the predictions of an episode.

        Args:
            episode: The classified episode.
            logits: (Q, N) finite logits.
        """
        predicted = predict(logits, episode)
        codes = episode.classes.to(predicted.device)
        pairs = zip(codes[episode.query_labels].tolist(), codes[predicted].tolist(), strict=True)
        self.confusion.update(pairs)
        self._confidence.append(logits.double().softmax(1).amax(1).cpu().numpy())
        self._right.append((predicted == episode.query_labels).cpu().numpy())

    def calibration_error(self) -> float:
        """Return the expected calibration error over all queries, in 15 bins."""
        return calibration_error(np.concatenate(self._confidence), np.concatenate(self._right))

    def coverage(self, accuracy: float) -> float:
        """Return the largest fraction of the queries, the most confident ones, whose accuracy is at least that high."""
        order = np.argsort(-np.concatenate(self._confidence), kind="stable")
        right = np.concatenate(self._right)[order]
        good = np.flatnonzero(right.cumsum() / np.arange(1, len(right) + 1) >= accuracy)
        return float(good[-1] + 1) / len(right) if len(good) else 0.0

    def class_queries(self) -> dict[int, int]:
        """Return the number of queries of each class that has any, by its code."""
        queries: Counter[int] = Counter()
        for (truth, _), count in self.confusion.items():
            queries[truth] += count
        return dict(sorted(queries.items()))

    def class_recalls(self) -> dict[int, float]:
        """Return the recall of each class that has a query, by its code, over the queries of all episodes."""
        return {code: self.confusion[code, code] / queries for code, queries in self.class_queries().items()}

    def figures(self) -> PooledFigures:
        """Return all of these under the names of the classes."""
        names, recalls = self._labels, self.class_recalls()
        return PooledFigures(
            calibration_error=self.calibration_error(),
            coverage={accuracy: self.coverage(accuracy) for accuracy in _ACCURACIES},
            classes={
                names[code]: ClassFigures(queries=queries, recall=recalls[code])
                for code, queries in self.class_queries().items()
            },
            confusions=tuple(
                Confusion(label=names[truth], predicted=names[given], queries=queries)
                for truth, given, queries in self.most_confused(_CONFUSIONS)
            ),
        )

    def most_confused(self, count: int) -> list[tuple[int, int, int]]:
        """Return the pairs (class, predicted class, queries) with the most wrong predictions, the most first."""
        wrong = [(truth, given, queries) for (truth, given), queries in self.confusion.items() if truth != given]
        return sorted(wrong, key=lambda pair: (-pair[2], pair[:2]))[:count]
