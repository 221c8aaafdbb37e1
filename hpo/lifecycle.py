"""Stops a study so that it can be resumed, and deletes a study for good."""

from __future__ import annotations

import shutil
import time

import optuna

from hpo.registry import distillation_name
from hpo.status.console import Console
from hpo.status.snapshot import snapshot
from hpo.workers.launcher import requeue_lost
from storage.database.control import Control, Stop
from storage.database.leases import Leases
from storage.database.postgres import Database
from storage.database.records import Records
from storage.errors import InputError
from storage.files import store
from storage.home import study_folder
from studies.config.spec import StudySpec

POLL_SECONDS = 1.0


def stop(database: Database, spec: StudySpec, console: Console, how: Stop = "rung", *, wait: bool = True) -> None:
    """Stop a study's workers, wherever they are: running trials pause with their checkpoints, and none begins.

    Args:
        database: Where the study lives.
        spec: The study.
        console: Shows progress.
        how: "rung" lets each trial reach its next rung first; "now" interrupts it, so that it resumes from its last.
        wait: Whether to return only once nothing runs.

    Raises:
        KeyboardInterrupt: While waiting; the study stays stopped.
    """
    Control(database.engine, spec.name).stop(how)
    shown = None
    while wait and (running := len(_running(database, spec))):
        if running != shown:
            shown = running
            where = "at their next rung" if how == "rung" else "within seconds"
            console.note(f"{running} running, pausing {where}")
        time.sleep(POLL_SECONDS)


def _running(database: Database, spec: StudySpec) -> list[str]:
    """Return the workers of the running trials of a study's search and its distillation, one for each trial."""
    requeue_lost(database, spec)
    names = (spec.name, distillation_name(spec.name))
    return [worker for name in names for worker in Leases(database.engine, name).workers().live.values()]


def check_startable(database: Database, spec: StudySpec) -> None:
    """Refuse to resume a search that has ended.

    Raises:
        InputError: It has ended; the message says which budget is spent.
    """
    shot = snapshot(database, spec)
    if shot.ended_by is not None and not shot.running:
        raise InputError(
            f"the search of study {spec.name!r} has ended: {shot.ended_by}; give it a larger budget, such as "
            f"hpo resume {spec.name} --trials {shot.spent + 10}, or let hpo run distil what it found"
        )


def delete(database: Database, spec: StudySpec) -> None:
    """Delete a study with its distillation, its records and its artifacts; exports and reports stay.

    Raises:
        InputError: Trials of it run.
    """
    names = [distillation_name(spec.name), spec.name]
    records = Records(database.engine)
    if running := _running(database, spec):
        raise InputError(
            f"study {spec.name!r} has {len(running)} running trials ({', '.join(sorted(set(running)))}); "
            f"hpo stop {spec.name} stops them, then delete it"
        )
    # Our record goes last: a deletion that was killed half-way can be repeated by the study's name.
    for name in names:
        shutil.rmtree(study_folder(name), ignore_errors=True)
        store.remove(study_folder(name))
        _delete_optuna_study(database, name)
    records.delete_study(spec.name)


def _delete_optuna_study(database: Database, name: str) -> None:
    try:
        optuna.delete_study(study_name=name, storage=database.storage)
    except KeyError:
        return
