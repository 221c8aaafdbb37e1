"""The whole job: search, distil, evaluate, export; every step finished is written down, so a rerun only goes on.

    register ─▶ prepare ─▶ launch (workers) ─▶ distil ─▶ evaluate once ─▶ export ─▶ result

With `hpo/cli.py`, the only place that wires implementations together.
"""

from __future__ import annotations

import functools
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.console import Console, Report
from hpo.engines import EngineName
from hpo.launcher import launch, make_engine, search_workers
from hpo.registry import check_definition, distillation_name, register
from hpo.reporting.document import search_figures, study_document
from hpo.search import cache_folder, ranked, winners
from hpo.watch import snapshot
from storage.artifacts import trial_folder
from storage.errors import InputError, StudyStopped
from storage.postgres import Database
from storage.records import Records
from storage.store import check_store
from studies.spec import StudySpec

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

    from distill.objective import Distillation, Student, Teacher
    from hpo.claims import Claims
    from hpo.finalists import Finalists
    from studies.objective import Problem

EVALUATION, EXPORT = "evaluation", "export"


def run(
    database: Database,
    spec: StudySpec,
    console: Console,
    *,
    workers: int | None = None,
    engine: EngineName = EngineName.local,
    address: str | None = None,
    out: Path | None = None,
    trec: Path | None = None,
) -> dict[str, Any]:
    """Runs a study from data to exported student, or goes on where an earlier run stopped.

    Args:
        database: where the study lives.
        spec: the study file.
        console: for progress.
        workers: see `launcher.launch`, as for the next two.
        engine: where they run.
        address: of a Ray cluster.
        out: export folder; by default the study file's.
        trec: folder for the rankings of the test scenes in TREC formats; must not exist.

    Returns:
        The evaluation, the search's cost, and the folders of export and report, as `hpo/report.py` prints them.

    Raises:
        InputError: the study, its data or one of the folders are at fault.
        KeyboardInterrupt: nothing that was finished is lost; running again goes on.
    """
    folder = (out or spec.export_folder()).absolute()
    records = Records(database.engine)
    if (stored := records.load_study(spec.name)) is not None:
        check_definition(stored, spec)
    _check_export_folder(records, spec.name, folder)
    evaluation = records.stage_result(spec.name, EVALUATION)
    _check_trec_folder(trec, spec.name, evaluated=evaluation is not None)
    if evaluation is None or not _exported_here(records, spec.name, folder):
        starts = make_engine(engine, database, spec, workers, address)
        spec, problem = begin(database, spec, console, workers)
        if evaluation is None:
            launch(database, spec, console, engine=starts, workers=workers)
            evaluation = distil_and_evaluate(database, spec, problem, console, trec)
        export(database, spec, problem, folder, console)
    page = write_report(database, spec, report_folder(spec.name), folder)
    search = search_figures(snapshot(database, spec), spec.finalist_count())
    return {"study": spec.name, "evaluation": evaluation, "search": search, "export": str(folder), "report": str(page)}


def report_folder(name: str) -> Path:
    """Where a study's report goes unless told otherwise."""
    return Path("reports", name).absolute()


def write_report(database: Database, spec: StudySpec, folder: Path, exported: Path | None = None) -> Path:
    """Writes a finished study's report and returns its page; an older one in `folder` is replaced.

    Raises:
        InputError: the study has not been evaluated yet.
    """
    from hpo.reporting.page import write

    evaluation = check_evaluated(database, spec.name)
    exported = exported or spec.export_folder().absolute()
    document = study_document(database, spec, evaluation, exported if exported.exists() else None)
    return write(document, folder)[0]


def begin(
    database: Database, spec: StudySpec, console: Console, workers: int | None = None
) -> tuple[StudySpec, Problem]:
    """Reads the data, makes sure that its texts are encoded, and registers the study; returns the spec in force.

    Raises:
        InputError: the study or its data are at fault, or a trial would not fit into a worker's memory.
    """
    from studies.data.sources import load
    from studies.objective import prepare

    check_store()
    data = load(spec.data, spec.protocol, cache_folder())
    console.note(
        f"{spec.name}: {len(data.time):,} interactions, {len(data.texts):,} items, {len(data.scenes)} scenes, "
        f"{data.users:,} users"
    )
    with console.progress("encoding texts") as report:
        problem = prepare(spec, cache_folder(), progress=report, data=data)
    problem.refuse_too_large(search_workers(spec, workers))
    return register(database, spec, data.fingerprint), problem


def distil_and_evaluate(
    database: Database, spec: StudySpec, problem: Problem, console: Console, trec: Path | None = None
) -> dict[str, Any]:
    """Distils the winners and scores everything on the test scenes, once; the figures are kept for good."""
    from hpo.evaluation import evaluate_all

    teachers, rival, finalists = choose(database, spec, problem, console)
    student, trial = distil(database, spec, problem, teachers, console)
    with console.progress("scoring test scenes") as report:
        result = evaluate_all(problem, teachers, rival, student, report, trec)
    result |= {"student_trial": trial, "finalists": asdict(finalists)}
    return Records(database.engine).finish_stage(spec.name, EVALUATION, result)


