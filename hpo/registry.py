"""Registers studies by name: stored at their first launch, joined or refused after that.

`register` stores a study once; any number of workers then join it by name alone.
"""

from __future__ import annotations

import importlib.metadata
from functools import partial
from pathlib import Path
from typing import Any

from optuna.study import StudyDirection

from hpo.ownership import OwnedStudy, check_free, distillation_name, load_record, owned_search, search_of
from hpo.search.loop import ended_by, ranked
from hpo.search.pruner import recorded_history
from hpo.search.space import grid
from hpo.search.start_points import enqueue
from hpo.search.warm_start import WarmStart, from_recorded, from_study
from hpo.stages import EVALUATION
from storage.database.control import Control
from storage.database.postgres import Database
from storage.database.records import Records, StudyRecord
from storage.errors import InputError
from studies.config.spec import StudySpec, differences, parse_spec


def register(database: Database, spec: StudySpec, fingerprint: str, encoder: str = "") -> StudySpec:
    """Store a study, or join the one of that name, and let it run; return the spec in force.

    Budgets may change between launches, until the test scenes are scored; the experiment may not. A grid's budget is
    the number of its points. A request of `hpo stop` is withdrawn, and the time of `timeout_minutes` starts.

    Args:
        database: Where the study lives.
        spec: The study file.
        fingerprint: Fingerprint of its data.
        encoder: Digest of its encoder's weights; "" where they are not known.

    Raises:
        InputError: `check_launch` refuses the study file, or a study of that name was started on other data or with
            another encoder.
    """
    records, spec = Records(database.engine), _counted(spec)
    with records.exclusive(spec.name):
        warm = check_launch(database, spec)
        records.save_study(spec.name, spec.model_dump(mode="json"), fingerprint, encoder)
        stored = load_record(database, spec.name)
        check_inputs(stored, fingerprint, encoder, "give the study a new name to use the new ones")
        owned = search_of(stored, database)
        owned.create([StudyDirection.MAXIMIZE])
        study = owned.open()
        records.update_spec(spec.name, spec.model_dump(mode="json"))
        if _scored(records, spec.name):
            return spec  # no trial may start: none is queued, and no deadline set
        study.set_metric_names([spec.metric])
        enqueue(study, spec.search, _points(spec), warm)
    minutes = spec.search.timeout_minutes
    Control(database.engine, spec.name).start(version(), None if minutes is None else 60 * minutes)
    return spec


def _points(spec: StudySpec) -> list[dict[str, Any]]:
    """Return the points of a grid; none for other samplers."""
    return grid(spec.search) if spec.search.sampler == "grid" else []


def _counted(spec: StudySpec) -> StudySpec:
    """Return the spec with as many trials as its grid has points, whatever its file says."""
    if not (points := _points(spec)):
        return spec
    return spec.model_copy(update={"search": spec.search.model_copy(update={"trials": len(points)})})


def check_launch(database: Database, spec: StudySpec) -> WarmStart | None:
    """Refuse, before its data are read, a study file that `register` would refuse; return its warm start, if any.

    Raises:
        InputError: An Optuna study that was not made here has one of its names; a study of that name exists with
            another definition, or has results and no trials any more; it asks for more trials although the test
            scenes were scored; or it cannot start from the study that `search.warm_start` names.
    """
    records = Records(database.engine)
    stored = records.load_study(spec.name)
    for name in (spec.name, distillation_name(spec.name)):
        check_free(database, name, None if stored is None else stored.id)
    warm = _warm_start(database, spec, stored)
    if stored is None:
        return warm
    owned = search_of(stored, database)
    if not owned.exists() and _has_results(records, spec.name):
        owned.open()  # raises what is missing, and what to do
    old = parse_spec(stored.spec, f"study {spec.name!r}")
    if changed := differences(old.identity(), spec.identity()):
        raise InputError(
            f"study {spec.name!r} exists with another definition ({'; '.join(changed)}); "
            "give the changed study a new name, or restore the old values to resume it"
        )
    if _scored(records, spec.name):
        _check_closed(records, owned, old, _counted(spec))
    return warm


