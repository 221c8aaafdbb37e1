"""The evaluation of a study: every system on the same test episodes, with paired intervals.

The result is stored with the study, written into the export's manifest, and reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from distill.evaluation import Finalists, StudentRow, StudyEvaluation, TeacherReference
from distill.objective import Student, Teacher
from hpo.results import summary
from hpo.results.inference import inference_figures
from hpo.results.search_start import SearchStart, search_gain
from hpo.results.summary import Scored
from hpo.results.task_stages import STAGES
from storage.errors import InputError
from storage.home import cache_folder
from studies.config.spec import StudySpec
from studies.episodes.split import SplitName
from studies.evaluation.evaluate import ItemVectors
from studies.evaluation.figures import SystemsEvaluation
from studies.evaluation.trec import check_dump
from studies.model.device import full_precision
from studies.model.pretrained.architectures import unlike
from studies.progress import ProgressReporter
from studies.training.prepare import prepare
from studies.training.problem import Problem

# A system with its kind, as in `Scored`.
Entry = tuple[str, Any]
FINE_TUNING = "fine-tuning"
# What the student is compared with: itself before its first step, and trained on the labels from the same start and for
# as many steps.
UNTRAINED, LABELS_ALONE = "student, untrained", "student, labels alone"


class Winners(NamedTuple):
    """What a search found.

    Attributes:
        teachers: The best trials, best first.
        fine_tuned: The best trial of plain fine-tuning, which may be among the teachers; None where none finished.
        finalists: What the teachers were chosen from.
    """

    teachers: list[Teacher]
    fine_tuned: Teacher | None
    finalists: Finalists


class Distilled(NamedTuple):
    """What a distillation found.

    Attributes:
        student: The student to export.
        trial: Its trial.
        untrained: The same student before its first step: layers and head of its teacher.
        alone: The same student trained without a teacher; None where the study does not ask for it.
    """

    student: Student
    trial: int
    untrained: Student
    alone: Student | None


def evaluate_all(
    spec: StudySpec,
    problem: Problem,
    winners: Winners,
    distilled: Distilled,
    students: Sequence[StudentRow],
    dump: Path | None = None,
    *,
    start: SearchStart | None = None,
) -> StudyEvaluation:
    """Score baselines, teachers and student on the test scenes.

    Args:
        spec: The study.
        problem: The study's data; its reporter receives the number of systems scored.
        winners: The search's.
        distilled: The student that is exported, and what it is compared with.
        students: The distillation's trials; one of them is this student's.
        dump: Folder for the rankings in TREC formats; must not exist.
        start: Where the search started, to compare its best trial with.
    """
    teachers, start = winners.teachers, start or SearchStart()
    learned = _trials(winners, start)
    labels = {teacher.trial: label for label, (_, teacher) in learned.items()}
    with full_precision():
        entries = _baselines(problem, "test") | _learned(problem, learned, distilled)
        results = _score(problem, "test", entries, dump)
    best = _label(teachers[0])
    direct = f"{best}, not adapted"
    scored = _summarise(spec, problem, "test", results)
    tuned = [name for name, system in results.items() if system.kind == FINE_TUNING]
    grouped = direct in results and scored.scene_facts
    compared = [problem.reference, direct, best, *tuned, "student"] if grouped else []
    return StudyEvaluation(
        **dict(scored),
        transfer=summary.transfer(results, compared, direct, scored.scene_facts) if compared else (),
        best_teacher=best,
        student_trial=next(row.trial for row in students if row.taken),
        retention=summary.retention(results, best, "student", problem.floor),
        teachers=tuple(map(_reference, teachers)),
        students=tuple(students),
        finalists=winners.finalists,
        search_gain=search_gain(results, teachers[0], start, labels),
        inference=inference_figures(problem, teachers[0], distilled.student),
        unlike=unlike(problem.encoder.config),
    )


def evaluate_baselines(
    spec: StudySpec, part: SplitName, reporter: ProgressReporter, dump: Path | None = None
) -> SystemsEvaluation:
    """Score the baselines, which learn nothing, on a part's scenes.

    Args:
        spec: The study; it need not have been launched.
        part: Whose scenes.
        reporter: Told of long steps.
        dump: Folder for the rankings in TREC formats; must not exist.

    Raises:
        InputError: Data, protocol or encoder cannot give a meaningful study.
    """
    check_rankings(spec, dump)
    problem = prepare(spec, cache_folder(), reporter=reporter)
    with full_precision():
        results = _score(problem, part, _baselines(problem, part), dump)
    return _summarise(spec, problem, part, results)


def check_rankings(study: StudySpec, folder: Path | None) -> None:
    """Check before the work that a study's rankings can be written into a folder, if one is named.

    Raises:
        InputError: The task ranks nothing, or the folder exists or cannot be made.
    """
    if folder is None:
        return
    if not STAGES[study.task].rankings:
        raise InputError(f"{study.name!r} is a study of {study.task}, which gives no rankings; leave --trec out")
    check_dump(folder)


def _baselines(problem: Problem, part: SplitName) -> dict[str, Entry]:
    return {name: ("baseline", system) for name, system in problem.baselines(part).items()}


def text_free_recalls(problem: Problem) -> dict[str, float]:
    """Return the recall by validation scene of the best baseline over which a teacher's lift is counted."""
    systems = {name: system for name, system in problem.baselines("validation").items() if name in problem.floor}
    found = []
    with full_precision(), problem.reporter.progress("scoring baselines") as progress:
        for done, system in enumerate(systems.values(), start=1):
            found.append(problem.score(system, problem.validation))
            progress(done, len(systems))
    best = max(found, key=lambda each: each.mean())
    return {name: scene.recall for name, scene in best.scenes.items()}


