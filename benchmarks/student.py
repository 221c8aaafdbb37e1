"""What a student keeps of its teacher and what it costs, on the test scenes of all of Complete Journey.

    python benchmarks/student.py [--products] [--quick] [--json FILE]

A protonet teacher is meta-trained, students of several shapes are distilled from it (one trial each, at the defaults of
the distillation's space), and of their front the fastest that keeps 99 % of the best validation recall is taken. It is
scored on the test scenes beside its teacher, beside a student of the same shape that had no teacher (trained on what
users took alone, for as many steps, of episodes), and beside one that was not trained at all. Then texts per second:
teacher and student in the same code, the exported folder, and the teacher in SentenceTransformer.encode and in plain
transformers, in turns. Without --products no system knows how many products share a text, so that texts matter more.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from students.encoding_speed import row, speed_rows
from students.origin import origin_of

from distill.export.tasks.ranking import RankingExport
from distill.export.writer import export
from distill.hyperparameters import StudentHyperparameters
from distill.objective import Distillation, Teacher, latency, load_student, size
from distill.student import Student, parameters, start, texts_in
from distill.trainer import Distiller
from hpo.results.students import dominates
from hpo.results.summary import Scored, retention
from storage.files.atomic import atomic_write
from storage.home import cache_folder
from studies.config.hyperparameters import Hyperparameters
from studies.config.spec import StudySpec, load_spec
from studies.evaluation.baselines import TEXT_FREE, build_baselines
from studies.evaluation.evaluate import Adapted, ItemVectors, System, evaluate
from studies.evaluation.intervals import bootstrap
from studies.evaluation.metrics import compare
from studies.learners.base import Learner
from studies.model.device import full_precision
from studies.training.outer_loop import Trainer
from studies.training.prepare import prepare
from studies.training.problem import Problem
from studies.training.rungs import RungReport

TEACHER = Hyperparameters(learner="protonet", outer_lr=1e-3, head="scalars")
# Layers and width (0: the teacher's).
SHAPES = ((1, 192), (1, 0), (2, 256), (2, 0))
console = Console(width=120)


def study(products: bool, quick: bool) -> StudySpec:
    """Complete Journey with the distillation at its defaults, or a miniature of it."""
    spec = load_spec(Path("studies/quickstart.toml" if quick else "studies/completejourney.toml"))
    steps = {"embed_steps": 30, "rank_steps": 4} if quick else {"embed_steps": 300, "rank_steps": 30}
    return spec.model_copy(
        update={
            "protocol": spec.protocol.model_copy(update={"products": products}),
            "distill": spec.distill.model_copy(update=steps),
        }
    )


def meta_train(problem: Problem, updates: int) -> Learner:
    learner = problem.learner(TEACHER)
    Trainer(learner, problem.train, updates, seed=0).train_to(updates)
    return learner


def distil(shared: Distillation, folder: Path) -> list[dict[str, Any]]:
    """Students of all shapes; the front over recall, time and size, and the one that is taken."""
    rows = []
    for layers, width in SHAPES:
        values = StudentHyperparameters(layers=layers, width=width)
        where, spent = folder / f"{layers}-{width}", 0.0

        def report(reached: RungReport) -> None:
            nonlocal spent
            spent = reached.cost_seconds

        recall = shared.run_trial(values, where, report)
        student = load_student(shared.problem, where)
        figures = {"latency": latency(shared.problem, student), "size": size(shared.problem, student)}
        console.print(f"{layers} layers, width {width or 'of the teacher'}: {recall:.4f} after {spent:.0f} s")
        rows.append({"values": values, "student": student, "recall": recall, "seconds": spent, **figures})
    best = max(row["recall"] for row in rows)
    enough = [row for row in rows if row["recall"] >= shared.problem.spec.distill.retain * best]
    taken = min(enough, key=lambda row: (row["latency"], -row["recall"]))
    for each in rows:
        each["front"] = not any(dominates(other, each) for other in rows)
        each["taken"] = each is taken
    return rows


def without_teacher(shared: Distillation, values: StudentHyperparameters, *, train: bool) -> Student:
    """A student of the same shape that starts from the pretrained encoder and an untrained head."""
    problem, section = shared.problem, shared.problem.spec.distill
    alone = replace(values, weights={**values.weights, "embedding": 0.0, "listwise": 0.0, "hard": 1.0})
    texts = texts_in(problem, alone.vocabulary)
    student = start(problem, problem.learner(TEACHER), texts, alone)
    if train:
        steps = section.model_copy(update={"embed_steps": 0, "rank_steps": section.steps})
        Distiller(student, shared.targets, problem.train, steps).train_to(section.steps)
    return student


def score(problem: Problem, systems: Mapping[str, System]) -> dict[str, Scored]:
    """Everything on the test scenes, at the protocol's shots and at each of `report_shots`."""
    k, names = problem.spec.protocol.k, problem.data.scenes
    results = {}
    for name, system in systems.items():
        main = evaluate(system, problem.test, names, k)
        by_shots = {n: evaluate(system, episodes, names, k) for n, episodes in problem.by_shots("test").items()}
        results[name] = Scored("student", main, by_shots)
    return results


