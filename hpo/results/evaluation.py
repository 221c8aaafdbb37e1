"""The one look at the test scenes: every system on the same episodes, with paired intervals; and what inference costs.

The result is plain JSON: it is stored with the study, written into the export's manifest, and printed by the report.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distill.export.onnx_graph import GRAPHS
from distill.inference import as_student, load_export
from distill.objective import Student, Teacher
from distill.objective import evaluate as evaluate_student
from distill.serving.onnx_tower import through
from distill.student import TokenTower
from hpo.results import summary
from hpo.results.summary import Scored
from hpo.status.console import day
from storage.errors import InputError
from storage.home import cache_folder
from studies.config.spec import Format, StudySpec, parse_spec
from studies.data.source import Source
from studies.episodes.split import SplitName
from studies.evaluation import trec
from studies.evaluation.baselines import POPULARITY, build_baselines
from studies.evaluation.evaluate import Adapted, ItemVectors, System, Unadapted, encode_items, evaluate
from studies.evaluation.intervals import bootstrap
from studies.model.device import device, full_precision
from studies.model.encoder import tokenize
from studies.progress import SILENT, ProgressReporter
from studies.training.problem import Problem, prepare

# A system with its kind, as in `Scored`.
Entry = tuple[str, System]
# Of a round of timing: as many texts as the slower encoder reads in a second, within bounds.
ROUND_SECONDS, FEWEST_TEXTS, MOST_TEXTS, ROUNDS = 1.0, 64, 1024, 3
# The kind of the plain rival.
RIVAL = "fine-tuning"


def evaluate_all(
    problem: Problem,
    teachers: Sequence[Teacher],
    rival: Teacher | None,
    student: Student,
    dump: Path | None = None,
) -> dict[str, Any]:
    """Scores baselines, teachers and student on the test scenes.

    Args:
        problem: the study's data; its reporter is told of the systems scored.
        teachers: the winners, best first.
        rival: the best of plain fine-tuning, which may be among the winners.
        student: the best student.
        dump: folder for the rankings in TREC formats; must not exist.
    """
    with full_precision():
        entries = _baselines(problem, "test") | _learned(problem, teachers, rival, student)
        results = _score(problem, "test", entries, "scoring test scenes", dump)
    best = _label(teachers[0])
    direct = f"{best}, not adapted"
    result = _summarise(problem, "test", results)
    compared = [POPULARITY, direct, best, *(name for name, s in results.items() if s.kind == RIVAL), "student"]
    return result | {
        "transfer": summary.transfer(results, compared, direct, result["scene_facts"]),
        "best_teacher": best,
        "retention": summary.retention(results, best, "student"),
        "teachers": [
            {"trial": t.trial, "validation_recall": t.recall, "params": t.learner.hyperparameters.to_dict()}
            for t in teachers
        ],
        "inference": inference_figures(problem, teachers[0], student),
    }


def evaluate_baselines(
    spec: StudySpec, part: SplitName, reporter: ProgressReporter, dump: Path | None = None
) -> dict[str, Any]:
    """Scores what learns nothing on a part's scenes.

    Args:
        spec: the study; it need not have been launched.
        part: whose scenes.
        reporter: told of long steps.
        dump: folder for the rankings in TREC formats; must not exist.

    Raises:
        InputError: data, protocol or encoder cannot give a meaningful study.
    """
    problem = prepare(spec, cache_folder(), reporter=reporter)
    with full_precision():
        results = _score(problem, part, _baselines(problem, part), "scoring baselines", dump)
    return _summarise(problem, part, results)


def _baselines(problem: Problem, part: SplitName) -> dict[str, Entry]:
    known_until = problem.split.period[part][0]
    training = problem.split.scenes["train"]
    systems = build_baselines(
        problem.data, training, known_until, problem.cache.pooled(), products=problem.spec.protocol.products
    )
    return {name: ("baseline", system) for name, system in systems.items()}


def _learned(
    problem: Problem, teachers: Sequence[Teacher], rival: Teacher | None, student: Student
) -> dict[str, Entry]:
    # Each text is encoded once for all sizes of the support.
    episodes = list(chain(problem.test, *problem.by_shots("test").values()))
    lengths = problem.tokens.lengths
    entries: dict[str, Entry] = {}

    def encoded(name: str, tower: nn.Module) -> ItemVectors:
        with problem.reporter.progress(f"encoding texts with {name}") as progress:
            return ItemVectors(tower, episodes, lengths, progress)

    for teacher in teachers:
        learner = teacher.learner
        vectors = encoded(f"teacher {teacher.trial}", learner.model.tower)
        if teacher is teachers[0]:
            entries[f"{_label(teacher)}, not adapted"] = ("direct transfer", Unadapted(learner, vectors))
        entries[_label(teacher)] = ("teacher", Adapted(learner, vectors))
    if rival is not None and rival.trial not in {teacher.trial for teacher in teachers}:
        vectors, name = encoded(f"trial {rival.trial}", rival.learner.model.tower), rival.learner.entry.name
        entries[f"trial {rival.trial} ({name})"] = (RIVAL, Adapted(rival.learner, vectors))
    entries["student"] = ("student", Adapted(student.learner, encoded("the student", student.tower)))
    return entries


def _label(teacher: Teacher) -> str:
    return f"teacher {teacher.trial} ({teacher.learner.hyperparameters.learner})"


def _score(
    problem: Problem, part: SplitName, entries: Mapping[str, Entry], label: str, dump: Path | None
) -> dict[str, Scored]:
    """Every system on a part's episodes, and on those with supports of several sizes."""
    episodes, by_shots = problem.episodes(part), problem.by_shots(part)
    k, names = problem.spec.protocol.k, problem.data.scenes
    results: dict[str, Scored] = {}
    writing = trec.dump(dump, problem.data, episodes) if dump else nullcontext()
    with problem.reporter.progress(label) as progress, writing as writer:
        for name, (kind, system) in entries.items():
            results[name] = Scored(
                kind=kind,
                main=evaluate(system, episodes, names, k, dump=writer.run(name) if writer else None),
                by_shots={shots: evaluate(system, nested, names, k) for shots, nested in by_shots.items()},
            )
            progress(len(results), len(entries))
    return results


