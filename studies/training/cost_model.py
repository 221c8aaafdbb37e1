"""The cost model: the measured time of a trial's meta-updates, and its rungs in meta-updates by it.

A rung in meta-updates is the same on every machine. A rung in seconds compares learners at equal cost: a first-order
learner takes several updates in the time of one of second order.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import torch

from studies.config.definition import PrunerSection
from studies.episodes.episode import Episode
from studies.learners.base import Learner
from studies.model.device import device
from studies.training.outer_loop import Trainer

# Gradients that are timed; the first one warms up.
TIMED = 4
# Least updates at the first rung.
LEAST = 2


def rung_updates(section: PrunerSection, learner: Learner, episodes: Sequence[Episode], seed: int) -> list[int]:
    """Return the number of meta-updates at each rung.

    Args:
        section: The study file's rungs, in its resource.
        learner: The trial's; its weights stay as they are.
        episodes: Meta-training episodes.
        seed: Of the episodes' order.
    """
    if section.resource == "updates":
        return list(section.rungs)
    return updates_within(section.rungs, seconds_per_update(learner, episodes, seed))


def updates_within(seconds: Sequence[float], update_seconds: float) -> list[int]:
    """Return how many updates of `update_seconds` fit into each number of seconds: increasing, at least two."""
    updates: list[int] = []
    for limit in seconds:
        updates.append(max(LEAST, round(limit / update_seconds), updates[-1] + 1 if updates else 0))
    return updates


def seconds_per_update(learner: Learner, episodes: Sequence[Episode], seed: int) -> float:
    """Return the median time of a few gradients of the first meta-batches; nothing is updated."""
    trainer = Trainer(learner, episodes, TIMED, seed)
    times = []
    for number in range(TIMED):
        started = time.perf_counter()
        trainer.backward(number)
        if device().type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    learner.model.zero_grad()
    return statistics.median(times[1:])  # the first one warms up
