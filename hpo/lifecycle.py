"""Stops a study so that it can be resumed, and deletes a study for good."""

from __future__ import annotations

import time

from hpo.ownership import check_free, distillation_name, distillation_of, load_record, search_of
from hpo.registry import no_more_trials
from hpo.stages import EVALUATION
from hpo.status.console import Console
from hpo.status.snapshot import snapshot
from hpo.workers.launcher import requeue_lost
from hpo.workers.study_lease import holders
from storage.database.control import Control, Stop
from storage.database.leases import Leases
from storage.database.postgres import Database
from storage.database.records import Records
from storage.errors import InputError
from studies.config.spec import StudySpec

POLL_SECONDS = 1.0


def stop(database: Database, spec: StudySpec, console: Console, how: Stop = "rung", *, wait: bool = True) -> None:
    """Stop a study's workers, wherever they are: running trials pause with their checkpoints, and none begins.

    Args:
        database: Where the study lives.
        spec: The study.
        console: Shows progress.
        how: "rung" lets each trial reach its next rung first; "now" interrupts it, so that it resumes from its last.
        wait: Whether to return only once nothing works on the study.

    Raises:
        KeyboardInterrupt: While waiting; the study stays stopped.
    """
    Control(database.engine, spec.name).stop(how)
    shown = None
    while wait:
        requeue_lost(database, spec)
        running, others = len(_running(database, spec.name)), holders(database, spec.name)
        if not running and not others:
            return
        where = "at their next rung" if how == "rung" else "within seconds"
        state = f"{running} running, pausing {where}" if running else f"waiting for {', '.join(others)} to end"
        if state != shown:
            shown = state
            console.note(state)
        time.sleep(POLL_SECONDS)


def _running(database: Database, name: str) -> list[str]:
    """Return the workers of the running trials of a study's search and its distillation, one for each trial."""
    names = (name, distillation_name(name))
    return [worker for each in names for worker in Leases(database.engine, each).workers().live.values()]


def check_startable(database: Database, spec: StudySpec) -> None:
    """Refuse to resume a search that has ended.

    Raises:
        InputError: It has ended, and the message says which budget is spent; or the test scenes were scored.
    """
    if Records(database.engine).stage_result(spec.name, EVALUATION) is not None:
        raise InputError(no_more_trials(spec.name))
    shot = snapshot(database, spec)
    if shot.ended_by is not None and not shot.running:
        raise InputError(
            f"the search of study {spec.name!r} has ended: {shot.ended_by}; give it a larger budget, such as "
            f"hpo resume {spec.name} --trials {shot.spent + 10}, or let hpo run distil what it found"
        )


def delete(database: Database, name: str) -> list[str]:
    """Delete what a study owns: its trials and students, its files, its records; exports and reports stay.

    What is missing already does not matter, and what is somebody else's stays (docs/architecture.md, Ownership).

    Args:
        database: Where the study lives.
        name: The study.

    Returns:
        One note for each Optuna study of its names that is somebody else's.

    Raises:
        InputError: There is no such study, something works on it, or its files cannot be removed.
    """
    records, notes = Records(database.engine), []
    # Whoever begins to work on it takes this lock first.
    with records.exclusive(name):
        record = load_record(database, name)
        _check_idle(database, name)
        # Our record goes last: a deletion that was killed half-way can be repeated by the study's name.
        for owned in (distillation_of(record, database), search_of(record, database)):
            leases = Leases(database.engine, owned.name)
            leases.release(leases.workers().lost)
            owned.delete()
            try:
                check_free(database, owned.name, record.id)
            except InputError:
                notes.append(f"the Optuna study {owned.name!r} is not of this study, and stays")
        records.delete_study(name)
    return notes


def _check_idle(database: Database, name: str) -> None:
    if running := _running(database, name):
        raise InputError(
            f"study {name!r} has {len(running)} running trials ({', '.join(sorted(set(running)))}); "
            f"hpo stop {name} stops them, then delete it"
        )
    if working := holders(database, name):
        raise InputError(
            f"study {name!r} is being worked on by {', '.join(working)}; hpo stop {name} waits until that has ended, "
            "then delete it"
        )
