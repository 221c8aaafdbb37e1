"""The recommender that learners adapt: item towers that read texts, and a head that scores a scene's candidates.

    score(user, item) = ⟨scene + user, item⟩ + appeal(text) + catalogue + history match + support + bias[item]

The item tower turns texts into vectors; everything else is the head, small and cheap enough to adapt in an inner loop.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from studies.config.hyperparameters import HeadPart
from studies.episodes.catalogue_terms import TERMS
from studies.episodes.episode import Episode

# Weights of the head that are scalars or stand for one direction; they train at a rate of their own.
HEAD_SCALARS = ("scene", "gates", "sharpness", "bias_rate")
# Where the weights of the catalogue's terms start, in the order of `studies.episodes.catalogue_terms.TERMS`.
TERM_WEIGHTS = (1.0, 0.0, 0.5, 0.1)
assert len(TERM_WEIGHTS) == len(TERMS)
# Name of the module that holds Meta-SGD's learned rates.
INNER_RATES = "inner_rates"


class Texts(NamedTuple):
    """What the texts of a scene's candidates say by themselves, without an encoder: of an `Episode`.

    Attributes:
        overlap: (K, C) how alike the words of the support's items and of the candidates are, in [0, 1].
        fields: (K, C) the same of their texts' fields.
        terms: (C, F) what the catalogue says of the candidates.
    """

    overlap: Tensor
    fields: Tensor
    terms: Tensor


def texts_of(episode: Episode) -> Texts:
    """What an episode holds of its texts."""
    return Texts(episode.overlap, episode.fields, episode.terms)


class Reading(NamedTuple):
    """What the head makes of an episode's texts and support before it is asked about anyone.

    Shapes: H items that histories may hold, all of the episode's unless it lists them apart; C candidates; K support
    interactions; d the head's size; F catalogue terms.

    Attributes:
        own: (C, 1 + F) what speaks for a candidate whoever asks: its appeal, and what the catalogue says.
        profile: (H, d) what having had an item says of a user's taste.
        match: (H, C) similarity kernel between items and candidates.
        support: (4, K, C) between the support's interactions and the candidates: 1 where one took the other, and
            similarity kernels of their vectors, their words, and their texts' fields.
        targets: (C, d) the candidates' vectors.
    """

    own: Tensor
    profile: Tensor
    match: Tensor
    support: Tensor
    targets: Tensor

    def asked(self, history: Tensor, memory: Tensor) -> Evidence:
        """What speaks for each candidate when users ask.

        Args:
            history: (R, H) how often each item is in a user's history.
            memory: (R, K) 1 where a user may see a support interaction, else 0.
        """
        affinity, match = self.of_histories(history)
        by_support = (memory @ self.support).log1p()
        return Evidence(self.own, torch.cat([affinity[None], match[None], by_support]), self.targets)

    def of_histories(self, history: Tensor) -> tuple[Tensor, Tensor]:
        """(R, C) affinity, and (R, C) history match: the terms that a user's history decides, zero without any."""
        # Histories are counts, so that every sum over a history is one matrix product.
        length = history.sum(1, keepdim=True).clamp(min=1)
        affinity = 5 * (history @ self.profile / length) @ self.targets.T
        return affinity, (history @ self.match).log1p()


class Evidence(NamedTuple):
    """The terms of the score of R users, before they are weighed.

    Attributes:
        own: (C, 1 + F) of the candidates, whoever asks.
        by_user: (6, R, C) affinity, history match, and the four kinds of similarity to the support.
        targets: (C, d) the candidates' vectors.
    """

    own: Tensor
    by_user: Tensor
    targets: Tensor

    def scores(self, gates: Tensor, scene: Tensor, bias: Tensor) -> Tensor:
        """(R, C) the terms weighed and summed.

        Args:
            gates: (8 + F,) weights: of `by_user`, of the direction of taste, of `own`.
            scene: (d,) direction of taste.
            bias: (C,) per-candidate bias.
        """
        alike = self.own @ gates[7:] + 5 * gates[6] * (self.targets @ scene) + bias
        return torch.einsum("t,trc->rc", gates[:6], self.by_user) + alike


