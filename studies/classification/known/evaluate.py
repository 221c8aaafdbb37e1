"""Evaluates a system on every row of a split of known classes: macro recall by class, other figures over all rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import Tensor

from studies.classification.episode import LabelledEpisode
from studies.classification.scoring.evaluate import Classifying, LogitsReader
from studies.classification.scoring.metrics import episode_metrics, predict
from studies.data.dataset import Ints
from studies.evaluation.metrics import Evaluation, Metrics

# Fewest units that intervals resample: fewer classes than these are divided.
UNITS = 30


def evaluate_known(
    system: Classifying, batch: LabelledEpisode, labels: tuple[str, ...], read: LogitsReader | None = None
) -> Evaluation:
    """Return the metrics of a system on a batch by the names of `units`, whose mean recall is the macro recall.

    The recall of a unit is that of its texts; where the parts of a class are not of one size, they are shifted so that
    their mean is that of the class. Every other metric is that of all texts together, the same in each unit: it has no
    interval.

    Args:
        system: Classifies the texts.
        batch: Every row of a split.
        labels: Names of all classes, by their codes.
        read: Called with the batch and its logits.

    Raises:
        FloatingPointError: A logit of the system is not finite.
    """
    logits: Tensor = system.logits(batch)
    if not bool(logits.isfinite().all()):
        raise FloatingPointError(f"a logit of {batch.name} is not finite")
    if read is not None:
        read(batch, logits)
    pooled = episode_metrics(logits, batch)
    right = (predict(logits, batch) == batch.query_labels).cpu().numpy()
    found: dict[str, Metrics] = {}
    for parts in units(batch, labels):
        recalls = np.array([right[rows].mean() for rows in parts.values()])
        recalls += right[np.concatenate(list(parts.values()))].mean() - recalls.mean()
        found |= {name: replace(pooled, recall=float(each)) for name, each in zip(parts, recalls, strict=True)}
    return Evaluation(found)


def units(batch: LabelledEpisode, labels: tuple[str, ...]) -> list[dict[str, Ints]]:
    """Return what intervals resample, by name: the texts of a class, or of a part of it where classes are few.

    Every class has as many parts. So the mean over units is the mean over classes, whatever their sizes.

    Args:
        batch: Every row of a split.
        labels: Names of all classes, by their codes.

    Returns:
        For each class that has a text, the (n,) positions of the queries of its units, by their names.
    """
    truth, codes = batch.query_labels.cpu().numpy(), batch.classes.tolist()
    of_class = {code: np.flatnonzero(truth == number) for number, code in enumerate(codes)}
    of_class = {code: rows for code, rows in of_class.items() if len(rows)}
    parts = min(-(-UNITS // len(of_class)), min(map(len, of_class.values())))
    if parts == 1:
        return [{labels[code]: rows} for code, rows in of_class.items()]
    return [
        {f"{labels[code]}, part {part + 1} of {parts}": rows[part::parts] for part in range(parts)}
        for code, rows in of_class.items()
    ]
