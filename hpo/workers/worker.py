"""One worker: joins a study by name and runs trials until the study has ended. `hpo worker NAME` runs it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from optuna.trial import TrialState

from hpo.ownership import load_record
from hpo.registry import check_inputs, load_runnable_spec_of, version
from hpo.search.loop import Search
from hpo.search.trial_run import MAX_FAILURES_IN_A_ROW
from hpo.status.console import Console
from storage.database.control import Control
from storage.database.postgres import Database
from storage.database.records import Records
from storage.errors import InputError, ScenetuneError
from storage.home import cache_folder
from studies.config.hyperparameters import Hyperparameters

# torch is imported where a worker begins to work: one that waits for its study needs none.
if TYPE_CHECKING:
    from studies.training.rungs import RungReport

log = logging.getLogger(__name__)

POLL_SECONDS = 2.0


def work(database: Database, name: str, *, workers: int = 1, threads: int | None = None) -> int:
    """Run trials of a study until it has ended or was stopped; return how many this worker ran.

    Args:
        database: Where the study lives.
        name: Name of the study.
        workers: How many workers share this machine's cores.
        threads: Number of threads of this one; by default its part of the cores.

    Raises:
        InputError: There is no such study, it was launched by another version of this program, data or encoder here
            differ from those that it was started with, or a trial would not fit into this machine's memory.
        ScenetuneError: Several trials failed in a row, so the fault is not in their configurations.
        KeyboardInterrupt: On Ctrl-C or SIGTERM, after the running trial was requeued.
    """
    from studies.model.device import share_cores
    from studies.training.objective import run_trial
    from studies.training.prepare import prepare

    share_cores(workers, threads)
    spec = load_runnable_spec_of(database, name)
    _check_version(Control(database.engine, name).state().version, name)
    problem = prepare(spec, cache_folder(), reporter=Console())
    inputs = problem.data.fingerprint, problem.encoder.identity
    check_inputs(load_record(database, name), *inputs, "give this worker the same files")
    problem.refuse_too_large(workers)
    done = failures = 0

    def train(values: Hyperparameters, folder: Path, report: Callable[[RungReport], None]) -> float:
        return run_trial(problem, values, folder, report, search.report_progress)

    search = Search(database, spec, problem.scene_names("validation"), train)
    for state in search.run_all():
        done += 1
        failures = failures + 1 if state == TrialState.FAIL else 0
        if failures == MAX_FAILURES_IN_A_ROW:
            raise ScenetuneError(f"{failures} trials failed in a row; the worker's log shows why")
    return done


def wait_for(database: Database, name: str) -> None:
    """Wait until a study of that name is launched."""
    records = Records(database.engine)
    if records.load_study(name) is None:
        log.info("waiting for a study %r to be launched", name)
    while records.load_study(name) is None:
        time.sleep(POLL_SECONDS)


def _check_version(launched: str | None, name: str) -> None:
    if launched not in (None, version()):
        raise InputError(
            f"study {name!r} was launched by scenetune {launched}, this worker is {version()}: their recalls may not "
            "compare; install the same version, or launch the study again with this one"
        )
