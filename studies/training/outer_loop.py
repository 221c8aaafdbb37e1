"""The outer loop: meta-updates of one learner, resumable at any step.

Everything random is a function of (seed, step), so a trainer restored from a checkpoint continues bit for bit, and all
trials of a study see the same episodes in the same order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from studies.learners.base import Learner
from studies.model.adapting_model import INNER_RATES
from studies.model.towers import dropping_out
from studies.training.candidate_sampling import sample_candidates

CLIP_NORM = 1.0
WARMUP = 0.1
# AdamW moves every weight by about the learning rate per update, whatever its size: at a rate that suits matrices the
# head's few scalars would hardly leave their start (docs/decisions.md).
SCALAR_RATE = 10.0


class Diverged(Exception):
    """The loss or its gradient is not finite: the fault of the configuration, not of the program."""


class ScheduledAdamW:
    """AdamW with linear warm-up, cosine decay and gradient clipping; its state can be saved after any update.

    Args:
        model: Its trainable parameters are updated.
        lr: Peak learning rate.
        weight_decay: Decoupled weight decay.
        steps: Updates in all; the learning rate decays to zero there.
        encoder_lr: Peak learning rate of a tower's weights; `lr` if left out.
    """

    def __init__(
        self, model: nn.Module, lr: float, weight_decay: float, steps: int, encoder_lr: float | None = None
    ) -> None:
        self.step = 0
        self._model, self._lr, self._steps = model, lr, steps
        self._parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        names = _scalar_names(model)
        scalars = [p for n, p in self._parameters.items() if n in names]
        encoder = [p for n, p in self._parameters.items() if n.startswith("tower.") and encoder_lr is not None]
        rest = [p for n, p in self._parameters.items() if not (n in names or any(p is one for one in encoder))]
        groups = [
            {"params": rest, "rate": 1.0},
            {"params": scalars, "rate": SCALAR_RATE, "weight_decay": 0.0},
            {"params": encoder, "rate": (encoder_lr or lr) / lr},
        ]
        self._optimizer = torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay)

    def update_to(
        self, step: int, backward: Callable[[], float], progress: Callable[[int], None] | None = None
    ) -> None:
        """Update until `step` updates are done.

        Args:
            step: How many, those before a resume included.
            backward: Leaves the gradient of the current step in `.grad` and returns the loss.
            progress: Called with the number of updates done, after each.

        Raises:
            Diverged: The loss or its gradient is not finite.
        """
        while self.step < step:
            self.update(backward)
            if progress is not None:
                progress(self.step)

    def update(self, backward: Callable[[], float]) -> None:
        """Update once along the gradient that `backward` leaves in `.grad`; it returns the loss.

        Raises:
            Diverged: The loss or its gradient is not finite; no weight has changed.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = group["rate"] * self._lr * self._schedule()
        self._optimizer.zero_grad()
        loss = backward()
        norm = torch.nn.utils.clip_grad_norm_(self._parameters.values(), CLIP_NORM)
        if not (np.isfinite(loss) and bool(norm.isfinite())):
            raise Diverged(f"the loss is {loss} after {self.step} updates")
        self._optimizer.step()
        self.step += 1

    def _schedule(self) -> float:
        warmup = max(1, round(WARMUP * self._steps))
        if self.step < warmup:
            return (self.step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (self.step - warmup) / max(1, self._steps - warmup)))

    def state(self) -> dict[str, Tensor]:
        """Return the tensors of a checkpoint: `model.*` all weights, frozen too, `optimizer.*` AdamW's moments."""
        tensors = {f"model.{name}": p.detach() for name, p in self._model.named_parameters()}
        for name, p in self._parameters.items():
            for key, value in self._optimizer.state.get(p, {}).items():
                tensors[f"optimizer.{key}.{name}"] = value.detach()
        return tensors

    def restore(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Restore the moments that `state` returned after `step` updates; `load_weights` restores the weights.

        The tensors may be on any device.
        """
        for name, p in self._parameters.items():
            # AdamW counts updates on the CPU: on the device it would wait for every weight's count at each update.
            for key, place in (("step", torch.device("cpu")), ("exp_avg", p.device), ("exp_avg_sq", p.device)):
                if (stored := tensors.get(f"optimizer.{key}.{name}")) is not None:
                    self._optimizer.state[p][key] = stored.to(place, copy=True)
        self.step = step


def _scalar_names(model: nn.Module) -> set[str]:
    """Return the names of the weights that a head lists as its `scalars`, and of learned rates."""
    listed = {f"{prefix}.{name}" for prefix, part in model.named_modules() for name in getattr(part, "scalars", ())}
    return listed | {name for name, _ in model.named_parameters() if INNER_RATES in name.split(".")}


class Trainer:
    """Meta-trains a learner.

    Args:
        learner: The learner; its model is trained in place.
        episodes: Meta-training episodes.
        steps: Meta-updates in all.
        seed: Of the episodes' order.
    """

    def __init__(self, learner: Learner, episodes: Sequence[Any], steps: int, seed: int) -> None:
        values = learner.hyperparameters
        self.learner = learner
        self._episodes, self._seed = episodes, seed
        self._optimizer = ScheduledAdamW(
            learner.model, values.outer_lr, values.weight_decay, steps, encoder_lr=values.encoder_lr
        )

    @property
    def step(self) -> int:
        """Meta-updates done."""
        return self._optimizer.step

    def train_to(self, step: int, progress: Callable[[int], None] | None = None) -> None:
        """Run meta-updates until `step` are done.

        Args:
            step: How many, those before a resume included.
            progress: Called with the number of updates done, after each.

        Raises:
            Diverged: The loss or its gradient is not finite.
        """
        self._optimizer.update_to(step, lambda: self.backward(self.step), progress)

    def backward(self, step: int) -> float:
        """Leave the gradient of a meta-update in `.grad`, a function of weights, seed and step; return the loss."""
        drops = self.learner.hyperparameters.dropout
        with dropping_out(self.learner.model.tower, [self._seed, step]) if drops else nullcontext():
            return self.learner.meta_step(self.batch(step))

    def batch(self, step: int) -> list[Any]:
        """Return the episodes of a meta-update: a function of the seed and the step alone."""
        values = self.learner.hyperparameters
        size = min(values.meta_batch_size, len(self._episodes))
        rng = np.random.default_rng([self._seed, step])
        drawn = [self._episodes[i] for i in rng.choice(len(self._episodes), size, replace=False)]
        if values.train_candidates is None:
            return drawn
        return [sample_candidates(episode, values.train_candidates, rng) for episode in drawn]

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return tensors and metadata of a checkpoint: trained weights, AdamW's moments, the step."""
        return self._optimizer.state(), {
            "step": self.step,
            "hyperparameters": self.learner.hyperparameters.to_dict(),
        }

    def restore(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
        """Continue from a checkpoint that `state` returned."""
        load_weights(self.learner.model, tensors)
        self._optimizer.restore(tensors, int(metadata["step"]))


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy a checkpoint's weights into a model of the same architecture.

    Raises:
        KeyError: A weight is missing.
        RuntimeError: A weight has another shape.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"model.{name}"])
