"""The gradient of the support's loss, written out: inner steps in service take neither autograd's graph nor its time.

Of the loss L of scores = f(similarities, texts), where every similarity is a product of candidates' directions with the
rows of one matrix (users, items of histories, items of the support, the preference), so that

    ∂L/∂directions = (∂L/∂similarities)ᵀ · rows          ∂L/∂rows = ∂L/∂similarities · directions

`log1p(x)` is a feature where x is a sum of kernels: its derivative 1 / (1 + x) is exp(-feature).
"""

from __future__ import annotations

from collections.abc import Collection
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
_PROJECTION = frozenset(("project.weight", "user.weight"))
_APPEAL = frozenset(("appeal.0.weight", "appeal.0.bias", "appeal.2.weight", "appeal.2.bias"))
WRITTEN_OUT = _PROJECTION | _APPEAL | {"scene_preference", "feature_weights", "elsewhere", "sharpness"}


class SceneState(NamedTuple):
    """A scene under some weights of a head.

    Attributes:
        head: The weights by name.
        items: The candidates.
        held_lengths: (H, 1) lengths of the histories' projected items.
        held: (H, d) their directions.
        encoding: The scene's.
        features: Of the scores of the support's users.
    """

    head: Weights
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
    state: SceneState, inputs: Inputs, slopes: Tensor, by_text: Tensor, popularity: Tensor, names: Collection[str]
) -> Weights:
    """Return the gradients of the head's other weights.

    Args:
        state: The scene.
        inputs: The scene's.
        slopes: (R, C) ∂L/∂scores.
        by_text: (C,) ∂L/∂by_text.
        popularity: (C,) ∂L/∂popularity.
        names: The weights that adapt; what none of them needs is left out.
    """
    found, products = {}, []
    if "elsewhere" in names:
        found["elsewhere"] = _popularity_gradient(state.head["elsewhere"], inputs.texts.popularity, popularity)
    moves, judges = not _PROJECTION.isdisjoint(names), not _APPEAL.isdisjoint(names)
    projection, projected = _projection_gradients(state, inputs, slopes, moves)
    if moves:
        products.append(projected)
    if judges:
        appeal, hidden = _appeal_gradients(state, FeatureWeights(state.head["feature_weights"]).candidate[0] * by_text)
        found |= appeal
        products.append(hidden)
    found |= projection
    if products:
        # One product of both is faster than two.
        large = torch.cat(products, dim=1).T @ state.items.vectors
        if moves:
            found["project.weight"] += large[: projected.shape[1]]
        if judges:
            scale = state.items.appeal_scale
            own = scale * large[-hidden.shape[1] :]
            context = own - torch.outer(scale * found["appeal.0.bias"], state.items.centre)
            found["appeal.0.weight"] = torch.cat([own, context], dim=1)
    return found


def _projection_gradients(state: SceneState, inputs: Inputs, slopes: Tensor, moves: bool) -> tuple[Weights, Tensor]:
    """Return the gradients that pass through similarities, and (C, d) that of the projected vectors of candidates.

    Both but the sharpness's only if the projection or the users' matrix `moves`.
    """
    head, weights, directions = state.head, FeatureWeights(state.head["feature_weights"]), state.items.directions
    history, sharpness = inputs.support_users.history, head["sharpness"].exp()[:, None, None]
    # ∂L/∂x of the features log1p(x), all of a user's but the first.
    sums = (-state.features.user_features[1:]).exp_().mul_(weights.user[1:, None, None] * slopes)
    match = (history.T @ (sharpness[0] * sums[0])).mul_(state.encoding.history_match)
    # No user sees their own interaction.
    kernels = sharpness[1:] * (sums[2:].sum(1, keepdim=True) - sums[2:]) * state.encoding.support_kernels[1:]
    share = history / history.sum(1, keepdim=True).clamp(min=1)
    rows = [share @ state.encoding.profiles, state.held, directions[inputs.support], head["scene_preference"][None]]
    preferred = 5 * weights.preference * slopes.sum(0, keepdim=True)
    similarities = torch.cat([5 * weights.affinity * slopes, match, kernels[0], preferred])
    users, held, support, _ = torch.split(similarities @ directions, [len(part) for part in rows])
    # Of an exponent sharpness · (similarity - 1): what similarities give, less what the ones do.
    sharpened = [
        (held * rows[1]).sum() - match.sum(),
        (support * rows[2]).sum() - kernels[0].sum(),
        (kernels[1] * (inputs.texts.overlap - 1)).sum(),
        (kernels[2] * (inputs.texts.fields - 1)).sum(),
    ]
    found = {"sharpness": torch.stack(sharpened)}
    if not moves:
        return found, directions
    profiles = share.T @ users
    held = _through_length(held + profiles @ head["user.weight"], state.held, state.held_lengths)
    found |= {"user.weight": profiles.T @ state.held, "project.weight": held.T @ inputs.support_users.others}
    towards = (similarities.T @ torch.cat(rows)).index_add_(0, inputs.support, support)
    return found, _through_length(towards, directions, state.items.lengths)


def _appeal_gradients(state: SceneState, appeal: Tensor) -> tuple[Weights, Tensor]:
    """Return the gradients of the appeal's small weights, and (C, 64) that of what enters its activation.

    Args:
        state: The scene.
        appeal: (C,) ∂L/∂appeal.
    """
    hidden = torch.ops.aten.gelu_backward(torch.outer(appeal, state.head["appeal.2.weight"][0]), state.items.hidden)
    gradients = {
        "appeal.0.bias": hidden.sum(0),
        "appeal.2.weight": appeal[None] @ state.items.activated,
        "appeal.2.bias": appeal.sum()[None],
    }
    return gradients, hidden


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