def adapted(problem: Problem, learner: Learner, tower: torch.nn.Module) -> System:
    """A recommender on the test scenes, each text encoded once."""
    episodes = [*problem.test, *(e for some in problem.by_shots("test").values() for e in some)]
    return Adapted(learner, ItemVectors(tower, episodes, problem.tokens.lengths))


def at(results: Mapping[str, Scored], shots: int) -> dict[str, Scored]:
    """The same results with other supports in the main place."""
    return {name: replace(scored, main=scored.by_shots[shots]) for name, scored in results.items()}


def retention_rows(results: Mapping[str, Scored]) -> list[dict[str, Any]]:
    """Recall and lift kept, and the controls: at the protocol's shots, then by shots over the same later queries."""
    by_shots = next(iter(results.values())).by_shots
    rows = []
    views = {"": dict(results), **{f", K = {shots}": at(results, shots) for shots in by_shots}}
    for label, now in views.items():
        kept = retention(now, "teacher", "student")
        for measure in ("recall", "lift"):
            if (bounds := getattr(kept.intervals, measure)) is not None:
                found = asdict(bounds)
                rows.append(row(f"{measure} kept{label}", bounds.mean, "teacher", 1.0, "share", interval=found))
        for other in ("no teacher", "not trained"):
            gap = compare(now["student"].main, now[other].main)
            values = now["student"].main.mean(), now[other].main.mean()
            bounds = [gap.mean, gap.low, gap.high]
            rows.append(row(f"recall{label}", values[0], other, values[1], "recall@10", difference=bounds))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="minutes: a sample of scenes, a tenth of the steps")
    parser.add_argument("--products", action="store_true", help="systems know how many products share a text")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    arguments = parser.parse_args()
    problem = prepare(study(arguments.products, arguments.quick), cache_folder())
    teacher = meta_train(problem, 30 if arguments.quick else 270)
    recall = problem.evaluate(teacher, problem.validation).mean()
    with tempfile.TemporaryDirectory() as scratch:
        shared = Distillation(problem, [Teacher(0, recall, teacher)])
        students = distil(shared, Path(scratch))
        print_students(students, recall)
        taken = next(one for one in students if one["taken"])
        student: Student = taken["student"]
        controls = {
            "no teacher": without_teacher(shared, taken["values"], train=True),
            "not trained": without_teacher(shared, taken["values"], train=False),
        }
        with full_precision():
            baselines = build_baselines(
                problem.data, problem.split.scenes["train"], problem.split.period["test"][0],
                problem.cache.pooled(), products=arguments.products,
            )  # fmt: skip
            learned = {"teacher": (teacher, teacher.model.tower), "student": (student.learner, student.tower)}
            learned |= {name: (control.learner, control.tower) for name, control in controls.items()}
            baselines = {name: system for name, system in baselines.items() if name in TEXT_FREE}
            systems = {name: adapted(problem, learner, tower) for name, (learner, tower) in learned.items()}
            results = score(problem, baselines | systems)
        rows = [
            row("parameters", parameters(student.tower), "teacher", parameters(problem.encoder.model), "weights"),
            *retention_rows(results),
        ]
        folder = Path(scratch, "export")
        export(
            student,
            RankingExport.of(problem),
            folder,
            origin_of(problem, "benchmark"),
            formats=("hf", "onnx"),
            problem=problem,
        )
        rows += speed_rows(problem, student, folder, *((256, 3) if arguments.quick else (2048, 5)))
    print_rows(rows, results)
    if arguments.json:
        front = [{k: v for k, v in one.items() if k != "student"} | {"values": vars(one["values"])} for one in students]
        atomic_write(arguments.json, json.dumps([*rows, {"measure": "students", "front": front}], indent=2).encode())


def print_students(students: list[dict[str, Any]], teacher: float) -> None:
    table = Table(title=f"Students on validation scenes; the teacher's recall@10 is {teacher:.4f}", box=None)
    for column in ("layers", "width", "recall@10", "kept", "time", "parameters", "distilled in", ""):
        table.add_column(column, justify="right")
    for one in students:
        mark = "taken" if one["taken"] else "front" if one["front"] else ""
        table.add_row(
            str(one["values"].layers), str(one["values"].width or "teacher's"), f"{one['recall']:.4f}",
            f"{one['recall'] / teacher:.1%}", f"{one['latency']:.2f}x", f"{one['size']:.2f}x",
            f"{one['seconds']:.0f} s", mark,
        )  # fmt: skip
    console.print(table)


def print_rows(rows: list[dict[str, Any]], results: Mapping[str, Scored]) -> None:
    for name, scored in sorted(results.items(), key=lambda each: each[1].main.mean()):
        found = bootstrap(scored.main.values())
        console.print(f"{name:24} {found.mean:.4f} [{found.low:.4f}, {found.high:.4f}]")
    table = Table(box=None)
    for column in ("measure", "ours", "against", "", "ratio", "95 %"):
        table.add_column(column)
    for each in rows:
        bounds = each.get("interval") or {}
        around = [bounds["low"], bounds["high"]] if bounds else each.get("difference", [])
        table.add_row(
            f"{each['measure']} {each.get('what', '')}", f"{each['ours']:.4g}", each["peer"],
            f"{each['peer_value']:.4g}", f"{each['ratio']:.3f}", ", ".join(f"{value:+.4f}" for value in around),
        )  # fmt: skip
    console.print(table)


if __name__ == "__main__":
    main()
