"""Reptile: no gradient through the inner loop; the model moves towards the weights that each task's training reaches.

Source: Nichol et al., "On First-Order Meta-Learning Algorithms" (2018), algorithm 2: θ ← θ + ε · mean(φ − θ), with
(θ − φ) / (inner_lr · inner_steps) as the gradient of AdamW, as their section 2 proposes. Reptile has no query:
in meta-training a task's inner steps descend on all of it, support and query alike; to adapt to a new scene they
descend on the support. Deviation: the per-candidate bias starts at zero for each scene, so the outer loop has nothing
to learn of it, and its rate keeps its initial value.
"""

from __future__ import annotations

import torch
from torch import Tensor

from studies.learners.base import Learner
from studies.learners.inner_loop import Task, descend, detached
from studies.learners.registry import LEARNERS


class Reptile(Learner):
    """Adapts the whole head, candidates' biases or classes' weights, and the top layers that train."""

    entry = LEARNERS["reptile"]

    def accumulate(self, task: Task, weight: float) -> Tensor:
        """Add `weight` · (θ − φ) / (inner_lr · inner_steps) to `.grad`; return the task's loss before its training."""
        values = self.hyperparameters
        assert values.inner_lr is not None
        assert values.inner_steps is not None
        start = detached(task.start())
        rates = {name: rate.detach() * values.inner_lr for name, rate in task.rates().items()}
        moved = descend(
            lambda w, step: (task.support_loss(w, step) + task.query_loss(w)) / 2,
            start,
            rates,
            values.inner_lr,
            values.inner_steps,
            second_order=False,
        )
        scale = weight / (values.inner_lr * values.inner_steps)
        parameters = dict(self.model.named_parameters())
        with torch.no_grad():
            for name in start.keys() & parameters.keys():
                step = ((start[name] - moved[name]) * scale).sum_to_size(parameters[name].shape)
                grad = parameters[name].grad
                parameters[name].grad = step if grad is None else grad + step
            return task.query_loss(start).sum()
