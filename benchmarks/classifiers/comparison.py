"""Pairs the episodes of two systems: differences with intervals, and seconds side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table

from classifiers.few_shot import recorded
from classifiers.journal import Journal
from studies.evaluation.intervals import bootstrap


@dataclass(frozen=True)
class Entry:
    """One of our systems that others are compared with.

    Attributes:
        name: Its name in the records.
        names: Whether it may read the names of the classes.
    """

    name: str
    names: bool


def compared(
    journal: Journal, shots: int, systems: Sequence[str], episodes: Sequence[str], ours: Sequence[Entry]
) -> list[dict[str, object]]:
    """Each of ours against every other system, over the episodes that both are recorded on.

    Args:
        journal: The records.
        shots: Labelled texts of each class.
        systems: Names of all systems.
        episodes: Names of the test episodes.
        ours: Ours that are compared; one that reads no names is compared with what reads none.
    """
    rows: list[dict[str, object]] = []
    for entry in ours:
        for peer in systems:
            if peer == entry.name or (not entry.names and "names" in peer):
                continue
            rows += pair(journal, shots, entry.name, peer, episodes)
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
