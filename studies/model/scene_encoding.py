"""What a recommender's head makes of a scene, and the scores that follow from it.

    SceneEncoding ─▶ ScoreFeatures of some users ─▶ scores, weighed by FeatureWeights

`studies.model.recommender.Head` makes the encoding; an `AdaptedScene` holds it with the weights adapted to the scene.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from studies.episodes.catalogue_terms import TERMS
from studies.episodes.episode import Episode

# Weights of a head where scenes share no items; the weight of what is known elsewhere is behind them.
TEXT_WEIGHTS = 8 + len(TERMS)
# Part of all takings that an item of an average text has before anybody took it: far below one of thousands that are
# taken alike. A text makes it at most e^10 times as much.
UNKNOWN, MOST_BY_TEXT = 1e-5, 10.0


class EpisodeTexts(NamedTuple):
    """Features of an episode's candidates that take no encoder.

    Attributes:
        overlap: (K, C) how alike the words of the support's items and of the candidates are, in [0, 1].
        fields: (K, C) the same of their texts' fields.
        terms: (C, F) the catalogue's terms of the candidates.
        popularity: (C, B) each candidate's part of what was taken elsewhere; (C, 0) where scenes share no items.
    """

    overlap: Tensor
    fields: Tensor
    terms: Tensor
    popularity: Tensor


def episode_texts(episode: Episode) -> EpisodeTexts:
    """Return an episode's features that take no encoder."""
    popularity = episode.elsewhere / episode.elsewhere_total.clamp(min=1e-9)
    return EpisodeTexts(episode.overlap, episode.fields, episode.terms, popularity.to(episode.terms))


def history_match(items: Tensor, candidates: Tensor, sharpness: Tensor) -> Tensor:
    """Return the (H, C) similarity kernel between (H, d) items of histories and (C, d) candidates."""
    return ((items @ candidates.T - 1) * sharpness[0].exp()).exp()


def support_kernels(
    items: Tensor, candidates: Tensor, support: Tensor, texts: EpisodeTexts, sharpness: Tensor
) -> Tensor:
    """Return the (4, K, C) kernels between the support's interactions and the candidates.

    Args:
        items: (K, d) vectors of the support's items.
        candidates: (C, d) the candidates' vectors.
        support: (K,) positions of the support's items among the candidates.
        texts: Features of the candidates' texts.
        sharpness: (4,) of `Head.sharpness`.
    """
    distance = items @ candidates.T - 1
    taken = support[:, None] == torch.arange(len(candidates), device=support.device)
    alike = torch.stack([distance, texts.overlap.to(candidates) - 1, texts.fields.to(candidates) - 1])
    kernels = (alike * sharpness[1:].exp()[:, None, None]).exp()
    return torch.cat([taken.to(candidates)[None], kernels])


def mixed_popularity(parts: Tensor, elsewhere: Tensor | None) -> Tensor:
    """Return the (C,) popularity of (C, B) parts of all takings; (0,) where scenes share no items.

    Args:
        parts: Each candidate's part of what was taken elsewhere, by half-life.
        elsewhere: (B + 1,) of `Head.elsewhere`.
    """
    if elsewhere is None:
        return parts.new_empty(0)
    mixed: Tensor = parts @ elsewhere[:-1].softmax(0)
    return elsewhere[-1].exp() * mixed


class FeatureWeights(NamedTuple):
    """The weights of the score's features, by name.

    Attributes:
        values: (8 + F,) all of them, as in `Head.feature_weights`; one more where scenes share items.
    """

    values: Tensor

    @property
    def user(self) -> Tensor:
        """The (6,) weights of `ScoreFeatures.user_features`."""
        return self.values[:6]

    @property
    def elsewhere(self) -> Tensor:
        """The weight of `ScoreFeatures.elsewhere`."""
        return self.values[-1]

    @property
    def preference(self) -> Tensor:
        """The weight of the scene's preference."""
        return self.values[6]

    @property
    def candidate(self) -> Tensor:
        """The (1 + F,) weights of `ScoreFeatures.candidate_features`."""
        return self.values[7:TEXT_WEIGHTS]

    @property
    def affinity(self) -> Tensor:
        """The weight of the first of the user's features."""
        return self.values[0]

    @property
    def history_match(self) -> Tensor:
        """The weight of the second of the user's features."""
        return self.values[1]


