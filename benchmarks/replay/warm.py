"""Warm starts: what an older study, searched by ours on some configurations of the table, says of the others.

Both are on the same data. What the older study finished may be tried again; what it promises most of is chosen by the
production forest, each among as many random configurations as in production, if the table has so many. The recorded
trials that production starts from otherwise are of another shop than the table, where it is not their own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from hpo.search.warm_start import CANDIDATES, RECORDED, Forest, Known, ends
from replay.clock import replay
from replay.curves import Curves
from replay.outcomes import trials_of
from replay.proposals import search_of
from replay.schedulers import Factory, Ours, ours, shipped_rungs, shipped_scenes

WORKERS = 4
WARM = "ours, the best one and nine promising ones first"
# The study whose curves the recorded trials are.
BY_RECORDED, SOURCE = "ours, promising ones by the recorded trials first", "products"


def warm_systems() -> dict[str, Factory]:
    """What starts from an older study: from its best configurations, or as shipped."""
    best = {f"ours, the older study's best {count} first": partial(best_ones, count=count) for count in (1, 3, 10)}
    return {name: ours(name, first=first) for name, first in (best | {WARM: promising}).items()}


def recorded_systems(curves: Curves) -> dict[str, Factory]:
    """What starts from the recorded trials, on tables that these are not taken from."""
    shipped = json.loads(RECORDED.read_text()).get("new classes", []) if curves.classifies else []
    if not shipped or curves.spec["name"] == SOURCE:
        return {}
    known = [Known(values, recall) for values, recall in shipped]
    first = partial(chosen, known=known, count=min(10, trials_of(curves) // 2))
    return {BY_RECORDED: ours(BY_RECORDED, first=first)}


def best_ones(curves: Curves, seed: int, count: int) -> list[int]:
    """The best rows that the older study finished."""
    finished, _ = searched(curves, seed)
    return sorted(finished, key=lambda row: -curves.final[row])[:count]


def promising(curves: Curves, seed: int) -> list[int]:
    """The best row, and nine that the forest chooses."""
    _, known = searched(curves, seed)
    return [*best_ones(curves, seed, 1), *chosen(curves, seed, known, 9)]


def chosen(curves: Curves, seed: int, known: Sequence[Known], count: int) -> list[int]:
    """The rows that a forest over known configurations chooses, none of those that were searched."""
    expected = Forest(search_of(curves), known, seed).expected(curves.parameters)
    left = sorted(set(range(len(curves.test))) - set(curves.earlier))
    rng = np.random.default_rng(seed)
    found: list[int] = []
    for _ in range(count):
        drawn = rng.choice(left, min(CANDIDATES, len(left)), replace=False).tolist()
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
