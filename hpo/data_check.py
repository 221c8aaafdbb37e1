"""What is in a study's data, what is wrong with it, and whether anything leaks: shown before hours are spent."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from hpo.status.console import Console, day
from storage.errors import InputError
from studies.config.protocol_section import ProtocolSection
from studies.config.spec import StudySpec
from studies.data.dataset import Dataset, Ints
from studies.data.loading import read_source
from studies.data.scene_selection import select_scenes
from studies.episodes.audit import Finding, audit_data, audit_episodes, refuse_leaks
from studies.episodes.sampler import EpisodeSampler
from studies.episodes.split import DAY, SPLIT_NAMES, Split, split_scenes
from studies.progress import SILENT, ProgressReporter

# Intervals over fewer test scenes than this are too wide to tell systems apart.
FEW_SCENES = 10


def check(spec: StudySpec, cache: Path, reporter: ProgressReporter = SILENT) -> dict[str, Any]:
    """Reads a study's data, samples its episodes as the study would, and audits them.

    Args:
        spec: the study.
        cache: folder of the caches.
        reporter: told of long steps.

    Returns:
        What was read and dropped, warnings, parts and audit findings; `error` says why no study is possible, where
        none is, and None otherwise.

    Raises:
        InputError: the data cannot be read at all.
    """
    everything = read_source(spec.data, cache, reporter)
    report: dict[str, Any] = {
        "source": spec.data.source,
        "rows_read": everything.rows_read,
        "notes": list(everything.notes),
        "dropped": dict(everything.dropped),
        "warnings": [],
        "parts": {},
        "audit": [],
        "error": None,
    }
    try:
        data = select_scenes(everything, spec.data, spec.protocol)
        report |= _facts(data)
        parts = split_scenes(data, spec.protocol)
        report["warnings"] = _warnings(everything, data)
        findings = {finding.check: finding for finding in audit_data(data, parts)}
        _sample(data, parts, spec.protocol, report, findings, reporter)
        report["audit"] = [asdict(finding) for finding in findings.values()]
        refuse_leaks(findings.values())
    except InputError as error:
        report |= {"error": str(error)} | ({} if "interactions" in report else _facts(everything))
    return report


def _facts(data: Dataset) -> dict[str, Any]:
    per_scene = np.bincount(data.scene, minlength=len(data.scenes))
    pairs = len(np.unique(data.user * len(data.texts) + data.item))
    return {
        "interactions": len(data.time),
        "dropped": dict(data.dropped),
        "users": data.users,
        "items": len(data.texts),
        "scenes": len(data.scenes),
        "sparsity": 1 - pairs / max(1, data.users * len(data.texts)),
        "interactions_per_scene": _quartiles(per_scene),
        "histogram": _histogram(per_scene),
        "from": day(int(data.time[0])) if len(data.time) else None,
        "until": day(int(data.time[-1])) if len(data.time) else None,
        "fingerprint": data.fingerprint,
    }


def _quartiles(per_scene: Ints) -> list[int]:
    return [int(x) for x in np.quantile(per_scene, [0, 0.25, 0.5, 0.75, 1])] if len(per_scene) else []


def _histogram(per_scene: Ints) -> list[dict[str, int]]:
    """Scenes by their number of interactions, in bins that double: `from` ≤ interactions < `to`."""
    if len(per_scene) == 0:
        return []
    bins = np.floor(np.log2(np.maximum(per_scene, 1))).astype(int)
    return [
        {"from": 2 ** int(power), "to": 2 ** (int(power) + 1), "scenes": int((bins == power).sum())}
        for power in range(bins.min(), bins.max() + 1)
    ]


def _sample(
    data: Dataset,
    parts: Split,
    protocol: ProtocolSection,
    report: dict[str, Any],
    findings: dict[str, Finding],
    reporter: ProgressReporter,
) -> None:
    """Fills in each part, and of each check on its episodes the worst finding of all parts."""
    with reporter.progress("counting the texts' words") as progress:
        sampler = EpisodeSampler(data, parts, protocol, progress)
    for part in SPLIT_NAMES:
        with reporter.progress(f"sampling episodes of meta-{part} scenes") as progress:
            episodes = sampler.sample(part, progress=progress)
        used = {episode.scene for episode in episodes}
        report["parts"][part] = {
            "scenes": len(parts.scenes[part]),
            "from": day(parts.period[part][0]),
            "until": day(parts.period[part][1] - 1),
            "episodes": len(episodes),
            "queries": sum(len(episode.users) for episode in episodes),
            "without_episodes": [data.scenes[s] for s in parts.scenes[part] if int(s) not in used],
        }
        if part != "train" and len(used) < FEW_SCENES:
            said = f"only {len(used)} meta-{part} scenes have an episode"
            report["warnings"].append(f"{said}: intervals over so few are too wide to tell systems apart")
        with reporter.progress(f"auditing meta-{part} episodes") as progress:
            found = audit_episodes(data, parts, protocol, part, episodes, progress)
        for finding in found:
            severity = ["ok", "note", "leak"]
            worst = findings.setdefault(finding.check, finding)
            if severity.index(finding.status) > severity.index(worst.status):
                findings[finding.check] = finding


def _warnings(everything: Dataset, data: Dataset) -> list[str]:
    """What makes a study weak, though not impossible."""
    found = []
    single = int((np.diff(everything.catalogue_start) == 1).sum())
    if single:
        found.append(f"{single:,} of {len(everything.scenes):,} scenes have a single item: there is nothing to rank")
    low, high = np.quantile(data.time, [0.005, 0.995])
    span = int(data.time[-1] - data.time[0])
    if high - low < span / 2:
        found.append(
            f"99 % of the interactions lie within {(high - low) / DAY:.0f} of {span / DAY:.0f} days: a few stray times "
            "stretch the timeline that the periods are cut from; remove them"
        )
    if not (data.time % DAY).any():
        found.append("times are whole days: the interactions of a day have no order, and queries begin the day after")
    memberships = np.bincount(everything.catalogue, minlength=len(everything.texts))
    if moving := int((memberships > 1).sum()):
        found.append(f"{moving:,} of {len(everything.texts):,} items are in more than one scene")
    once = int((np.bincount(data.user, minlength=data.users) == 1).sum())
    if once > data.users / 2:
        found.append(f"{once / data.users:.0%} of the users have a single interaction, so no history to be read")
    return found


def print_check(report: dict[str, Any], console: Console) -> None:
    """The report for people."""
    out = console.out
    out.print(_read_table(report))
    if report["histogram"]:
        out.print("\ninteractions per scene")
        most = max(row["scenes"] for row in report["histogram"])
        for row in report["histogram"]:
            bar = "█" * round(40 * row["scenes"] / most) or ("▏" if row["scenes"] else "")
            out.print(f"  {row['from']:>11,} to {row['to'] - 1:>11,}  {row['scenes']:>6,}  {bar}", markup=False)
    if report["parts"]:
        out.print()
        out.print(_parts_table(report))
    if report["audit"]:
        out.print()
        out.print(_audit_table(report))
    for title, lines in (("notes", report["notes"]), ("warnings", report["warnings"])):
        if lines:
            out.print(f"\n{title}")
            for line in lines:
                out.print(f"  {line}", markup=False, soft_wrap=True)


def _read_table(report: dict[str, Any]) -> Table:
    table = Table(box=None, padding=(0, 1), show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("rows read", f"{report['rows_read']:,}")
    for reason, rows in report["dropped"].items():
        table.add_row(f"  dropped: {reason}", f"{rows:,}")
    for key in ("interactions", "users", "items", "scenes"):
        table.add_row(key, f"{report[key]:,}")
    table.add_row("sparsity", f"{report['sparsity']:.2%}")
    if quantiles := report["interactions_per_scene"]:
        table.add_row("interactions per scene", f"{quantiles[0]:,} to {quantiles[4]:,}, median {quantiles[2]:,}")
    table.add_row("time", f"{report['from']} to {report['until']}")
    return table


def _parts_table(report: dict[str, Any]) -> Table:
    table = Table(box=None, padding=(0, 1))
    table.add_column("part")
    for column in ("scenes", "episodes", "queries", "from", "until", "scenes without an episode"):
        table.add_column(column, justify="right")
    for name, part in report["parts"].items():
        figures = [f"{part[key]:,}" for key in ("scenes", "episodes", "queries")]
        table.add_row(name, *figures, part["from"], part["until"], ", ".join(part["without_episodes"]) or "none")
    return table


def _audit_table(report: dict[str, Any]) -> Table:
    table = Table(box=None, padding=(0, 1))
    for column in ("leakage audit", "", "found"):
        table.add_column(column)
    for finding in report["audit"]:
        table.add_row(finding["check"], finding["status"], finding["detail"])
    return table
