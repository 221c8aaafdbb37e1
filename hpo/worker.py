"""One worker: joins a study by name and runs trials until the budget is spent. `hpo worker NAME` is this."""

from __future__ import annotations

import time
from functools import partial

from hpo.search import Search, cache_folder, load_spec_of
from hpo.trials import MAX_FAILURES_IN_A_ROW
from storage.errors import InputError, ScenetuneError
from storage.postgres import Database
from storage.records import Records


def work(database: Database, name: str, *, worker: int = 0, workers: int = 1) -> int:
    """Runs trials of a study until its budget is spent; returns how many this worker ran.

    Args:
        database: where the study lives.
        name: the study.
        worker: number of this worker among those on this machine.
        workers: how many share this machine's cores.

    Raises:
        InputError: no such study, the data here differ from those that it was started on, or a trial would not fit into
            this machine's memory.
        ScenetuneError: several trials failed in a row: the fault is not the configurations'.
        KeyboardInterrupt: after the running trial was queued again.
    """
    from optuna.trial import TrialState

    from studies.device import share_cores
    from studies.objective import prepare, run_trial

    share_cores(workers)
    spec = load_spec_of(database, name)
    problem = prepare(spec, cache_folder())
    stored = Records(database.engine).load_study(name)
    if stored is not None and stored.fingerprint != problem.data.fingerprint:
        raise InputError(
            f"study {name!r} was started on other data (fingerprint {stored.fingerprint[:12]}, here "
            f"{problem.data.fingerprint[:12]}); give this worker the same files"
        )
    problem.refuse_too_large(workers)
    scenes = {problem.data.scenes[episode.scene] for episode in problem.validation}
    search = Search(database, spec, scenes, partial(run_trial, problem), worker)
    deadline = time.monotonic() + 60 * spec.search.timeout_minutes if spec.search.timeout_minutes else None
    done = failures = 0
    while deadline is None or time.monotonic() < deadline:
        state = search.run_next()
        if state is None:
            break
        done += 1
        failures = failures + 1 if state == TrialState.FAIL else 0
        if failures == MAX_FAILURES_IN_A_ROW:
            raise ScenetuneError(f"{failures} trials failed in a row; the worker's log shows why")
    return done
