"""The export stage of a job: writes the best student's folder once, and checks beforehand that it can be written."""

from __future__ import annotations

from pathlib import Path

from distill.export.manifest import owner, read
from distill.export.onnx_graph import check_packages
from distill.export.tasks.explained import Explanations
from distill.export.tasks.registry import exported_as
from distill.export.writer import check_replaceable
from distill.objective import load_student
from hpo.dashboard.page import Page
from hpo.ownership import owned_distillation
from hpo.results.exported import write_student
from hpo.stages import EVALUATION, EXPLANATIONS, check_evaluated, export_stage, exported_folders
from hpo.status.console import Console
from hpo.workers.study_lease import study_lease
from storage.database.postgres import Database
from storage.database.records import Records
from storage.errors import InputError
from storage.files.outputs import check_place
from studies.config.spec import StudySpec
from studies.training.problem import Problem


def export(
    database: Database, spec: StudySpec, problem: Problem, folder: Path, console: Console, *, force: bool = False
) -> Path:
    """Write the best student's folder in the formats of the spec, unless it is written already; return the folder.

    A few of its answers are explained from the folder, once for all exports of the study; the report shows them.

    Args:
        database: Where the study lives.
        spec: The study; `[export]` gives formats and precision.
        problem: The study's data.
        folder: The export.
        console: Shows progress.
        force: Whether to replace an older export, of any study.

    Raises:
        InputError: The study has not been evaluated yet, the folder exists and is not this study's export, or a
            package that a format needs is missing.
        ScenetuneError: A format does not reproduce the student's output, or costs too much recall.
    """
    # Two `hpo run` of one study come here together: the second finds what the first has written.
    with study_lease(database, spec.name), Records(database.engine).exclusive(export_stage(folder)):
        return _export(database, spec, problem, folder, console, force=force)


def _export(
    database: Database, spec: StudySpec, problem: Problem, folder: Path, console: Console, *, force: bool
) -> Path:
    records = Records(database.engine)
    evaluation = check_evaluated(database, spec.name)
    check_export(records, spec, folder, force=force)
    if force or not is_exported(records, spec, folder):
        # Its checkpoint is enough: an evaluated study can be exported even if Optuna's part of it is gone.
        owned = owned_distillation(database, spec.name)
        student = load_student(problem, owned.trial_folder(evaluation.student_trial))
        console.note(f"exporting to {folder}, and checking it in a fresh process")
        write_student(spec, problem, evaluation, owned, student, folder, replace=force)
        _note_slow_int8(folder, console)
    if records.stage_result(spec.name, EXPLANATIONS) is None:
        console.note("explaining a few of the student's answers")
        found: Explanations = exported_as(spec).part("explain")(problem, folder)
        records.finish_stage(spec.name, EXPLANATIONS, found.to_json())
    record_export(records, spec.name, folder)
    Page(database, spec).write()
    return folder


def is_finished(records: Records, spec: StudySpec, folder: Path) -> bool:
    """Tell whether a job has nothing left to export: the folder is written, and what follows it.

    Exports that were finished before answers were explained stay as they are; exporting them again explains.
    """
    stages = records.stage_results(spec.name)
    return is_exported(records, spec, folder) and (EXPLANATIONS in stages or bool(exported_folders(stages)))


def is_exported(records: Records, spec: StudySpec, folder: Path) -> bool:
    """Tell whether a folder holds the study's student in the formats and precision of the spec, wherever it is now."""
    record = records.load_study(spec.name)
    if record is None or owner(folder) != record.id:
        return False
    manifest = read(folder)
    return manifest.precision == spec.export.precision and set(spec.export.formats) <= set(manifest.formats)


def record_export(records: Records, name: str, folder: Path) -> None:
    """Record where a study's export is; the dashboard offers it."""
    records.finish_stage(name, export_stage(folder), {"folder": str(folder)})


def check_export(records: Records, spec: StudySpec, folder: Path, *, force: bool = False) -> None:
    """Check before hours of work that the export can be written at their end.

    Args:
        records: Our tables.
        spec: The study.
        folder: The export.
        force: Whether an older export may be replaced.

    Raises:
        InputError: The folder holds something else, or a package that a format needs is missing.
    """
    if is_exported(records, spec, folder):
        return
    if "onnx" in spec.export.formats:
        check_packages()
    check_replaceable(folder, replace=force)
    check_place(folder, "name another folder with --out")
    if folder.exists() and not force:
        wanted = f"{', '.join(spec.export.formats)} in {spec.export.precision}"
        record, held = records.load_study(spec.name), owner(folder)
        known = (None,) if record is None else (None, record.id)
        another = "" if held in known else ", but another study's export"
        replace = f", or replace an export: hpo export {spec.name} --out {folder} --force"
        evaluated = records.stage_result(spec.name, EVALUATION) is not None
        raise InputError(
            f"the export folder {folder} exists already and does not hold study {spec.name!r} as {wanted}{another}; "
            f"name another with --out, or remove it{replace if evaluated else ''}"
        )


def _note_slow_int8(folder: Path, console: Console) -> None:
    small = read(folder).formats.get("onnx-int8")
    rates = small.texts_per_second if small else None
    if rates and rates["onnx-int8"] < rates["onnx"]:
        console.note(
            f"8-bit weights are slower on this CPU: {rates['onnx-int8']:,.0f} texts/s, in fp32 {rates['onnx']:,.0f}; "
            "onnx/model.onnx serves faster here"
        )
