"""Meta-SGD: every weight that adapts has an inner rate of its own, which the outer loop learns with the weights.

Source: Li et al., "Meta-SGD: Learning to Learn Quickly for Few-Shot Learning" (2017), eq. 2: φ = θ − α ∘ ∇L(θ), both θ
and α trained by ∇L(φ), second order. Deviations: all rates start at `inner_lr` instead of at random; the head and the
bias adapt, the encoder's layers only train; the bias, whose length differs by scene, has one rate for all its entries.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from studies.learners.base import Learner
from studies.learners.inner_loop import Task
from studies.learners.registry import LEARNERS


class MetaSGD(Learner):
    """Adapts the whole head and biases of candidates or weights of classes, each weight at its learned rate."""

    entry = LEARNERS["metasgd"]

    def inner_rates(self, task: Task, *, training: bool) -> Mapping[str, Tensor | float]:
        """Return learned multiples of `inner_lr`, of each weight's own shape; a rate may become negative."""
        assert self.hyperparameters.inner_lr is not None
        learned = {
            "head." + name.replace("/", "."): rate if training else rate.detach()
            for name, rate in self.model.head.inner_rates.items()
        }
        return {name: self.hyperparameters.inner_lr * rate for name, rate in (learned | dict(task.rates())).items()}
