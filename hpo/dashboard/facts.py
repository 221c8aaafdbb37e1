"""What a study's page tells, gathered from the database a little at a time: only what is new is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage

from hpo.artifacts import attached_checkpoints
from hpo.dashboard.imports import without_scikit_learn
from hpo.registry import distillation_name
from hpo.results.students import students
from hpo.search.trial_run import open_study
from hpo.stages import EVALUATION, exported_folders
from hpo.status.snapshot import Snapshot, TrialView, summarise
from storage.database.postgres import Database
from storage.database.records import Records, RungResult, StudyRecord
from studies.config.spec import StudySpec

# PED-ANOVA looks at the best tenth: of fewer finished trials that is one or two.
ENOUGH_TRIALS = 30
MEASURED_PARAMETERS = ("inner_lr", "outer_lr", "inner_steps", "meta_batch_size", "learner")


@dataclass(frozen=True)
class Reached:
    """A trial at the last rung.

    Attributes:
        chain: number of the first trial of its chain.
        recall: on the validation scenes.
        spent: measured seconds of the whole search by then.
        scenes: recall by scene.
    """

    chain: int
    recall: float
    spent: float
    scenes: Mapping[str, float]


@dataclass(frozen=True)
class Facts:
    """A study at one moment.

    Attributes:
        spec: the study.
        record: as it was first launched.
        shot: its trials.
        finished: who reached the last rung, in that order.
        importance: share of each parameter in what tells the best tenth of finished trials from the others.
        evaluation: on the test scenes, once there is one.
        students: of the distillation, as `hpo.results.students.students` gives them.
        distillation: Optuna's id of that study; None while there is none.
        search: Optuna's id of this one.
        exports: the folders that it was exported to, the oldest first.
        checkpoints: where the dashboard has those of finished trials, by number.
        student_checkpoints: the same of the distillation.
    """

    spec: StudySpec
    record: StudyRecord
    shot: Snapshot
    finished: tuple[Reached, ...]
    importance: Mapping[str, float]
    evaluation: Mapping[str, Any] | None
    students: list[dict[str, Any]]
    distillation: int | None
    search: int
    exports: tuple[Path, ...]
    checkpoints: Mapping[int, str]
    student_checkpoints: Mapping[int, str]

    @property
    def metric(self) -> str:
        """What recalls are called."""
        return f"recall@{self.spec.protocol.k}"

    @property
    def ranked(self) -> list[tuple[TrialView, Reached]]:
        """Finished trials, best first, with what they reached."""
        known = {each.chain: each for each in self.finished}
        views = [view for view in self.shot.trials if view.state == "complete" and view.chain in known]
        pairs = [(view, known[view.chain]) for view in views]
        return sorted(pairs, key=lambda pair: (-pair[1].recall, pair[0].number))


class Gatherer:
    """Gathers a study's facts again and again.

    Args:
        database: where it lives.
        spec: the study.
        storage: to read trials from, where one is kept that has read them before.
    """

    def __init__(self, database: Database, spec: StudySpec, storage: BaseStorage | None = None) -> None:

        self._spec, self._records = spec, Records(database.engine)
        self._storage = storage or database.storage
        self._study = open_study(self._storage, spec.name)
        record = self._records.load_study(spec.name)
        assert record is not None
        self._record = record
        self._arrival = 0
        self._spent = 0.0
        self._costs: dict[int, float] = {}
        self._finished: dict[int, Reached] = {}
        self._students: optuna.Study | None = None

    def gather(self) -> Facts:
        """The study as it is now."""
        self._read_results()
        stages = self._records.stage_results(self._spec.name)
        distillation = self._open_distillation()
        return Facts(
            spec=self._spec,
            record=self._record,
            shot=summarise(self._spec, self._study.get_trials(deepcopy=False)),
            finished=tuple(self._finished.values()),
            importance=importance(self._study),
            evaluation=stages.get(EVALUATION),
            students=[] if distillation is None else students(distillation, self._spec),
            distillation=None if distillation is None else distillation._study_id,
            search=self._study._study_id,
            exports=exported_folders(stages),
            checkpoints=attached_checkpoints(self._study),
            student_checkpoints={} if distillation is None else attached_checkpoints(distillation),
        )

    def _open_distillation(self) -> optuna.Study | None:

        if self._students is None:
            try:
                self._students = open_study(self._storage, distillation_name(self._spec.name))
            except KeyError:
                return None
        return self._students

    def _read_results(self) -> None:
        for arrival, result in self._records.rung_results_since(self._spec.name, self._arrival):
            self._arrival = arrival
            self._add(result)

    def _add(self, result: RungResult) -> None:
        known = self._costs.get(result.trial, 0.0)
        self._spent += max(0.0, result.cost_seconds - known)
        self._costs[result.trial] = max(known, result.cost_seconds)
        if result.rung == len(self._spec.pruner.rungs) - 1 and math.isfinite(result.recall):
            scenes = {name: recall for name, recall in result.scene_recalls.items() if math.isfinite(recall)}
            self._finished[result.trial] = Reached(result.trial, result.recall, self._spent, scenes)


def importance(study: optuna.Study) -> dict[str, float]:
    """PED-ANOVA's importance of what tells learning apart, most important first; nothing while too few have finished.

    Of single learners' ranges a parameter goes by the learner's name too. The trials that were stopped are not in it.
    """
    states = (optuna.trial.TrialState.COMPLETE,)
    finished = study.get_trials(deepcopy=False, states=states)
    names = {name for trial in finished for name in trial.params if name.split(".")[-1] in MEASURED_PARAMETERS}
    varied = [name for name in sorted(names) if len({trial.params.get(name) for trial in finished}) > 1]
    if len(finished) < ENOUGH_TRIALS or not varied:
        return {}
    with without_scikit_learn():
        from optuna.importance import get_param_importances
    return get_param_importances(study, params=varied)
