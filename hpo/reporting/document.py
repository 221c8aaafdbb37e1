"""The document of a report: everything that it says, as report.json holds it."""

from __future__ import annotations

from typing import Any

from distill.evaluation import StudyEvaluation
from distill.export.tasks.explained import Explanations
from hpo.results.outcome import SearchHistory
from studies.evaluation.figures import DataFacts, Figures, SystemsEvaluation


class StudyDocument(Figures):
    """What a report says.

    Attributes:
        study: The study's name.
        study_id: Its id, which no other study of the same name has; None of a study file that was not launched.
        written: When, in ISO 8601.
        version: Of scenetune.
        data: The study's data.
        protocol: The study file's section.
        evaluation: Of a whole study, or of its baselines alone.
        baselines_only: Whether `hpo baselines` wrote it.
        search: Of a whole study.
        export: The student's folder, where there is one.
        explanations: Answers of the student with what brought them; None where no export has stored any.
    """

    study: str
    study_id: str | None = None
    written: str
    version: str
    data: DataFacts
    protocol: dict[str, Any]
    evaluation: StudyEvaluation | SystemsEvaluation
    baselines_only: bool = False
    search: SearchHistory | None = None
    export: str | None = None
    explanations: Explanations | None = None

    @property
    def finished(self) -> StudyEvaluation | None:
        """Return the evaluation of a whole study; None of baselines alone."""
        return self.evaluation if isinstance(self.evaluation, StudyEvaluation) else None
