"""Turns the metrics of scenes into the figures that are stored with a study, exported and reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from distill.evaluation import Retention, RetentionIntervals, TransferGroup
from studies.evaluation.figures import ByShots, Curve, LeftOut, PooledFigures, SceneFacts, SystemFigures
from studies.evaluation.intervals import bootstrap, bootstrap_ratio, interval
from studies.evaluation.metrics import Evaluation, compare

# Groups of fewer scenes than this say nothing.
SCENES_PER_GROUP = 3


@dataclass(frozen=True)
class Scored:
    """The metrics of one system.

    Attributes:
        kind: As in `SystemFigures`.
        main: At the protocol's own number of shots.
        by_shots: With the same queries under supports of several sizes.
        pooled: Figures over all queries together; None where the task has none.
    """

    kind: str
    main: Evaluation
    by_shots: Mapping[int, Evaluation]
    pooled: PooledFigures | None = None


def system_figures(scored: Scored, reference: Scored) -> SystemFigures:
    """Return all figures of a system, with intervals over scenes."""
    main = scored.main
    return SystemFigures(
        kind=scored.kind,
        recall=bootstrap(main.values()),
        metrics={metric: interval(main.values(metric)) for metric in main.metrics if metric != "recall"},
        over_reference=compare(main, reference.main),
        scene_recalls={name: scene.recall for name, scene in main.scenes.items()},
        by_shots=_by_shots(scored),
        pooled=scored.pooled,
    )


def retention(results: Mapping[str, Scored], teacher: str, student: str, floor_of: Sequence[str]) -> Retention:
    """Return how much of the teacher the student keeps: of its recall, and of its lift over the best of some baselines.

    Args:
        results: Every system's metrics.
        teacher: The best teacher.
        student: The student.
        floor_of: The baselines over whose best the lift is counted; some may not have been scored.
    """
    baseline = max((name for name in floor_of if name in results), key=lambda name: results[name].main.mean())
    floors, bests, kepts = (results[name].main.values("recall") for name in (baseline, teacher, student))
    of_recall, of_lift = bootstrap_ratio(kepts, bests), bootstrap_ratio(kepts - floors, bests - floors)
    return Retention(
        baseline=baseline,
        teacher_lift=bootstrap(bests - floors),
        recall=None if of_recall is None else of_recall.mean,
        lift=None if of_lift is None else of_lift.mean,
        intervals=RetentionIntervals(recall=of_recall, lift=of_lift),
    )


def curve(by_shots: Mapping[int, Evaluation], wanted: Sequence[int], reason: str) -> Curve:
    """Return what the figures by shots cover.

    Args:
        by_shots: Any system's metrics by shots.
        wanted: The numbers of shots that the protocol names.
        reason: Why some may be left out.
    """
    return Curve(
        shots=tuple(by_shots),
        scenes=len(next(iter(by_shots.values())).scenes) if by_shots else 0,
        left_out=tuple(LeftOut(shots=shots, reason=reason) for shots in wanted if shots not in by_shots),
    )


def transfer(
    results: Mapping[str, Scored], systems: Sequence[str], direct: str, facts: Mapping[str, SceneFacts]
) -> tuple[TransferGroup, ...]:
    """Return recall by shots in groups of similar scenes, and what adapting gains over direct transfer.

    Args:
        results: Every system's metrics.
        systems: Those to compare.
        direct: The one of them that does not adapt.
        facts: Of `scene_facts`.
    """
    adapting = [name for name in systems if results[name].kind not in ("baseline", "direct transfer", "student")]
    covered = sorted(set().union(*(e.scenes for e in results[direct].by_shots.values())))
    sizes = {name: fact.candidates for name, fact in facts.items()}
    cosines = {name: fact.nearest or 0.0 for name, fact in facts.items()}
    groups = _thirds("catalogue size", covered, sizes, "{:.0f} to {:.0f} items")
    groups += _thirds("likeness to training scenes", covered, cosines, "cosine {:.2f} to {:.2f}")
    return tuple(
        TransferGroup(
            grouping=grouping,
            group=label,
            scenes=len(names),
            systems={system: _by_shots(results[system], names) for system in systems},
            gains={system: _by_shots(results[system], names, results[direct]) for system in adapting},
        )
        for grouping, label, names in groups
    )


def _thirds(
    grouping: str, scenes: Sequence[str], values: Mapping[str, float], label: str
) -> list[tuple[str, str, list[str]]]:
    ordered = sorted(scenes, key=lambda name: (values[name], name))
    if len(ordered) < 3 * SCENES_PER_GROUP:
        return []
    groups = [[str(name) for name in third] for third in np.array_split(np.array(ordered, dtype=object), 3)]
    return [(grouping, label.format(values[names[0]], values[names[-1]]), names) for names in groups]


def _by_shots(scored: Scored, scenes: Sequence[str] | None = None, over: Scored | None = None) -> ByShots:
    """Return recall by shots in some scenes, or all; or how far it lies above another system's, paired by scene."""
    found: ByShots = {}
    for shots, evaluation in scored.by_shots.items():
        names = evaluation.scenes if scenes is None else scenes
        recalls = np.array([evaluation.scenes[name].recall for name in names])
        if over is not None:
            recalls -= np.array([over.by_shots[shots].scenes[name].recall for name in names])
        found[shots] = interval(recalls)
    return found
