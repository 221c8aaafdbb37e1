"""What learners adapt, whatever it predicts: an item tower, and a head over the vectors that it makes of texts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Name of the module that holds Meta-SGD's learned rates.
INNER_RATES = "inner_rates"


class AdaptingModel(nn.Module):
    """An item tower and a head: all that a learner meta-trains.

    A head lists in `scalars` its weights that train at a rate of their own.
    """

    tower: nn.Module
    head: nn.Module

    @property
    def encoder_trains(self) -> bool:
        """Whether the tower has weights of its own to train."""
        return any(parameter.requires_grad for parameter in self.tower.parameters())


def inner_rates(adapting: dict[str, Tensor]) -> nn.ParameterDict:
    """Return a multiple of `inner_lr` for every weight that adapts, as Meta-SGD learns them; all start at one."""
    # Names of a ParameterDict hold no dots.
    return nn.ParameterDict({name.replace(".", "/"): torch.ones_like(weight) for name, weight in adapting.items()})
