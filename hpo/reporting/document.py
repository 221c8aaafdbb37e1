"""Gathers what a report says: one plain document, from the database and the study file."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hpo.status.snapshot import Snapshot, snapshot
from storage.database.postgres import Database
from storage.database.records import Records, RungResult
from studies.config.spec import StudySpec


def study_document(
    database: Database, spec: StudySpec, evaluation: dict[str, Any], export: Path | None
) -> dict[str, Any]:
    """The document of a finished study.

    Args:
        database: where the study lives.
        spec: the study.
        evaluation: what `hpo.results.evaluation.evaluate_all` found.
        export: the student's folder, where there is one.
    """
    shot = snapshot(database, spec)
    rungs = Records(database.engine).rung_results(spec.name)
    search = search_figures(shot, spec.finalist_count()) | {"history": _history(shot, rungs)}
    return _document(spec, evaluation) | {"search": search, "export": str(export) if export else None}


def baselines_document(spec: StudySpec, evaluation: dict[str, Any]) -> dict[str, Any]:
    """The document of `hpo baselines`, which no search and no student belong to."""
    return _document(spec, evaluation) | {"baselines_only": True}


def search_figures(shot: Snapshot, best: int) -> dict[str, Any]:
    """What a search took.

    Args:
        shot: of its end.
        best: a trial of the control group that ended among so many best ones is one that pruning would have lost.
    """
    return {
        "trials": shot.spent,
        "states": shot.states,
        "cost_seconds": shot.cost_seconds,
        "unpruned_seconds": shot.unpruned_seconds,
        "control_group": [view.number for view in shot.control_group],
        "false_prunes": [view.number for view in shot.false_prunes(best)],
        "best": best,
    }


def _document(spec: StudySpec, evaluation: dict[str, Any]) -> dict[str, Any]:
    try:
        release = version("scenetune")
    except PackageNotFoundError:
        release = "not installed (run from its source)"
    return {
        "study": spec.name,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": release,
        "data": evaluation["data"],
        "protocol": spec.protocol.model_dump(mode="json"),
        "evaluation": evaluation,
        "baselines_only": False,
    }


def _history(shot: Snapshot, rungs: list[RungResult]) -> list[dict[str, Any]]:
    costs = {(result.trial, result.rung): result.cost_seconds for result in rungs}
    return [
        {
            "trial": view.number,
            "state": view.state,
            "params": view.params,
            "rungs": [
                {"step": step, "recall": recall, "cost_seconds": costs.get((view.chain, rung))}
                for rung, (step, recall) in enumerate(zip(shot.rungs, view.recalls, strict=False))
                if recall is not None
            ],
            "recall": next((recall for recall in reversed(view.recalls) if recall is not None), None),
            "cost_seconds": view.cost_seconds,
            "reason": view.reason,
        }
        for view in shot.trials
    ]
