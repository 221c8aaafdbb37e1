"""Divides the labelled rows of known classes into training, validation and test.

By time, the test is the latest; by hash, each class is divided alike, and the rows of a group stay together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from storage.errors import InputError, quoted
from studies.classification.data.dataset import LabelledTexts
from studies.classification.protocol import ClassificationProtocol
from studies.classification.sampling.split import ClassSplit
from studies.data.dataset import Ints
from studies.data.digest_order import order_by_digest
from studies.episodes.split import SPLIT_NAMES, SplitName

By = Literal["time", "hash"]


@dataclass(frozen=True)
class RowSplit(ClassSplit):
    """The rows of each split; all splits have the same classes, those of training.

    Attributes:
        by: How they were divided.
        rows: Numbers of the rows of each split, ascending; the splits are disjoint.
        until: Rows from this time on are no part of training; None where times do not matter.
        notes: What a split lacks, as whole sentences.
    """

    by: By
    rows: dict[SplitName, Ints]
    until: int | None
    notes: tuple[str, ...]


def split_rows(data: LabelledTexts, protocol: ClassificationProtocol) -> RowSplit:
    """Return the split by the protocol's fractions, `split_by` and seed.

    Rows of validation and test whose class has no training row are left out.

    Args:
        data: The data of a study.
        protocol: How to divide them.

    Raises:
        InputError: The times cannot divide the rows, or a split has fewer than two classes.
    """
    labelled = np.flatnonzero(data.label >= 0)
    cuts = _cuts(data.time[labelled], protocol.split)
    by: By = "hash" if protocol.split_by == "hash" or (protocol.split_by == "auto" and cuts is None) else "time"
    if by == "time":
        if cuts is None:
            raise InputError(
                'protocol.split_by = "time", but the rows have too few different times to divide them; name the column '
                'of the time in data.time, or set split_by = "hash"'
            )
        place = np.searchsorted(cuts, data.time[labelled], side="right")
    else:
        place = _hashed(data, labelled, protocol)
    rows = {name: labelled[place == number] for number, name in enumerate(SPLIT_NAMES)}
    classes = np.unique(data.label[rows["train"]])
    # Nothing can be learned of the others: `select_classes` says so, and keeps their texts without the label.
    rows = {name: own[np.isin(data.label[own], classes)] for name, own in rows.items()}
    _check(data, rows, by)
    until = int(cuts[0]) if by == "time" and cuts is not None else None
    return RowSplit(dict.fromkeys(SPLIT_NAMES, classes), by, rows, until, _missing(data, rows, classes))


def _cuts(times: Ints, fractions: tuple[float, float, float]) -> Ints | None:
    """Return the times at which validation and test begin; None where rows of one time would be on both sides only."""
    ordered = np.sort(times)
    places = np.round(np.cumsum(fractions)[:2] * len(ordered)).astype(np.int64)
    if len(ordered) == 0 or places[1] >= len(ordered):
        return None
    first, second = (int(ordered[place]) for place in places)
    return np.array([first, second]) if ordered[0] < first < second else None


def _hashed(data: LabelledTexts, labelled: Ints, protocol: ClassificationProtocol) -> Ints:
    """Return (n,) the number of each labelled row's split; every class of three groups or more is in all splits."""
    group = data.group[labelled]
    # A text without a group is one of its own.
    unit, first, place = np.unique(
        np.where(group < 0, len(data.groups) + labelled, group), return_index=True, return_inverse=True
    )
    names = tuple(
        data.groups[code] if code < len(data.groups) else data.texts[data.text[code - len(data.groups)]]
        for code in unit.tolist()
    )
    order = order_by_digest(names, protocol.seed)
    of_class, split = data.label[labelled[first]], np.zeros(len(unit), dtype=np.int64)
    for code in np.unique(of_class):
        own = order[of_class[order] == code]
        validation, test = (max(1, round(fraction * len(own))) for fraction in protocol.split[1:])
        train = max(1, len(own) - validation - test)
        split[own[train : train + validation]], split[own[train + validation :]] = 1, 2
    found: Ints = split[place]
    return found


def trained_classes(data: LabelledTexts, protocol: ClassificationProtocol) -> Ints:
    """Return the codes of the classes that have a training row, ascending; arguments and errors as of `split_rows`."""
    return split_rows(data, protocol).classes["train"]


def _missing(data: LabelledTexts, rows: dict[SplitName, Ints], classes: Ints) -> tuple[str, ...]:
    """Return a sentence for each part that lacks classes of training."""
    notes = []
    for name in SPLIT_NAMES[1:]:
        if len(missing := np.setdiff1d(classes, data.label[rows[name]])):
            notes.append(f"{_counted(data, missing)} no {name} text; macro recall there is over the others.")
    return tuple(notes)


def _counted(data: LabelledTexts, codes: Ints) -> str:
    first = quoted(data.labels[codes[0]])
    return f"The class {first} has" if len(codes) == 1 else f"{len(codes):,} classes, such as {first}, have"


def _check(data: LabelledTexts, rows: dict[SplitName, Ints], by: By) -> None:
    for name, own in rows.items():
        if (count := len(np.unique(data.label[own]))) < 2:
            raise InputError(
                f"rows split by {by} leave {count} {'class' if count == 1 else 'classes'} with a {name} text; give "
                "more labelled rows, change protocol.split, or set protocol.split_by = "
                f'"{"hash" if by == "time" else "time"}"'
            )
