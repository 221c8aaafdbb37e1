"""Made-up documents for the report: every field there is, with names that break careless renderers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hpo.reporting.document import StudyDocument
from hpo.reporting.renderers.page import write as write_report
from studies.config.protocol_section import RankingProtocol

HOSTILE = ("<script>alert(1)</script>", "a|b", "$x$ and $y$", "牛肉", "*bold* _it_ `code`", "two\nlines & [a](b)")
TEACHER = "teacher 9 (anil)"
SHOTS = (1, 5, 10, 20)
# Kind, and how far the system lies above 0.3 recall.
SYSTEMS = {
    "random": ("baseline", -0.2),
    "support popularity": ("baseline", 0.0),
    "TF-IDF neighbours": ("baseline", -0.02),
    "zero-shot encoder": ("baseline", -0.15),
    "teacher 4 (fomaml)": ("teacher", 0.1),
    TEACHER: ("teacher", 0.14),
    f"{TEACHER}, not adapted": ("direct transfer", 0.02),
    "default, trial 0 (anil)": ("start of the search", 0.11),
    "student": ("student", 0.12),
}
DATA = {
    "source": "completejourney",
    "split_by": "hash",
    "counts": {"interactions": 540_364, "items": 8580, "scenes": 80, "users": 2456},
    "from": "2017-01-01",
    "until": "2018-01-01",
    "fingerprint": "ab12" * 16,
}
OTHER_METRICS = ("ndcg", "mrr", "hit_rate", "precision", "accuracy", "new_item_recall", "coverage", "popularity")


def document(seed: int = 0, scenes: int = 24, baselines_only: bool = False) -> dict[str, Any]:
    """What a study of that many test scenes could have found.

    Args:
        seed: of all figures.
        scenes: test scenes; the first have hostile names.
        baselines_only: without teachers, student and search.
    """
    rng = np.random.default_rng(seed)
    names = [*HOSTILE, *(f"COOKIES/CRACKERS AND MORE {number}" for number in range(scenes))][:scenes]
    kinds = {name: kind for name, kind in SYSTEMS.items() if not baselines_only or kind[0] == "baseline"}
    hard = rng.normal(0, 0.1, scenes)
    recalls = {
        name: np.clip(0.35 + lead + hard + rng.normal(0, 0.04, scenes), 0.01, 1) for name, (_, lead) in kinds.items()
    }
    systems = {name: _system(rng, kind, names, recalls[name], recalls["support popularity"]) for name, (kind, _) in
               kinds.items()}  # fmt: skip
    evaluation = {
        "part": "test",
        "task": "ranking",
        "kind": "",
        "metric": "recall@10",
        "reference": "support popularity",
        "shots": 5,
        "scenes": scenes,
        "queries": 5210,
        "query_counts": {"new_item_queries": 4100, "cold_user_queries": 0},
        "best_teacher": TEACHER,
        "student_trial": 1,
        "systems": systems,
        "curve": {"shots": list(SHOTS), "scenes": scenes, "left_out": [{"shots": 40, "reason": "3 scenes | too few"}]},
        "scene_facts": {
            name: {"candidates": int(rng.integers(12, 400)), "nearest": rng.uniform(0.2, 0.95), "queries": 240}
            for name in names
        },
        "data": DATA,
        "adaptation": None,
        "transfer": [_group(rng, *group) for group in GROUPS],
        "retention": {
            "baseline": "support popularity",
            "teacher_lift": interval(0.14, 0.03),
            "recall": 0.957,
            "lift": 0.857,
            "intervals": {"recall": interval(0.957, 0.01), "lift": interval(0.857, 0.08)},
        },
        "students": [
            _student(0, 0.384, 0.33, 0.23, front=True),
            _student(1, 0.381, 0.17, 0.15, front=True, taken=True),
            _student(2, 0.379, 0.21, 0.19),
            _student(3, 0.3312, None, None, reason="ranks 4 of 4 at 100 steps | <i>pruned</i>"),
        ],
        "finalists": {
            "draws": 3,
            "optimism": 0.0042,
            "ranked": [
                {"trial": 9, "searched": 0.39, "redrawn": 0.38, "recall": 0.3825},
                {"trial": 4, "searched": 0.392, "redrawn": 0.37, "recall": 0.3755},
            ],
        },
        "search_gain": {
            "default": {"trial": 0, "system": "default, trial 0 (anil)", "gain": interval(0.031, 0.02)},
            "unfinished": "",
            "first": {"trial": 9, "system": TEACHER, "gain": None},
            "first_trials": 5,
        },
        "teachers": [{"trial": 9, "validation_recall": 0.3912, "params": {"learner": "anil", "outer_lr": 0.001}}],
        "inference": {
            "teacher": {"parameters": 22_600_000, "bytes": 91_000_000, "items_per_second": 497.0},
            "student": {"parameters": 17_300_000, "bytes": 69_000_000, "items_per_second": 964.0},
        },
        "unlike": "the relative positions of its attention",
    }
    if baselines_only:
        for key in ("best_teacher", "student_trial", "transfer", "retention", "teachers", "students", "finalists",
                    "search_gain", "inference", "unlike"):  # fmt: skip
            del evaluation[key]
    return _study(evaluation, None if baselines_only else _search(rng), baselines_only)


def write(found: dict[str, Any], folder: Path) -> list[Path]:
    """Writes a document's report."""
    return write_report(StudyDocument.model_validate(found), folder)


