"""The distillation of a study: chooses its teachers, and searches for the best student in an Optuna study.

finalists ─▶ teachers ─▶ students, pruned at rungs by validation recall ─▶ the student to export
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial

from distill.evaluation import Finalists, StudentRow
from distill.hyperparameters import StudentHyperparameters
from distill.objective import (
    Distillation,
    Student,
    Teacher,
    latency,
    load_student,
    size,
    untrained,
    validation_recalls,
)
from hpo.dashboard.page import Page
from hpo.ownership import OwnedStudy, owned_distillation, owned_search
from hpo.pruning.rules import Decision
from hpo.results.evaluation import Distilled, Winners, text_free_recalls
from hpo.results.students import (
    EMBED_STEPS,
    TRAINING,
    choose_student,
    create_distillation,
    extension,
    open_distillation,
    student_rows,
    students_wanted,
)
from hpo.results.undertraining import student_progress
from hpo.search.budget import Budget
from hpo.search.finalists import FinalistEvaluator, Recalls, searched_recalls
from hpo.search.loop import ranked, winners
from hpo.search.pruner import RecallPruner
from hpo.search.space import student_start, suggest_student
from hpo.search.trial_chains import EXTENDS, chain_of
from hpo.search.trial_queue import TrialQueue
from hpo.search.trial_run import RungReporter, run_all
from hpo.stages import EVALUATION
from hpo.status.console import Console
from hpo.workers.study_lease import study_lease
from storage.database.postgres import Database
from storage.database.records import Records
from storage.errors import InputError, StudyStopped
from storage.home import cache_folder
from studies.config.distill_section import DistillSection
from studies.config.spec import StudySpec
from studies.learners.registry import LEARNERS
from studies.training.objective import load_teacher
from studies.training.prepare import prepare
from studies.training.problem import Problem
from studies.training.rungs import RungReport


def choose(database: Database, spec: StudySpec, problem: Problem, console: Console) -> Winners:
    """Choose the search's winners and the best of plain fine-tuning, each the best of as many finalists.

    Raises:
        InputError: No trial has finished, or a winner's checkpoint is missing or damaged.
    """
    owned, count = owned_search(database, spec.name), spec.finalist_count()
    study = owned.open()
    best = winners(study, count)
    plain = [trial for trial in ranked(study) if LEARNERS[trial.params["learner"]].baseline][:count]
    trials = {trial.number: trial for trial in (*best, *plain)}
    recheck = FinalistEvaluator(database, spec, problem)
    total = len(best) + len(plain)
    with console.progress("re-evaluating finalists") as report:
        finalists = recheck(best, lambda done, _: report(done, total))
        tuned = recheck(plain, lambda done, _: report(len(best) + done, total)) if plain else None

    def teachers(found: Finalists, count: int) -> list[Teacher]:
        return [_teacher(owned, problem, trials[each.trial], each.recall) for each in found.ranked[:count]]

    fine_tuned = teachers(tuned, 1)[0] if tuned else None
    return Winners(teachers(finalists, spec.distill.teachers), fine_tuned, finalists)


def _teacher(owned: OwnedStudy, problem: Problem, trial: FrozenTrial, recall: float) -> Teacher:
    learner = load_teacher(problem, owned.trial_folder(chain_of(trial)))
    return Teacher(trial.number, recall, learner)


def distil(
    database: Database, spec: StudySpec, problem: Problem, teachers: Sequence[Teacher], console: Console
) -> Distilled:
    """Run what is left of the distillation's trials; return the student to export.

    Raises:
        InputError: No student has finished.
        StudyStopped: `hpo stop` ended it.
    """
    work = _Work(database, spec, problem, teachers, console)
    work.run()
    chosen = choose_student(work.study, spec)
    student = load_student(problem, work.owned.trial_folder(chosen.number))
    best = min(teachers, key=lambda teacher: (-teacher.recall, teacher.trial))
    before = untrained(problem, best, student.hyperparameters)
    alone = work.without_teacher(student, chosen) if spec.distill.labels_alone else None
    return Distilled(student, chosen.number, before, alone)


def distil_study(database: Database, spec: StudySpec, console: Console) -> tuple[StudentRow, ...]:
    """Run what is left of the distillation for `hpo distill`; return all its students.

    Raises:
        InputError: The search has no finished trial, or the study was evaluated with a student already.
        StudyStopped: `hpo stop` ended it.
    """
    with study_lease(database, spec.name):
        return _distil_study(database, spec, console)


def _distil_study(database: Database, spec: StudySpec, console: Console) -> tuple[StudentRow, ...]:
    if Records(database.engine).stage_result(spec.name, EVALUATION) is not None:
        study = open_distillation(database, spec)
        trials = study.get_trials(deepcopy=False)
        if len(trials) < students_wanted(spec.distill, trials):
            raise InputError(
                f"the test split of study {spec.name!r} was scored with one of its students, and it is scored once; "
                "give the study a new name to try more students"
            )
        return student_rows(study, spec)
    winners(owned_search(database, spec.name).open(), 1)  # before anything is read
    problem = prepare(spec, cache_folder(), reporter=console)
    distil(database, spec, problem, choose(database, spec, problem, console).teachers, console)
    return student_rows(open_distillation(database, spec), spec)


class _Work:
    """One process's work on a distillation."""

    def __init__(
        self, database: Database, spec: StudySpec, problem: Problem, teachers: Sequence[Teacher], console: Console
    ) -> None:
        self._database, self._spec, self._problem = database, spec, problem
        self._teachers, self._console = teachers, console
        self.owned = owned_distillation(database, spec.name)
        with Records(database.engine).exclusive(self.owned.name):
            self.study = create_distillation(database, spec)
            self.study.enqueue_trial(student_start(spec.distill), skip_if_exists=True)
        self._queue = TrialQueue(database, self.study, spec.name, spec.search.retries, timed=False)
        self._page = Page(database, spec)
        section, pruner = spec.distill, spec.pruner
        self._pruner = None
        # A front has a cheap end, which pruning by recall alone would cut off.
        if pruner.kind == "recall" and len(section.objectives) == 1:
            metric = spec.metric
            # Few students are tried, too few to forecast by.
            self._pruner = RecallPruner(
                section.rungs, pruner.eta, pruner.keep, section.seed, rule="asha", metric=metric
            )

    @functools.cached_property
    def _distillation(self) -> Distillation:
        return Distillation(self._problem, self._teachers, self.owned.folder)

    def run(self) -> None:
        """Run what is left of the trials.

        Raises:
            StudyStopped: The study was stopped.
        """
        more = True
        while more:
            wanted = students_wanted(self._spec.distill, self.study.get_trials(deepcopy=False))
            for _ in run_all(self._queue, Budget(wanted), self._objective):
                self._page.write_when_due()
            self._page.write()
            if self._queue.stop_requested():
                raise StudyStopped(f"study {self._spec.name!r} was stopped; hpo run with its study file resumes it")
            more = self._extend()

    def _extend(self) -> bool:
        """Queue a longer training of the chosen student if that may help; return whether it may."""
        with Records(self._database.engine).exclusive(self.owned.name):
            if (found := extension(self.study, self._spec)) is None:
                return False
            student = self.study.get_trials(deepcopy=False)[found[EXTENDS]]
            self.study.enqueue_trial(student.params, user_attrs=found)
        steps = f"{found[EMBED_STEPS]:,} steps on texts"
        self._console.note(f"student {found[EXTENDS]} is below its teacher: training it again, for {steps}")
        return True

    def without_teacher(self, student: Student, chosen: FrozenTrial) -> Student:
        """Return the same student trained on labels alone; what was trained already is not trained again."""
        folder, steps = self.owned.folder / f"without-teacher-{chosen.number}", chosen.user_attrs.get(EMBED_STEPS)
        with self._console.progress("training the student without a teacher") as progress:
            return self._distillation.train_without_teacher(student.hyperparameters, folder, progress, steps)

    def _objective(self, trial: optuna.Trial) -> float | list[float]:
        """Distil the trial's student, reporting each rung to Optuna; return its value for each objective."""
        embed_steps = trial.user_attrs.get(EMBED_STEPS)
        section = self._spec.distill.of_steps(embed_steps)
        values = suggest_student(trial, section)
        folder = self.owned.trial_folder(trial.number)
        reporter = self._reporter(section, extends=embed_steps is not None)
        wanted = students_wanted(section, self.study.get_trials(deepcopy=False))
        with self._console.progress(f"distilling, trial {trial.number + 1} of {wanted}") as progress:

            def advance(step: int) -> None:
                progress(step, section.steps)
                self._queue.report_progress(step / section.steps)

            def report(reached: RungReport) -> None:
                reporter.report(trial, reached, reached.step, chain=trial.number, decide=lambda: self._decide(trial))

            recall = self._distillation.run_trial(values, folder, report, advance, embed_steps)
        if not math.isfinite(recall):
            return recall
        self._record_training(trial, values, folder, section)
        figures = {"recall": recall, **self._cost(trial, folder)}
        return [figures[name] for name in section.objectives]

    def _cost(self, trial: optuna.Trial, folder: Path) -> dict[str, float]:
        """Return a student's latency and size, kept with its trial; an extension has those of the student it extends.

        Measured again, the noise of latency would choose between the two.
        """
        if (extended := trial.user_attrs.get(EXTENDS)) is not None:
            known = self.study.get_trials(deepcopy=False)[extended].user_attrs
            figures = {name: known[name] for name in ("latency", "size")}
        else:
            student = load_student(self._problem, folder)
            measured = {"latency": latency(self._problem, student), "size": size(self._problem, student)}
            figures = {name: round(value, 4) for name, value in measured.items()}
        for name, value in figures.items():
            trial.set_user_attr(name, value)
        return figures

    def _reporter(self, section: DistillSection, *, extends: bool) -> RungReporter:
        # The steps of an extension's rungs are other stages of a training: it is compared with no other student there.
        return RungReporter(
            self._queue,
            self._database.storage,
            section.steps,
            lambda: "the study was stopped" if self._queue.stop_requested() else None,
            intermediate_values=len(section.objectives) == 1 and not extends,
        )

    def _record_training(
        self, trial: optuna.Trial, values: StudentHyperparameters, folder: Path, section: DistillSection
    ) -> None:
        """Keep with the trial how far its training has come, an extension's beside the shorter training."""
        texts, recalls = len(self._distillation.targets.items), validation_recalls(folder)
        read = section.embed_steps * min(values.batch_size, texts)
        if (extended := trial.user_attrs.get(EXTENDS)) is not None:
            shorter = validation_recalls(self.owned.trial_folder(extended))
            recalls = {max(each): each[max(each)] for each in (shorter, recalls)}
        found = student_progress(recalls, self._teacher_recalls, self._baseline_recalls, read, texts)
        if found is not None:
            trial.set_user_attr(TRAINING, found.to_json())

    @functools.cached_property
    def _teacher_recalls(self) -> Recalls:
        """Return the best teacher's recall by validation scene."""
        best = self._distillation.teachers[0].trial
        trials = owned_search(self._database, self._spec.name).open().get_trials(deepcopy=False)
        return searched_recalls(Records(self._database.engine), self._spec)[chain_of(trials[best])]

    @functools.cached_property
    def _baseline_recalls(self) -> Recalls:
        """Return the recall by validation scene of the best baseline that reads no text."""
        return text_free_recalls(self._problem)

    def _decide(self, trial: optuna.Trial) -> Decision | None:
        """Return the pruner's decision on a trial that has just reported; None of an extension, or without a pruner."""
        if self._pruner is None or EXTENDS in trial.user_attrs:
            return None
        return self._pruner.decision(self.study, trial._cached_frozen_trial)
