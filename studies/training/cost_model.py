"""The cost model: what a trial's meta-updates cost here, measured, and where its rungs lie by that.

A rung in meta-updates is the same on every machine. A rung in seconds lets learners compete at equal cost: a
first-order learner takes several updates in the time of one of second order.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import torch

from studies.config.spec import PrunerSection
from studies.episodes.episode import Episode
from studies.learners.base import Learner
from studies.model.device import device
from studies.training.outer_loop import Trainer

TIMED = 4
# A trial is trained by at least so many updates to its first rung: fewer are no training.
LEAST = 2


def rung_updates(section: PrunerSection, learner: Learner, episodes: Sequence[Episode], seed: int) -> list[int]:
    """The number of meta-updates at each rung.

    Args:
        section: the study file's rungs, in its resource.
        learner: of the trial; its weights stay as they are.
        episodes: meta-training episodes.
        seed: order of the episodes.
    """
    if section.resource == "updates":
        return list(section.rungs)
    return updates_within(section.rungs, seconds_per_update(learner, episodes, seed))


def updates_within(seconds: Sequence[float], pace: float) -> list[int]:
    """How many updates fit into each number of seconds at a pace in seconds per update: increasing, at least two."""
    updates: list[int] = []
    for limit in seconds:
        updates.append(max(LEAST, round(limit / pace), updates[-1] + 1 if updates else 0))
    return updates


def seconds_per_update(learner: Learner, episodes: Sequence[Episode], seed: int) -> float:
    """The median of a few timed gradients of the meta-batches that training begins with; nothing is updated."""
    trainer = Trainer(learner, episodes, TIMED, seed)
    times = []
    for number in range(TIMED):
        started = time.perf_counter()
        learner.meta_step(trainer.batch(number))
        if device().type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    learner.model.zero_grad()
    return statistics.median(times[1:])  # the first one warms up
