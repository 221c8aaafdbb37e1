"""Gathers a study's document from the database and the study file, and writes its report into a folder."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from distill.evaluation import StudyEvaluation
from distill.export.manifest import owner
from hpo.ownership import load_record, owned_search
from hpo.reporting.document import StudyDocument
from hpo.reporting.renderers.page import PAGE, REPORT_JSON, write
from hpo.results.importance import importance
from hpo.results.outcome import RungFigures, SearchFigures, SearchHistory, TrialFigures
from hpo.stages import check_evaluated, load_explanations
from hpo.status.snapshot import Snapshot, snapshot
from storage.database.postgres import Database
from storage.database.records import Records, RungResult
from storage.errors import InputError
from storage.files.outputs import check_place
from studies.config.spec import StudySpec
from studies.evaluation.figures import SystemsEvaluation


def default_folder(name: str) -> Path:
    """Return where a study's report goes by default, where no other study of the same name has its own."""
    return Path("reports", name).absolute()


def report_folder(name: str, study_id: str) -> Path:
    """Return where a study's report goes by default: another study of the same name keeps its own."""
    folder = default_folder(name)
    return folder if _is_free(folder, study_id) else folder.with_name(f"{name}-{study_id[:8]}")


def check_report_folder(name: str, folder: Path) -> None:
    """Check before the work that a study's report can be written into a folder.

    Raises:
        InputError: It cannot.
    """
    elsewhere = "work in" if folder.parent == default_folder(name).parent else "name"
    check_place(folder / PAGE, f"{elsewhere} a folder that you may write to")


def write_report(database: Database, spec: StudySpec, folder: Path, exported: Path | None = None) -> Path:
    """Write a finished study's report and return its page; an older one in `folder` is replaced.

    Raises:
        InputError: The study has not been evaluated yet, or nothing can be written into `folder`, or it holds another
            study's report.
    """
    check_report_folder(spec.name, folder)
    evaluation, study_id = check_evaluated(database, spec.name), load_record(database, spec.name).id
    if not _is_free(folder, study_id):
        raise InputError(f"{folder} holds another study's report: name another folder with --out, or remove that one")
    exported = exported or spec.export_folder().absolute()
    document = study_document(database, spec, evaluation, exported if owner(exported) == study_id else None)
    return write(document, folder)[0]


def study_document(
    database: Database, spec: StudySpec, evaluation: StudyEvaluation, export: Path | None
) -> StudyDocument:
    """Return the document of a finished study.

    Args:
        database: Where the study lives.
        spec: The study.
        evaluation: Of the study.
        export: The student's folder, where there is one.
    """
    shot = snapshot(database, spec)
    records = Records(database.engine)
    search = SearchHistory(
        **dict(search_figures(shot, spec.finalist_count())),
        history=_history(shot, records.rung_results(spec.name)),
        importance=importance(owned_search(database, spec.name).open().get_trials(deepcopy=False), spec.pruner.rungs),
    )
    found = {
        "study_id": load_record(database, spec.name).id,
        "search": search,
        "export": str(export) if export else None,
        "explanations": load_explanations(records, spec.name),
    }
    return _document(spec, evaluation).model_copy(update=found)


def baselines_document(spec: StudySpec, evaluation: SystemsEvaluation) -> StudyDocument:
    """Return the document of `hpo baselines`, which has no search and no student."""
    return _document(spec, evaluation).model_copy(update={"baselines_only": True})


def search_figures(shot: Snapshot, best: int) -> SearchFigures:
    """Return what a search took.

    Args:
        shot: The study at its end.
        best: A trial of the control group among so many best ones is one that pruning would have lost.
    """
    return SearchFigures(
        trials=shot.spent,
        states=shot.states,
        cost_seconds=shot.cost_seconds,
        unpruned_seconds=shot.unpruned_seconds,
        control_group=tuple(view.number for view in shot.control_group),
        false_prunes=tuple(view.number for view in shot.false_prunes(best)),
        best=best,
    )


def _is_free(folder: Path, study_id: str) -> bool:
    """Tell whether a folder holds no report, or one that the study's may replace: its own, or of baselines."""
    try:
        held = json.loads((folder / REPORT_JSON).read_bytes())
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        return False
    return isinstance(held, dict) and held.get("study_id") in (None, study_id)


def _document(spec: StudySpec, evaluation: SystemsEvaluation) -> StudyDocument:
    try:
        release = version("scenetune")
    except PackageNotFoundError:
        release = "not installed (run from its source)"
    return StudyDocument(
        study=spec.name,
        written=datetime.now(UTC).isoformat(timespec="seconds"),
        version=release,
        data=evaluation.data,
        protocol=spec.protocol.effective,
        evaluation=evaluation,
    )


def _history(shot: Snapshot, rungs: list[RungResult]) -> tuple[TrialFigures, ...]:
    costs = {(result.trial, result.rung): result.cost_seconds for result in rungs}
    return tuple(
        TrialFigures(
            trial=view.number,
            state=view.state,
            params=view.params,
            rungs=tuple(
                RungFigures(step=step, recall=recall, cost_seconds=costs.get((view.chain, rung)))
                for rung, (step, recall) in enumerate(zip(shot.rungs, view.recalls, strict=False))
                if recall is not None
            ),
            recall=view.recall,
            cost_seconds=view.cost_seconds,
            reason=view.reason,
        )
        for view in shot.trials
    )
