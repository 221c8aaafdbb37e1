"""What looking at the finalists again is worth: on recorded curves, by the test recall of what is chosen."""

from __future__ import annotations

import numpy as np
from rich.table import Table

from replay.clock import replay
from replay.curves import Curves
from replay.schedulers import OURS, systems
from studies.evaluation.intervals import bootstrap


def finalists_table(curves: Curves, seeds: int, budget: float) -> Table:
    """The search's best against the best of the finalists over both draws, one worker, random proposals.

    The optimism is the chosen one's lead over the table's mean on the search's own draw, less its lead on the redrawn
    one: the table was not chosen by either.
    """
    table = Table(
        "finalists", "other one chosen", "test recall, difference [95 %]", "optimism of the search's best [95 %]",
        title="Choosing among the finalists by both draws, against the search's best", title_justify="left", box=None,
    )  # fmt: skip
    redrawn = curves.redrawn.mean(1)
    fine = np.isfinite(redrawn)
    shift = curves.final[fine].mean() - redrawn[fine].mean()
    traces = [replay(curves, systems()[OURS](curves, "random", seed), 1, budget) for seed in range(seeds)]
    traces = [trace for trace in traces if trace.finished]  # on few and costly configurations a search may end first
    for count in (2, 4, 8):
        gains, optimism, other = [], [], 0
        for trace in traces:
            best = sorted((each.row for each in trace.finished), key=lambda row: -curves.final[row])[:count]
            chosen = max(best, key=lambda row: curves.final[row] + redrawn[row])
            gains.append(curves.test[chosen] - curves.test[best[0]])
            optimism.append(curves.final[best[0]] - redrawn[best[0]] - shift)
            other += chosen != best[0]
        gain, excess = bootstrap(np.array(gains)), bootstrap(np.array(optimism))
        table.add_row(
            str(count),
            f"{other} of {len(traces)}",
            f"{gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]",
            f"{excess.mean:+.4f} [{excess.low:+.4f}, {excess.high:+.4f}]",
        )
    return table
