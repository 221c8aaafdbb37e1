"""The gradient of the support's loss, written out: inner steps in service take neither autograd's graph nor its time.

Of the loss L of scores = f(similarities, texts), where every similarity is a product of candidates' directions with the
rows of one matrix (users, items of histories, items of the support, the preference), so that

    ∂L/∂directions = (∂L/∂similarities)ᵀ · rows          ∂L/∂rows = ∂L/∂similarities · directions

`log1p(x)` is a feature where x is a sum of kernels: its derivative 1 / (1 + x) is exp(-feature).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from studies.learners.inner_loop import Weights
from studies.learners.tasks.inputs import Inputs
from studies.model.projected_items import ProjectedItems
from studies.model.scene_encoding import (
    MOST_BY_TEXT,
    FeatureWeights,
    SceneEncoding,
    ScoreFeatures,
    unknown,
)

# The weights of a head whose gradients are written out here.
WRITTEN_OUT = frozenset(
    (
        "project.weight", "user.weight", "appeal.0.weight", "appeal.0.bias", "appeal.2.weight", "appeal.2.bias",
        "scene_preference", "feature_weights", "elsewhere", "sharpness",
    )
)  # fmt: skip


class SceneState(NamedTuple):
    """A scene under some weights of a head.

    Attributes:
        items: The candidates.
        held_lengths: (H, 1) lengths of the histories' projected items.
        held: (H, d) their directions.
        encoding: The scene's.
        features: Of the scores of the support's users.
    """

    items: ProjectedItems
    held_lengths: Tensor
    held: Tensor
    encoding: SceneEncoding
    features: ScoreFeatures


def score_gradients(features: ScoreFeatures, head: Weights, slopes: Tensor) -> tuple[Weights, Tensor, Tensor]:
    """Return the gradients of the weights that a score is linear in, and those of what its text and popularity add.

    Args:
        features: Of the scores.
        head: The head's weights.
        slopes: (R, C) ∂L/∂scores.

    Returns:
        The gradients by name; (C,) ∂L/∂by_text; (C,) ∂L/∂popularity, empty where scenes share no items.
    """
    weights, by_candidate = FeatureWeights(head["feature_weights"]), slopes.sum(0)
    by_text, popularity, known = by_candidate, by_candidate[:0], []
    if features.elsewhere.shape[-1]:
        text = features.candidate_features @ weights.candidate
        prior = unknown(text)
        together = features.elsewhere + prior
        known = [(slopes * together.log()).sum()[None]]
        popularity = (weights.elsewhere * slopes / together).sum(0)
        by_text = popularity * prior * (text <= MOST_BY_TEXT)
    preferred = 5 * (by_candidate @ features.candidate_vectors)
    user = features.user_features.flatten(1) @ slopes.flatten()
    preference = (preferred @ head["scene_preference"])[None]
    return (
        {
            "feature_weights": torch.cat([user, preference, by_text @ features.candidate_features, *known]),
            "scene_preference": weights.preference * preferred,
            "bias": by_candidate,
        },
        by_text,
        popularity,
    )


def head_gradients(
    state: SceneState, inputs: Inputs, slopes: Tensor, by_text: Tensor, popularity: Tensor
) -> tuple[Weights, Tensor, Tensor, Tensor]:
    """Return the gradients of the head's other weights but its two large matrices, and what those are made of.

    Args:
        state: The scene.
        inputs: The scene's.
        slopes: (R, C) ∂L/∂scores.
        by_text: (C,) ∂L/∂by_text.
        popularity: (C,) ∂L/∂popularity.

    Returns:
        The gradients by name; (C, d) and (H, d) ∂L/∂projected vectors of candidates and of histories' items; (C, 64)
        ∂L/∂hidden, of `ProjectedItems`.
    """
    head, encoding, weights = state.items.head, state.encoding, FeatureWeights(state.items.head["feature_weights"])
    directions, history = state.items.directions, inputs.support_users.history
    # ∂L/∂x of the features log1p(x), all of a user's but the first, times the sharpness of x.
    sums = (-state.features.user_features[1:]).exp_().mul_(weights.user[1:, None, None] * slopes)
    sharpness = head["sharpness"].exp()[:, None, None]
    match = (history.T @ (sharpness[0] * sums[0])).mul_(encoding.history_match)
    # No user sees their own interaction.
    kernels = sharpness[1:] * (sums[2:].sum(1, keepdim=True) - sums[2:]) * encoding.support_kernels[1:]
    share = history / history.sum(1, keepdim=True).clamp(min=1)
    rows = [share @ encoding.profiles, state.held, directions[inputs.support], head["scene_preference"][None]]
    preferred = 5 * weights.preference * slopes.sum(0, keepdim=True)
    similarities = torch.cat([5 * weights.affinity * slopes, match, kernels[0], preferred])
    moved = torch.split(similarities @ directions, [len(part) for part in rows])
    profiles = share.T @ moved[0]
    towards = (similarities.T @ torch.cat(rows)).index_add_(0, inputs.support, moved[2])
    appeal = weights.candidate[0] * by_text
    hidden = torch.ops.aten.gelu_backward(torch.outer(appeal, head["appeal.2.weight"][0]), state.items.hidden)
    # Of an exponent sharpness · (similarity - 1): what similarities give, less what the ones do.
    sharpened = [
        (moved[1] * rows[1]).sum() - match.sum(),
        (moved[2] * rows[2]).sum() - kernels[0].sum(),
        (kernels[1] * (inputs.texts.overlap - 1)).sum(),
        (kernels[2] * (inputs.texts.fields - 1)).sum(),
    ]
    found = {
        "user.weight": profiles.T @ state.held,
        "sharpness": torch.stack(sharpened),
        "appeal.0.bias": hidden.sum(0),
        "appeal.2.weight": appeal[None] @ state.items.activated,
        "appeal.2.bias": appeal.sum()[None],
    }
    if "elsewhere" in head:
        found["elsewhere"] = _popularity_gradient(head["elsewhere"], inputs.texts.popularity, popularity)
    held = _through_length(moved[1] + profiles @ head["user.weight"], state.held, state.held_lengths)
    return found, _through_length(towards, directions, state.items.lengths), held, hidden


def _through_length(gradient: Tensor, directions: Tensor, lengths: Tensor) -> Tensor:
    """Return the gradient of vectors, given that of their directions."""
    along = torch.linalg.vecdot(gradient, directions)[:, None]
    return torch.addcmul(gradient, directions, along, value=-1).div_(lengths)


def _popularity_gradient(elsewhere: Tensor, parts: Tensor, popularity: Tensor) -> Tensor:
    """Return the (B + 1,) gradient of `Head.elsewhere`.

    Args:
        elsewhere: The weights.
        parts: (C, B) each candidate's part of what was taken elsewhere.
        popularity: (C,) ∂L/∂popularity.
    """
    mixture, mass = elsewhere[:-1].softmax(0), elsewhere[-1].exp()
    moved = mass * mixture * (popularity @ parts)
    return torch.cat([moved - mixture * moved.sum(), moved.sum()[None]])
