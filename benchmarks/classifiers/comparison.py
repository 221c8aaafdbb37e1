"""Pairs the episodes of two systems: differences with intervals, and seconds side by side."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from classifiers.few_shot import recorded
from classifiers.journal import Journal
from studies.evaluation.intervals import bootstrap


def compared(journal: Journal, ours: Mapping[str, Collection[str] | None]) -> list[dict[str, object]]:
    """Each of ours against other systems at each number of shots, over the episodes that both are recorded on.

    Args:
        journal: The records.
        ours: Names of ours, each with the systems that it is compared with; None for all.
    """
    rows: list[dict[str, object]] = []
    keys = [key for key in journal.keys if key[0] == "test"]
    for shots in sorted({int(key[1]) for key in keys}):
        systems, episodes = (
            list(dict.fromkeys(str(key[place]) for key in keys if key[1] == shots)) for place in (2, 3)
        )
        for name, peers in ours.items():
            for peer in systems:
                if peer != name and name in systems and (peers is None or peer in peers):
                    rows += pair(journal, shots, name, peer, episodes)
    return rows


def pair(journal: Journal, shots: int, ours: str, peer: str, episodes: Sequence[str]) -> list[dict[str, object]]:
    """The rows of two systems: macro recall with the interval of the paired difference, and CPU seconds to adapt."""
    figures = {
        name: [recorded(journal, "test", shots, system, episodes, name) for system in (ours, peer)]
        for name in ("recall", "cpu_seconds", "seconds")
    }
    both = ~np.isnan(figures["recall"]).any(0)
    if not both.any():
        return []
    mine, theirs = (values[both] for values in figures["recall"])
    gap = bootstrap(mine - theirs)
    row: dict[str, object] = {"peer": peer, "shots": shots, "episodes": int(both.sum()), "system": ours}
    rows = [
        row
        | {
            "measure": f"new classes, test macro recall of {ours}, {shots} shots",
            "ours": float(mine.mean()),
            "peer_value": float(theirs.mean()),
            "ratio": float(mine.mean() / theirs.mean()),
            "unit": "macro recall",
            "difference": [gap.mean, gap.low, gap.high],
        }
    ]
    for name, unit in (("cpu_seconds", "CPU s"), ("seconds", "s")):
        own, other = (float(np.median(values[both])) for values in figures[name])
        measure = f"new classes, {unit} to adapt, median, of {ours}, {shots} shots"
        rows.append(row | {"measure": measure, "ours": own, "peer_value": other, "ratio": other / own, "unit": unit})
    return rows


def show(rows: Sequence[dict[str, object]]) -> None:
    """The table."""
    table = Table("measure", "ours", "against", "", "difference", "ratio", "episodes", box=None)
    for row in rows:
        around = row.get("difference")
        gap = "" if around is None else "{:+.3f} [{:+.3f}, {:+.3f}]".format(*around)
        table.add_row(
            str(row["measure"]), f"{row['ours']:.4g}", str(row["peer"]), f"{row['peer_value']:.4g}", gap,
            f"{row['ratio']:.2f}", str(row.get("episodes", "")),
        )  # fmt: skip
    Console(width=200).print(table)