GROUPS = (
    ("catalogue size", "12 to 60 items", 8, 0.0),
    ("catalogue size", "61 to 140 items", 8, 0.3),
    ("catalogue size", "141 items and more", 8, -0.3),
    ("nearness to training", "<b>far</b> $or$ | 远", 12, 0.3),
    ("nearness to training", "near", 12, 0.15),
)


def _student(trial, recall, latency, size, *, front=False, taken=False, reason=None):
    state = "pruned" if latency is None else "complete"
    figures = {"trial": trial, "state": state, "recall": recall, "latency": latency, "size": size}
    return figures | {
        "params": {"layers": 1, "lr": 0.001},
        "reason": reason,
        "training": None,
        "extends": None,
        "embed_steps": None,
        "front": front,
        "taken": taken,
    }


def interval(mean: float, half: float = 0.05) -> dict[str, float]:
    return {"mean": float(mean), "low": float(mean - half), "high": float(mean + half)}


def _system(rng, kind, names, recalls, popularity):
    return {
        "kind": kind,
        "recall": interval(recalls.mean()),
        "metrics": {metric: interval(rng.uniform(0.1, 0.9)) for metric in OTHER_METRICS} | {"cold_user_recall": None},
        "over_reference": interval((recalls - popularity).mean(), 0.03),
        "scene_recalls": dict(zip(names, recalls.tolist(), strict=True)),
        "by_shots": {str(k): interval(recalls.mean() + 0.04 * np.log2(k / 5)) for k in SHOTS},
        "pooled": None,
    }


