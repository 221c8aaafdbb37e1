"""What is in a study's data: read, dropped, split; `hpo data check` shows it before hours are spent."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
from rich.table import Table

from hpo.console import Console
from studies.data.sources import load
from studies.episodes import EpisodeSampler
from studies.scenes import PARTS, split
from studies.spec import StudySpec


def check(spec: StudySpec) -> dict[str, Any]:
    """Reads a study's data and samples its episodes, as the study would.

    Raises:
        InputError: the data cannot give a meaningful study; the message says why.
    """
    data = load(spec.data)
    parts = split(data, spec.protocol)
    sampler = EpisodeSampler(data, parts, spec.protocol)
    per_scene = np.bincount(data.item_scene[data.item], minlength=len(data.scenes))
    report: dict[str, Any] = {
        "source": spec.data.source,
        "rows_read": data.rows_read,
        "interactions": len(data.time),
        "dropped": dict(data.dropped),
        "users": data.users,
        "items": len(data.texts),
        "scenes": len(data.scenes),
        "interactions_per_scene": [int(x) for x in np.quantile(per_scene, [0, 0.25, 0.5, 0.75, 1])],
        "from": _day(int(data.time[0])),
        "until": _day(int(data.time[-1])),
        "fingerprint": data.fingerprint,
        "parts": {},
    }
    for part in PARTS:
        episodes = sampler.sample(part)
        used = {episode.scene for episode in episodes}
        report["parts"][part] = {
            "scenes": len(parts.scenes[part]),
            "from": _day(parts.period[part][0]),
            "until": _day(parts.period[part][1] - 1),
            "episodes": len(episodes),
            "queries": sum(len(episode.relevant) for episode in episodes),
            "without_episodes": [data.scenes[s] for s in parts.scenes[part] if int(s) not in used],
        }
    return report


def print_check(report: dict[str, Any], console: Console) -> None:
    """The report for people."""
    out = console.out
    table = Table(box=None, padding=(0, 1), show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("rows read", f"{report['rows_read']:,}")
    for reason, rows in report["dropped"].items():
        table.add_row(f"  dropped: {reason}", f"{rows:,}")
    for key in ("interactions", "users", "items", "scenes"):
        table.add_row(key, f"{report[key]:,}")
    low, *_, high = report["interactions_per_scene"]
    table.add_row("interactions per scene", f"{low:,} to {high:,}, median {report['interactions_per_scene'][2]:,}")
    table.add_row("time", f"{report['from']} to {report['until']}")
    out.print(table)
    parts = Table(box=None, padding=(0, 1))
    parts.add_column("part")
    for column in ("scenes", "episodes", "queries", "from", "until", "scenes without an episode"):
        parts.add_column(column, justify="right")
    for name, part in report["parts"].items():
        counts = [f"{part[key]:,}" for key in ("scenes", "episodes", "queries")]
        parts.add_row(name, *counts, part["from"], part["until"], ", ".join(part["without_episodes"]) or "none")
    out.print(parts)


def _day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()
