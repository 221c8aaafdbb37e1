"""Warm starts: what an older study, searched by ours on part of the table, says of the rest."""

from __future__ import annotations

import math

import numpy as np

from hpo.search.warm_start import CANDIDATES, Forest, Known, coordinates, ends
from replay.clock import replay
from replay.curves import Curves
from replay.proposals import search_of
from replay.schedulers import Factory, Ours, ours, shipped_rungs, shipped_scenes

WORKERS = 4
BEST_FIRST, PROMISING = "ours, the older study's best three first", "ours, ten promising ones first"


def warm_systems() -> dict[str, Factory]:
    """What starts from an older study."""
    return {
        BEST_FIRST: ours(BEST_FIRST, first=nearest_to_best),
        PROMISING: ours(PROMISING, first=promising),
    }


def nearest_to_best(curves: Curves, seed: int, count: int = 3) -> list[int]:
    """The rows that are nearest to the best ones that the older study finished."""
    assert curves.earlier is not None
    search = search_of(curves)
    trials = sorted(known(curves.earlier, seed), key=lambda trial: -trial.recall)
    left = {row: np.array(coordinates(search, values)) for row, values in enumerate(curves.parameters)}
    found = []
    for trial in trials[:count]:
        wanted = np.array(coordinates(search, trial.values))
        found.append(min(left, key=lambda row: float(np.abs(left[row] - wanted).sum())))
        del left[found[-1]]
    return found


def promising(curves: Curves, seed: int, count: int = 10) -> list[int]:
    """The rows that the production forest chooses, each among the next ones that would come."""
    assert curves.earlier is not None
    forest = Forest(search_of(curves), known(curves.earlier, seed), seed)
    expected = forest.expected(curves.parameters)
    left = np.random.default_rng(seed).permutation(len(curves.test)).tolist()
    found: list[int] = []
    for _ in range(count):
        found.append(max(left[:CANDIDATES], key=lambda row: expected[row]))
        left.remove(found[-1])
    return found


def known(older: Curves, seed: int) -> list[Known]:
    """What a study of these configurations that ours pruned knows of them."""
    seen = shipped_scenes(older)
    search = Ours("older", seen, "random", seed, rungs=shipped_rungs)
    replay(seen, search, WORKERS, math.inf)
    recalls = ends(search.history, range(len(older.test)))
    return [Known(older.parameters[row], recall) for row, recall in recalls.items()]
