"""The episodes of known classes: batches of texts over all classes, without a support.

Training reads its rows in batches, of all classes alike or, in shuffled passes, in their proportions; an evaluation is
one batch with every row of its split.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from studies.classification.data.dataset import LabelledTexts
from studies.classification.episode import LabelledEpisode
from studies.classification.known.row_split import RowSplit
from studies.classification.protocol import ClassificationProtocol
from studies.data.dataset import Ints
from studies.episodes.split import SplitName
from studies.progress import Progress


def training_batches(
    data: LabelledTexts, split: RowSplit, protocol: ClassificationProtocol, progress: Progress | None = None
) -> list[LabelledEpisode]:
    """Return `train_episodes` batches of `batch` rows, or more where training has more rows than they hold.

    Args:
        data: The texts and their labels.
        split: Of the rows.
        protocol: Number and size of the batches, and the seed of the passes.
        progress: Called with (batches done, batches in all).
    """
    rows = split.rows["train"]
    size = min(protocol.batch, len(rows))
    count = max(protocol.train_episodes, -(-len(rows) // size))
    if protocol.sampling == "natural":
        order = _passes(rows, count * size, protocol.seed)
    else:
        order = _balanced([rows[data.label[rows] == code] for code in split.classes["train"]], count * size, protocol)
    batches = []
    for number in range(count):
        batches.append(_batch(data, split, f"batch {number}", order[number * size : (number + 1) * size]))
        if progress is not None:
            progress(number + 1, count)
    return batches


def _passes(rows: Ints, count: int, *seed: int) -> Ints:
    """Return at least `count` rows: shuffled passes over them, one after the other."""
    passes = -(-count // len(rows))
    return np.concatenate([np.random.default_rng([*seed, number]).permutation(rows) for number in range(passes)])


def _balanced(of_class: Sequence[Ints], count: int, protocol: ClassificationProtocol) -> Ints:
    """Return at least `count` rows in rounds that hold one row of each class, in a random order.

    Args:
        of_class: The rows of each class; each class goes through its own in shuffled passes.
        count: How many rows.
        protocol: Its seed.
    """
    rounds, rng = -(-count // len(of_class)), np.random.default_rng(protocol.seed)
    columns = [_passes(rows, rounds, protocol.seed, number)[:rounds] for number, rows in enumerate(of_class)]
    return rng.permuted(np.stack(columns, axis=1), axis=1).ravel()


def evaluation_batch(data: LabelledTexts, split: RowSplit, split_name: SplitName) -> LabelledEpisode:
    """Return every row of a split as one batch."""
    return _batch(data, split, split_name, split.rows[split_name], data.names[split.classes[split_name]])


def _batch(data: LabelledTexts, split: RowSplit, name: str, rows: Ints, names: Ints | None = None) -> LabelledEpisode:
    """Return some rows as a batch; training reads no names of classes, so that its batches need not encode them."""
    names = np.empty(0, dtype=np.int64) if names is None else names
    items, places = np.unique(np.concatenate([data.text[rows], names]), return_inverse=True)
    none, classes = torch.empty(0, dtype=torch.int64), split.classes["train"]
    return LabelledEpisode(
        name=name,
        classes=torch.from_numpy(classes),
        items=torch.from_numpy(items),
        support=none,
        support_labels=none,
        query=torch.from_numpy(places[: len(rows)]),
        query_labels=torch.from_numpy(np.searchsorted(classes, data.label[rows])),
        names=torch.from_numpy(places[len(rows) :]),
    )
