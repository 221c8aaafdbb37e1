"""The evaluation of a study: every system on the same test episodes, with paired intervals.

The result is stored with the study, written into the export's manifest, and reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from torch import nn

from distill.evaluation import Finalists, StudentRow, StudyEvaluation, TeacherReference
from distill.objective import Student, Teacher
from hpo.results import summary
from hpo.results.inference import inference_figures
from hpo.results.summary import Scored
from hpo.status.console import day
from storage.home import cache_folder
from studies.config.ranking_spec import RankingSpec
from studies.episodes.split import SplitName
from studies.evaluation import trec
from studies.evaluation.baselines import POPULARITY, build_baselines
from studies.evaluation.evaluate import Adapted, ItemVectors, System, Unadapted, evaluate
from studies.evaluation.figures import DataFacts, SystemsEvaluation
from studies.model.device import full_precision
from studies.progress import ProgressReporter
from studies.training.prepare import prepare
from studies.training.ranking import RankingProblem

# A system with its kind, as in `Scored`.
Entry = tuple[str, System]
FINE_TUNING = "fine-tuning"


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


def evaluate_all(
    spec: RankingSpec,
    problem: RankingProblem,
    winners: Winners,
    student: Student,
    students: Sequence[StudentRow],
    dump: Path | None = None,
) -> StudyEvaluation:
    """Score baselines, teachers and student on the test scenes.

    Args:
        spec: The study.
        problem: The study's data; its reporter receives the number of systems scored.
        winners: The search's.
        student: The student that is exported.
        students: The distillation's trials; one of them is this student's.
        dump: Folder for the rankings in TREC formats; must not exist.
    """
    teachers = winners.teachers
    with full_precision():
        entries = _baselines(problem, "test") | _learned(problem, winners, student)
        results = _score(problem, "test", entries, "scoring test scenes", dump)
    best = _label(teachers[0])
    direct = f"{best}, not adapted"
    scored = _summarise(spec, problem, "test", results)
    compared = [POPULARITY, direct, best, *(name for name, s in results.items() if s.kind == FINE_TUNING), "student"]
    return StudyEvaluation(
        **dict(scored),
        transfer=summary.transfer(results, compared, direct, scored.scene_facts),
        best_teacher=best,
        student_trial=next(row.trial for row in students if row.taken),
        retention=summary.retention(results, best, "student"),
        teachers=tuple(map(_reference, teachers)),
        students=tuple(students),
        finalists=winners.finalists,
        inference=inference_figures(problem, teachers[0], student),
    )


def evaluate_baselines(
    spec: RankingSpec, part: SplitName, reporter: ProgressReporter, dump: Path | None = None
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
    if dump is not None:
        trec.check_dump(dump)
    problem = prepare(spec, cache_folder(), reporter=reporter)
    assert isinstance(problem, RankingProblem)
    with full_precision():
        results = _score(problem, part, _baselines(problem, part), "scoring baselines", dump)
    return _summarise(spec, problem, part, results)


def _baselines(problem: RankingProblem, part: SplitName) -> dict[str, Entry]:
    known_until = problem.split.period[part][0]
    training = problem.split.scenes["train"]
    systems = build_baselines(
        problem.data, training, known_until, problem.cache.pooled(), products=problem.spec.protocol.products
    )
    return {name: ("baseline", system) for name, system in systems.items()}


def _learned(problem: RankingProblem, winners: Winners, student: Student) -> dict[str, Entry]:
    teachers, fine_tuned, _ = winners
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
    if fine_tuned is not None and fine_tuned.trial not in {teacher.trial for teacher in teachers}:
        label, learner = f"trial {fine_tuned.trial}", fine_tuned.learner
        vectors = encoded(label, learner.model.tower)
        entries[f"{label} ({learner.entry.name})"] = (FINE_TUNING, Adapted(learner, vectors))
    entries["student"] = ("student", Adapted(student.learner, encoded("the student", student.tower)))
    return entries


def _reference(teacher: Teacher) -> TeacherReference:
    params = teacher.learner.hyperparameters.to_dict()
    return TeacherReference(trial=teacher.trial, validation_recall=teacher.recall, params=params)


def _label(teacher: Teacher) -> str:
    return f"teacher {teacher.trial} ({teacher.learner.hyperparameters.learner})"


def _score(
    problem: RankingProblem, part: SplitName, entries: Mapping[str, Entry], label: str, dump: Path | None
) -> dict[str, Scored]:
    """Score every system on a part's episodes, and on those with supports of several sizes."""
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


def _summarise(
    spec: RankingSpec, problem: RankingProblem, part: SplitName, results: Mapping[str, Scored]
) -> SystemsEvaluation:
    episodes, data = problem.episodes(part), problem.data
    every_item = spec.protocol.candidates == "all"
    vectors = problem.cache.pooled()
    return SystemsEvaluation(
        task=spec.task,
        metric=spec.metric,
        reference=POPULARITY,
        part=part,
        shots=spec.protocol.shots,
        scenes=len(results[POPULARITY].main.scenes),
        queries=sum(len(episode.users) for episode in episodes),
        query_counts=summary.count_queries(episodes),
        systems={name: summary.system_figures(scored, results[POPULARITY]) for name, scored in results.items()},
        curve=summary.curve(results, spec.protocol.report_shots),
        scene_facts=summary.scene_facts(data, problem.split, part, episodes, vectors, every_item=every_item),
        data=DataFacts(
            source=spec.data.source,
            counts={
                "interactions": len(data.time),
                "items": len(data.texts),
                "scenes": len(data.scenes),
                "users": data.users,
            },
            first_day=day(int(data.time[0])),
            last_day=day(int(data.time[-1])),
            fingerprint=data.fingerprint,
        ),
    )
