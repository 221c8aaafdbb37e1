"""Checks the data of a study: reads them, samples its episodes as the study would, and audits them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hpo.data_check.figures import Bin, DataCheck, Minimum, PartFacts
from hpo.data_check.findings import Findings
from hpo.status.console import day
from storage.errors import InputError
from studies.config.protocol_section import RankingProtocol
from studies.config.ranking_spec import RankingSpec
from studies.data.dataset import Dataset, Ints
from studies.data.loading import read_source, reselector
from studies.data.scene_minima import derive_minima
from studies.data.scene_selection import select_scenes, small_scenes
from studies.episodes.audit import audit_data, audit_episodes, refuse_leaks
from studies.episodes.coverage import Coverage, enough_for_a_mean
from studies.episodes.episode import Episode
from studies.episodes.sampler import EpisodeSampler
from studies.episodes.split import DAY, MINIMUM_SCENES, SPLIT_NAMES, Split, SplitName, split_scenes
from studies.model.text_coverage import check_texts
from studies.progress import SILENT, ProgressReporter

# Intervals over fewer test scenes than this are too wide to tell systems apart.
FEW_SCENES = 10
# The recall of a scene with fewer queries than this is mostly chance.
FEW_QUERIES = 5
# Where more of the validation or test scenes than this have no episode, recall is that of a minority of the scenes.
MOST_WITHOUT = 0.5
# More than this are worth a warning.
MANY_WITHOUT = 0.2


@dataclass
class _Sampled:
    """What checking has found so far."""

    warnings: list[str] = field(default_factory=list)
    parts: dict[str, PartFacts] = field(default_factory=dict)
    findings: Findings = field(default_factory=Findings)
    split: Split | None = None
    complete: bool = False


def check(spec: RankingSpec, cache: Path, reporter: ProgressReporter = SILENT) -> DataCheck:
    """Read a study's data, sample its episodes as the study would, and audit them.

    Args:
        spec: The study.
        cache: Folder of the caches.
        reporter: Told of long steps.

    Raises:
        InputError: The data cannot be read at all.
    """
    everything = read_source(spec.data, cache, reporter)
    data, found, error = everything, _Sampled(), None
    try:
        data = select_scenes(everything, spec.data, spec.protocol)
        with reporter.progress("splitting texts into tokens") as progress:
            found.warnings += check_texts(spec.teacher, data.texts, progress)
        parts = found.split = split_scenes(data, spec.protocol)
        found.warnings += _warnings(everything, data, spec.protocol, parts)
        for finding in audit_data(data, parts):
            found.findings.add(finding)
        _sample(data, parts, spec.protocol, found, reporter)
        found.complete = True
        refuse_leaks(found.findings.worst.values())
        _refuse_uncovered(spec, data, found, cache)
    except InputError as refused:
        error = str(refused)
    return _data_check(spec, everything, data, found, error)


def _data_check(spec: RankingSpec, everything: Dataset, data: Dataset, found: _Sampled, error: str | None) -> DataCheck:
    per_scene = np.bincount(data.scene, minlength=len(data.scenes))
    pairs = len(np.unique(data.user * len(data.texts) + data.item))
    return DataCheck(
        source=spec.data.source,
        rows_read=everything.rows_read,
        notes=tuple(everything.notes),
        dropped=dict(data.dropped),
        minima=_minima(spec),
        small_scenes=tuple(small_scenes(everything, spec.data, spec.protocol)) if len(everything.time) else (),
        split_by=found.split.by if found.split else None,
        split_by_auto=spec.protocol.split_by == "auto",
        warnings=(*everything.warnings, *found.warnings),
        parts=found.parts,
        audit=tuple(found.findings.worst.values()) if found.complete else (),
        error=error,
        interactions=len(data.time),
        users=data.users,
        items=len(data.texts),
        scenes=len(data.scenes),
        sparsity=1 - pairs / max(1, data.users * len(data.texts)),
        interactions_per_scene=_quartiles(per_scene),
        histogram=_histogram(per_scene),
        first_day=day(int(data.time[0])) if len(data.time) else None,
        last_day=day(int(data.time[-1])) if len(data.time) else None,
        fingerprint=data.fingerprint,
    )


def _quartiles(per_scene: Ints) -> tuple[int, ...]:
    return tuple(int(x) for x in np.quantile(per_scene, [0, 0.25, 0.5, 0.75, 1])) if len(per_scene) else ()


def _histogram(per_scene: Ints) -> tuple[Bin, ...]:
    if len(per_scene) == 0:
        return ()
    bins = np.floor(np.log2(np.maximum(per_scene, 1))).astype(int)
    return tuple(
        Bin(low=2 ** int(power), high=2 ** (int(power) + 1), scenes=int((bins == power).sum()))
        for power in range(bins.min(), bins.max() + 1)
    )


def _sample(
    data: Dataset, parts: Split, protocol: RankingProtocol, found: _Sampled, reporter: ProgressReporter
) -> None:
    """Add each part, and the findings on its episodes."""
    with reporter.progress("counting the texts' words") as progress:
        sampler = EpisodeSampler(data, parts, protocol, progress)
    for part in SPLIT_NAMES:
        with reporter.progress(f"sampling meta-{part} episodes") as progress:
            episodes = sampler.draw(part, progress=progress)
        used = {episode.scene for episode in episodes}
        found.parts[part] = PartFacts(
            scenes=len(parts.scenes[part]),
            first_day=day(parts.period[part][0]),
            last_day=day(parts.period[part][1] - 1),
            episodes=len(episodes),
            queries=(queries := sum(len(episode.users) for episode in episodes)),
            without_history=(cold := sum(int((~episode.query_history.any(1)).sum()) for episode in episodes)),
            without_episodes=tuple(data.scenes[s] for s in parts.scenes[part] if int(s) not in used),
        )
        found.warnings += _coverage_warnings(part, len(used), len(parts.scenes[part]))
        found.warnings += _query_warnings(part, episodes)
        if cold > queries / 2:
            found.warnings.append(
                f"{cold:,} of {queries:,} meta-{part} queries come from users without a history: there a recommender "
                "has only the support to go by, and its figures say little of users who are known"
            )
        with reporter.progress(f"auditing meta-{part} episodes") as progress:
            findings = audit_episodes(data, parts, protocol, part, episodes, progress)
        for finding in findings:
            found.findings.add(finding)


def _coverage_warnings(part: SplitName, covered: int, scenes: int) -> list[str]:
    found = []
    if part != "train" and covered < FEW_SCENES:
        said = f"only {covered} meta-{part} scenes have an episode"
        found.append(f"{said}: intervals over so few are too wide to tell systems apart")
    if scenes - covered > MANY_WITHOUT * scenes:
        found.append(
            f"{scenes - covered:,} of {scenes:,} meta-{part} scenes have no episode, so they count for nothing"
        )
    return found


def _query_warnings(part: SplitName, episodes: Sequence[Episode]) -> list[str]:
    scenes, place = np.unique([episode.scene for episode in episodes], return_inverse=True)
    queries = np.bincount(place, weights=[len(episode.users) for episode in episodes])
    few = int((queries < FEW_QUERIES).sum())
    if part == "train" or not few or np.median(queries) < 4 * FEW_QUERIES:
        return []
    return [
        f"{few:,} of {len(scenes):,} meta-{part} scenes have fewer than {FEW_QUERIES} queries in all, and each counts "
        "as much as one with many: protocol.min_queries leaves such openings out"
    ]


def _enough(part: SplitName, covered: int, scenes: int) -> bool:
    few = part != "train" and scenes - covered > MOST_WITHOUT * scenes
    return enough_for_a_mean(part, covered, scenes) and not few


def _refuse_uncovered(spec: RankingSpec, data: Dataset, found: _Sampled, cache: Path) -> None:
    """Refuse data in which too few scenes have an episode, or not even half of those that are to be scored.

    Raises:
        InputError: It is so; the message names the cause and what helps.
    """
    assert found.split is not None
    for part in SPLIT_NAMES:
        scenes = found.parts[part].scenes
        covered = scenes - len(found.parts[part].without_episodes)
        if _enough(part, covered, scenes):
            continue
        coverage = Coverage(data, found.split, spec.protocol)
        needed = f"at least {max(MINIMUM_SCENES[part], 0 if part == 'train' else -(-scenes // 2))} are needed"
        remedies = coverage.remedies(reselector(spec.data, cache), _enough)
        raise InputError(coverage.explain(part, covered, needed, remedies))


def _minima(spec: RankingSpec) -> dict[str, Minimum]:
    minima = derive_minima(spec.data, spec.protocol)._asdict()
    return {name: Minimum(value=value, derived=getattr(spec.data, name) is None) for name, value in minima.items()}


def _warnings(everything: Dataset, data: Dataset, protocol: RankingProtocol, parts: Split) -> list[str]:
    """Return what makes a study weak, though not impossible."""
    found = []
    if parts.by == "opening" and protocol.timeline != RankingProtocol.model_fields["timeline"].default:
        found.append("scenes are split by when they start, so protocol.timeline is not used")
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
