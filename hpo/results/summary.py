"""Turns evaluations into the plain JSON that is stored with a study, put into a manifest, and reported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from studies.data.dataset import Dataset
from studies.episodes.episode import Episode
from studies.episodes.split import Split, SplitName
from studies.evaluation.baselines import POPULARITY, TEXT_FREE
from studies.evaluation.intervals import Floats, bootstrap_ratio, interval
from studies.evaluation.metrics import METRICS, Evaluation, compare

Json = dict[str, Any]
# Fewer scenes than this in each of three groups say nothing.
SCENES_PER_GROUP = 3


@dataclass(frozen=True)
class Scored:
    """A system's figures.

    Attributes:
        kind: "baseline", "teacher", "direct transfer", "fine-tuning" or "student".
        main: at the protocol's own number of shots.
        by_shots: with the same queries under supports of several sizes.
    """

    kind: str
    main: Evaluation
    by_shots: Mapping[int, Evaluation]


def figures(scored: Scored, popularity: Scored) -> Json:
    """All of one system's figures, with intervals over scenes; null where no scene has the figure."""
    main = scored.main
    found: Json = {metric: _interval(main.values(metric)) for metric in METRICS}
    return found | {
        "kind": scored.kind,
        "over_popularity": asdict(compare(main, popularity.main)),
        "scene_recalls": {name: scene.recall for name, scene in main.scenes.items()},
        "by_shots": _by_shots(scored),
    }


def best_text_free(results: Mapping[str, Scored]) -> str:
    """The best of the baselines that read no text."""
    return max((name for name in TEXT_FREE if name in results), key=lambda name: results[name].main.mean())


def retention(results: Mapping[str, Scored], teacher: str, student: str) -> Json:
    """How much of the teacher the student keeps: of its recall, and of its lift over what reads no text.

    With 95 % intervals over scenes, null where the teacher has nothing that is certain to be there to keep.
    """
    baseline = best_text_free(results)
    floors, bests, kepts = (results[name].main.values("recall") for name in (baseline, teacher, student))
    floor, best, kept = floors.mean(), bests.mean(), kepts.mean()
    lift = float((kept - floor) / (best - floor)) if best > floor else None
    intervals = {"recall": bootstrap_ratio(kepts, bests), "lift": bootstrap_ratio(kepts - floors, bests - floors)}
    return {
        "baseline": baseline,
        "recall": float(kept / best) if best else None,
        "lift": lift,
        "intervals": {name: asdict(found) if found else None for name, found in intervals.items()},
    }


def curve(results: Mapping[str, Scored], wanted: Sequence[int]) -> Json:
    """What the figures by shots cover."""
    by_shots = results[POPULARITY].by_shots
    reason = "fewer than half of the scenes see so many interactions and a later query in one window"
    return {
        "shots": list(by_shots),
        "scenes": len(next(iter(by_shots.values())).scenes) if by_shots else 0,
        "left_out": [{"shots": shots, "reason": reason} for shots in wanted if shots not in by_shots],
    }


def scene_facts(
    data: Dataset,
    split: Split,
    part: SplitName,
    episodes: Sequence[Episode],
    vectors: torch.Tensor,
    *,
    every_item: bool,
) -> dict[str, Json]:
    """Per scene: its candidates, its queries, and how like a training scene it is (cosine of mean text vectors).

    Args:
        data: the shop.
        split: its scenes in parts.
        part: whose scenes.
        episodes: those of the main figures. A scene without any has no query, but may have some at fewer shots.
        vectors: (items, D) embeddings of the untrained encoder.
        every_item: whether every item of the shop is a candidate.
    """
    means = {part: _mean_vectors(data, split, part, vectors) for part in ("train", part)}
    nearest = (means[part] @ means["train"].T).amax(1)
    queries = Counter[int]()
    for episode in episodes:
        queries[episode.scene] += len(episode.users)
    return {
        data.scenes[scene]: {
            "candidates": len(data.texts) if every_item else len(data.items_of(scene)),
            "queries": queries[scene],
            "nearest": float(nearest[row]),
        }
        for row, scene in enumerate(split.scenes[part].tolist())
    }


def _mean_vectors(data: Dataset, split: Split, part: SplitName, vectors: torch.Tensor) -> torch.Tensor:
    means = [vectors[torch.tensor(data.items_of(int(scene)))].mean(0) for scene in split.scenes[part]]
    return torch.nn.functional.normalize(torch.stack(means), dim=1)


def transfer(
    results: Mapping[str, Scored], systems: Sequence[str], direct: str, facts: Mapping[str, Json]
) -> list[Json]:
    """Direct transfer or adapt: recall by shots in groups of scenes of a kind, and what adapting gains.

    Args:
        results: every system's figures.
        systems: those to compare.
        direct: the one of them that does not adapt.
        facts: of `scene_facts`.
    """
    adapting = [name for name in systems if results[name].kind not in ("baseline", "direct transfer", "student")]
    covered = sorted(set().union(*(e.scenes for e in results[POPULARITY].by_shots.values())))
    groups = _thirds("catalogue size", covered, facts, "candidates", "{:.0f} to {:.0f} items")
    groups += _thirds("likeness to training scenes", covered, facts, "nearest", "cosine {:.2f} to {:.2f}")
    return [
        {
            "grouping": grouping,
            "group": label,
            "scenes": len(names),
            "systems": {system: _by_shots(results[system], names) for system in systems},
            "gains": {system: _by_shots(results[system], names, results[direct]) for system in adapting},
        }
        for grouping, label, names in groups
    ]


def _thirds(
    grouping: str, scenes: Sequence[str], facts: Mapping[str, Json], fact: str, label: str
) -> list[tuple[str, str, list[str]]]:
    ordered = sorted(scenes, key=lambda name: (facts[name][fact], name))
    if len(ordered) < 3 * SCENES_PER_GROUP:
        return []
    groups = [[str(name) for name in third] for third in np.array_split(np.array(ordered, dtype=object), 3)]
    return [(grouping, label.format(facts[names[0]][fact], facts[names[-1]][fact]), names) for names in groups]


def counts(episodes: Sequence[Episode]) -> Json:
    """Queries in all, those with an answer that the support does not hold, and those of users without a history."""
    new = 0
    for episode in episodes:
        known = torch.zeros(episode.candidates, dtype=torch.bool, device=episode.support.device)
        known[episode.support] = True
        new += int((episode.relevant & ~known).any(1).sum())
    return {
        "queries": sum(len(episode.users) for episode in episodes),
        "new_item_queries": new,
        "cold_user_queries": sum(int((episode.query_history.sum(1) == 0).sum()) for episode in episodes),
    }


def _by_shots(scored: Scored, scenes: Sequence[str] | None = None, over: Scored | None = None) -> Json:
    """Recall by shots in some scenes, or all; or how far it lies above another system's, paired by scene."""
    found = {}
    for shots, evaluation in scored.by_shots.items():
        names = evaluation.scenes if scenes is None else scenes
        recalls = np.array([evaluation.scenes[name].recall for name in names])
        if over is not None:
            recalls -= np.array([over.by_shots[shots].scenes[name].recall for name in names])
        found[str(shots)] = _interval(recalls)
    return found


def _interval(values: Floats) -> Json | None:
    found = interval(values)
    return None if found is None else asdict(found)
