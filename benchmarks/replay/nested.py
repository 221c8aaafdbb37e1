"""Would a setting have been chosen on configurations that it is not judged on? The recorded table, halved at random."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from rich.table import Table

from replay.clock import replay
from replay.curves import Curves
from replay.outcomes import budget_of, median, outcome, trials_of
from replay.schedulers import ASHA, EARLIER, NOTHING, OURS, Factory, ablations, compared_on, seen_by

REPEATS = 3
WORKERS = 4


def nested(whole: Curves, made: Mapping[str, Factory], seeds: int) -> Table:
    """What is chosen on one half, measured on the other, both ways, beside what is not chosen at all.

    Ours and its ablations are chosen from, by the mean cost to reach what no pruning reaches; a search that does not
    reach it counts with the whole cost. Small halves are searched by one worker.
    """
    candidates = [name for name in compared_on(whole, (OURS, *ablations())) if name != EARLIER]
    fixed = (NOTHING, OURS, ASHA)
    found: dict[str, list[tuple[float, float]]] = {label: [] for label in ("chosen", *fixed)}
    chosen: list[str] = []
    for repeat in range(REPEATS):
        order = np.random.default_rng(repeat).permutation(len(whole.test))
        halves = [whole.some(order[::2]), whole.some(order[1::2])]
        for tune, judge in (halves, halves[::-1]):
            best = min(candidates, key=lambda name: _measure(tune, made, name, seeds)[0])
            chosen.append(best)
            for label, name in (("chosen", best), *((name, name) for name in fixed)):
                found[label].append(_measure(judge, made, name, seeds))
    table = Table(
        "system", "mean cost to reach, median over halves [95 %]", "mean regret at 1, median [95 %]",
        title=f"On the other half, {_workers(halves[0])} worker(s); chosen: {'; '.join(chosen)}",
        title_justify="left", box=None,
    )  # fmt: skip
    for label, values in found.items():
        figures = [median([value[place] for value in values]) for place in (0, 1)]
        table.add_row(label, *(f"{middle:.4f} [{low:.4f}, {high:.4f}]" for middle, low, high in figures))
    return table


def _workers(half: Curves) -> int:
    return WORKERS if trials_of(half) >= 2 * WORKERS else 1


def _measure(curves: Curves, made: Mapping[str, Factory], name: str, seeds: int) -> tuple[float, float]:
    """Mean cost to reach and mean regret at the whole cost."""
    budget, workers, seen = budget_of(curves), _workers(curves), seen_by(name, curves)
    reaches, regrets = [], []
    for seed in range(seeds):
        unpruned = replay(curves, made[NOTHING](curves, "random", seed), workers, budget)
        wanted = max((curves.final[each.row] for each in unpruned.finished), default=0.0)
        trace = replay(seen, made[name](seen, "random", seed), workers, budget)
        reached = outcome(curves, trace, wanted, budget)
        reaches.append(min(reached.reach, 1.0))
        regrets.append(reached.regret[-1])
    return float(np.mean(reaches)), float(np.mean(regrets))
