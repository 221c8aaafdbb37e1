"""Warm starts: what an older study, searched by ours on some configurations of the table, says of the others.

Both are on the same data. What the older study finished may be tried again; what it promises most of is chosen by the
production forest, each among as many random configurations as in production.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np

from hpo.search.warm_start import CANDIDATES, Forest, Known, ends
from replay.clock import replay
from replay.curves import Curves
from replay.proposals import search_of
from replay.schedulers import Factory, Ours, ours, shipped_rungs, shipped_scenes

WORKERS = 4
WARM = "ours, the best one and nine promising ones first"


def warm_systems() -> dict[str, Factory]:
    """What starts from an older study: from its best configurations, or as shipped."""
    best = {f"ours, the older study's best {count} first": partial(best_ones, count=count) for count in (1, 3, 10)}
    return {name: ours(name, first=first) for name, first in (best | {WARM: promising}).items()}


def best_ones(curves: Curves, seed: int, count: int) -> list[int]:
    """The best rows that the older study finished."""
    finished, _ = searched(curves, seed)
    return sorted(finished, key=lambda row: -curves.final[row])[:count]


def promising(curves: Curves, seed: int, count: int = 10) -> list[int]:
    """The best row, and those that the forest chooses."""
    _, known = searched(curves, seed)
    expected = Forest(search_of(curves), known, seed).expected(curves.parameters)
    found = best_ones(curves, seed, 1)
    left = sorted(set(range(len(curves.test))) - set(curves.earlier))
    rng = np.random.default_rng(seed)
    while len(found) < count:
        drawn = rng.choice(left, CANDIDATES, replace=False).tolist()
        found.append(max(drawn, key=lambda row: expected[row]))
        left.remove(found[-1])
    return found


def searched(curves: Curves, seed: int) -> tuple[list[int], list[Known]]:
    """What a study that ours pruned has finished, and what it knows."""
    rows = np.array(curves.earlier)
    older = shipped_scenes(replace(curves.some(rows), earlier=()))
    search = Ours("older", older, "random", seed, rungs=shipped_rungs)
    trace = replay(older, search, WORKERS, math.inf)
    recalls = ends(search.history, range(len(rows)))
    known = [Known(curves.parameters[rows[row]], recall) for row, recall in recalls.items()]
    return [int(rows[each.row]) for each in trace.finished], known
