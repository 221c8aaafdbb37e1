"""Does the pruner pay? Learning curves, recorded and synthetic, replayed under it and its rivals.

Rivals are Optuna's pruners, Syne Tune's ASHA with promotion, and a freeze-thaw search by a Gaussian process.

    python benchmarks/pruning.py [--quick] [--seeds N] [--curves FILE] [--parts NAME ...] [--systems NAME ...]
        [--json FILE]

Every search draws the same configurations in the same order (by seed), pays for training and evaluation as recorded,
and ends at the same total cost: that of training 40 configurations to the end, or a fifth of a smaller table's. More
workers than half of these are left out: their first configurations would be the search. A search without a pruner is
evaluated, and pays, at the end of a trial alone. The bound is told at the first rung which configurations will be as
good as that search's best, and evaluates as ours. `reach` is the cost at which a search has a finished trial as good as
the best of the search without pruning, over that search's whole cost: below 1 it is cheaper. The median over seeds
stands with a bootstrap interval; `not` counts the seeds where it is not reached. "after an older study" are searches of
the configurations that 40 others, which a study has searched before, leave. The synthetic families are replayed beside
the default curves. Last, what would have been chosen on one half of the table is judged on the other. A full run
leaves a dated table in benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from replay import syne
from replay.clock import replay
from replay.curves import Curves, after_an_older_study, late_bloomers, noisy, recorded
from replay.finalists import finalists_table
from replay.freeze_thaw import FreezeThaw
from replay.nested import nested
from replay.outcomes import SHARES, Outcome, budget_of, median, outcome, trials_of
from replay.schedulers import NOTHING, OURS, Factory, Told, ablations, compared_on, seen_by, systems
from replay.warm import recorded_systems, warm_systems
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from storage.files.atomic import atomic_write

CURVES = Path("benchmarks/curves/completejourney.parquet")
SYNE, THAW = "Syne Tune ASHA", "freeze-thaw process"
BOUND = "told at the first rung who wins"
AFTER = "after an older study"
FAMILIES = ("recorded", "noise", "late bloomers", AFTER)
PARTS = (*FAMILIES, "finalists", "halves")
# Systems that propose by themselves.
PROPOSING = (SYNE, THAW)


@dataclass(frozen=True)
class Setting:
    """What a group of searches has in common."""

    family: str
    sampler: str
    workers: int


def factories(curves: Curves) -> dict[str, Factory]:
    """Every system, ours and its ablations last."""
    found = systems()
    if syne.available():
        found[SYNE] = lambda curves, _, seed: syne.SynePromotion(SYNE, curves, seed)
    found[THAW] = lambda curves, _, seed: FreezeThaw(THAW, curves, seed)
    return found | recorded_systems(curves) | ablations() | warm_systems()


def names_of(setting: Setting, names: Sequence[str]) -> list[str]:
    """The systems that a setting compares."""
    if setting.family == AFTER:
        return [name for name in names if name in (NOTHING, OURS, *warm_systems())]
    found = [name for name in names if name not in warm_systems()]
    if setting.sampler != "random":
        found = [name for name in found if name not in PROPOSING]
    if setting.family != "recorded":
        found = [name for name in found if name != THAW]  # there are no parameters to model
    if (setting.sampler, setting.workers) != ("random", 4):
        found = [name for name in found if name not in ablations()]
    return found


def curves_of(family: str, seed: int, path: Path) -> Curves:
    """The table that a seed's searches run on: the recorded one, or the family's draw of that seed."""
    return {
        "recorded": lambda: recorded(path),
        "noise": lambda: noisy(seed),
        "late bloomers": lambda: late_bloomers(seed),
        AFTER: lambda: after_an_older_study(recorded(path), seed),
    }[family]()


def search_all(seed: int, setting: Setting, path: Path, names: Sequence[str]) -> dict[str, Outcome]:
    """Every system's search of one seed."""
    _quiet()
    curves = curves_of(setting.family, seed, path)
    made = factories(curves)
    budget = budget_of(curves)
    traces = {}
    for name in names:
        seen = seen_by(name, curves)
        traces[name] = replay(seen, made[name](seen, setting.sampler, seed), setting.workers, budget)
    wanted = max((curves.final[each.row] for each in traces[NOTHING].finished), default=0.0)
    seen = seen_by(OURS, curves)
    told = Told(BOUND, seen, setting.sampler, seed, wanted)
    traces[BOUND] = replay(seen, told, setting.workers, budget)
    return {name: outcome(curves, trace, wanted, budget) for name, trace in traces.items()}


def _quiet() -> None:
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def _figure(value: float) -> str:
    return "never" if math.isinf(value) else f"{value:.2f}"


def table_of(setting: Setting, outcomes: dict[str, list[Outcome]]) -> Table:
    """The figures of one setting."""
    title = f"{setting.family}, {setting.sampler} proposals, {setting.workers} worker(s), {len(outcomes[OURS])} seeds"
    heads = (
        "reach [95 %]",
        "not",
        *(f"regret at {share:g}" for share in SHARES),
        "test",
        "began",
        "ended",
        "top 5 % lost",
    )
    table = Table("system", *heads, title=title, title_justify="left", box=None)
    for name, found in outcomes.items():
        middle, low, high = median([each.reach for each in found])
        regrets = np.median([each.regret for each in found], axis=0)
        lost = np.nanmean([each.lost for each in found])
        table.add_row(
            name,
            f"{_figure(middle)} [{_figure(low)}, {_figure(high)}]",
            str(sum(math.isinf(each.reach) for each in found)),
            *(f"{regret:.4f}" for regret in regrets),
            f"{np.mean([each.test for each in found]):.4f}",
            f"{np.mean([each.started for each in found]):.0f}",
            f"{np.mean([each.finished for each in found]):.0f}",
            f"{lost:.0%}",
        )
    return table


