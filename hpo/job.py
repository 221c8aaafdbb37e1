"""The whole job: search, distil, evaluate, export; every step finished is written down, so a rerun only goes on.

    register ─▶ prepare ─▶ launch (workers) ─▶ distil ─▶ evaluate once ─▶ export ─▶ result

With `hpo/cli.py`, the only place that wires implementations together.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.console import Console, Report
from hpo.launcher import launch
from hpo.search import cache_folder, check_definition, distillation_name, register, winners
from hpo.watch import snapshot
from storage.artifacts import trial_folder
from storage.errors import InputError
from storage.postgres import Database
from storage.records import Records
from studies.spec import StudySpec

if TYPE_CHECKING:
    import optuna

    from distill.objective import Distillation, Student, Teacher
    from studies.objective import Problem

EVALUATION, EXPORT = "evaluation", "export"


def run(
    database: Database, spec: StudySpec, console: Console, *, workers: int | None = None, out: Path | None = None
) -> dict[str, Any]:
    """Runs a study from data to exported student, or goes on where an earlier run stopped.

    Args:
        database: where the study lives.
        spec: the study file.
        console: for progress.
        workers: search processes; see `launcher.launch`.
        out: export folder; by default the study file's.

    Returns:
        The evaluation, the search's cost and the export folder, as `hpo/report.py` prints them.

    Raises:
        InputError: the study, its data or the export folder are at fault.
        KeyboardInterrupt: nothing that was finished is lost; running again goes on.
    """
    folder = (out or spec.export_folder()).absolute()
    records = Records(database.engine)
    if (stored := records.load_study(spec.name)) is not None:
        check_definition(stored, spec)
    _check_export_folder(records, spec.name, folder)
    evaluation = records.stage_result(spec.name, EVALUATION)
    if evaluation is None or not _exported_here(records, spec.name, folder):
        spec, problem = begin(database, spec, console)
        if evaluation is None:
            launch(database, spec, console, workers=workers)
            evaluation = distil_and_evaluate(database, spec, problem, console)
        export(database, spec, problem, folder, console)
    shot = snapshot(database, spec)
    search = {
        "trials": shot.spent,
        "states": shot.states,
        "cost_seconds": shot.cost_seconds,
        "unpruned_seconds": shot.unpruned_seconds,
    }
    return {"study": spec.name, "evaluation": evaluation, "search": search, "export": str(folder)}


def begin(database: Database, spec: StudySpec, console: Console) -> tuple[StudySpec, Problem]:
    """Reads the data, makes sure that its texts are encoded, and registers the study; returns the spec in force."""
    from studies.data.sources import load
    from studies.objective import prepare

    data = load(spec.data)
    console.note(
        f"{spec.name}: {len(data.time):,} interactions, {len(data.texts):,} items, {len(data.scenes)} scenes, "
        f"{data.users:,} users"
    )
    with console.progress("encoding texts") as report:
        problem = prepare(spec, cache_folder(), progress=report, data=data)
    return register(database, spec, data.fingerprint), problem


def distil_and_evaluate(database: Database, spec: StudySpec, problem: Problem, console: Console) -> dict[str, Any]:
    """Distils the winners and scores everything on the test scenes, once; the figures are kept for good."""
    from hpo.evaluation import evaluate_all

    teachers = load_teachers(database, spec, problem)
    student, trial = distil(database, spec, problem, teachers, console)
    with console.progress("scoring test scenes") as report:
        result = evaluate_all(problem, teachers, student, report)
    return Records(database.engine).finish_stage(spec.name, EVALUATION, result | {"student_trial": trial})


def load_teachers(database: Database, spec: StudySpec, problem: Problem) -> list[Teacher]:
    """The search's winners, from their checkpoints."""
    from distill.objective import Teacher
    from hpo.trials import open_study, origin
    from studies.objective import load_teacher

    best = winners(open_study(database.storage, spec.name), spec.distill.teachers)
    return [
        Teacher(trial.number, float(trial.value or 0.0), load_teacher(problem, trial_folder(spec.name, origin(trial))))
        for trial in best
    ]


