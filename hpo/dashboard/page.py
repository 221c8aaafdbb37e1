"""Keeps a study's page in optuna-dashboard current: the note, the plots, report and exports among its artifacts.

Workers do not write it. `hpo launch`, `run` and `resume` write it while they wait for workers, `hpo distill` between
students, and `hpo dashboard`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

import optuna
from optuna.storages import BaseStorage

from hpo import artifacts
from hpo.dashboard import note, plots
from hpo.dashboard.study_facts import Gatherer, StudyFacts
from hpo.light_imports import without_scikit_learn
from hpo.ownership import TrialsMissing
from storage.database.postgres import Database
from storage.database.records import Records
from storage.errors import DatabaseFailed
from studies.config.spec import StudySpec

log = logging.getLogger(__name__)

SECONDS_BETWEEN_WRITES = 30.0


class Page:
    """The pages of a study and of its distillation.

    Args:
        database: Where the study lives.
        spec: The study.
        storage: See `hpo.dashboard.study_facts.Gatherer`.
    """

    def __init__(self, database: Database, spec: StudySpec, storage: BaseStorage | None = None) -> None:
        self._database, self._spec = database, spec
        self._gatherer: Gatherer | None = None
        self._storage = storage
        self._written: StudyFacts | None = None
        # Not at once: a launch starts its workers first.
        self._due = time.monotonic() + SECONDS_BETWEEN_WRITES

    def write_when_due(self) -> None:
        """Write, unless that was done within the last `SECONDS_BETWEEN_WRITES`."""
        if time.monotonic() >= self._due:
            self.write()

    def write(self) -> None:
        """Write what is new; a failure is logged, since no search should end because its page cannot be written.

        Raises:
            DatabaseFailed: The database stayed away or refused, which no search survives.
        """
        try:
            self._write()
        except DatabaseFailed:
            raise
        except TrialsMissing as error:
            log.info("%s", error)  # `hpo status` says it too
        except Exception:
            log.warning("the page of study %s was not written", self._spec.name, exc_info=True)
        self._due = time.monotonic() + SECONDS_BETWEEN_WRITES

    def _write(self) -> None:
        self._gatherer = self._gatherer or Gatherer(self._database, self._spec, self._storage)
        facts = self._gatherer.gather()
        if facts == self._written:
            return
        # Two processes that write the same study's page would write half a note each.
        with Records(self._database.engine).exclusive(f"page of {self._spec.name}"):
            self._save(facts.search, note.of_search(facts), plots.of_search(facts), _artifacts(facts))
            if (students := facts.distillation) is not None:
                made = self._artifacts_of_student(facts)
                self._save(students, note.of_distillation(facts), plots.of_distillation(facts), made)
        self._written = facts

    def _artifacts_of_student(self, facts: StudyFacts) -> dict[str, str]:
        """Return report and exports as artifacts of the student's trial, which ended before they were made."""
        if facts.distillation is None or facts.evaluation is None:
            return {}
        number = facts.evaluation.student_trial
        try:
            trial = self._database.storage.get_trial_id_from_study_id_trial_number(facts.distillation, number)
        except KeyError:
            return {}
        return {made.key_for(trial): made.described(name) for made, name in _made(facts)}

    def _save(
        self, study_id: int, text: str, figures: Mapping[str, plots.Figure], attributes: Mapping[str, str]
    ) -> None:

        # optuna-dashboard imports scikit-learn, and takes seconds for it.
        with without_scikit_learn():
            from optuna_dashboard import save_note, save_plotly_graph_object
            from optuna_dashboard._note import get_note

        storage = self._database.storage
        study = optuna.load_study(storage=storage, study_name=storage.get_study_name_from_id(study_id))
        text += note.end_of(get_note(study))
        known = storage.get_study_system_attrs(study_id)
        # In one transaction: half of a figure cannot be drawn.
        with storage.one_transaction():
            save_note(study, text)
            for name, figure in figures.items():
                save_plotly_graph_object(study, figure, graph_object_id=name)
            for key, value in attributes.items():
                if known.get(key) != value:
                    storage.set_study_system_attr(study_id, key, value)


def _artifacts(facts: StudyFacts) -> dict[str, str]:
    """Return report and exports as artifacts of the search."""
    return {made.key: made.described(name) for made, name in _made(facts)}


def _made(facts: StudyFacts) -> list[tuple[artifacts.Artifact, str]]:
    """Return the report and the exports, with the names of their files."""
    name = facts.spec.name
    if facts.evaluation is None:
        return []
    exports = [(artifacts.export(name, folder), artifacts.export_name(name, folder)) for folder in facts.exports]
    return [(artifacts.report(name), artifacts.report_name(name)), *exports]
