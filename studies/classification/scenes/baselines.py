"""Baselines of known classes in scenes: trained on the training rows, on an episode's support, or on both.

What is trained on the training rows alone does not adapt: it is the rival that adapting has to beat. Logistic
regression weighs classes alike, as the recall that systems are compared by does.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from studies.classification.data.dataset import LabelledTexts
from studies.classification.episode import LabelledEpisode
from studies.classification.known.trained import Trained, with_rows
from studies.classification.scoring.baselines import (
    Centroids,
    ClassNames,
    Features,
    LogisticRegression,
    Majority,
    Random,
    Words,
    episode_features,
    lookup,
)
from studies.classification.scoring.evaluate import Classifying

TRAINING, BOTH, SUPPORT = "training rows", "training rows + support", "support alone"
# The baseline that every system is compared with.
REFERENCE = f"frozen encoder logistic regression, {TRAINING}"


def build_scene_baselines(data: LabelledTexts, vectors: Tensor, training: LabelledEpisode) -> Mapping[str, Classifying]:
    """Return all baselines, by their names in the results.

    Args:
        data: The texts.
        vectors: (items, D) embeddings of the untrained encoder.
        training: The training rows as one batch.
    """
    frozen = functional.normalize(vectors, dim=1)
    found: dict[str, Classifying] = {"random": Random(), "majority": Trained(Majority(), training)}
    for name, features in (("TF-IDF", Words(data).of), ("frozen encoder", lookup(frozen))):
        centroids = Centroids(features)
        found |= {
            f"{name} centroids, {TRAINING}": Trained(centroids, training),
            f"{name} centroids, {BOTH}": Trained(centroids, training, with_support=True),
            f"{name} centroids, {SUPPORT}": centroids,
            f"{name} logistic regression, {TRAINING}": TrainedRegression(features, training),
            f"{name} logistic regression, {SUPPORT}": LogisticRegression(features, class_weight="balanced"),
        }
    found[f"frozen encoder logistic regression, {BOTH}"] = TrainedRegression(
        lookup(frozen), training, with_support=True
    )
    return found | {"zero-shot class names": ClassNames(frozen)}


class TrainedRegression:
    """scikit-learn's logistic regression on the training rows, trained once; classes weigh the same.

    Args:
        features: The features of texts, sparse or not.
        training: The training rows as one batch.
        with_support: Whether to go on training on the rows and an episode's support together.
    """

    def __init__(self, features: Features, training: LabelledEpisode, *, with_support: bool = False) -> None:
        self._features, self._training, self._with_support = features, training, with_support

    def logits(self, episode: LabelledEpisode) -> Tensor:
        """Return (Q, N) log probabilities."""
        model = self._trained
        if self._with_support:
            whole = with_rows(episode, self._training, with_support=True)
            support, labels, query = episode_features(self._features, whole)
            model = copy.deepcopy(model).fit(support, labels)
        else:
            _, _, query = episode_features(self._features, episode)
        found = torch.as_tensor(model.predict_log_proba(query), dtype=torch.float32)
        return found.to(episode.items.device)

    @cached_property
    def _trained(self) -> Any:
        from sklearn.linear_model import LogisticRegression as Regression

        rows, labels = self._training, self._training.query_labels.cpu().numpy()
        features = self._features(rows.items[rows.query].cpu().numpy())
        return Regression(max_iter=1000, class_weight="balanced", warm_start=True).fit(features, labels)
