"""Launches a registered study's search: an engine's workers, and the live table until the search has ended."""

from __future__ import annotations

import time
from collections.abc import Callable

from hpo.dashboard.page import Page
from hpo.search.trial_queue import TrialQueue
from hpo.search.trial_run import open_study
from hpo.status.console import Console
from hpo.status.snapshot import Observer, Snapshot
from hpo.status.watch import LiveTable
from hpo.workers.engines import Engine, EngineName
from hpo.workers.engines.local import LocalEngine
from hpo.workers.engines.ray import RayEngine
from hpo.workers.supervisor import supervise
from storage.database.control import Control
from storage.database.postgres import Database
from storage.errors import InputError, StudyStopped
from storage.home import log_folder
from studies.config.spec import StudySpec


def launch(
    database: Database, spec: StudySpec, console: Console, *, engine: Engine | None, workers: int | None = None
) -> None:
    """Runs a registered study's search until it has ended; goes on with one that was interrupted.

    Args:
        database: where the study lives.
        spec: the study, registered.
        console: for progress.
        engine: what starts workers; None where somebody else does.
        workers: how many; by default the study file's number, else one per core.

    Raises:
        ScenetuneError: a worker failed.
        StudyStopped: `hpo stop` ended it before its budget did.
        KeyboardInterrupt: after the workers have put their running trials back.
    """
    page, control = Page(database, spec), Control(database.engine, spec.name)

    def stop_requested() -> bool:
        orders = control.orders()
        return orders.stop is not None or orders.late

    observer = Observer(database, spec)
    shot = observer.look()
    if shot.finished:
        return
    with LiveTable(observer, console) as table:

        def look() -> Snapshot:
            nonlocal shot
            shot = table.refresh()
            page.write_when_due()
            return shot

        if engine is None:
            console.note(f"waiting for workers: hpo worker {spec.name}, with this database and the same data")
            _follow(look, stop_requested)
        else:
            try:
                supervise(
                    engine,
                    search_workers(spec, workers),
                    lambda: look().reached,
                    lambda: shot.finished or stop_requested(),
                )
            finally:
                settle(database, spec)
        table.refresh()
    page.write()
    if control.orders().stop is not None and not observer.look().finished:
        raise StudyStopped(f"study {spec.name!r} was stopped; hpo resume {spec.name} goes on")


def make_engine(
    name: EngineName, database: Database, spec: StudySpec, workers: int | None, address: str | None
) -> Engine | None:
    """The engine of that name; None for workers that somebody else starts.

    Args:
        name: which.
        database: that the workers shall use.
        spec: the study.
        workers: as for `launch`.
        address: of the Ray cluster.

    Raises:
        InputError: there is no such cluster, or no way to use it.
    """
    if address is not None and name is not EngineName.ray:
        raise InputError(f"--address {address} is that of a Ray cluster; add --engine ray, or leave it out")
    match name:
        case EngineName.external:
            return None
        case EngineName.ray:
            return RayEngine(spec, database.url, address)
        case EngineName.local:
            import torch

            count = search_workers(spec, workers)
            return LocalEngine(spec.name, database.url, count, log_folder(spec.name), torch.cuda.device_count())


def _follow(look: Callable[[], Snapshot], stop_requested: Callable[[], bool]) -> None:
    """Shows the search until it has ended, or was called off and nothing runs any more."""
    while True:
        shot = look()
        if shot.finished or (stop_requested() and not shot.running):
            return
        time.sleep(1.0)


def settle(database: Database, spec: StudySpec) -> None:
    """Puts back what workers that were killed here have left running."""
    study = open_study(database.storage, spec.name)
    TrialQueue(database, study, spec.name, spec.search.retries).others_run()


def search_workers(spec: StudySpec, workers: int | None = None) -> int:
    """How many workers a search has: as asked for, as the study file says, or one per core."""
    from studies.model.device import cores

    return min(workers or spec.search.workers or cores(), spec.search.trials)