def rows_of(setting: Setting, outcomes: dict[str, list[Outcome]]) -> list[dict[str, Any]]:
    """For --json: ours against each of the others."""
    where = f"{setting.family}, {setting.sampler}, {setting.workers} workers"
    ours = median([each.reach for each in outcomes[OURS]])
    rows: list[dict[str, Any]] = []
    for name, found in outcomes.items():
        theirs = median([each.reach for each in found])
        finite = math.isfinite(theirs[0]) and math.isfinite(ours[0])
        rows.append(
            {
                "measure": f"cost to reach what no pruning reaches: {where}",
                "ours": _json(ours[0]),
                "peer": name,
                "peer_value": _json(theirs[0]),
                "ratio": ours[0] / theirs[0] if finite else None,
                "unit": "of the unpruned search's cost",
                "intervals": [[_json(value) for value in each[1:]] for each in (ours, theirs)],
            }
        )
    return rows


def _json(value: float) -> float | None:
    return value if math.isfinite(value) else None


def correlations(curves: Curves) -> Table:
    """What a rung's recall says of the end: rank correlations, and where the eventual top 5 % stand at the rung."""
    table = Table(
        "updates",
        "rank correlation: final",
        "test",
        "best 5 % stand at",
        title=curves.name,
        title_justify="left",
        box=None,
    )
    fine = np.isfinite(curves.means).all(1)
    top = np.argsort(-curves.final[fine])[: max(1, int(fine.sum()) // 20)]
    for rung, updates in enumerate(curves.updates):
        values = curves.means[fine, rung]
        standing = np.argsort(np.argsort(-values))[top].mean() / len(values)
        with_final, with_test = (spearmanr(values, other[fine]).statistic for other in (curves.final, curves.test))
        table.add_row(str(updates), f"{with_final:.2f}", f"{with_test:.2f}", f"{standing:.0%} from the top")
    return table


def main() -> None:
    """Replays everything."""
    _quiet()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="four workers, random proposals, six seeds")
    parser.add_argument("--seeds", type=int, metavar="N", help="searches per setting")
    parser.add_argument("--curves", type=Path, default=CURVES, metavar="FILE", help="what record_curves.py wrote")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, metavar="NAME", help=", ".join(PARTS))
    parser.add_argument("--systems", nargs="+", metavar="NAME", help="these alone, beside none and ours")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    arguments = parser.parse_args()
    seeds = arguments.seeds or (6 if arguments.quick else 30)
    curves, shipped = recorded(arguments.curves), arguments.curves == CURVES
    families = [name for name in FAMILIES if name in arguments.parts and (shipped or name in ("recorded", AFTER))]
    settings = [Setting(family, "random", workers) for family in families for workers in (1, 4, 16)]
    settings += [
        Setting(family, "tpe", workers)
        for family in ("recorded", AFTER)
        if family in families
        for workers in (1, 4, 16)
    ]
    if arguments.quick:
        settings = [setting for setting in settings if (setting.sampler, setting.workers) == ("random", 4)]
    if trials_of(curves) < 2 * min((setting.workers for setting in settings), default=1):
        parser.error(f"{arguments.curves} holds {len(curves.test)} configurations: too few for a search")
    sizes = {family: trials_of(curves_of(family, 0, arguments.curves)) for family in families}
    settings = [each for each in settings if 2 * each.workers <= sizes[each.family]]
    console, rows = Console(width=150, record=True), []
    for family in families:
        console.print(correlations(curves_of(family, 0, arguments.curves)), "")
    names = compared_on(curves, factories(curves))
    if arguments.systems:
        names = [name for name in names if name in (NOTHING, OURS, *arguments.systems)]
    with multiprocessing.get_context("spawn").Pool(len(os.sched_getaffinity(0))) as pool:
        for setting in settings:
            compared = names_of(setting, names)
            search = partial(search_all, setting=setting, path=arguments.curves, names=compared)
            found = pool.map(search, range(seeds), chunksize=1)
            outcomes = {name: [each[name] for each in found] for name in [*compared, BOUND]}
            console.print(table_of(setting, outcomes), "")
            rows += rows_of(setting, outcomes)
    if "finalists" in arguments.parts:
        console.print(finalists_table(seen_by(OURS, curves), seeds, budget_of(curves)), "")
    if "halves" in arguments.parts:
        console.print(nested(curves, factories(curves), 4 if arguments.quick else 10))
    if not (arguments.quick or arguments.systems or arguments.parts != PARTS):
        stem, option = ("", "") if shipped else (f"{arguments.curves.stem}-", f" --curves {arguments.curves}")
        result = Path(f"benchmarks/results/pruning-{stem}{datetime.now(UTC).date()}.md")
        text = f"# `python benchmarks/pruning.py{option}`\n\n```\n{console.export_text()}```\n"
        atomic_write(result, text.encode())
    if arguments.json:
        atomic_write(arguments.json, json.dumps(rows, indent=2).encode())


if __name__ == "__main__":
    main()