def as_classification(found: dict[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """Makes a document one of a classification: the first class is recognised worst, and taken for the second.

    Args:
        found: of `document`.
        classes: names of the classes.
    """
    evaluation = found["evaluation"]
    recalls = {name: {"queries": 50, "recall": 0.5 + 0.1 * place} for place, name in enumerate(classes)}
    pooled = {
        "calibration_error": 0.0321,
        "coverage": {"0.9": 0.62, "0.95": 0.41},
        "classes": recalls,
        "confusions": [{"label": classes[0], "predicted": classes[1], "queries": 15}],
    }
    metrics = ("accuracy", "f1", "log_loss", "coverage", "confident_accuracy")
    for figures in evaluation["systems"].values():
        known = {name: interval(0.5) for name in metrics} | {"roc_auc": None, "average_precision": None}
        figures |= {"metrics": known, "pooled": pooled}
    for name in ("labels alone", "untrained"):
        evaluation["systems"][f"student, {name}"] = evaluation["systems"]["student"] | {"kind": name}
    evaluation |= {"task": "classification", "kind": "new classes", "metric": "macro recall"}
    evaluation |= {"query_counts": {"classes": len(classes)}}
    evaluation |= {"scene_facts": {}, "transfer": [], "curve": evaluation["curve"] | {"left_out": []}}
    counts = {"texts": 19_312, "classes": len(classes)}
    data = DATA | {"split_by": None, "counts": counts, "from": None, "until": None}
    evaluation["data"] = data
    explained = {"lists": [], "episodes": [_episode(name, classes) for name in ("episode 0", "episode 3")]}
    protocol = {"classes": "new", "ways": 4, "shots": 5}
    return found | {"data": data, "protocol": protocol, "explanations": explained}


def _group(rng, grouping, group, scenes, gain):
    def shots(lead):
        return {
            str(k): interval(0.35 + 0.01 * np.log2(k) + lead * min(1, k / 10) + rng.normal(0, 0.005)) for k in SHOTS
        }

    systems = {"support popularity": shots(0.1), f"{TEACHER}, not adapted": shots(0), TEACHER: shots(gain)}
    return {
        "grouping": grouping,
        "group": group,
        "scenes": scenes,
        "systems": systems | {"student": shots(gain - 0.02)},
        "gains": {TEACHER: {k: interval(gain * min(1, int(k) / 10)) for k in systems[TEACHER]}},
    }


def _search(rng):
    history = []
    for number in range(16):
        recall, state = rng.uniform(0.3, 0.39), "complete" if number % 3 == 0 else "pruned"
        history.append(
            {
                "trial": number,
                "state": state,
                "params": {"learner": "anil", "outer_lr": float(rng.uniform(1e-4, 1e-2)), "inner_steps": 3},
                "rungs": [{"step": 20, "recall": recall - 0.01, "cost_seconds": 1.2}],
                "recall": recall if state == "complete" else None,
                "cost_seconds": float(rng.uniform(1, 9)),
                "reason": "" if state == "complete" else "rank 7 of 8 at rung 20",
            }
        )
    history.append(history[-1] | {"trial": 16, "state": "fail", "rungs": [], "reason": "ValueError: $x$ | <b>"})
    return {
        "trials": 17,
        "states": {"complete": 6, "pruned": 10, "fail": 1},
        "cost_seconds": 59.0,
        "unpruned_seconds": 179.0,
        "control_group": [2, 9],
        "false_prunes": [9],
        "best": 4,
        "history": history,
        "importance": {"step": 30, "trials": 60, "shares": {"learner": 0.75, "outer_lr": 0.25}},
    }


def _list(scene):
    """A list of two items; the second score has one term more than a table shows, and brings texts and words."""
    own = {"name": "support counts", "value": 1.25, "parts": [{"text": "whole milk", "value": 1.25, "shared": []}]}
    parts = [
        {"text": "a|b <i>milk</i> " * 20, "value": 0.5, "shared": ["milk", "<b>", "a|b", "4th"]},
        {"text": "*oat* drink", "value": -0.25, "shared": []},
        {"text": "a third", "value": 0.001, "shared": []},
    ]
    words = {"name": "support words", "value": 0.251, "parts": parts}
    bare = {"name": "appeal", "value": -0.125, "parts": []}
    more = {"name": "adapted bias", "value": 0.0625, "parts": []}
    items = [
        {"text": "whole milk", "score": 1.25, "taken": True, "terms": [own]},
        {"text": "skim milk", "score": 1.4385, "taken": False, "terms": [own, words, bare, more]},
    ]
    history = ["corn flakes", *HOSTILE, "corn flakes", *map(str, range(5))]
    return {
        "scene": scene,
        "candidates": 1212,
        "support": ["whole milk", "a|b"],
        "history": history,
        "taken": 3,
        "items": items,
    }


def _episode(name, classes):
    """Two texts, the second with a wrong label."""
    nearest = [
        {"text": text, "label": label, "similarity": 0.875} for text, label in zip(HOSTILE, classes, strict=False)
    ]
    text = {"text": "skim milk", "label": classes[0], "probability": 0.625, "right": classes[0], "nearest": nearest[:1]}
    wrong = text | {"text": HOSTILE[0], "right": classes[1], "nearest": nearest[1:3]}
    return {"name": name, "classes": len(classes), "labelled": 12, "texts": [text, wrong]}


def _study(evaluation, search, baselines_only):
    return {
        "study": "quickstart",
        "study_id": "0" * 32,
        "written": "2026-11-21T12:00:00+00:00",
        "version": "0.1.0",
        "data": DATA,
        "protocol": RankingProtocol(split=(0.5, 0.2, 0.3), report_shots=list(SHOTS)).model_dump(mode="json"),
        "evaluation": evaluation,
        "search": search,
        "baselines_only": baselines_only,
        "export": None if baselines_only else "exports/quickstart",
        "explanations": None if baselines_only else {"lists": [_list(name) for name in HOSTILE[:3]], "episodes": []},
    }