def choose(
    database: Database, spec: StudySpec, problem: Problem, console: Console
) -> tuple[list[Teacher], Teacher | None, Finalists]:
    """The search's winners and their rival, the best of plain fine-tuning, each the best of as many finalists.

    Returns:
        The teachers, best first; the rival, None where no trial of fine-tuning has finished; and all that the former
        were chosen from.
    """
    from hpo.finalists import Recheck
    from hpo.trials import open_study

    study, count = open_study(database.storage, spec.name), spec.finalist_count()
    best = winners(study, count)
    plain = [trial for trial in ranked(study) if trial.params.get("learner") == "finetune"][:count]
    trials = {trial.number: trial for trial in (*best, *plain)}
    recheck = Recheck(database, spec, problem)
    with console.progress("looking at the finalists again") as report:
        finalists = recheck(best, lambda done, _: report(done, len(best) + len(plain)))
        rivals = recheck(plain, lambda done, _: report(len(best) + done, len(best) + len(plain))) if plain else None

    def teachers(found: Finalists, count: int) -> list[Teacher]:
        return [_teacher(spec, problem, trials[each.trial], each.recall) for each in found.ranked[:count]]

    rival = teachers(rivals, 1)[0] if rivals else None
    return teachers(finalists, spec.distill.teachers), rival, finalists


def _teacher(spec: StudySpec, problem: Problem, trial: FrozenTrial, recall: float) -> Teacher:
    from distill.objective import Teacher
    from hpo.lineage import origin
    from studies.objective import load_teacher

    learner = load_teacher(problem, trial_folder(spec.name, origin(trial)))
    return Teacher(trial.number, recall, learner)


def distil(
    database: Database, spec: StudySpec, problem: Problem, teachers: list[Teacher], console: Console
) -> tuple[Student, int]:
    """The distillation's own Optuna study: runs what is left of its trials; returns the best student and its trial."""
    from distill.objective import Distillation, StudentHyperparameters, load_student
    from hpo.budget import Budget
    from hpo.claims import Claims
    from hpo.search_space import SeededByTrial
    from hpo.trials import open_study, run_all

    name = distillation_name(spec.name)
    study = open_study(database.storage, name, SeededByTrial(_student_sampler, spec.distill.seed), create=True)
    study.set_user_attr("search study", spec.name)
    with Records(database.engine).exclusive(name):
        study.enqueue_trial(asdict(StudentHyperparameters()), skip_if_exists=True)

    @functools.cache
    def distillation() -> Distillation:
        with console.progress("asking the teachers") as report:
            return Distillation(problem, teachers, report)

    def objective(trial: optuna.Trial) -> float:
        shared = distillation()
        with console.progress(f"distilling, trial {trial.number + 1} of {spec.distill.trials}") as report:
            return _distil_once(shared, trial_folder(name, trial.number), report, trial, claims)

    claims = Claims(database, study, spec.name, spec.search.retries, timed=False)
    for _ in run_all(claims, Budget(spec.distill.trials), objective):
        pass
    if claims.called_off():
        raise StudyStopped(f"study {spec.name!r} was stopped; hpo run with its study file goes on")
    best = winners(study, 1)[0]
    return load_student(problem, trial_folder(name, best.number)), best.number


def _student_sampler(seed: int) -> optuna.samplers.BaseSampler:
    import optuna

    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=3)


def _distil_once(
    distillation: Distillation, folder: Path, progress: Report, trial: optuna.Trial, claims: Claims
) -> float:
    from distill.objective import suggest
    from hpo.trials import Paused

    section = distillation.problem.spec.distill
    steps = section.embed_steps + section.rank_steps

    def report(step: int, recall: float, cost_seconds: float) -> None:
        claims.check(trial)
        trial.report(recall, step)
        trial.set_user_attr("cost_seconds", round(cost_seconds, 2))
        if step < steps and claims.called_off():
            raise Paused("the study was stopped")

    return distillation.run_trial(suggest(trial), folder, report, lambda step: progress(step, steps))


def export(database: Database, spec: StudySpec, problem: Problem, folder: Path, console: Console) -> Path:
    """Writes the best student's folder, unless it has been written; returns where it is.

    Raises:
        InputError: the study has not been evaluated yet, or the folder exists and is not this study's.
    """
    from distill.export import export as write
    from distill.objective import load_student
    from hpo.evaluation import manifest
    from hpo.trials import open_study

    records = Records(database.engine)
    evaluation = check_evaluated(database, spec.name)
    if _exported_here(records, spec.name, folder):
        return folder
    _check_export_folder(records, spec.name, folder)
    study = open_study(database.storage, distillation_name(spec.name))
    student = load_student(problem, trial_folder(study.study_name, evaluation["student_trial"]))
    console.note(f"exporting to {folder}, and checking it in a fresh process")
    write(student, problem.encoder.tokenizer, problem.lexicon, folder, manifest(problem, evaluation))
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


def _check_trec_folder(folder: Path | None, name: str, *, evaluated: bool) -> None:
    """Before hours of work: refuses what could not be written at its end."""
    if folder is None:
        return
    if evaluated:
        raise InputError(
            f"the test scenes of study {name!r} were scored already, and they are scored once; "
            "hpo evaluate EXPORT --trec DIR writes the student's rankings, hpo baselines --trec DIR the baselines'"
        )
    if folder.exists():
        raise InputError(f"the folder {folder} for the rankings exists already; name another with --trec, or remove it")


def _check_export_folder(records: Records, name: str, folder: Path) -> None:
    """Before hours of work: refuses a folder that the export would find taken."""
    if folder.exists() and not _exported_here(records, name, folder):
        raise InputError(
            f"the export folder {folder} exists already and does not hold study {name!r}; "
            "name another with --out, or remove it"
        )
