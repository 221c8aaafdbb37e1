"""The parameters that a search may vary: what each may be, and its domain where the study file names none."""

from __future__ import annotations

from studies.config.hyperparameters import HEAD_PARTS
from studies.config.search_domains import Domain, Numbers, Parameters, Range, Words
from studies.learners.registry import RANKING_LEARNERS

# What each parameter of `[search.space]` may be.
SEARCHED: Parameters = {
    "learner": Words(RANKING_LEARNERS),
    "head": Words(HEAD_PARTS),
    "outer_lr": Numbers(float, 0, False),
    "meta_batch_size": Numbers(int, 1, True),
    "weight_decay": Numbers(float, 0, True),
    "trainable_layers": Numbers(int, 0, True),
    "inner_lr": Numbers(float, 0, False),
    # Adapting to a scene takes them all, also where an export of somebody else is served.
    "inner_steps": Numbers(int, 1, True, 1001),
    "support_batch_size": Numbers(int, 1, True),
    "encoder_lr": Numbers(float, 0, False),
    "train_candidates": Numbers(int, 2, True),
    "dropout": Numbers(float, 0, True, below=1),
}


def default_space() -> dict[str, Domain]:
    """Return every parameter with the domain that it has unless `[search.space]` names another.

    docs/search-space.md gives the reasons. What suits one learner better is in its entry of the registry.
    """
    return {
        "learner": list(RANKING_LEARNERS),
        "outer_lr": Range(low=1e-4, high=5e-3, log=True),
        "meta_batch_size": [4, 8, 16],
        "weight_decay": Range(low=1e-3, high=1.0, log=True),
        "head": list(HEAD_PARTS),
        "trainable_layers": [0, 1, 2],
        "inner_lr": Range(low=1e-3, high=1.0, log=True),
        "inner_steps": Range(low=1, high=10, log=True),
        "support_batch_size": 64,
        "encoder_lr": Range(low=3e-6, high=3e-4, log=True),
        "train_candidates": 48,
        "dropout": 0.0,
    }