def _summarise(problem: Problem, part: SplitName, results: Mapping[str, Scored]) -> dict[str, Any]:
    episodes, spec = problem.episodes(part), problem.spec
    every_item = spec.protocol.candidates == "all"
    vectors = problem.cache.pooled()
    facts = summary.scene_facts(problem.data, problem.split, part, episodes, vectors, every_item=every_item)
    return {
        "part": part,
        "k": spec.protocol.k,
        "shots": spec.protocol.shots,
        "scenes": len(results[POPULARITY].main.scenes),
        **summary.counts(episodes),
        "systems": {name: summary.figures(scored, results[POPULARITY]) for name, scored in results.items()},
        "curve": summary.curve(results, spec.protocol.report_shots),
        "scene_facts": facts,
        "data": {
            "source": spec.data.source,
            "interactions": len(problem.data.time),
            "items": len(problem.data.texts),
            "scenes": len(problem.data.scenes),
            "users": problem.data.users,
            "from": day(int(problem.data.time[0])),
            "until": day(int(problem.data.time[-1])),
            "fingerprint": problem.data.fingerprint,
        },
    }


def evaluate_export(
    folder: Path,
    reporter: ProgressReporter = SILENT,
    dump: Path | None = None,
    data: Source | None = None,
    format: Format = "hf",
) -> dict[str, Any]:
    """Scores an exported student on the test scenes of the study that its manifest describes.

    Args:
        folder: the export.
        reporter: told of long steps.
        dump: folder for the rankings in TREC formats; must not exist.
        data: where the study's data are now; where the manifest says if left out.
        format: which of its encoders gives the vectors.

    Returns:
        The recall with its interval as measured now, and as the manifest has it.

    Raises:
        InputError: the folder is not an intact export or lacks the format, or the data are not those of its study.
    """
    exported = load_export(folder)
    if format not in (held := exported.manifest["formats"]):
        raise InputError(f"{folder} has no format {format}, it has {', '.join(held)}; export it with --format {format}")
    spec = parse_spec(exported.manifest["spec"], f"the manifest of {folder}")
    spec = spec if data is None else spec.model_copy(update={"data": data})
    problem = prepare(spec, cache_folder(), reporter=reporter)
    if problem.data.fingerprint != exported.manifest["data_fingerprint"]:
        raise InputError(
            f"{folder} was evaluated on other data (fingerprint {exported.manifest['data_fingerprint'][:12]}, here "
            f"{problem.data.fingerprint[:12]}); give the same files and versions as then"
        )
    student = as_student(exported, tokenize(exported.tokenizer, problem.data.texts, exported.max_tokens))
    if format != "hf":
        student = through(folder / GRAPHS[format], student)
    writing = trec.dump(dump, problem.data, problem.test) if dump else nullcontext()
    with writing as writer:
        run = writer.run("student") if writer else None
        result = evaluate_student(student, problem, problem.test, reporter, run)
    recorded = exported.manifest["metrics"]
    return {
        "study": spec.name,
        "format": format,
        "k": recorded["k"],
        "scenes": len(result.scenes),
        "recall": asdict(bootstrap(result.values())),
        "recorded": recorded["systems"]["student"]["recall"],
    }


