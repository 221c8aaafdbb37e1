"""The recommender that learners adapt: an item tower, and a head that scores a scene's candidates.

    score(user, item) = ⟨preference + user, item⟩ + history match + support + bias[item] + text(item)

    text(item) = appeal + catalogue; where scenes share items, in its place

    elsewhere(user, item) = log(own past(user, item) + e^m · Σ_b π_b popularity_b(item) + ε · e^text(item))

The item tower turns texts into vectors; everything else is the head, small and cheap enough to adapt in an inner loop.
What the head makes of a scene, and the scores that follow from it, are in `studies/model/scene_encoding.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from studies.config.hyperparameters import HeadPart
from studies.episodes.catalogue_terms import TERMS
from studies.episodes.elsewhere import HALF_LIVES
from studies.model.adapting_model import AdaptingModel, inner_rates
from studies.model.scene_encoding import EpisodeTexts, SceneEncoding, history_match, mixed_popularity, support_kernels

# Weights of the head that are scalars or stand for one direction; they train at a rate of their own.
HEAD_SCALARS = ("scene_preference", "feature_weights", "sharpness", "bias_rate", "elsewhere")
# Where the weights of the catalogue's terms start, in the order of `studies.episodes.catalogue_terms.TERMS`.
TERM_WEIGHTS = (1.0, 0.0, 0.5, 0.1)
assert len(TERM_WEIGHTS) == len(TERMS)
# Where the weights of all features start, in the order of `FeatureWeights`.
START = (0.1, 0.1, 1.0, 0.1, 1.0, 0.3, 1.0, 1.0, *TERM_WEIGHTS)
# Where scenes share items, what is known elsewhere says more than a support and the catalogue do: these start low.
START_ELSEWHERE = (0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0)
# Where m starts: popularity elsewhere counts about ten times as much as a user's own past.
POPULARITY = 2.3


class Head(nn.Module):
    """Encodes a scene: from item vectors and a support to what scores are made of.

    Args:
        width: Size D of an item vector.
        size: Size d of the space in which users and items meet.
        learned_rates: Whether to hold a multiple of `inner_lr` for every weight that adapts, as Meta-SGD learns them.
        elsewhere: Whether to weigh what is known of candidates elsewhere: where scenes share items.
    """

    scalars = HEAD_SCALARS

    def __init__(self, width: int, size: int = 64, *, learned_rates: bool = False, elsewhere: bool = False) -> None:
        super().__init__()
        self.project = nn.Linear(width, size, bias=False)
        self.user = nn.Linear(size, size, bias=False)
        appeal = nn.Linear(64, 1)
        self.appeal = nn.Sequential(nn.Linear(2 * width, 64), nn.GELU(), appeal)
        # The direction that scenes prefer before they are known; learners with an inner loop adapt it to the scene.
        self.scene_preference = nn.Parameter(torch.zeros(size))
        # As in `FeatureWeights`: affinity, history match, support counts, support neighbours, their words, their
        # fields; preference; appeal and the catalogue's terms; what is known elsewhere. Counts, words and terms start
        # near what fits training scenes; the others low, but not at zero, where nothing below them would train
        # (docs/decisions.md). One parameter, so that the outer loop clips and updates them together.
        self.feature_weights = nn.Parameter(torch.tensor(START_ELSEWHERE if elsewhere else START))
        # Logarithms of π, which half-lives count, and m, which popularity is weighed with beside a user's own past.
        self.elsewhere = nn.Parameter(torch.tensor([0.0] * len(HALF_LIVES) + [POPULARITY])) if elsewhere else None
        # Log sharpness of the similarity kernels: history match, support neighbours, their words, their fields.
        self.sharpness = nn.Parameter(torch.tensor([2.3, 2.3, 0.7, 0.7]))
        # Log of how many times inner_lr the per-candidate bias moves: its gradient is spread over K interactions.
        self.bias_rate = nn.Parameter(torch.tensor(2.3))
        nn.init.normal_(self.project.weight, std=width**-0.5)
        nn.init.zeros_(appeal.weight)
        nn.init.zeros_(appeal.bias)
        if learned_rates:
            self.inner_rates = inner_rates({name: p for name, p in self.named_parameters() if name != "bias_rate"})

    def train_only(self, part: HeadPart) -> None:
        """Freeze what a trial is not to train: matrices learn training scenes by heart where these are few."""
        # The preference is a prior of appeal too, a linear one.
        scalars = {*HEAD_SCALARS} - {"scene_preference"}
        trained = {"scalars": scalars, "projection": scalars | {"project", "user"}}
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(part == "all" or bool(trained[part] & set(re.split(r"[./]", name))))

    @torch.no_grad()
    def start_from(self, vectors: Tensor) -> None:
        """Start the projection at the principal directions of these (N, D) item vectors instead of random ones."""
        centred = vectors - vectors.mean(0)
        directions = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1).T
        rows = min(len(self.project.weight), len(directions))
        self.project.weight[:rows] = directions[:rows]

    def forward(
        self,
        vectors: Tensor,
        candidates: int,
        support: Tensor,
        texts: EpisodeTexts,
        held: Tensor,
        present: Tensor | None = None,
    ) -> SceneEncoding:
        """Return the encoding of an episode.

        Args:
            vectors: (M, D) vectors of the episode's items; the first C are the candidates.
            candidates: C.
            support: (K,) positions of the support's items among the candidates.
            texts: Features of the candidates' texts.
            held: (H,) positions of the items that histories count.
            present: (C,) false for padding, whose scores mean nothing; all true if left out.
        """
        items = self.directions(vectors)
        candidate_vectors = items[:candidates]
        kernels = support_kernels(items[support], candidate_vectors, support, texts, self.sharpness)
        profiles, match = self._encode_histories(items[held], candidate_vectors)
        appeal = self._appeal(vectors[:candidates], present)
        return SceneEncoding(
            candidate_features=torch.cat([appeal[:, None], texts.terms.to(vectors)], dim=1),
            profiles=profiles,
            history_match=match,
            support_kernels=kernels,
            candidate_vectors=candidate_vectors,
            popularity=mixed_popularity(texts.popularity.to(vectors), self.elsewhere),
        )

    def with_history_items(
        self, encoding: SceneEncoding, vectors: Tensor, adapted: Mapping[str, Tensor] | None = None
    ) -> SceneEncoding:
        """Return the encoding for histories of other items; the candidates stay.

        Args:
            encoding: The scene's.
            vectors: (H, D) the items' vectors.
            adapted: Weights by name in the place of the head's own.
        """
        weights = {**dict(self.named_parameters()), **(adapted or {})}
        items = functional.normalize(functional.linear(vectors, weights["project.weight"]), dim=-1)
        profiles = functional.linear(items, weights["user.weight"])
        match = history_match(items, encoding.candidate_vectors, weights["sharpness"])
        return encoding._replace(profiles=profiles, history_match=match)

    def directions(self, vectors: Tensor) -> Tensor:
        """Return the (n, d) directions of items, of length 1, in the space where users and items meet."""
        return functional.normalize(self.project(vectors), dim=-1)

    def profiles(self, vectors: Tensor, history: Tensor) -> Tensor:
        """Return the (R, d) directions of users, of length 1 and comparable with those of items; 0 without a history.

        Args:
            vectors: (H, D) vectors of items.
            history: (R, H) how often each of them is in a user's history.
        """
        items = self.directions(vectors)
        # A matrix that training left as it was drawn turns every user into a random direction (docs/decisions.md).
        profiles = self.user(items) if self.user.weight.requires_grad else items
        return functional.normalize(history @ profiles, dim=-1)

    def _encode_histories(self, items: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
        return self.user(items), history_match(items, candidates, self.sharpness)

    def _appeal(self, vectors: Tensor, present: Tensor | None) -> Tensor:
        # The text, and how it differs from the scene's other texts. Unit vectors have components near D^-1/2: scale
        # them to order one.
        scale = vectors.shape[1] ** 0.5
        if present is None:
            centre = vectors.mean(0)
        else:
            weight = present.to(vectors.dtype)
            centre = weight @ vectors / weight.sum()
        # The first layer takes [vectors, vectors - centre]; being linear, it need not be given them side by side.
        first: Any = self.appeal[0]
        own, context = first.weight.split(vectors.shape[1], dim=1)
        out: Tensor = functional.linear(vectors, own + context) - context @ centre
        out = self.appeal[2](self.appeal[1](out * (scale / 4) + first.bias))
        return out[:, 0]


class Recommender(AdaptingModel):
    """An item tower and a head: all that a learner meta-trains."""

    def __init__(self, tower: nn.Module, head: Head) -> None:
        super().__init__()
        self.tower = tower
        self.head: Head = head
