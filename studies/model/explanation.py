"""Why a candidate has its score for a user: the terms that add up to it, and the items that brought them.

The terms are those of `studies.model.scene_encoding`, each with its weight. Inside the logarithm of what is known
elsewhere nothing is a sum; there each part counts as what it adds to the parts before it: text, then popularity, then
the user's own past.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from studies.episodes.catalogue_terms import TERMS
from studies.model.scene_encoding import AdaptedScene, FeatureWeights, SceneEncoding, unknown

# In the order of `ScoreFeatures.user_features`; of `SceneEncoding.support_kernels` from the third on.
USER_TERMS = (
    "history affinity",
    "history match",
    "support counts",
    "support neighbours",
    "support words",
    "support fields",
)
CANDIDATE_TERMS = ("appeal", *(f"catalogue {name}" for name in TERMS))
SUPPORT, HISTORY = "support", "history"


class Term(NamedTuple):
    """One term of a score.

    Attributes:
        name: What it is.
        value: What it adds to the score.
        source: Whose items brought it: "support", "history", or "" where none did.
        parts: What each interaction of the support, or each item of the history, has of the value.
    """

    name: str
    value: float
    source: str = ""
    parts: tuple[float, ...] = ()


@torch.no_grad()
def explain(
    adapted: AdaptedScene, encoding: SceneEncoding, history: Tensor, past: Tensor | None, candidates: Sequence[int]
) -> list[list[Term]]:
    """Return the terms of the scores of some candidates for one user.

    Args:
        adapted: The scene.
        encoding: That of `Head.with_history_items`, of the items that the history holds.
        history: (H,) how often each of them is in the history.
        past: (C,) each candidate's part of what the user took; None if of nothing.
        candidates: Positions of the candidates.
    """
    weights, kernels = FeatureWeights(adapted.feature_weights), encoding.support_kernels
    visible, taken = history.new_ones(1, kernels.shape[1]), None if past is None else past[None]
    features = encoding.score_features(history[None], visible, taken)
    values = weights.user[:, None] * features.user_features[:, 0]
    affinities = 5 * history[:, None] * (encoding.profiles @ encoding.candidate_vectors.T)
    # What the items of the history, and the interactions of the support, have of each value.
    amounts = [affinities, history[:, None] * encoding.history_match, *kernels]
    preference = 5 * weights.preference * (encoding.candidate_vectors @ adapted.preference)
    found = []
    for candidate in candidates:
        terms = []
        for name, value, amount in zip(USER_TERMS, values[:, candidate], amounts, strict=True):
            source = HISTORY if name.startswith(HISTORY) else SUPPORT
            terms.append(Term(name, float(value), source, _parts(value, amount[:, candidate])))
        terms.append(Term("scene preference", float(preference[candidate])))
        terms.append(Term("adapted bias", float(adapted.bias[candidate])))
        by_text = weights.candidate * encoding.candidate_features[candidate]
        if features.elsewhere.shape[-1]:
            elsewhere = (encoding.popularity[candidate], features.elsewhere[0, candidate])
            terms += _elsewhere(weights.elsewhere, by_text.sum(), *elsewhere)
        else:
            terms += [Term(name, value) for name, value in zip(CANDIDATE_TERMS, by_text.tolist(), strict=True)]
        found.append(terms)
    return found


def _parts(value: Tensor, amounts: Tensor) -> tuple[float, ...]:
    """Return a value divided in proportion to amounts; zeros where they have no sum, as without a history."""
    total = amounts.sum()
    return tuple((value * amounts / total).tolist()) if float(total) else (0.0,) * len(amounts)


def _elsewhere(weight: Tensor, by_text: Tensor, popularity: Tensor, elsewhere: Tensor) -> list[Term]:
    """Return the terms of what is known elsewhere: each is what the logarithm gains by it."""
    prior = unknown(by_text)
    text, popular, own = (weight * torch.stack([prior, prior + popularity, prior + elsewhere]).log()).tolist()
    return [Term("text", text), Term("popularity elsewhere", popular - text), Term("own past", own - popular)]