def inference_figures(problem: Problem, teacher: Teacher, student: Student) -> dict[str, dict[str, float]]:
    """Parameters, bytes and texts per second of the whole encoders, measured side by side in alternating runs."""
    rates: dict[str, list[float]] = {"teacher": [], "student": []}
    towers = {"teacher": TokenTower(problem.encoder.model, problem.tokens).to(device()), "student": student.tower}
    lengths = problem.tokens.lengths
    slowest = min(_rate(tower, _spread(lengths, FEWEST_TEXTS), lengths) for tower in towers.values())
    items = _spread(lengths, min(MOST_TEXTS, max(FEWEST_TEXTS, int(slowest * ROUND_SECONDS))))
    with problem.reporter.progress("timing student and teacher") as progress:
        for done in range(1, ROUNDS + 1):
            for name, tower in towers.items():
                rates[name].append(_rate(tower, items, lengths))
            progress(done, ROUNDS)
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


def manifest(problem: Problem, evaluation: dict[str, Any], distillation: str, student: Student) -> dict[str, Any]:
    """What an export says of its origin.

    Args:
        problem: the study's data.
        evaluation: of `evaluate_all`, with the trial of the student.
        distillation: name of the study of students.
        student: the one that is exported.
    """
    spec, encoder = problem.spec, problem.encoder
    return {
        "study": spec.name,
        "spec": spec.model_dump(mode="json"),
        "data_fingerprint": problem.data.fingerprint,
        "encoder": {"name": encoder.name, "sha256": encoder.identity, "vocabulary": encoder.config.vocab_size},
        "lineage": {
            "distillation": distillation,
            "trial": evaluation["student_trial"],
            # Of the winners that were scored, those that this student learnt from: the best ones.
            "teachers": evaluation["teachers"][: student.hyperparameters.teachers],
        },
        "metrics": evaluation,
    }


def _spread(lengths: Tensor, count: int) -> Tensor:
    """(count,) places spread evenly over the texts; fewer where there are not so many."""
    return torch.linspace(0, len(lengths) - 1, min(count, len(lengths))).long()


def _rate(tower: nn.Module, items: Tensor, lengths: Tensor) -> float:
    started = time.perf_counter()
    encode_items(tower, items, lengths)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return len(items) / (time.perf_counter() - started)
