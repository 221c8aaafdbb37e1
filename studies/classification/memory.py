"""The memory that a trial of classification takes, by the formula of `studies.training.memory` for its tower.

For a meta-batch of B episodes with M distinct texts of at most L tokens each, vectors of size W:

    first order = B·(tower(M·L) + 8·M·W)
    second order, S inner steps = the same, and 2·S·tower(M·L) more for each episode at a time

Where the encoder does not adapt, its tower runs once for the whole meta-batch.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from studies.classification.episode import LabelledEpisode
from studies.config.hyperparameters import Hyperparameters
from studies.model.encoder import Encoder
from studies.training.memory import BYTES_PER_ELEMENT, tower_elements, tower_weights


def trial_bytes(
    values: Hyperparameters,
    episodes: Sequence[LabelledEpisode],
    lengths: Tensor,
    encoder: Encoder,
    vmap_episodes: int | None = None,
) -> int:
    """Return an upper bound of the memory of a trial's meta-update, in bytes, beside what every trial shares.

    Args:
        values: The configuration.
        episodes: Meta-training episodes.
        lengths: (items,) tokens of each text.
        encoder: The pretrained encoder.
        vmap_episodes: Episodes side by side, where the study file says so.
    """
    texts = max(len(episode.items) for episode in episodes)
    longest = int(lengths.max())
    tower, weights = tower_elements(values, texts * longest, longest, encoder), tower_weights(values, encoder)
    head = encoder.width * (encoder.width + 2)
    steps = (values.inner_steps or 0) if values.entry.second_order else 0
    inner = values.adapts_encoder
    one = 8 * texts * encoder.width + (tower if inner else 0) * (1 + 2 * steps) + steps * (head + weights * inner)
    side_by_side = min(vmap_episodes or values.meta_batch_size, values.meta_batch_size)
    shared = 0 if inner else tower * values.meta_batch_size
    return BYTES_PER_ELEMENT * (one * side_by_side + shared + 5 * (weights + head))
