"""The one look at the test scenes: every system on the same episodes, with paired intervals; and what inference costs.

The result is plain JSON: it is stored with the study, written into the export's manifest, and printed by the report.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hpo.search import cache_folder
from storage.errors import InputError
from studies import baselines
from studies.device import device, full_precision
from studies.evaluation import System, encode_items, evaluate
from studies.metrics import Evaluation, bootstrap

if TYPE_CHECKING:
    from distill.objective import Student, Teacher
    from studies.objective import Problem

Progress = Callable[[int, int], None]
POPULARITY = "support popularity"
# What reads no text: a student's lift is counted over the best of these.
TEXT_FREE = ("random", POPULARITY)
THROUGHPUT_TEXTS = 1024


def evaluate_all(
    problem: Problem, teachers: Sequence[Teacher], student: Student, progress: Progress | None = None
) -> dict[str, Any]:
    """Scores baselines, teachers and student on the test scenes."""
    from distill.objective import evaluate as evaluate_student

    names = problem.data.scenes
    plain: dict[str, System] = baseline_systems(problem)
    total = len(plain) + len(teachers) + 1
    results: dict[str, Evaluation] = {}

    def done() -> None:
        if progress is not None:
            progress(len(results), total)

    with full_precision():
        for name, system in plain.items():
            results[name] = evaluate(system, problem.test, names, problem.spec.protocol.k)
            done()
        for teacher in teachers:
            label = f"teacher {teacher.trial} ({teacher.learner.hyperparameters.learner})"
            results[label] = problem.evaluate(teacher.learner, problem.test)
            done()
        results["student"] = evaluate_student(student, problem, problem.test)
        done()
    best = f"teacher {teachers[0].trial} ({teachers[0].learner.hyperparameters.learner})"
    return {
        "k": problem.spec.protocol.k,
        "shots": problem.spec.protocol.shots,
        "scenes": len(results["student"].scenes),
        "best_teacher": best,
        "systems": {name: _figures(result, results[POPULARITY]) for name, result in results.items()},
        "retention": _retention(results, best),
        "teachers": [
            {"trial": t.trial, "validation_recall": t.recall, "params": t.learner.hyperparameters.to_dict()}
            for t in teachers
        ],
        "inference": inference_figures(problem, teachers[0], student),
    }


def evaluate_export(folder: Path, progress: Progress | None = None) -> dict[str, Any]:
    """Scores an exported student on the test scenes of the study that its manifest describes.

    Returns:
        The recall with its interval as measured now, and as the manifest has it.

    Raises:
        InputError: the folder is not an intact export, or the data are not those of its study.
    """
    from distill.inference import as_student, load_export
    from distill.objective import evaluate as evaluate_student
    from studies.encoder import tokenize
    from studies.objective import prepare
    from studies.spec import parse_spec

    exported = load_export(folder)
    spec = parse_spec(exported.manifest["spec"], f"the manifest of {folder}")
    problem = prepare(spec, cache_folder())
    if problem.data.fingerprint != exported.manifest["data_fingerprint"]:
        raise InputError(
            f"{folder} was evaluated on other data (fingerprint {exported.manifest['data_fingerprint'][:12]}, here "
            f"{problem.data.fingerprint[:12]}); give the same files and versions as then"
        )
    student = as_student(exported, tokenize(exported.tokenizer, problem.data.texts, exported.max_tokens))
    result = evaluate_student(student, problem, problem.test, progress)
    recorded = exported.manifest["metrics"]
    return {
        "study": spec.name,
        "k": recorded["k"],
        "scenes": len(result.scenes),
        "recall": asdict(bootstrap(result.values())),
        "recorded": recorded["systems"]["student"]["recall"],
    }


def baseline_systems(problem: Problem) -> dict[str, System]:
    """What learns nothing, by the name it has in the tables."""
    return {
        "random": baselines.Random(),
        POPULARITY: baselines.SupportPopularity(),
        "TF-IDF neighbours": baselines.TfidfNeighbours(problem.data.texts),
        "zero-shot encoder": baselines.ZeroShot(problem.cache.pooled()),
    }


def inference_figures(problem: Problem, teacher: Teacher, student: Student) -> dict[str, dict[str, float]]:
    """Parameters, bytes and texts per second of the whole encoders, measured side by side in alternating runs."""
    from distill.student import TokenTower

    rates: dict[str, list[float]] = {"teacher": [], "student": []}
    towers = {"teacher": TokenTower(problem.encoder.model, problem.tokens).to(device()), "student": student.tower}
    lengths = problem.tokens.lengths
    items = torch.linspace(0, len(lengths) - 1, min(THROUGHPUT_TEXTS, len(lengths))).long()
    for tower in towers.values():
        encode_items(tower, items[:64], lengths)
    for _ in range(3):
        for name, tower in towers.items():
            rates[name].append(_rate(tower, items, lengths))
    heads = {"teacher": teacher.learner.model.head, "student": student.learner.model.head}
    figures = {}
    for name, tower in towers.items():
        parameters = [*tower.parameters(), *heads[name].parameters()]
        figures[name] = {
            "parameters": sum(p.numel() for p in parameters),
            "bytes": sum(p.numel() * p.element_size() for p in parameters),
            "items_per_second": statistics.median(rates[name]),
        }
    return figures


def manifest(problem: Problem, evaluation: dict[str, Any]) -> dict[str, Any]:
    """What an export says of its origin."""
    spec = problem.spec
    return {
        "study": spec.name,
        "spec": spec.model_dump(mode="json"),
        "data_fingerprint": problem.data.fingerprint,
        "encoder": {"name": problem.encoder.name, "sha256": problem.encoder.identity},
        "metrics": evaluation,
    }


def _rate(tower: nn.Module, items: Tensor, lengths: Tensor) -> float:
    started = time.perf_counter()
    encode_items(tower, items, lengths)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return len(items) / (time.perf_counter() - started)


def _figures(result: Evaluation, popularity: Evaluation) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "recall": asdict(bootstrap(result.values())),
        "ndcg": result.mean("ndcg"),
        "hit_rate": result.mean("hit_rate"),
        "coverage": result.mean("coverage"),
        "scene_recalls": {name: scene.recall for name, scene in result.scenes.items()},
    }
    difference = bootstrap(result.values() - popularity.values())
    return figures | {"over_popularity": asdict(difference)}


def _retention(results: dict[str, Evaluation], best: str) -> dict[str, Any]:
    """How much of the teacher the student keeps: of its recall, and of its lift over what reads no text."""
    baseline = max(TEXT_FREE, key=lambda name: results[name].mean())
    floor, teacher, student = results[baseline].mean(), results[best].mean(), results["student"].mean()
    lift = (student - floor) / (teacher - floor) if teacher > floor else None
    return {"baseline": baseline, "recall": student / teacher if teacher else None, "lift": lift}