def check_inputs(stored: StudyRecord, fingerprint: str, encoder: str, remedy: str) -> None:
    """Refuse data or an encoder other than those that a study was started with, wherever their files are.

    Args:
        stored: The study.
        fingerprint: Fingerprint of the data.
        encoder: Digest of the encoder's weights; "" where they are not known.
        remedy: What to do.

    Raises:
        InputError: They differ.
    """
    name, data, weights = stored.name, stored.fingerprint, stored.encoder
    if data != fingerprint:
        raise InputError(
            f"study {name!r} was started on other data (fingerprint {data[:12]}, here {fingerprint[:12]}); {remedy}"
        )
    if weights and encoder and weights != encoder:
        raise InputError(
            f"study {name!r} was started with another encoder (SHA-256 {weights[:12]}, here {encoder[:12]}); {remedy}"
        )


def no_more_trials(name: str) -> str:
    """Return why no further trial of an evaluated study may run, and what to do."""
    return (
        f"the test split of study {name!r} was scored, and it is scored once: no further trial may run. To search "
        f'on, give the study file a new name and set search.warm_start = "{name}"'
    )


def _check_closed(records: Records, owned: OwnedStudy, old: StudySpec, spec: StudySpec) -> None:
    """Refuse a budget that lets trials start which the old one did not."""
    if _budget(old) == _budget(spec):
        return
    trials = owned.open().get_trials(deepcopy=False)

    def ended(budget: StudySpec) -> bool:
        return ended_by(budget, trials, partial(recorded_history, records, budget)) is not None

    if not ended(spec) and (ended(old) or spec.search.trials > old.search.trials):
        raise InputError(no_more_trials(spec.name))


def _budget(spec: StudySpec) -> tuple[float | None, ...]:
    search = spec.search
    return search.trials, search.cost_minutes, search.target_recall, search.patience


def _scored(records: Records, name: str) -> bool:
    return records.stage_result(name, EVALUATION) is not None


def _has_results(records: Records, name: str) -> bool:
    return bool(records.stage_results(name) or records.rung_results(name))


def _warm_start(database: Database, spec: StudySpec, stored: StudyRecord | None) -> WarmStart | None:
    """Return the warm start from the study that `search.warm_start` names, or from recorded trials; None without both.

    Raises:
        InputError: There is no such study, it is of another task or has other learners, no trial of it has finished, or
            it is this one.
    """
    other = spec.search.warm_start
    if other is None:
        return from_recorded(spec)
    if other == spec.name:
        raise InputError(f"search.warm_start = {other!r} is the study itself; name another, or leave it out")
    records = Records(database.engine)
    if records.load_study(other) is None and stored is not None and stored.spec["search"].get("warm_start") == other:
        return None  # deleted since the launch that queued what it proposed
    older, its_spec = owned_search(database, other).open(), load_spec_of(database, other)
    if its_spec.task != spec.task:
        raise InputError(
            f"search.warm_start = {other!r}: that study is of {its_spec.task}, this one of {spec.task}; name another, "
            "or leave it out"
        )
    if not ranked(older):
        raise InputError(
            f"search.warm_start = {other!r}: that study has no finished trial; leave it out, or name another"
        )
    return from_study(spec.search, older, recorded_history(records, its_spec))


def version() -> str:
    """Return the version of this program; all workers of a study must share it, as their recalls are compared."""
    return importlib.metadata.version("scenetune")


def load_runnable_spec_of(database: Database, name: str) -> StudySpec:
    """Return the spec of a registered study whose data are still where its last launch found them.

    Raises:
        InputError: There is no such study, or some of its data are not there.
    """
    spec = load_spec_of(database, name)
    given = [getattr(spec.data, key) for key in sorted(spec.data.paths)]
    paths = [path for paths in given if paths is not None for path in ([paths] if isinstance(paths, str) else paths)]
    if gone := [path for path in paths if not Path(path).exists()]:
        raise InputError(
            f"study {name!r} reads {gone[0]}, which is not on this machine any more: put it back, or correct its path "
            "in the study file and give that to hpo launch or hpo run"
        )
    return spec


def load_spec_of(database: Database, name: str) -> StudySpec:
    """Return the spec of a registered study.

    Raises:
        InputError: There is no such study; the message shows the nearest names.
    """
    return parse_spec(load_record(database, name).spec, f"study {name!r}")