class SceneEncoding(NamedTuple):
    """A scene's candidates and support as the head encodes them, the same for all users.

    Shapes: H items that histories may hold, all of the episode's unless it lists them apart; C candidates; K support
    interactions; d the head's size; F catalogue terms.

    Attributes:
        candidate_features: (C, 1 + F) features that do not depend on the user: appeal, and the catalogue's terms.
        profiles: (H, d) what each item in a history adds to the user's vector.
        history_match: (H, C) similarity kernel between items and candidates.
        support_kernels: (4, K, C) between the support's interactions and the candidates: 1 where one took the other,
            and similarity kernels of their vectors, their words, and their texts' fields.
        candidate_vectors: (C, d) the candidates' vectors.
        popularity: (C,) how popular each candidate is elsewhere, weighed beside a user's own past; (0,) where scenes
            share no items.
    """

    candidate_features: Tensor
    profiles: Tensor
    history_match: Tensor
    support_kernels: Tensor
    candidate_vectors: Tensor
    popularity: Tensor

    def score_features(self, history: Tensor, visible: Tensor, past: Tensor | None = None) -> ScoreFeatures:
        """Return the features of the scores of R users.

        Args:
            history: (R, H) how often each item is in a user's history.
            visible: (R, K) 1 where a support interaction counts for the user, else 0.
            past: (R, C) each candidate's part of what the user took; of nothing if left out.
        """
        affinity, match = self.history_features(history)
        by_support = (visible @ self.support_kernels).log1p()
        user_features = torch.cat([affinity[None], match[None], by_support])
        elsewhere = self.popularity.expand(len(history), -1)
        if past is not None and len(self.popularity):
            elsewhere = elsewhere + past.to(history)
        return ScoreFeatures(self.candidate_features, user_features, self.candidate_vectors, elsewhere)

    def history_features(self, history: Tensor) -> tuple[Tensor, Tensor]:
        """Return (R, C) affinity and (R, C) history match: the features that depend on the history, zero without any.

        Args:
            history: (R, H) how often each item is in a user's history.
        """
        # Histories are counts, so that every sum over a history is one matrix product.
        length = history.sum(1, keepdim=True).clamp(min=1)
        affinity = 5 * (history @ self.profiles / length) @ self.candidate_vectors.T
        return affinity, (history @ self.history_match).log1p()


class ScoreFeatures(NamedTuple):
    """The features of the scores of R users, before they are weighed.

    Attributes:
        candidate_features: (C, 1 + F) those that do not depend on the user.
        user_features: (6, R, C) affinity, history match, and the four kinds of similarity to the support.
        candidate_vectors: (C, d) the candidates' vectors.
        elsewhere: (R, C) how likely the user takes the candidate by what is known elsewhere: by its popularity, and by
            the user's own past; (R, 0) where scenes share no items.
    """

    candidate_features: Tensor
    user_features: Tensor
    candidate_vectors: Tensor
    elsewhere: Tensor

    def scores(self, weights: FeatureWeights, preference: Tensor, bias: Tensor) -> Tensor:
        """Return the (R, C) scores: the features weighed and summed.

        Args:
            weights: The features' weights.
            preference: (d,) direction that the scene prefers.
            bias: (C,) per-candidate bias.
        """
        by_text = self.candidate_features @ weights.candidate
        by_candidate = 5 * weights.preference * (self.candidate_vectors @ preference) + bias
        scores = torch.einsum("t,trc->rc", weights.user, self.user_features) + by_candidate
        if not self.elsewhere.shape[-1]:
            return scores + by_text
        return scores + weights.elsewhere * (self.elsewhere + unknown(by_text)).log()


def unknown(by_text: Tensor) -> Tensor:
    """Return (C,) what candidates have of all takings before anybody took them: what their texts say of it."""
    return UNKNOWN * by_text.clamp(max=MOST_BY_TEXT).exp()


@dataclass(frozen=True)
class AdaptedScene:
    """A recommender adapted to one scene: ranks its candidates for any user.

    Attributes:
        encoding: The head's encoding of the scene, under adapted weights where a learner adapts the head.
        preference: (d,) direction that the scene prefers.
        feature_weights: (8 + F,) weights of the score's features, as in `FeatureWeights`.
        bias: (C,) per-candidate bias.
        head: The head's adapted weights by name, to encode further items with; none where the head did not adapt.
    """

    encoding: SceneEncoding
    preference: Tensor
    feature_weights: Tensor
    bias: Tensor
    head: Mapping[str, Tensor] = field(default_factory=dict)

    def scores(self, history: Tensor, visible: Tensor | None = None, past: Tensor | None = None) -> Tensor:
        """Return (R, C) scores of the candidates.

        Args:
            history: (R, H) how often each item is in a user's history.
            visible: (R, K) 1 where a support interaction counts for the user, else 0; all ones if left out. In the
                inner loop a support user must not see their own interaction, which is the label there.
            past: (R, C) each candidate's part of what the user took; of nothing if left out.
        """
        if visible is None:
            visible = history.new_ones(len(history), self.encoding.support_kernels.shape[1])
        weights = FeatureWeights(self.feature_weights)
        return self.encoding.score_features(history, visible, past).scores(weights, self.preference, self.bias)

    def predict(self, episode: Episode, vectors: Tensor) -> Tensor:
        """Return (Q, C) scores for an episode's queries; its items' vectors are in the encoding already."""
        return self.scores(episode.query_history, past=episode.query_share)

    def repurchase_scores(self, candidates: Tensor, past: Tensor) -> Tensor:
        """Return (n,) what a user's own past adds to the scores of candidates.

        Args:
            candidates: (n,) positions of the candidates.
            past: (n,) part of each in what the user took.
        """
        weights, encoding = FeatureWeights(self.feature_weights), self.encoding
        others = encoding.popularity[candidates] + unknown(encoding.candidate_features[candidates] @ weights.candidate)
        return weights.elsewhere * ((others + past.to(others)).log() - others.log())

    def history_scores(self, encoding: SceneEncoding, history: Tensor) -> Tensor:
        """Return (R, C) what histories add to the scores of a user who has none.

        Args:
            encoding: That of `Head.with_history_items`, of the items that the histories hold.
            history: (R, H) how often each of them is in a user's history.
        """
        affinity, match = encoding.history_features(history)
        weights = FeatureWeights(self.feature_weights)
        return weights.affinity * affinity + weights.history_match * match
