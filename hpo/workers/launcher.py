"""Launches a registered study's search: starts an engine's workers and shows the live table until the search ends."""

from __future__ import annotations

import time
from collections.abc import Callable

from hpo.dashboard.page import Page
from hpo.ownership import owned_search
from hpo.registry import no_more_trials
from hpo.search.trial_queue import TrialQueue
from hpo.stages import EVALUATION
from hpo.status.console import Console
from hpo.status.snapshot import Observer, Snapshot
from hpo.status.watch import LiveTable
from hpo.workers.engines import Engine, EngineName
from hpo.workers.engines.local import LocalEngine
from hpo.workers.engines.ray import RayEngine
from hpo.workers.supervisor import supervise
from storage.database.control import Control
from storage.database.postgres import Database
from storage.database.records import Records
from storage.errors import InputError, StudyStopped
from studies.config.spec import StudySpec


def launch(
    database: Database, spec: StudySpec, console: Console, *, engine: Engine | None, workers: int | None = None
) -> None:
    """Run a registered study's search until it has ended; resume one that was interrupted.

    Args:
        database: Where the study lives.
        spec: The study, registered.
        console: Shows progress.
        engine: Starts the workers; None if the user starts them.
        workers: Number of workers; by default the study file's, else one per core.

    Raises:
        ScenetuneError: A worker failed.
        StudyStopped: `hpo stop` ended it before its budget did.
        KeyboardInterrupt: On Ctrl-C or SIGTERM, after the workers have requeued their running trials.
    """
    page, control = Page(database, spec), Control(database.engine, spec.name)

    def stop_requested() -> bool:
        state = control.state()
        return state.stop is not None or state.overdue

    observer = Observer(database, spec)
    shot = observer.read()
    if shot.finished:
        return
    if Records(database.engine).stage_result(spec.name, EVALUATION) is not None:
        raise InputError(no_more_trials(spec.name))
    with LiveTable(observer, console) as table:

        def refresh() -> Snapshot:
            nonlocal shot
            shot = table.refresh()
            page.write_when_due()
            return shot

        if engine is None:
            console.note(f"waiting for workers: hpo worker {spec.name}, with this database and the same data")
            _follow(refresh, stop_requested)
        else:
            try:
                supervise(
                    engine,
                    search_workers(spec, workers),
                    progress=lambda: refresh().reached,
                    ending=lambda: shot.finished or stop_requested(),
                    report=table.report_waiting,
                )
            finally:
                requeue_lost(database, spec)
        table.refresh()
    page.write()
    if control.state().stop is not None and not observer.read().finished:
        raise StudyStopped(f"study {spec.name!r} was stopped; hpo resume {spec.name} resumes it")


def make_engine(
    name: EngineName, database: Database, spec: StudySpec, workers: int | None, address: str | None
) -> Engine | None:
    """Return the engine of that name; None for workers that the user starts.

    Args:
        name: Name of the engine.
        database: The database that the workers use.
        spec: The study.
        workers: As for `launch`.
        address: Address of the Ray cluster.

    Raises:
        InputError: There is no such cluster, or it cannot run the workers.
    """
    if address is not None and name is not EngineName.ray:
        raise InputError(f"--address {address} is that of a Ray cluster; add --engine ray, or leave it out")

    def folder() -> str:
        return owned_search(database, spec.name).key

    match name:
        case EngineName.external:
            return None
        case EngineName.ray:
            return RayEngine(spec, database.url, folder, address)
        case EngineName.local:
            # Here alone a launcher needs torch: to count devices.
            import torch

            count = search_workers(spec, workers)
            return LocalEngine(spec.name, database.url, count, folder, torch.cuda.device_count())


def _follow(refresh: Callable[[], Snapshot], stop_requested: Callable[[], bool]) -> None:
    """Show the search until it has ended, or was stopped and nothing runs any more."""
    while True:
        shot = refresh()
        if shot.finished or (stop_requested() and not shot.running):
            return
        time.sleep(1.0)


def requeue_lost(database: Database, spec: StudySpec) -> None:
    """Requeue the trials of the search's lost workers, such as those killed on this machine."""
    study = owned_search(database, spec.name).open()
    TrialQueue(database, study, spec.name, spec.search.retries).any_running()


def search_workers(spec: StudySpec, workers: int | None = None) -> int:
    """Return how many workers a search has: `workers`, else the study file's number, else one per core."""
    from studies.model.device import cores

    return min(workers or spec.search.workers or cores(), spec.search.trials)