def distil(
    database: Database, spec: StudySpec, problem: Problem, teachers: list[Teacher], console: Console
) -> tuple[Student, int]:
    """The distillation's own Optuna study: runs what is left of its trials; returns the best student and its trial."""
    import optuna

    from distill.objective import Distillation, StudentHyperparameters, load_student
    from hpo.trials import ask, open_study, origin, run

    name = distillation_name(spec.name)
    study = open_study(database.storage, name, create=True)
    trials = study.get_trials(deepcopy=False)
    # Proposals must not repeat when a study is resumed: the seed moves on with the trials there are.
    study.sampler = optuna.samplers.TPESampler(seed=spec.distill.seed * 1_000_003 + len(trials), n_startup_trials=3)
    if not trials:
        study.set_user_attr("search study", spec.name)
        study.enqueue_trial(asdict(StudentHyperparameters()))
    distillation: Distillation | None = None
    while (trial := ask(study, spec.distill.trials)) is not None:
        if distillation is None:
            with console.progress("asking the teachers") as report:
                distillation = Distillation(problem, teachers, report)
        folder = trial_folder(name, origin(study.get_trials(deepcopy=False)[trial.number]))
        with console.progress(f"distilling, trial {trial.number + 1} of {spec.distill.trials}") as report:
            run(study, trial, partial(_distil_once, distillation, folder, report))
    best = winners(study, 1)[0]
    return load_student(problem, trial_folder(name, origin(best))), best.number


def _distil_once(distillation: Distillation, folder: Path, progress: Report, trial: optuna.Trial) -> float:
    from distill.objective import suggest

    section = distillation.problem.spec.distill
    steps = section.embed_steps + section.rank_steps

    def report(step: int, recall: float, cost_seconds: float) -> None:
        trial.report(recall, step)
        trial.set_user_attr("cost_seconds", round(cost_seconds, 2))

    return distillation.run_trial(suggest(trial), folder, report, lambda step: progress(step, steps))


def export(database: Database, spec: StudySpec, problem: Problem, folder: Path, console: Console) -> Path:
    """Writes the best student's folder, unless it has been written; returns where it is.

    Raises:
        InputError: the study has not been evaluated yet, or the folder exists and is not this study's.
    """
    from distill.export import export as write
    from distill.objective import load_student
    from hpo.evaluation import manifest
    from hpo.trials import open_study, origin

    records = Records(database.engine)
    evaluation = check_evaluated(database, spec.name)
    if _exported_here(records, spec.name, folder):
        return folder
    _check_export_folder(records, spec.name, folder)
    study = open_study(database.storage, distillation_name(spec.name))
    trial = study.get_trials(deepcopy=False)[evaluation["student_trial"]]
    student = load_student(problem, trial_folder(study.study_name, origin(trial)))
    console.note(f"exporting to {folder}, and checking it in a fresh process")
    write(student, problem.encoder.tokenizer, folder, manifest(problem, evaluation))
    records.finish_stage(spec.name, f"{EXPORT} {folder}", {"folder": str(folder)})
    return folder


def check_evaluated(database: Database, name: str) -> dict[str, Any]:
    """The study's stored evaluation.

    Raises:
        InputError: the study has not come that far.
    """
    evaluation = Records(database.engine).stage_result(name, EVALUATION)
    if evaluation is None:
        raise InputError(f"study {name!r} has no student yet: hpo run STUDY.toml searches, distils and evaluates first")
    return evaluation


def _exported_here(records: Records, name: str, folder: Path) -> bool:
    return folder.exists() and records.stage_result(name, f"{EXPORT} {folder}") is not None


def _check_export_folder(records: Records, name: str, folder: Path) -> None:
    """Before hours of work: refuses a folder that the export would find taken."""
    if folder.exists() and not _exported_here(records, name, folder):
        raise InputError(
            f"the export folder {folder} exists already and does not hold study {name!r}; "
            "name another with --out, or remove it"
        )