def _trials(winners: Winners, start: SearchStart) -> dict[str, tuple[str, Teacher]]:
    """Return the search's trials to score by name, with their kinds: the best first, each once."""
    found = [("teacher", _label(teacher), teacher) for teacher in winners.teachers]
    if (tuned := winners.fine_tuned) is not None:
        found.append((FINE_TUNING, f"trial {tuned.trial} ({tuned.learner.entry.name})", tuned))
    for what, teacher in start.trials.items():
        found.append(("start of the search", f"{what}, trial {teacher.trial} ({teacher.learner.entry.name})", teacher))
    trials: dict[int, tuple[str, str, Teacher]] = {}
    for each in found:
        trials.setdefault(each[2].trial, each)
    return {label: (kind, teacher) for kind, label, teacher in trials.values()}


def _learned(problem: Problem, trials: Mapping[str, tuple[str, Teacher]], distilled: Distilled) -> dict[str, Entry]:
    # Each text is encoded once for all sizes of the support.
    episodes = list(chain(problem.test, *problem.by_shots("test").values()))
    lengths = problem.tokens.lengths
    entries: dict[str, Entry] = {}

    def encoded(name: str, tower: nn.Module) -> ItemVectors:
        with problem.reporter.progress(f"encoding texts with {name}") as progress:
            return ItemVectors(tower, episodes, lengths, progress)

    for label, (kind, teacher) in trials.items():
        learner = teacher.learner
        vectors = encoded(f"trial {teacher.trial}", learner.model.tower)
        if not entries and (direct := problem.unadapted(learner, vectors)) is not None:
            entries[f"{label}, not adapted"] = ("direct transfer", direct)
        entries[label] = (kind, problem.adapted(learner, vectors))
    students = {
        "student": ("student", "the student", distilled.student),
        UNTRAINED: ("untrained", "the untrained student", distilled.untrained),
        LABELS_ALONE: ("labels alone", "the student without a teacher", distilled.alone),
    }
    for name, (kind, called, student) in students.items():
        if student is not None:
            entries[name] = (kind, problem.adapted(student.learner, encoded(called, student.tower)))
    return entries


def _reference(teacher: Teacher) -> TeacherReference:
    params = teacher.learner.hyperparameters.to_dict()
    return TeacherReference(trial=teacher.trial, validation_recall=teacher.recall, params=params)


def _label(teacher: Teacher) -> str:
    return f"teacher {teacher.trial} ({teacher.learner.hyperparameters.learner})"


def _score(problem: Problem, part: SplitName, entries: Mapping[str, Entry], dump: Path | None) -> dict[str, Scored]:
    """Score every system on a part's episodes, and on those with supports of several sizes."""
    episodes, by_shots = problem.episodes(part), problem.by_shots(part)

    def scored(kind: str, system: Any, read: Any) -> Scored:
        pool = problem.pool()
        return Scored(
            kind=kind,
            main=problem.score(system, episodes, read or (None if pool is None else pool.add)),
            by_shots={shots: problem.score(system, nested) for shots, nested in by_shots.items()},
            pooled=None if pool is None else pool.figures(),
        )

    # What learned takes many times as long as a baseline: together they would have no common time left.
    baselines = {name: entry for name, entry in entries.items() if entry[0] == "baseline"}
    learned = {name: entry for name, entry in entries.items() if name not in baselines}
    results: dict[str, Scored] = {}
    with problem.writing(dump, episodes) if dump else nullcontext() as writer:
        for label, chosen in (("scoring baselines", baselines), ("scoring trials and students", learned)):
            with problem.reporter.progress(label) as progress:
                for done, (name, (kind, system)) in enumerate(chosen.items(), start=1):
                    results[name] = scored(kind, system, writer.run(name) if writer else None)
                    progress(done, len(chosen))
    return results


def _summarise(spec: StudySpec, problem: Problem, part: SplitName, results: Mapping[str, Scored]) -> SystemsEvaluation:
    reference, facts = results[problem.reference], problem.facts(part)
    wanted = spec.protocol.report_shots if spec.protocol.support_shots else []
    return SystemsEvaluation(
        task=spec.task,
        kind=spec.protocol.kind,
        metric=spec.metric,
        reference=problem.reference,
        part=part,
        shots=spec.protocol.support_shots,
        scenes=len(reference.main.scenes),
        queries=facts.queries,
        query_counts=facts.query_counts,
        systems={name: summary.system_figures(scored, reference) for name, scored in results.items()},
        curve=summary.curve(reference.by_shots, wanted, facts.left_out),
        scene_facts=facts.scene_facts,
        data=problem.data_facts().model_copy(update={"source": spec.data.source}),
        adaptation=problem.encoder.adaptation,
    )