class Head(nn.Module):
    """Reads a scene: from item vectors and a support to what scores are made of.

    Args:
        width: size D of an item vector.
        size: size d of the space in which users and items meet.
        learned_rates: hold a multiple of `inner_lr` for every weight that adapts, as Meta-SGD learns them.
    """

    def __init__(self, width: int, size: int = 64, *, learned_rates: bool = False) -> None:
        super().__init__()
        self.project = nn.Linear(width, size, bias=False)
        self.user = nn.Linear(size, size, bias=False)
        appeal = nn.Linear(64, 1)
        self.appeal = nn.Sequential(nn.Linear(2 * width, 64), nn.GELU(), appeal)
        # A prior direction of taste; adapted to the scene by gradient learners.
        self.scene = nn.Parameter(torch.zeros(size))
        # Weights of: affinity, history match, support counts, support neighbours, their words, their fields, scene,
        # appeal, and the catalogue's terms. Counts, words and terms start near what fits training scenes; the others
        # low, but not at zero, where nothing below them would train (docs/decisions.md).
        self.gates = nn.Parameter(torch.tensor([0.1, 0.1, 1.0, 0.1, 1.0, 0.3, 1.0, 1.0, *TERM_WEIGHTS]))
        # Log sharpness of the similarity kernels: history match, support neighbours, their words, their fields.
        self.sharpness = nn.Parameter(torch.tensor([2.3, 2.3, 0.7, 0.7]))
        # Log of how many times inner_lr the per-candidate bias moves: its gradient is spread over K interactions.
        self.bias_rate = nn.Parameter(torch.tensor(2.3))
        nn.init.normal_(self.project.weight, std=width**-0.5)
        nn.init.zeros_(appeal.weight)
        nn.init.zeros_(appeal.bias)
        if learned_rates:
            # Names of a ParameterDict hold no dots.
            adapting = {name: p for name, p in self.named_parameters() if name != "bias_rate"}
            self.inner_rates = nn.ParameterDict(
                {name.replace(".", "/"): torch.ones_like(p) for name, p in adapting.items()}
            )

    def train_only(self, part: HeadPart) -> None:
        """Freezes what a trial is not to train: matrices learn training scenes by heart where these are few."""
        # The direction of taste is a prior of appeal too, a linear one.
        scalars = {*HEAD_SCALARS} - {"scene"}
        trained = {"scalars": scalars, "projection": scalars | {"project", "user"}}
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(part == "all" or bool(trained[part] & set(re.split(r"[./]", name))))

    @torch.no_grad()
    def start_from(self, vectors: Tensor) -> None:
        """Starts the projection at the principal directions of these (N, D) item vectors instead of random ones."""
        centred = vectors - vectors.mean(0)
        directions = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1).T
        rows = min(len(self.project.weight), len(directions))
        self.project.weight[:rows] = directions[:rows]

    def forward(
        self,
        vectors: Tensor,
        candidates: int,
        support: Tensor,
        texts: Texts,
        present: Tensor | None = None,
        first_held: int = 0,
    ) -> Reading:
        """Reads an episode.

        Args:
            vectors: (M, D) vectors of the episode's items; the first C are the candidates.
            candidates: C.
            support: (K,) positions of the support's items among the candidates.
            texts: what the candidates' texts say by themselves.
            present: (C,) false for padding, whose scores mean nothing; none is if left out.
            first_held: from which of the items on histories count.
        """
        items = self._placed(vectors)
        targets = items[:candidates]
        distance = items[support] @ targets.T - 1
        taken = support[:, None] == torch.arange(candidates, device=support.device)
        alike = torch.stack([distance, texts.overlap.to(vectors) - 1, texts.fields.to(vectors) - 1])
        kernels = (alike * self.sharpness[1:].exp()[:, None, None]).exp()
        profile, match = self._of_held(items[first_held:], targets)
        return Reading(
            own=torch.cat([self._appeal(vectors[:candidates], present)[:, None], texts.terms.to(vectors)], dim=1),
            profile=profile,
            match=match,
            support=torch.cat([taken.to(vectors)[None], kernels]),
            targets=targets,
        )

    def reread(self, reading: Reading, vectors: Tensor) -> Reading:
        """The same reading for histories of other items, (H, D); the candidates stay."""
        profile, match = self._of_held(self._placed(vectors), reading.targets)
        return reading._replace(profile=profile, match=match)

    def _placed(self, vectors: Tensor) -> Tensor:
        return functional.normalize(self.project(vectors), dim=-1)

    def _of_held(self, items: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return self.user(items), ((items @ targets.T - 1) * self.sharpness[0].exp()).exp()

    def _appeal(self, vectors: Tensor, present: Tensor | None) -> Tensor:
        # The text, and how it differs from the scene's other texts. Unit vectors have components near D^-1/2: scale
        # them to order one.
        scale = vectors.shape[1] ** 0.5
        if present is None:
            centre = vectors.mean(0)
        else:
            weight = present.to(vectors.dtype)
            centre = weight @ vectors / weight.sum()
        # The first layer reads [vectors, vectors - centre]; being linear, it need not be given them side by side.
        first: Any = self.appeal[0]
        own, context = first.weight.split(vectors.shape[1], dim=1)
        out: Tensor = functional.linear(vectors, own + context) - context @ centre
        out = self.appeal[1:](out * (scale / 4) + first.bias)
        return out[:, 0]


@dataclass(frozen=True)
class AdaptedScene:
    """A recommender adapted to one scene: ranks its candidates for anyone.

    Attributes:
        reading: the head's reading of the scene, under adapted weights where a learner adapts them.
        scene: (d,) direction of taste.
        gates: (8 + F,) weights of the score's terms.
        bias: (C,) per-candidate bias.
        head: the head's adapted weights by name, to read further items with; none where the head itself did not move.
    """

    reading: Reading
    scene: Tensor
    gates: Tensor
    bias: Tensor
    head: Mapping[str, Tensor] = field(default_factory=dict)

    def scores(self, history: Tensor, memory: Tensor | None = None) -> Tensor:
        """(R, C) scores of the candidates.

        Args:
            history: (R, H) how often each item is in a user's history.
            memory: (R, K) 1 where a row may see a support interaction, else 0; all ones if left out. In the inner
                loop a support user must not see their own interaction, which is the label there.
        """
        if memory is None:
            memory = history.new_ones(len(history), self.reading.support.shape[1])
        return self.reading.asked(history, memory).scores(self.gates, self.scene, self.bias)

    def of_histories(self, reading: Reading, history: Tensor) -> Tensor:
        """(R, C) what histories add to the scores of someone who has none.

        Args:
            reading: of `Head.reread`, of the items that the histories hold.
            history: (R, H) how often each of them is in a user's history.
        """
        affinity, match = reading.of_histories(history)
        return self.gates[0] * affinity + self.gates[1] * match


class Recommender(nn.Module):
    """An item tower and a head: all that a learner meta-trains."""

    def __init__(self, tower: nn.Module, head: Head) -> None:
        super().__init__()
        self.tower = tower
        self.head = head

    @property
    def encoder_trains(self) -> bool:
        """Whether the tower has weights of its own to train."""
        return any(parameter.requires_grad for parameter in self.tower.parameters())
