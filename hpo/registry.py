"""Registers studies by name: stored at their first launch, joined or refused after that.

`register` stores a study once; any number of workers then join it by name alone.
"""

from __future__ import annotations

import difflib
import importlib.metadata

from optuna.trial import FrozenTrial

from hpo.search.loop import ranked
from hpo.search.space import grid
from hpo.search.start_points import enqueue
from hpo.search.trial_run import open_study
from storage.database.control import Control
from storage.database.postgres import Database
from storage.database.records import Records, StudyRecord
from storage.errors import InputError
from studies.config.spec import StudySpec, differences, parse_spec


def register(database: Database, spec: StudySpec, fingerprint: str) -> StudySpec:
    """Store a study, or join the one of that name, and let it run; return the spec in force.

    Budgets may change between launches; the experiment may not. A grid's budget is the number of its points. A request
    of `hpo stop` is withdrawn, and the time of `timeout_minutes` starts.

    Args:
        database: Where the study lives.
        spec: The study file.
        fingerprint: Fingerprint of its data.

    Raises:
        InputError: A study of that name exists with another definition or other data; the message says what differs.
    """
    records = Records(database.engine)
    best = _warm_start(database, spec)
    with records.exclusive(spec.name):
        stored = records.load_study(spec.name)
        if stored is None:
            records.save_study(spec.name, spec.model_dump(mode="json"), fingerprint)
        else:
            check_definition(stored, spec)
            if stored.fingerprint != fingerprint:
                raise InputError(
                    f"study {spec.name!r} was started on other data (fingerprint {stored.fingerprint[:12]}, now "
                    f"{fingerprint[:12]}); give the study a new name to use the new data"
                )
        study = open_study(database.storage, spec.name, create=True)
        study.set_metric_names([f"recall@{spec.protocol.k}"])
        if spec.search.sampler == "grid":
            points = grid(spec.search)
            for point in points:
                study.enqueue_trial(point, skip_if_exists=True)
            spec = spec.model_copy(update={"search": spec.search.model_copy(update={"trials": len(points)})})
        enqueue(study, spec.search, best)
        records.update_spec(spec.name, spec.model_dump(mode="json"))
    minutes = spec.search.timeout_minutes
    Control(database.engine, spec.name).start(version(), None if minutes is None else 60 * minutes)
    return spec


def _warm_start(database: Database, spec: StudySpec) -> list[FrozenTrial]:
    """Return the best trials of the study that `search.warm_start` names; none where it names none.

    Raises:
        InputError: There is no such study, it has no finished trial, or it is this one.
    """
    other = spec.search.warm_start
    if other is None:
        return []
    if other == spec.name:
        raise InputError(f"search.warm_start = {other!r} is the study itself; name another, or leave it out")
    load_spec_of(database, other)
    best = ranked(open_study(database.storage, other))[: spec.search.warm_start_trials]
    if not best:
        raise InputError(
            f"search.warm_start = {other!r}: that study has no finished trial; leave it out, or name another"
        )
    return best


def version() -> str:
    """Return the version of this program; all workers of a study must share it, as their recalls are compared."""
    return importlib.metadata.version("scenetune")


def check_definition(stored: StudyRecord, spec: StudySpec) -> None:
    """Refuse a study file that defines another experiment than the one stored under its name.

    Raises:
        InputError: They differ; the message says in what.
    """
    old = parse_spec(stored.spec, f"study {spec.name!r}")
    if changed := differences(old.identity(), spec.identity()):
        raise InputError(
            f"study {spec.name!r} exists with another definition ({'; '.join(changed)}); "
            "give the changed study a new name, or restore the old values to resume it"
        )


def load_spec_of(database: Database, name: str) -> StudySpec:
    """Return the spec of a registered study.

    Raises:
        InputError: There is no such study; the message shows the nearest names.
    """
    records = Records(database.engine)
    stored = records.load_study(name)
    if stored is None:
        names = records.study_names()
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
        hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(names) or 'none yet'}"
        raise InputError(f"there is no study {name!r}; {hint}; hpo launch STUDY.toml starts one")
    return parse_spec(stored.spec, f"study {name!r}")


def distillation_name(name: str) -> str:
    """Return the name of the Optuna study that distils a search's winners."""
    return f"{name}-distill"
