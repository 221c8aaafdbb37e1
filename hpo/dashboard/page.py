"""Keeps the note and the plots of a study's page in optuna-dashboard current.

Who shows a search, not who works at it, writes: `hpo launch`, `run` and `resume` while they wait for workers,
`hpo distill`, and `hpo dashboard`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from hpo.dashboard import note, plots
from hpo.dashboard.facts import Facts, Gatherer
from storage.postgres import Database
from storage.records import Records
from studies.spec import StudySpec

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

log = logging.getLogger(__name__)

SECONDS_BETWEEN_WRITES = 30.0


class Page:
    """The pages of a study and of its distillation.

    Args:
        database: where the study lives.
        spec: the study.
        storage: see `hpo.dashboard.facts.Gatherer`.
    """

    def __init__(self, database: Database, spec: StudySpec, storage: BaseStorage | None = None) -> None:
        self._database, self._spec = database, spec
        self._gatherer: Gatherer | None = None
        self._storage = storage
        self._written: Facts | None = None
        # Not at once: a launch has workers to start first.
        self._due = time.monotonic() + SECONDS_BETWEEN_WRITES

    def write_when_due(self) -> None:
        """Writes, unless that was done within the last `SECONDS_BETWEEN_WRITES`."""
        if time.monotonic() >= self._due:
            self.write()

    def write(self) -> None:
        """Writes what is new; a failure is logged, since no search ends for the sake of its picture."""
        try:
            self._write()
        except Exception:
            log.warning("the page of study %s was not written", self._spec.name, exc_info=True)
        self._due = time.monotonic() + SECONDS_BETWEEN_WRITES

    def _write(self) -> None:
        self._gatherer = self._gatherer or Gatherer(self._database, self._spec, self._storage)
        facts = self._gatherer.gather()
        if facts == self._written:
            return
        # Two who show the same study would write half a note each.
        with Records(self._database.engine).exclusive(f"page of {self._spec.name}"):
            self._save(facts.search, note.of_search(facts), plots.of_search(facts))
            if facts.distillation is not None:
                self._save(facts.distillation, note.of_distillation(facts), plots.of_distillation(facts))
        self._written = facts

    def _save(self, study_id: int, text: str, figures: Mapping[str, plots.Figure]) -> None:
        import optuna
        from optuna_dashboard import save_note, save_plotly_graph_object
        from optuna_dashboard._note import get_note

        storage = self._database.storage
        study = optuna.load_study(storage=storage, study_name=storage.get_study_name_from_id(study_id))
        text += note.kept(get_note(study))
        # In one transaction: half of a figure cannot be drawn.
        with storage.together():
            save_note(study, text)
            for name, figure in figures.items():
                save_plotly_graph_object(study, figure, graph_object_id=name)
