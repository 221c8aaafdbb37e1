"""What an encoder may be adapted on: texts, and what training knows of them.

Only what training may see gets here, so that a new scene or class stays new: the texts that a student may read
(`Problem.visible_items`), the interactions of training scenes in the training period, the labels of training. A task
makes the corpus of its data and split (`studies.training.ranking`, `studies.classification.build`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from studies.adaptation.registry import Reads
from studies.config.protocol_section import RankingProtocol
from studies.data.dataset import Dataset, Ints
from studies.episodes.scene_texts import visible_items
from studies.episodes.split import Split


@dataclass(frozen=True)
class Log:
    """Interactions, sorted by user and time.

    Attributes:
        user, time, item, scene: (interactions,) codes and UTC seconds.
    """

    user: Ints
    time: Ints
    item: Ints
    scene: Ints


@dataclass(frozen=True)
class Labels:
    """Labelled texts.

    Attributes:
        item: (rows,) code of the text.
        label: (rows,) code of the class.
        group: (rows,) code of the group; -1 where a text has none.
    """

    item: Ints
    label: Ints
    group: Ints


@dataclass(frozen=True)
class Corpus:
    """What an encoder may be adapted on.

    Attributes:
        texts: (N,) the texts that may be read.
        items: (N,) their item codes, ascending; no other item is in `log` or `labels`.
        log: The interactions of training; None where the data have none.
        labels: The labels of training; None where the data have none.
    """

    texts: tuple[str, ...]
    items: Ints
    log: Log | None = None
    labels: Labels | None = None

    def __post_init__(self) -> None:
        for rows in (self.log, self.labels):
            assert rows is None or np.isin(rows.item, self.items).all(), "a text that training may not read"

    def positions(self, items: Ints) -> Ints:
        """Return where some items are in `texts`."""
        return np.searchsorted(self.items, items)

    def digest(self, reads: set[Reads]) -> str:
        """Return the SHA-256 of the texts, and of what else objectives read."""
        digest = hashlib.sha256("\x1f".join(self.texts).encode())
        for kind, rows in (("log", self.log), ("labels", self.labels)):
            if kind in reads and rows is not None:
                for values in vars(rows).values():
                    digest.update(np.ascontiguousarray(values, dtype=np.int64).tobytes())
        return digest.hexdigest()


def log_corpus(data: Dataset, split: Split, protocol: RankingProtocol) -> Corpus:
    """Return what training may see of a log: texts that students may read, and training scenes up to validation.

    Args:
        data: The shop.
        split: Split of its scenes.
        protocol: Which items are candidates.
    """
    items = visible_items(data, split, protocol)
    seen = np.isin(data.scene, split.scenes["train"]) & (data.time < split.period["train"][1])
    rows = np.flatnonzero(seen)
    rows = rows[np.lexsort((data.time[rows], data.user[rows]))]  # stable: ties stay in the order of the data
    log = Log(data.user[rows], data.time[rows], data.item[rows], data.scene[rows])
    return Corpus(tuple(data.texts[item] for item in items.tolist()), items, log=log)
