"""Computes the losses of `studies/config/distill_losses.py`: the weighted sum that a student's step minimises."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence

from torch import Tensor

from distill.hyperparameters import StudentHyperparameters
from distill.losses.batches import Batch
from studies.config.distill_losses import LOSSES


def loss(name: str, batch: Batch, values: StudentHyperparameters) -> Tensor:
    """Return one loss of a batch, without its weight.

    Args:
        name: The row of `LOSSES`.
        batch: Of the kind that the loss reads.
        values: The student's, which hold the settings of the loss.

    Returns:
        A scalar.
    """
    row = LOSSES[name]
    value: Tensor = row.load()(batch, **{setting: values.settings[setting] for setting in row.settings})
    return value


def weighted_sum(batches: Sequence[Batch], values: StudentHyperparameters) -> Tensor | None:
    """Return the sum of all losses with a weight above 0, batch after batch; None where there is none.

    Args:
        batches: What the step has read; losses of other kinds are left out.
        values: The student's, which hold the weights.

    Returns:
        A scalar.
    """
    terms = [
        values.weights[name] * loss(name, batch, values)
        for batch in batches
        for name, row in LOSSES.items()
        if row.reads == batch.reads and values.weights[name] > 0
    ]
    return functools.reduce(operator.add, terms) if terms else None
