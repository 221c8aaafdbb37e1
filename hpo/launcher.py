"""Launches a registered study's search: an engine's workers, and the live table until the budget is spent."""

from __future__ import annotations

import os

from hpo.console import Console
from hpo.search import log_folder
from hpo.watch import LiveTable, snapshot
from storage.postgres import Database
from studies.spec import StudySpec


def launch(database: Database, spec: StudySpec, console: Console, *, workers: int | None = None) -> None:
    """Runs a registered study's search until its budget is spent; resumes one that was stopped.

    Args:
        database: where the study lives.
        spec: the study, registered.
        console: for progress.
        workers: processes on this machine; by default the study file's number, else one per core.

    Raises:
        ScenetuneError: a worker failed.
        KeyboardInterrupt: after the workers have queued their running trials again.
    """
    from hpo.engines import local

    if snapshot(database, spec).finished:
        return
    count = search_workers(spec, workers)
    with LiveTable(database, spec, console) as table:
        local.run(spec.name, database.url, count, log_folder(spec.name), table.refresh)
        table.refresh()


def search_workers(spec: StudySpec, workers: int | None = None) -> int:
    """How many worker processes a search has on this machine: as asked for, as the study file says, or one per core."""
    return min(workers or spec.search.workers or os.cpu_count() or 1, spec.search.trials)
