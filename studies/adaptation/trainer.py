"""Trains an encoder on a corpus, resumable at any step.

As in `studies/training/outer_loop.py`, everything random is a function of (seed, step). The objectives take turns, one
step each: AdamW's clipped steps are of one size whatever a loss is counted in, so that none drowns the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn

from studies.adaptation.corpus import Corpus
from studies.adaptation.encoding import AdaptingEncoder
from studies.adaptation.objectives.base import Objective, Training
from studies.adaptation.registry import OBJECTIVES
from studies.adaptation.section import AdaptSection
from studies.config.definition import TeacherSection
from studies.model.encoder import Encoder, tokenize
from studies.model.towers import dropping_out
from studies.progress import Progress
from studies.training.outer_loop import ScheduledAdamW, load_weights

WEIGHT_DECAY = 0.01
# The part of an objective's steps over which its loss is averaged, at the start and at the end.
_PART = 0.1


class AdaptationTrainer:
    """Runs the steps of an adaptation.

    Args:
        encoder: The pretrained encoder; it is read anew, and stays as it is.
        corpus: What may be read.
        section: `[teacher.adapt]`.
        teacher: `[teacher]`.
        progress: Called with (texts split into tokens, texts in all).

    Attributes:
        adapting: The encoder in training.
        losses: The loss of every step.
    """

    def __init__(
        self,
        encoder: Encoder,
        corpus: Corpus,
        section: AdaptSection,
        teacher: TeacherSection,
        progress: Progress | None = None,
    ) -> None:
        self._section = section
        length, prefix = teacher.max_tokens, encoder.prefix
        tokens = tokenize(encoder.tokenizer, corpus.texts, length, progress, prefix=prefix)
        self.adapting = AdaptingEncoder(encoder, tokens, section.dropout)
        training = Training(encoder, self.adapting, corpus, section, teacher)
        self._objectives: list[Objective] = [OBJECTIVES[name].load()(training) for name in section.objectives]
        heads = {name: each.head for name, each in zip(section.objectives, self._objectives, strict=True) if each.head}
        self._model = nn.ModuleDict({"encoder": self.adapting.model, **heads})
        self._optimizer = ScheduledAdamW(self._model, section.lr, WEIGHT_DECAY, section.steps)
        self.losses: list[float] = []

    @property
    def step(self) -> int:
        """Steps done."""
        return self._optimizer.step

    def train_to(self, step: int, progress: Callable[[int], None] | None = None) -> None:
        """Train until `step` steps are done.

        Args:
            step: Where to stop.
            progress: Called with the number of steps done, after each.

        Raises:
            Diverged: The loss or its gradient is not finite.
        """
        self._optimizer.update_to(step, self._backward, progress)

    def _backward(self) -> float:
        seed = [self._section.seed, self.step]
        with dropping_out(self._model, seed):
            loss = self._objectives[self.step % len(self._objectives)].loss(np.random.default_rng(seed))
            loss.backward()  # type: ignore[no-untyped-call]
        del self.losses[self.step :]  # of steps that were interrupted before they were done
        self.losses.append(float(loss.detach()))
        return self.losses[-1]

    def mean_losses(self) -> dict[str, tuple[float, float]]:
        """Return by objective its mean loss in the first and in the last tenth of its steps."""
        found, count = {}, len(self._objectives)
        for place, name in enumerate(self._section.objectives):
            if own := self.losses[place::count]:
                part = max(1, round(_PART * len(own)))
                found[name] = (float(np.mean(own[:part])), float(np.mean(own[-part:])))
        return found

    def weights(self) -> dict[str, Tensor]:
        """Return the weights of the encoder."""
        return {name: tensor.detach() for name, tensor in self.adapting.model.state_dict().items()}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return tensors and metadata of a checkpoint."""
        return self._optimizer.state(), {"step": self.step, "losses": self.losses}

    def restore(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
        """Continue from what `state` returned."""
        load_weights(self._model, tensors)
        self._optimizer.restore(tensors, int(metadata["step"]))
        self.losses = list(metadata["losses"])
