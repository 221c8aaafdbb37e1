"""Checks the data of a classification study: reads them, samples its episodes as the study would, and audits them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hpo.data_check.figures import ClassBin, LabelledCheck, LabelledPart, SceneRows
from hpo.data_check.findings import Findings
from storage.errors import InputError
from studies.classification.data.class_selection import select_classes
from studies.classification.data.dataset import LabelledTexts
from studies.classification.data.loading import read_labelled
from studies.classification.plan import Plan, plan
from studies.classification.spec import ClassificationSpec
from studies.episodes.audit import refuse_leaks
from studies.episodes.split import SPLIT_NAMES
from studies.model.text_coverage import check_texts
from studies.progress import SILENT, ProgressReporter


def check(spec: ClassificationSpec, cache: Path, reporter: ProgressReporter = SILENT) -> LabelledCheck:
    """Read a study's data, sample its episodes as the study would, and audit them.

    Args:
        spec: The study.
        cache: Folder of the caches.
        reporter: Told of long steps.

    Raises:
        InputError: The data cannot be read at all.
    """
    everything = read_labelled(spec.data, cache, reporter)
    data, error, complete = everything, None, False
    warnings, findings, parts = list(everything.warnings), Findings(), dict[str, LabelledPart]()
    by_scene: list[SceneRows] = []
    try:
        data = select_classes(everything, spec.data, spec.protocol)
        with reporter.progress("splitting texts into tokens") as progress:
            warnings += check_texts(spec.teacher, data.texts, progress)
        planned = plan(data, spec.protocol)
        warnings += planned.notes
        for finding in planned.audit():
            findings.add(finding)
        _sample(data, planned, parts, by_scene, findings, reporter)
        complete = True
        refuse_leaks(findings.worst.values())
    except InputError as refused:
        error = str(refused)
    sizes = np.bincount(data.label[data.label >= 0], minlength=len(data.labels))
    return LabelledCheck(
        source=spec.data.source,
        rows_read=everything.rows_read,
        notes=data.notes,
        dropped=dict(data.dropped),
        warnings=tuple(warnings),
        parts=parts,
        audit=tuple(findings.worst.values()) if complete else (),
        error=error,
        texts=data.distinct_texts,
        classes=len(data.labels),
        labelled=int((data.label >= 0).sum()),
        unlabelled=int((data.label < 0).sum()),
        groups=len(data.groups),
        scenes=len(data.scenes),
        by_scene=tuple(by_scene),
        rows_per_class=tuple(int(x) for x in np.quantile(sizes, [0, 0.25, 0.5, 0.75, 1])) if len(sizes) else (),
        histogram=_histogram(sizes),
        largest={data.labels[code]: int(sizes[code]) for code in np.argsort(-sizes, kind="stable")[:5]},
        fingerprint=data.fingerprint,
    )


def _sample(
    data: LabelledTexts,
    planned: Plan,
    parts: dict[str, LabelledPart],
    by_scene: list[SceneRows],
    findings: Findings,
    reporter: ProgressReporter,
) -> None:
    """Add each part, its scenes where these are divided, and the findings on its episodes."""
    for name in SPLIT_NAMES:
        with reporter.progress(f"sampling meta-{name} episodes") as progress:
            episodes = planned.sample(name, 0, progress)
        used = {code for episode in episodes for code in episode.classes.tolist()}
        parts[name] = LabelledPart(
            classes=len(planned.split.classes[name]),
            rows=len(planned.rows(name)),
            episodes=len(episodes),
            queries=sum(len(episode.query) for episode in episodes),
            without_episodes=tuple(data.labels[code] for code in planned.split.classes[name] if int(code) not in used),
        )
        used = {episode.scene for episode in episodes}
        for scene, rows in planned.scene_rows(name).items():
            counts = np.bincount(data.label[rows], minlength=len(data.labels)).tolist()
            own = dict(zip(data.labels, counts, strict=True))
            by_scene.append(SceneRows(scene=scene, part=name, rows=own, episode=data.scenes.index(scene) in used))
        with reporter.progress(f"auditing meta-{name} episodes") as progress:
            found = planned.audit_episodes(name, episodes, progress)
        for finding in found:
            findings.add(finding)


def _histogram(sizes: np.ndarray) -> tuple[ClassBin, ...]:
    if len(sizes) == 0:
        return ()
    bins = np.floor(np.log2(np.maximum(sizes, 1))).astype(int)
    return tuple(
        ClassBin(low=2 ** int(power), high=2 ** (int(power) + 1), classes=int((bins == power).sum()))
        for power in range(bins.min(), bins.max() + 1)
    )
