"""The whole job: search, distil, evaluate, export, report; a rerun skips the steps that are finished.

    prepare ─▶ register ─▶ launch (workers) ─▶ distil ─▶ evaluate once ─▶ export ─▶ report

`hpo/cli.py` and this module connect the parts; no other does.
"""

from __future__ import annotations

from pathlib import Path

from distill.evaluation import StudyEvaluation
from hpo.dashboard.page import Page
from hpo.export import check_export, export, is_finished, record_export
from hpo.ownership import load_record
from hpo.registry import check_launch, register
from hpo.reporting.study_report import check_report_folder, default_folder, report_folder, search_figures, write_report
from hpo.results.distillation import choose, distil
from hpo.results.evaluation import check_rankings, evaluate_all
from hpo.results.outcome import JobResult
from hpo.results.search_start import search_start
from hpo.results.students import open_distillation, student_rows
from hpo.stages import EVALUATION, check_evaluated, parse_evaluation
from hpo.status.console import Console
from hpo.status.snapshot import snapshot
from hpo.workers.engines import EngineName
from hpo.workers.launcher import launch, make_engine, search_workers
from hpo.workers.study_lease import study_lease
from storage.database.postgres import Database
from storage.database.records import Records
from storage.errors import InputError
from storage.files.store import check_store
from storage.home import cache_folder
from studies.config.spec import StudySpec
from studies.training.prepare import load_data, prepare
from studies.training.problem import Problem


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
) -> JobResult:
    """Run a study from data to exported student, or resume it after an interruption.

    Args:
        database: Where the study is stored.
        spec: The study file.
        console: For progress.
        workers: Number of workers; by default the study file's, else one per core.
        engine: What starts them.
        address: Of a Ray cluster.
        out: Export folder; by default the study file's.
        trec: Folder for the rankings of the test scenes in TREC formats; must not exist.

    Returns:
        The evaluation, the search's cost, and the folders of export and report, as `hpo run` prints them.

    Raises:
        InputError: The study, its data or one of the folders cannot be used.
        KeyboardInterrupt: On Ctrl-C or SIGTERM; running it again resumes after the last finished step.
    """
    with study_lease(database, spec.name):
        return _run(database, spec, console, workers, engine, address, out, trec)


def _run(
    database: Database,
    spec: StudySpec,
    console: Console,
    workers: int | None,
    engine: EngineName,
    address: str | None,
    out: Path | None,
    trec: Path | None,
) -> JobResult:
    folder = (out or spec.export_folder()).absolute()
    records = Records(database.engine)
    check_launch(database, spec)
    check_export(records, spec, folder)
    evaluation = parse_evaluation(spec.name, records.stage_result(spec.name, EVALUATION))
    if trec is not None and evaluation is not None:
        raise InputError(_scored_already(spec.name))
    check_rankings(spec, trec)
    check_report_folder(spec.name, default_folder(spec.name))
    if evaluation is None or not is_finished(records, spec, folder):
        workers_engine = make_engine(engine, database, spec, workers, address)
        spec, problem = begin(database, spec, console, workers)
        if evaluation is None:
            launch(database, spec, console, engine=workers_engine, workers=workers)
            evaluation = distil_and_evaluate(database, spec, problem, console, trec)
        export(database, spec, problem, folder, console)
    else:
        record_export(records, spec.name, folder)  # it may have been moved
    page = write_report(database, spec, report_folder(spec.name, load_record(database, spec.name).id), folder)
    search = search_figures(snapshot(database, spec), spec.finalist_count())
    return JobResult(study=spec.name, evaluation=evaluation, search=search, export=str(folder), report=str(page))


def begin(
    database: Database, spec: StudySpec, console: Console, workers: int | None = None
) -> tuple[StudySpec, Problem]:
    """Read the data, encode its texts unless they are cached, and register the study.

    Returns:
        The study file as registered, and the problem that its trials share.

    Raises:
        InputError: The study or its data cannot be used, or a trial would not fit into a worker's memory.
    """
    check_store()
    check_launch(database, spec)
    data = load_data(spec, cache_folder(), console)
    console.note(f"{spec.name}: {data.size}")
    problem = prepare(spec, cache_folder(), reporter=console, data=data)
    problem.refuse_too_large(search_workers(spec, workers))
    return register(database, spec, data.fingerprint, problem.encoder.identity), problem


def distil_and_evaluate(
    database: Database, spec: StudySpec, problem: Problem, console: Console, trec: Path | None = None
) -> StudyEvaluation:
    """Distil the winners and score everything on the test scenes; the figures are stored for good."""
    winners = choose(database, spec, problem, console)
    distilled = distil(database, spec, problem, winners.teachers, console)
    students = student_rows(open_distillation(database, spec), spec)
    start = search_start(database, spec, problem)
    evaluation = evaluate_all(spec, problem, winners, distilled, students, trec, start=start)
    Records(database.engine).finish_stage(spec.name, EVALUATION, evaluation.to_json())
    Page(database, spec).write()
    return check_evaluated(database, spec.name)


def _scored_already(name: str) -> str:
    return (
        f"the test split of study {name!r} was scored already, and it is scored once; hpo evaluate EXPORT --trec DIR "
        "writes the student's rankings, hpo baselines --trec DIR the baselines'"
    )
