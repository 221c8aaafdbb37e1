"""Facts on a study's page, read from the database again and again; each time only what is new is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import optuna
from optuna.storages import BaseStorage

from distill.evaluation import StudentRow, StudyEvaluation
from hpo.artifacts import attached_checkpoints
from hpo.ownership import OwnedStudy, TrialsMissing, distillation_of, load_record, search_of
from hpo.results.importance import importance
from hpo.results.outcome import Importance
from hpo.results.students import student_rows
from hpo.search.pruner import recorded_history
from hpo.stages import EVALUATION, exported_folders, parse_evaluation
from hpo.status.snapshot import Snapshot, summarise
from hpo.status.trial_view import TrialView
from storage.database.postgres import Database
from storage.database.records import Records, RungResult, StudyRecord
from studies.config.spec import StudySpec


@dataclass(frozen=True)
class Reached:
    """A trial at the last rung.

    Attributes:
        chain: Number of the first trial of its chain.
        recall: On the validation scenes.
        spent: Measured seconds of the whole search by then.
        scenes: Recall by scene.
    """

    chain: int
    recall: float
    spent: float
    scenes: Mapping[str, float]


@dataclass(frozen=True)
class StudyFacts:
    """A study at one moment.

    Attributes:
        spec: The study.
        record: The study as it was first launched.
        owned: Its search, which says where checkpoints are.
        students_owned: The same of its distillation.
        shot: Its trials.
        finished: The trials that reached the last rung, in that order.
        importance: Of the parameters; None while too few trials have been evaluated.
        evaluation: On the test scenes, once there is one.
        students: Of the distillation.
        distillation: Optuna's id of that study; None while there is none.
        search: Optuna's id of this one.
        exports: The folders that it was exported to, the oldest first.
        checkpoints: Addresses of the checkpoints of finished trials, by number.
        student_checkpoints: The same of the distillation.
    """

    spec: StudySpec
    record: StudyRecord
    owned: OwnedStudy
    students_owned: OwnedStudy
    shot: Snapshot
    finished: tuple[Reached, ...]
    importance: Importance | None
    evaluation: StudyEvaluation | None
    students: tuple[StudentRow, ...]
    distillation: int | None
    search: int
    exports: tuple[Path, ...]
    checkpoints: Mapping[int, str]
    student_checkpoints: Mapping[int, str]

    @property
    def metric(self) -> str:
        """Return the name of the metric."""
        return self.spec.metric

    @property
    def ranked(self) -> list[tuple[TrialView, Reached]]:
        """Return the finished trials, best first, with what they reached."""
        known = {each.chain: each for each in self.finished}
        views = [view for view in self.shot.trials if view.state == "complete" and view.chain in known]
        pairs = [(view, known[view.chain]) for view in views]
        return sorted(pairs, key=lambda pair: (-pair[1].recall, pair[0].number))


class Gatherer:
    """Gathers a study's facts again and again.

    Args:
        database: Where it lives.
        spec: The study.
        storage: To read trials from; one that has read them before is faster than the database's own.
    """

    def __init__(self, database: Database, spec: StudySpec, storage: BaseStorage | None = None) -> None:
        self._spec, self._records = spec, Records(database.engine)
        self._storage = storage or database.storage
        self._record = load_record(database, spec.name)
        self._owned = search_of(self._record, database)
        self._study = self._owned.open(self._storage)
        self._distillation = distillation_of(self._record, database)
        self._arrival = 0
        self._spent = 0.0
        self._costs: dict[int, float] = {}
        self._finished: dict[int, Reached] = {}
        self._students: optuna.Study | None = None

    def gather(self) -> StudyFacts:
        """Return the study as it is now."""
        self._read_results()
        stages = self._records.stage_results(self._spec.name)
        distillation, trials = self._open_distillation(), self._study.get_trials(deepcopy=False)
        return StudyFacts(
            spec=self._spec,
            record=self._record,
            owned=self._owned,
            students_owned=self._distillation,
            shot=summarise(self._spec, trials, history=partial(recorded_history, self._records, self._spec)),
            finished=tuple(self._finished.values()),
            importance=importance(trials, self._spec.pruner.rungs),
            evaluation=parse_evaluation(self._spec.name, stages.get(EVALUATION)),
            students=() if distillation is None else student_rows(distillation, self._spec),
            distillation=None if distillation is None else distillation._study_id,
            search=self._study._study_id,
            exports=exported_folders(stages),
            checkpoints=attached_checkpoints(self._study),
            student_checkpoints={} if distillation is None else attached_checkpoints(distillation),
        )

    def _open_distillation(self) -> optuna.Study | None:
        if self._students is None:
            try:
                self._students = self._distillation.open(self._storage)
            except TrialsMissing:
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
