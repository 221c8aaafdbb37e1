"""Splits scenes into training, validation and test, and the timeline with them, as scenes of ranking are.

What a row is known by, its text and its group, is in one split: rows of earlier splits give way to those of later ones,
so that the test scenes stay whole.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from storage.errors import InputError, quoted
from studies.classification.data.dataset import LabelledTexts
from studies.classification.known.row_split import RowSplit
from studies.classification.protocol import ClassificationProtocol
from studies.data.dataset import Ints
from studies.data.digest_order import order_by_digest
from studies.episodes.split import (
    MINIMUM_SCENES,
    SPLIT_NAMES,
    SplitName,
    choose_split_by,
    cut_order,
    cut_times,
    periods_of_openings,
    scene_quantiles,
)


@dataclass(frozen=True)
class LabelledLog:
    """The labelled rows of scenes in order of time: a `studies.episodes.split.SceneLog`.

    Attributes:
        scenes: Names of the scenes.
        scene: (rows,) code of the scene.
        time: (rows,) UTC seconds, ascending.
    """

    scenes: tuple[str, ...]
    scene: Ints
    time: Ints


@dataclass(frozen=True)
class SceneSplit(RowSplit):
    """The scenes of each split, and their rows within its period.

    Attributes:
        scenes: Codes of the scenes of each split, ascending; the splits are disjoint.
    """

    scenes: dict[SplitName, Ints]


def split_scenes(data: LabelledTexts, protocol: ClassificationProtocol) -> SceneSplit:
    """Return the split by the protocol's fractions, `split_by` and seed.

    Without times, scenes are split by a hash of their names. With times the timeline is split too: at the first starts
    of validation and test scenes where scenes are split by when they start, else at the fractions of its time.

    Args:
        data: The data of a study.
        protocol: How to divide them.

    Raises:
        InputError: A split has too few scenes, or fewer than two classes.
    """
    labelled = np.flatnonzero(data.label >= 0)
    order = labelled[np.argsort(data.time[labelled], kind="stable")]
    log = LabelledLog(data.scenes, data.scene[order], data.time[order])
    timeline = (protocol.split[0], protocol.split[0] + protocol.split[1])
    timed, by_start = bool(log.time[0] < log.time[-1]), False
    if timed and protocol.split_by != "hash":
        by_start = protocol.split_by == "time" or choose_split_by(log, timeline) == "opening"
    elif protocol.split_by == "time":
        raise InputError(
            'protocol.split_by = "time", but all rows have one time; name the column of the time in data.time, or set '
            'split_by = "hash"'
        )
    starts, _ = scene_quantiles(log, 0, 1)
    scenes = _cut(data, log, protocol, starts if by_start else None)
    if by_start:
        period = periods_of_openings(log, scenes, starts)
    else:
        cuts = cut_times(log, timeline)
        period = dict(zip(SPLIT_NAMES, itertools.pairwise(cuts), strict=True))
    rows, notes = _rows(data, labelled, scenes, period if timed else None)
    classes = np.unique(data.label[rows["train"]])
    rows = {name: own[np.isin(data.label[own], classes)] for name, own in rows.items()}
    _check(data, rows)
    until = period["validation"][0] if timed else None
    every = dict.fromkeys(SPLIT_NAMES, classes)
    return SceneSplit(every, "time" if by_start else "hash", rows, until, notes, scenes)


def _cut(
    data: LabelledTexts, log: LabelledLog, protocol: ClassificationProtocol, starts: Ints | None
) -> dict[SplitName, Ints]:
    """Return the scenes of each split: of those that have two classes, in the order of a hash, or in which they start.

    Where all rows of a scene are of one class, there is nothing to tell apart.
    """
    pairs = np.unique(np.stack([data.scene, data.label], axis=1)[data.label >= 0], axis=0)
    several = np.bincount(pairs[:, 0], minlength=len(data.scenes)) > 1
    large = np.bincount(log.scene, minlength=len(data.scenes)) >= (protocol.min_scene_rows or 0)
    order = order_by_digest(data.scenes, protocol.seed)
    order = order[(several & large)[order]]
    if starts is not None:
        order = order[np.argsort(starts[order], kind="stable")]
    scenes = cut_order(order, protocol.split)
    for name in SPLIT_NAMES:
        if (found := len(scenes[name])) < MINIMUM_SCENES[name]:
            raise InputError(
                f"{len(order)} of {len(data.scenes)} scenes have {_asked(protocol)}, which leaves {found} for {name}; "
                f"it needs at least {MINIMUM_SCENES[name]}: change protocol.split, name a column with more values in "
                "data.scene, or leave data.scene out"
            )
    return scenes


def _asked(protocol: ClassificationProtocol) -> str:
    least = protocol.min_scene_rows
    return "rows of two classes" if least is None else f"rows of two classes and protocol.min_scene_rows = {least}"


def _rows(
    data: LabelledTexts,
    labelled: Ints,
    scenes: dict[SplitName, Ints],
    period: dict[SplitName, tuple[int, int]] | None,
) -> tuple[dict[SplitName, Ints], tuple[str, ...]]:
    """Return the rows of each split, none of whose texts or groups is in a later one, and what was left out."""
    found: dict[SplitName, Ints] = {}
    notes: list[str] = []
    later_texts, later_groups = np.empty(0, dtype=np.int64), np.array([], dtype=np.int64)
    for name in reversed(SPLIT_NAMES):
        own = labelled[np.isin(data.scene[labelled], scenes[name])]
        if period is not None:
            begin, end = period[name]
            inside = (data.time[own] >= begin) & (data.time[own] < end)
            if left_out := int((~inside).sum()):
                notes.append(f"{left_out:,} of {len(own):,} rows of {name} scenes lie outside its period: left out.")
            own = own[inside]
        shared = np.isin(data.text[own], later_texts) | np.isin(data.group[own], later_groups)
        if shared.any():
            notes.append(
                f"{int(shared.sum()):,} of {len(own):,} rows of {name} scenes have a text or a group of a later part: "
                "left out."
            )
        found[name] = own[~shared]
        later_texts = np.union1d(later_texts, data.text[found[name]])
        later_groups = np.setdiff1d(np.union1d(later_groups, data.group[found[name]]), [-1])
    return {name: found[name] for name in SPLIT_NAMES}, tuple(notes)


def trained_scene_classes(data: LabelledTexts, protocol: ClassificationProtocol) -> Ints:
    """Return the codes of the classes that have a training row, ascending; otherwise as `split_scenes`."""
    return split_scenes(data, protocol).classes["train"]


def _check(data: LabelledTexts, rows: dict[SplitName, Ints]) -> None:
    for name, own in rows.items():
        if len(found := np.unique(data.label[own])) < 2:
            has = f"the class {quoted(data.labels[found[0]])} alone" if len(found) else "no row"
            raise InputError(
                f"the {name} scenes have {has} once their periods are cut and shared texts and groups are left out; "
                "change protocol.split or split_by, name a finer column in data.group, or leave it out"
            )
